"""For the tests of those who use Rota: run due jobs in the test's own process, and move the clock.

    def test_a_welcome_is_sent_again_after_an_hour(conn):
        clock = rota.testing.Clock(conn)
        welcome.enqueue(conn, to="ann@example.com")
        [first] = rota.testing.run_due_jobs(conn)
        assert first.state == "SCHEDULED"  # it failed, and will be tried again
        clock.advance(timedelta(hours=1))
        [second] = rota.testing.run_due_jobs(conn)
        assert second.state == "COMPLETED"

Nothing waits, and no worker runs. ``rota.pytest_plugin`` has a fixture that brings a database.
"""

import asyncio
import inspect
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from rota.client import Call, as_text, execute, run
from rota.logs import current_job
from rota.storable import array_literal
from rota.tracing import processing
from rota.worker import steps
from rota.worker.attempt import Attempt
from rota.worker.job import lets_go
from rota.worker.tasks import registry
from rota.worker.values import Failure, failure_of, next_of, result_of

WORKER = "rota.testing"
CLAIMED = (
    "id, token::text, task, payload::text, queue, attempt, max_retries,"
    " extract(epoch from timeout)::float8, extract(epoch from scheduled_for)::float8, run,"
    " headers::text, key"
)
ALIVE = (
    "min(worker) filter (where stopped_at is null"
    " and last_seen_at > statement_timestamp() - interval '90 seconds')"
)
INSTALLED = """
    (
        select strpos(p.prosrc, 'rota_test.clock') > 0
        from pg_catalog.pg_proc as p
        where p.oid = 'rota._now()'::pg_catalog.regprocedure
    )
"""
INSTALL = """
    create schema if not exists rota_test;

    create table if not exists rota_test.clock (ahead float8 not null);

    insert into rota_test.clock (ahead)
    select 0
    where not exists (select from rota_test.clock);

    grant usage on schema rota_test to public;

    grant select on rota_test.clock to public;

    create or replace function rota._now()
        returns timestamptz
        language sql
        volatile
        -- Callers forbid scans of whole tables: the one of this row would look so dear to a server
        -- that can compile that it did, at each look for 14 ms.
        set jit = off
    as $$
        select clock_timestamp() + make_interval(secs => (select c.ahead from rota_test.clock as c))
    $$;
"""


class Ran(NamedTuple):
    """An attempt that ``run_due_jobs`` has made, and what became of its job."""

    job_id: int
    task: str
    run: int
    attempt: int
    state: str  # of the job now: COMPLETED, FAILED, CANCELLED, or SCHEDULED, if it failed or sleeps
    error: str | None
    result: Any


def run_due_jobs(
    conn: Any, *, queues: Iterable[str] | None = None, max_attempts: int = 1000
) -> list[Ran]:
    """Run due jobs in this process, one after the other, until none is left.

    What a worker does, without threads: retries and backoff, results, ``Fail`` and ``Retry``, steps
    and ``Job.next``, the next runs of schedules. Timeouts and leases end nobody here, and nobody
    can cancel a job while it runs. A job that sleeps or waits for an event is not due: put the
    clock forward, or emit the event (``rota.emit_event``), and run what is due again. In a
    transaction that is rolled back it has never been; there a handler that holds its lease on a
    connection of its own would wait for it for ever, so use autocommit for those.

    Args:
        conn: a synchronous connection, as ``rota.enqueue`` takes it, at READ COMMITTED.
        queues: those to serve; all of them if left out.
        max_attempts: after which it is taken for a loop without end.

    Returns:
        The attempts, in the order in which they were made.

    Raises:
        LookupError: a job's task has no handler in this process; its module was not imported.
        RuntimeError: there were still due jobs after ``max_attempts``.
    """
    if isinstance(queues, str):
        raise TypeError("queues must be a list of names")
    ran: list[Ran] = []
    clerk = _Clerk(conn)
    while claimed := _claim(conn, queues):
        attempt = Attempt(
            claimed[0], 0.0, float("inf"), lambda job: _send_progress(conn, job), clerk
        )
        if attempt.task not in registry or len(ran) == max_attempts:
            run(conn, Call("release_job", _pair(attempt), "state"))
            if len(ran) == max_attempts:
                raise RuntimeError(f"there are still due jobs after {max_attempts} attempts")
            raise LookupError(f"no handler for task {attempt.task!r}: import its module first")
        ran.append(_handle(conn, attempt))
    return ran


