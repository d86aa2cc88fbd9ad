"""Enqueue from Python, in a transaction of the caller's own.

``conn`` is whatever the caller has: a connection of psycopg, asyncpg or SQLAlchemy, SQLAlchemy's
session, or Django's ``connection``. The job is part of the transaction that is open there, so it is
enqueued if and only if that commits; an autocommit connection commits it at once. None of these
libraries is imported here.

Every argument travels as text and is read by the server, so that no driver's idea of a time, an
interval or a JSON document matters.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from inspect import iscoroutinefunction
from math import isfinite
from typing import Any, NamedTuple

from rota.storable import check_json, check_text
from rota.tracing import Sending, sending

ENQUEUE = {
    "task": "text",
    "payload": "jsonb",
    "queue": "text",
    "run_at": "timestamptz",
    "priority": "integer",
    "max_retries": "integer",
    "timeout": "interval",
    "unique_key": "text",
    "headers": "jsonb",
    "key": "text",
    "unique_for": "interval",
    "replace": "boolean",
}
NOT_SHARED = ("payload", "unique_key", "unique_for", "replace")  # by jobs that come together
ENQUEUE_MANY = {"payloads": "jsonb"} | {
    name: type_ for name, type_ in ENQUEUE.items() if name not in NOT_SHARED
}
SCHEDULE = {
    "task": "text",
    "payload": "jsonb",
    "name": "text",
    "queue": "text",
    "every": "interval",
    "cron": "text",
    "time_zone": "text",
    "starts_at": "timestamptz",
    "ends_at": "timestamptz",
    "max_runs": "bigint",
    "jitter": "interval",
    "misfire": "text",
    "misfire_cap": "integer",
    "max_lateness": "interval",
    "overlap": "text",
    "fixed_delay": "boolean",
    "priority": "integer",
    "max_retries": "integer",
    "timeout": "interval",
    "headers": "jsonb",
    "key": "text",
}


class EnqueuedJob(NamedTuple):
    """A job, and whether it is new: a live job may hold its ``unique_key`` or name already."""

    job_id: int
    created: bool

    @property
    def id(self) -> int:
        """The same id, as the views call it."""
        return self.job_id


def enqueue(conn: Any, task: str, payload: Any = None, **options: Any) -> EnqueuedJob:
    """Enqueue a job in the transaction of ``conn``.

    Args:
        conn: the caller's own connection, see above.
        task: the name of its handler, or what ``@task`` made of it.
        payload: any JSON value; None is left out, which is an empty object.
        options: ``queue``, ``run_at`` (a datetime with a time zone, or text), ``priority`` (higher
            goes first), ``max_retries``, ``timeout`` (a timedelta, seconds, or text),
            ``unique_key``, ``unique_for`` (a span as well) and ``replace``, ``key`` (what jobs of
            the queue share who take turns) and ``headers`` (texts by names in lower case, which
            ``Job.headers`` has and no handler's arguments), as SQL's ``rota.enqueue_job`` takes
            them. What is None is left out.

    Returns:
        The id, and whether the job is new.

    Raises:
        TypeError: there is no such option, or ``conn`` is asynchronous.
        ValueError: a value that PostgreSQL could not read, such as a time without a zone.
        The driver's own error, with SQLSTATE RTV01, if the database refuses an argument.
    """
    with _sending(task, options) as span:
        job = EnqueuedJob(*run(conn, _enqueue(task, payload, options, span))[0])
        span.sent(job.job_id)
    return job


async def enqueue_async(conn: Any, task: str, payload: Any = None, **options: Any) -> EnqueuedJob:
    """Do what ``enqueue`` does, on an asynchronous connection or session."""
    with _sending(task, options) as span:
        job = EnqueuedJob(*(await run_async(conn, _enqueue(task, payload, options, span)))[0])
        span.sent(job.job_id)
    return job


def enqueue_many(
    conn: Any, jobs: Any, payloads: Iterable[Any] | None = None, **options: Any
) -> list[EnqueuedJob]:
    """Enqueue many jobs in one call, all or none.

    Args:
        conn: the caller's own connection.
        jobs: one task, which has a job for each payload; that is the quicker way. Or, without
            payloads, mappings with ``task`` and what else ``enqueue`` takes, by the same names.
        payloads: JSON values, each of them a job of that task; None is an empty object.
        options: what all those jobs share: ``queue``, ``run_at``, ``priority``, ``max_retries``,
            ``timeout``, ``headers`` and ``key``.

    Returns:
        The jobs, in the same order.

    Raises:
        What ``enqueue`` raises.
    """
    many = _many(jobs, payloads, options)
    with _sending_many(many) as span:
        return [EnqueuedJob(*row) for row in run(conn, _enqueue_many(many, span))]


async def enqueue_many_async(
    conn: Any, jobs: Any, payloads: Iterable[Any] | None = None, **options: Any
) -> list[EnqueuedJob]:
    """Do what ``enqueue_many`` does, on an asynchronous connection or session."""
    many = _many(jobs, payloads, options)
    with _sending_many(many) as span:
        rows = await run_async(conn, _enqueue_many(many, span))
    return [EnqueuedJob(*row) for row in rows]


def schedule(conn: Any, task: str, payload: Any = None, **options: Any) -> EnqueuedJob:
    """Make a schedule, or save the one of that ``name`` anew.

    Args:
        conn: the caller's own connection.
        task: the name of its handler.
        payload: any JSON value, the same for each run.
        options: ``cron`` or ``every``, and the others of SQL's ``rota.schedule_job``.

    Returns:
        The id of the schedule's job, and whether it is new.

    Raises:
        What ``enqueue`` raises.
    """
    return EnqueuedJob(*run(conn, _schedule(task, payload, options))[0])


async def schedule_async(conn: Any, task: str, payload: Any = None, **options: Any) -> EnqueuedJob:
    """Do what ``schedule`` does, on an asynchronous connection or session."""
    return EnqueuedJob(*(await run_async(conn, _schedule(task, payload, options)))[0])


def emit_event(conn: Any, name: str, payload: Any = None) -> int:
    """Tell the jobs that await an event, now or later, that it has come.

    Args:
        conn: the caller's own connection; it is told when the transaction there commits.
        name: the event's. What is told first of a name counts, so it has an id in it: ``paid:7``.
        payload: any JSON value, for those who await it.

    Returns:
        How many jobs waited.

    Raises:
        What ``enqueue`` raises.
    """
    return run(conn, _emit(name, payload))[0][0]


async def emit_event_async(conn: Any, name: str, payload: Any = None) -> int:
    """Do what ``emit_event`` does, on an asynchronous connection or session."""
    return (await run_async(conn, _emit(name, payload)))[0][0]


class Call(NamedTuple):
    """A question to one of Rota's functions or views, in the words of no driver yet."""

    source: str
    arguments: dict[str, tuple[str, str]] | None  # the type and the text of each; None for a view
    columns: str = "job_id, created"

    def statement(self, place: Callable[[int, str], str]) -> str:
        """Return the SQL; ``place`` writes the place of the n-th argument, of that name."""
        source = self.source
        if self.arguments is not None:
            passed = ", ".join(
                f"{name} => cast(cast({place(number, name)} as text) as {type_})"
                for number, (name, (type_, _)) in enumerate(self.arguments.items(), 1)
            )
            source = f"{source}({passed})"
        return f"select {self.columns} from rota.{source}"  # noqa: S608

    @property
    def texts(self) -> list[str]:
        """The arguments, in their order."""
        return [text for _, text in (self.arguments or {}).values()]

    def for_sqlalchemy(self) -> tuple[Any, dict[str, str]]:
        """Return the statement as SQLAlchemy takes it, and its parameters."""
        statement = self.statement(lambda _, name: f":{name}")
        texts = {name: text for name, (_, text) in (self.arguments or {}).items()}
        return sys.modules["sqlalchemy"].text(statement), texts


def run(conn: Any, call: Call) -> list[tuple[Any, ...]]:
    """Make a call on a synchronous connection of any kind; return its rows.

    Raises:
        TypeError: ``conn`` is none, or is asynchronous.
    """
    library = _library(conn)
    if is_asynchronous(conn):
        raise TypeError(f"{type(conn).__qualname__} is asynchronous: await enqueue_async(...)")
    if library == "sqlalchemy":
        return _tuples(conn.execute(*call.for_sqlalchemy()).all())
    cursor = _cursor(conn, library)
    try:
        cursor.execute(call.statement(lambda *_: "%s"), call.texts)
        return _tuples(cursor.fetchall())
    finally:
        cursor.close()


def execute(conn: Any, statement: str) -> None:
    """Run a statement without parameters or rows on a synchronous connection of any kind."""
    if _library(conn) == "sqlalchemy":
        conn.execute(sys.modules["sqlalchemy"].text(statement))
        return
    cursor = _cursor(conn, _library(conn))
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


async def run_async(conn: Any, call: Call) -> list[tuple[Any, ...]]:
    """Make a call on an asynchronous connection of any kind; return its rows.

    Raises:
        TypeError: ``conn`` is none, or is synchronous.
    """
    library = _library(conn)
    if library == "asyncpg":
        statement = call.statement(lambda number, _: f"${number}")
        return _tuples(await conn.fetch(statement, *call.texts))
    if not _is_asynchronous(conn):
        raise TypeError(f"{type(conn).__qualname__} is not asynchronous: call enqueue(...)")
    if library == "sqlalchemy":
        return _tuples((await conn.execute(*call.for_sqlalchemy())).all())
    async with _cursor(conn, library) as cursor:
        await cursor.execute(call.statement(lambda *_: "%s"), call.texts)
        return _tuples(await cursor.fetchall())


def _library(conn: Any) -> str:
    """Return the library that a connection, or the class that it is a kind of, comes from."""
    if not hasattr(conn, "execute"):
        return ""
    for base in type(conn).__mro__:
        name = base.__module__.partition(".")[0]
        if base.__module__.startswith("sqlalchemy.pool"):
            return ""  # one of the driver's that SQLAlchemy lends
        if name in ("asyncpg", "psycopg", "sqlalchemy"):
            return name
    return ""


def _is_asynchronous(conn: Any) -> bool:
    kind = type(conn)
    return hasattr(kind, "__aenter__") or iscoroutinefunction(getattr(kind, "execute", None))


def is_asynchronous(conn: Any) -> bool:
    """Tell whether a connection, of any kind, is an asynchronous one."""
    return _library(conn) == "asyncpg" or _is_asynchronous(conn)


def _cursor(conn: Any, library: str) -> Any:
    """Return a plain cursor, whatever kind the connection makes by itself."""
    if library == "psycopg":
        psycopg = sys.modules["psycopg"]
        kind = psycopg.AsyncCursor if _is_asynchronous(conn) else psycopg.Cursor
        return kind(conn, row_factory=psycopg.rows.tuple_row)
    if not hasattr(conn, "cursor"):
        raise TypeError(f"a connection is needed, not {type(conn).__qualname__}")
    return conn.cursor()


def _tuples(rows: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Read rows, be they tuples, mappings, or records that are both."""
    return [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in rows]


def _sending(task: Any, options: Mapping[str, Any]) -> Sending:
    return sending(options.get("queue") or "default", name_of(task), options.get("headers"))


def _enqueue(task: Any, payload: Any, options: Mapping[str, Any], span: Sending) -> Call:
    headers = span.headers(options.get("headers"))
    named = {"task": name_of(task), "payload": payload, **options, "headers": headers}
    return Call("enqueue_job", arguments_of("enqueue", ENQUEUE, named))


def _schedule(task: Any, payload: Any, options: Mapping[str, Any]) -> Call:
    named = {"task": name_of(task), "payload": payload, **options}
    return Call("schedule_job", arguments_of("schedule", SCHEDULE, named))


def _emit(name: Any, payload: Any) -> Call:
    named = {"event": name, "payload": payload}
    types = {"event": "text", "payload": "jsonb"}
    return Call("emit_event", arguments_of("emit_event", types, named), "emit_event")


class _Many(NamedTuple):
    """What ``enqueue_many`` was asked for: payloads of one task, or jobs of several."""

    task: Any
    payloads: list[Any]
    options: Mapping[str, Any]
    jobs: list[Mapping[str, Any]]


def _many(jobs: Any, payloads: Iterable[Any] | None, options: Mapping[str, Any]) -> _Many:
    if payloads is not None:
        if isinstance(payloads, (str, bytes, Mapping)):
            raise TypeError(f"payloads must be a list, not {type(payloads).__qualname__}")
        each = [{} if payload is None else payload for payload in payloads]
        return _Many(name_of(jobs), each, options, [])
    if isinstance(jobs, str) or hasattr(jobs, "name"):
        raise TypeError("enqueue_many needs the payloads of a task, or the jobs of several")
    if options:
        raise TypeError("without payloads each job has its own options")
    return _Many(None, [], {}, list(jobs))


def _sending_many(many: _Many) -> Sending:
    if many.task is not None:
        queue = many.options.get("queue") or "default"
        return sending(queue, many.task, many.options.get("headers"), len(many.payloads))
    return sending(None, None, number=len(many.jobs))  # each has a queue of its own


def _enqueue_many(many: _Many, span: Sending) -> Call:
    if many.task is not None:
        headers = span.headers(many.options.get("headers"))
        named = {"task": many.task, "payloads": many.payloads, **many.options, "headers": headers}
        return Call("enqueue_many", arguments_of("enqueue_many", ENQUEUE_MANY, named))
    documents = []
    for place, job in enumerate(many.jobs):
        named = {**job, "task": name_of(job.get("task"))}
        payload, headers = named.pop("payload", None), span.headers(named.pop("headers", None))
        try:
            arguments = arguments_of("enqueue", ENQUEUE, named)
        except (TypeError, ValueError) as error:
            raise type(error)(f"jobs[{place}]: {error}") from None
        document: dict[str, Any] = {name: text for name, (_, text) in arguments.items()}
        documents.append(
            document
            | ({} if payload is None else {"payload": payload})
            | ({} if headers is None else {"headers": headers})
        )
    return Call("enqueue_jobs", {"jobs": ("jsonb", as_text("jobs", "jsonb", documents))})


def name_of(task: Any) -> Any:
    """Return the name of a task, be it given by name or as what ``@task`` made of its handler."""
    return task if task is None or isinstance(task, str) else getattr(task, "name", task)


def arguments_of(
    function: str, types: Mapping[str, str], values: Mapping[str, Any]
) -> dict[str, tuple[str, str]]:
    """Return the values that are given, as a ``Call`` takes them; ``function`` is for people.

    Raises:
        TypeError: there is no such option.
        ValueError: a value that PostgreSQL could not read.
    """
    for name in values:
        if name not in types:
            raise TypeError(f"{function} has no option {name!r}; it has {', '.join(types)}")
    return {
        name: (types[name], as_text(name, types[name], value))
        for name, value in values.items()
        if value is not None
    }


def as_text(name: str, type_: str, value: Any) -> str:
    """Return a value as PostgreSQL reads it, whatever the session's styles are.

    Raises:
        ValueError: it is a time without a zone, no JSON, or text that PostgreSQL cannot store.
    """
    try:
        if type_ == "jsonb":
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
            check_json(text)
        else:
            text = _scalar(type_, value)
            check_text(text)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{name}: {error}") from None
    return text


def _scalar(type_: str, value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # of a member of an enumeration, what it stands for
    if type_ == "interval" and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not isfinite(value):
            raise ValueError(f"{value} is no span of time")
        value = timedelta(seconds=value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"a time needs a time zone: {value.isoformat()}")
        return value.astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        sign = "-" if value < timedelta() else ""
        seconds, microseconds = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
        return f"{sign}{seconds}.{microseconds:06} seconds"
    if isinstance(value, date):
        raise ValueError(f"a day is no time: {value.isoformat()}")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, int) else str(value)