class Clock:
    """The clock of a database that is there for tests; it runs on, from where it is set."""

    def __init__(self, conn: Any) -> None:
        """Have Rota go by a clock that can be moved, in this database, if it does not yet.

        Args:
            conn: a connection of the owner of the schema, as ``rota.enqueue`` takes it.

        Raises:
            RuntimeError: a worker is alive there, so the database serves more than a test.
        """
        self._conn = conn
        if run(conn, Call("_now", {}, INSTALLED)) == [(True,)]:
            return
        [(worker,)] = run(conn, Call("worker_status", None, ALIVE))
        if worker is not None:
            raise RuntimeError(f"worker {worker} is alive here: its clock is not to be moved")
        execute(conn, INSTALL)

    def advance(self, step: timedelta) -> None:
        """Put the clock forward, or back by a negative step."""
        self._set(f"ahead + {step.total_seconds()!r}")

    def set(self, instant: datetime) -> None:
        """Put the clock to an instant.

        Raises:
            ValueError: it has no time zone.
        """
        if instant.tzinfo is None:
            raise ValueError(f"the instant needs a time zone: {instant.isoformat()}")
        self._set(f"extract(epoch from timestamptz '{instant.isoformat()}' - clock_timestamp())")

    def reset(self) -> None:
        """Put the clock back to the real time."""
        self._set("0")

    def _set(self, ahead: str) -> None:
        execute(self._conn, f"update rota_test.clock set ahead = {ahead}")  # noqa: S608


def _claim(conn: Any, queues: Iterable[str] | None) -> steps.Rows:
    """Claim a job; of all queues those that there are now, for a job may have made one."""
    if queues is None:
        queues = [name for (name,) in run(conn, Call("queue_status", None, "queue"))]
    arguments = {"queues": ("text[]", array_literal(queues)), "worker": ("text", WORKER)}
    return run(conn, Call("claim_next_job", arguments, CLAIMED))


def _handle(conn: Any, attempt: Attempt) -> Ran:
    """Run the handler, and tell the database how it ended, as a worker does."""
    logged = current_job.set(attempt)
    span = processing(attempt)
    following = None
    try:
        value = registry[attempt.task].run(attempt)
        if registry[attempt.task].is_coroutine and inspect.isawaitable(value):
            value = _wait_for(value)
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        result = failure_of(error)
        raised = type(error)
    except BaseException as error:
        if attempt.away is None or not lets_go(error):  # the test is to end: Ctrl-C, pytest.fail()
            if span is not None:
                span.end("released", None)
            run(conn, Call("release_job", _pair(attempt), "state"))
            raise
        result, raised = None, type(error)
    else:
        result, raised = result_of(value), None
        following = next_of(attempt)
        if isinstance(following, Failure):
            result = following
    finally:
        current_job.reset(logged)
    if attempt.away is not None:
        if span is not None:
            span.end(None, raised)
        state = "SCHEDULED" if attempt.away == "RELEASED" else attempt.away
        return Ran(attempt.id, attempt.task, attempt.run, attempt.attempt, state, None, None)
    arguments = _pair(attempt)
    failure = result if isinstance(result, Failure) else None
    if span is not None:
        span.end(failure and failure.error, raised)
    if failure is not None:
        arguments["error"] = ("text", failure.error)
        arguments["retry"] = ("boolean", str(failure.retry).lower())
        if failure.retry_in is not None:
            arguments["retry_in"] = ("interval", as_text("retry_in", "interval", failure.retry_in))
    else:
        if result is not None:
            arguments["result"] = ("jsonb", result)
        if following is not None:
            arguments["next"] = ("jsonb", following)
    [(state,)] = run(conn, Call("finish_job", arguments, "state"))
    return Ran(
        attempt.id,
        attempt.task,
        attempt.run,
        attempt.attempt,
        state,
        failure and failure.error,
        None if result is None or failure else json.loads(result),
    )


def _wait_for(coroutine: Any) -> Any:
    """Run a coroutine to its end, also where an event loop runs already: in a thread then."""

    async def run_it() -> Any:
        return await coroutine

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run_it())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, asyncio.run, run_it()).result()


class _Clerk:
    """Asks the database for handlers, on the test's own connection."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def ask(self, attempt: Attempt, call: Call) -> steps.Rows:
        """Return the rows of a call."""
        rows = run(self._conn, call)
        attempt.away = steps.away(call, rows)
        return rows

    async def ask_async(self, attempt: Attempt, call: Call) -> steps.Rows:
        """Return the rows of a call, for a coroutine."""
        return self.ask(attempt, call)


def _send_progress(conn: Any, attempt: Attempt) -> None:
    arguments = {**_pair(attempt), "progress": ("jsonb", str(attempt.news))}
    run(conn, Call("heartbeat_job", arguments, "lease_until"))


def _pair(attempt: Attempt) -> dict[str, tuple[str, str]]:
    return {"job_id": ("bigint", str(attempt.id)), "token": ("uuid", attempt.token)}
