"""``rota.enqueue`` and its kin on the connection of every library, in the caller's transaction."""

import asyncio
import sys
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from enum import Enum, IntEnum
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import django.conf
import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row, namedtuple_row
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import rota

AT = datetime(2040, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=30)))
EVERYTHING = {
    "queue": 'odd "one\'s" %s $1 \\',
    "run_at": AT,
    "priority": -3,
    "max_retries": 7,
    "timeout": timedelta(days=1, seconds=90, microseconds=5),
    "unique_key": "k",
    "headers": {"baggage": "50 % off: $1 :name %s \\ 'quote' ☃"},
    "key": "50 % off: $1 :name %s \\ 'quote' ☃",
}
PAYLOAD = {"to": "ann@example.com", "text": "50 % off: $1 :name %s \\ 'quote' ☃", "list": [1, None]}


def jobs(url: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as conn:
        return conn.execute(
            "select task, payload, queue, run_at, priority, max_retries, timeout, unique_key,"
            " headers, key from rota.jobs order by id"
        ).fetchall()


def engine(url: str, driver: str) -> Any:
    make = create_async_engine if driver == "asyncpg" else sqlalchemy.create_engine
    return make(
        sqlalchemy.make_url(url).set(drivername=f"postgresql+{driver}"),
        poolclass=sqlalchemy.NullPool,
    )


@contextmanager
def psycopg_connection(url: str, **options: Any):
    conn = psycopg.connect(url, **options)
    yield conn, conn.commit, conn.rollback
    conn.close()


@contextmanager
def sqlalchemy_connection(url: str):
    with engine(url, "psycopg").connect() as conn:
        yield conn, conn.commit, conn.rollback


@contextmanager
def sqlalchemy_session(url: str):
    with Session(engine(url, "psycopg")) as session:
        yield session, session.commit, session.rollback


@contextmanager
def sqlalchemy_scoped_session(url: str):
    session = scoped_session(sessionmaker(engine(url, "psycopg")))
    yield session, session.commit, session.rollback
    session.remove()


@contextmanager
def django_connection(url: str):
    if not django.conf.settings.configured:
        django.conf.settings.configure(USE_TZ=True)
        django.setup()
    from django.db import DEFAULT_DB_ALIAS
    from django.db.utils import ConnectionHandler
    from django.utils.connection import ConnectionProxy

    parts = urlsplit(url)
    handler = ConnectionHandler(
        {
            DEFAULT_DB_ALIAS: {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": parts.path.lstrip("/"),
                "USER": parts.username,
                "HOST": parse_qs(parts.query).get("host", [parts.hostname])[0],
                "PORT": parts.port or "",
                "PASSWORD": parts.password or "",
            }
        }
    )
    connection = ConnectionProxy(handler, DEFAULT_DB_ALIAS)  # what django.db.connection is
    connection.set_autocommit(False)
    yield connection, connection.commit, connection.rollback
    connection.close()


SYNCHRONOUS = {
    "psycopg": psycopg_connection,
    "psycopg with rows as dicts": lambda url: psycopg_connection(url, row_factory=dict_row),
    "psycopg with rows as named tuples": lambda url: psycopg_connection(
        url, row_factory=namedtuple_row
    ),
    "SQLAlchemy's connection": sqlalchemy_connection,
    "SQLAlchemy's session": sqlalchemy_session,
    "SQLAlchemy's scoped session": sqlalchemy_scoped_session,
    "Django's connection": django_connection,
}


@asynccontextmanager
async def psycopg_async(url: str):
    conn = await psycopg.AsyncConnection.connect(url)
    yield conn, conn.commit, conn.rollback
    await conn.close()


@asynccontextmanager
async def asyncpg_connection(url: str):
    conn = await asyncpg.connect(url)
    transaction = conn.transaction()
    await transaction.start()
    yield conn, transaction.commit, transaction.rollback
    await conn.close()


@asynccontextmanager
async def asyncpg_pooled(url: str):
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        yield conn, transaction.commit, transaction.rollback


@asynccontextmanager
async def sqlalchemy_async(url: str):
    async with AsyncSession(engine(url, "asyncpg")) as session:
        yield session, session.commit, session.rollback


@asynccontextmanager
async def sqlalchemy_async_connection(url: str):
    async with engine(url, "asyncpg").connect() as conn:
        yield conn, conn.commit, conn.rollback


ASYNCHRONOUS = {
    "psycopg": psycopg_async,
    "asyncpg": asyncpg_connection,
    "asyncpg's pool": asyncpg_pooled,
    "SQLAlchemy's session": sqlalchemy_async,
    "SQLAlchemy's connection": sqlalchemy_async_connection,
}


@pytest.mark.parametrize("connection", SYNCHRONOUS.values(), ids=SYNCHRONOUS)
def test_a_job_is_part_of_the_caller_s_transaction(db, connection):
    with connection(db) as (conn, commit, rollback):
        rota.enqueue(conn, "never", {"rolled": "back"})
        rota.enqueue_many(conn, [{"task": "never"}, {"task": "never"}])
        rota.schedule(conn, "never", every=timedelta(hours=1))
        rollback()
        job = rota.enqueue(conn, "send", PAYLOAD, **EVERYTHING)
        again = rota.enqueue(conn, "send", unique_key="k", queue=EVERYTHING["queue"])
        assert jobs(db) == []
        commit()

    assert job.created
    assert again == (job.job_id, False)
    assert jobs(db) == [{"task": "send", "payload": PAYLOAD, **EVERYTHING}]


@pytest.mark.parametrize("connection", ASYNCHRONOUS.values(), ids=ASYNCHRONOUS)
def test_a_job_is_part_of_the_caller_s_asynchronous_transaction(db, connection):
    async def enqueue() -> None:
        async with connection(db) as (conn, _, rollback):
            await rota.enqueue_async(conn, "never")
            await rota.enqueue_many_async(conn, [{"task": "never"}])
            await rota.schedule_async(conn, "never", cron="@daily")
            await rollback()
        async with connection(db) as (conn, commit, _):
            job = await rota.enqueue_async(conn, "send", PAYLOAD, **EVERYTHING)
            assert job.created
            again = await rota.enqueue_async(conn, "x", unique_key="k", queue=EVERYTHING["queue"])
            assert again == (job.id, False)
            await commit()

    asyncio.run(enqueue())

    assert jobs(db) == [{"task": "send", "payload": PAYLOAD, **EVERYTHING}]


@pytest.mark.parametrize("connection", SYNCHRONOUS.values(), ids=SYNCHRONOUS)
def test_many_jobs_come_back_in_their_order(db, connection):
    many = [{"task": f"t{n}", "payload": n, "timeout": 1.5, "run_at": AT} for n in range(100)]
    many[50]["unique_key"] = many[60]["unique_key"] = "same"
    with connection(db) as (conn, commit, _):
        rows = rota.enqueue_many(conn, (job for job in many))
        assert rota.enqueue_many(conn, []) == []
        commit()

    assert rows[60] == (rows[50].job_id, False)
    assert len({row.id for row in rows}) == 99
    with psycopg.connect(db) as conn:
        found = dict(conn.execute("select id, task from rota.jobs").fetchall())
    assert all(found[row.id] == f"t{n}" for n, row in enumerate(rows) if n != 60)


@pytest.mark.parametrize("connection", SYNCHRONOUS.values(), ids=SYNCHRONOUS)
def test_a_schedule_takes_what_schedule_job_takes(db, connection):
    with connection(db) as (conn, commit, _):
        made = rota.schedule(
            conn,
            "report",
            {"kind": "daily"},
            name="report",
            cron="0 6 * * *",
            time_zone="Europe/Berlin",
            starts_at=AT,
            ends_at=AT + timedelta(days=30),
            max_runs=3,
            jitter=timedelta(seconds=5),
            misfire="all",
            misfire_cap=5,
            max_lateness=3600,
            overlap="catch_up",
            queue="q",
            priority=2,
            max_retries=1,
            timeout="10 minutes",
            key="acme",
        )
        rota.schedule(conn, "keyed", name="keyed", every="1 hour", key="acme")
        assert rota.schedule(conn, "report", name="report", every="1 hour") == (made.id, False)
        rota.schedule(conn, "delay", name="delay", every=60, fixed_delay=True)
        commit()

    with psycopg.connect(db) as conn:
        assert conn.execute(
            "select name, task, every, fixed_delay, key from rota.schedule_status order by name"
        ).fetchall() == [
            ("delay", "delay", timedelta(minutes=1), True, None),
            ("keyed", "keyed", timedelta(hours=1), False, "acme"),
            ("report", "report", timedelta(hours=1), False, None),
        ]


@pytest.mark.parametrize("connection", SYNCHRONOUS.values(), ids=SYNCHRONOUS)
@pytest.mark.parametrize("unique_for", [timedelta(hours=1), 3600, "1 hour"])
def test_a_key_is_unique_for_a_time_and_a_waiting_job_replaced(db, connection, unique_for):
    throttle = {"unique_key": "sync", "unique_for": unique_for}
    debounce = {"unique_key": "index", "unique_for": unique_for, "replace": True}
    with connection(db) as (conn, commit, _):
        first = rota.enqueue(conn, "sync", **throttle)
        commit()
        with psycopg.connect(db) as other:
            other.execute("select rota.cancel_job(%s)", [first.id])
        again = rota.enqueue(conn, "sync", **throttle)
        many = [{"task": "index", "payload": n, "run_at": AT, **debounce} for n in (1, 2)]
        one, two = rota.enqueue_many(conn, many)
        commit()

    assert (again, two) == ((first.id, False), (one.id, False))
    with psycopg.connect(db) as conn:
        assert conn.execute(
            "select payload, run_at - created_at from rota.jobs where task = 'index'"
        ).fetchall() == [(2, timedelta(hours=1))]


def test_the_options_are_those_of_the_functions(conn):
    for function, options in (
        ("enqueue_job", rota.client.ENQUEUE),
        ("enqueue_many", rota.client.ENQUEUE_MANY),
        ("schedule_job", rota.client.SCHEDULE),
    ):
        (names, types) = conn.execute(
            "select p.proargnames[:p.pronargs], p.proargtypes::oid[]::regtype[]::text[]"
            " from pg_proc as p"
            " where p.pronamespace = 'rota'::regnamespace and p.proname = %s",
            [function],
        ).fetchone()
        spelt = {"timestamptz": "timestamp with time zone"}
        assert {name: spelt.get(type_, type_) for name, type_ in options.items()} == dict(
            zip(names, types, strict=True)
        )


@pytest.mark.parametrize("style", ["SQL, DMY", "German", "Postgres, MDY"])
def test_the_session_s_styles_change_nothing(db, style):
    with psycopg.connect(db, options="-c TimeZone=America/New_York") as conn:
        conn.execute("select set_config('datestyle', %s, false)", [style])
        conn.execute("set intervalstyle = 'sql_standard'")
        rota.enqueue(conn, "send", PAYLOAD, **EVERYTHING)
        rota.enqueue_many(conn, [{"task": "send", "payload": PAYLOAD, **EVERYTHING}])
        rota.enqueue_many(
            conn, [{"task": "send", "payload": PAYLOAD, **EVERYTHING, "unique_key": "k2"}]
        )

    assert jobs(db) == [
        {"task": "send", "payload": PAYLOAD, **EVERYTHING},
        {"task": "send", "payload": PAYLOAD, **EVERYTHING, "unique_key": "k2"},
    ]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"run_at": datetime(2040, 1, 1)}, ValueError, "run_at: a time needs a time zone"),
        ({"payload": {1, 2}}, ValueError, "payload: Object of type set is not JSON"),
        ({"payload": float("nan")}, ValueError, "payload: Out of range float"),
        ({"payload": AT}, ValueError, "payload: Object of type datetime is not JSON"),
        ({"payload": ["a\0b"]}, ValueError, "payload: must not contain the character NUL"),
        ({"payload": "\ud800"}, ValueError, "payload: must not contain half of a surrogate pair"),
        ({"queue": "a\0b"}, ValueError, "queue: must not contain the character NUL"),
        ({"timeout": float("inf")}, ValueError, "timeout: inf is no span of time"),
        ({"run_at": date(2030, 1, 1)}, ValueError, "run_at: a day is no time"),
        ({"timeout": 1e300}, ValueError, "timeout: "),
        (
            {"run_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))},
            ValueError,
            "run_at: date value out of range",
        ),
        ({"delay": 5}, TypeError, "enqueue has no option 'delay'; it has task, payload"),
    ],
)
def test_what_nobody_could_read_is_refused_before_it_is_sent(db, wrong, error, words):
    payload = wrong.pop("payload", None)
    with psycopg.connect(db) as conn:
        with pytest.raises(error, match=words):
            rota.enqueue(conn, "t", payload, **wrong)
        assert conn.execute("select 1").fetchone() == (1,), "the transaction goes on"


def test_in_a_bulk_the_job_is_named(db):
    with psycopg.connect(db) as conn:
        with pytest.raises(ValueError, match=r"^jobs\[1\]: run_at: a time needs a time zone"):
            rota.enqueue_many(conn, [{"task": "t"}, {"task": "t", "run_at": datetime(2040, 1, 1)}])
        with pytest.raises(psycopg.Error, match=r"jobs\[1\]: task must") as refused:
            rota.enqueue_many(conn, [{"task": "t"}, {"payload": 1}])
    assert refused.value.sqlstate == "RTV01"


def test_what_the_database_refuses_is_the_driver_s_own_error(db):
    with psycopg.connect(db) as conn, pytest.raises(psycopg.Error) as refused:
        rota.enqueue(conn, "t", max_retries=-1)
    assert refused.value.sqlstate == "RTV01"
    with psycopg.connect(db) as conn, pytest.raises(psycopg.Error, match=r"-00:00:01\.5"):
        rota.enqueue(conn, "t", timeout=timedelta(seconds=-1.5))


@pytest.mark.parametrize("connection", ASYNCHRONOUS.values(), ids=ASYNCHRONOUS)
def test_an_asynchronous_connection_is_told_from_others(db, connection):
    async def mistake() -> None:
        async with connection(db) as (conn, _, _):
            rota.enqueue(conn, "t")

    with pytest.raises(TypeError, match="is asynchronous: await enqueue_async"):
        asyncio.run(mistake())


@pytest.mark.parametrize("connection", SYNCHRONOUS.values(), ids=SYNCHRONOUS)
def test_a_synchronous_connection_is_told_from_others(db, connection):
    with connection(db) as (conn, _, _), pytest.raises(TypeError, match="is not asynchronous"):
        asyncio.run(rota.enqueue_async(conn, "t"))


@pytest.mark.parametrize("connection", SYNCHRONOUS.values(), ids=SYNCHRONOUS)
def test_many_jobs_of_one_task_share_their_options(db, connection):
    shared = {name: value for name, value in EVERYTHING.items() if name != "unique_key"}
    with connection(db) as (conn, commit, _):
        rows = rota.enqueue_many(conn, "send", (n for n in range(3)), **shared)
        assert rota.enqueue_many(conn, "send", []) == []
        commit()

    assert [row.created for row in rows] == [True] * 3
    assert jobs(db) == [
        {"task": "send", "payload": n, **shared, "unique_key": None} for n in range(3)
    ]


def test_many_jobs_of_one_task_are_enqueued_asynchronously_too(db):
    async def enqueue() -> None:
        async with psycopg_async(db) as (conn, commit, _):
            await rota.enqueue_many_async(conn, "send", [1, None], queue="q")
            await commit()

    asyncio.run(enqueue())

    assert [(job["payload"], job["queue"]) for job in jobs(db)] == [(1, "q"), ({}, "q")]


def test_what_many_jobs_lack_is_told(db):
    with psycopg.connect(db) as conn:
        with pytest.raises(TypeError, match="needs the payloads of a task"):
            rota.enqueue_many(conn, "send")
        with pytest.raises(TypeError, match="each job has its own options"):
            rota.enqueue_many(conn, [{"task": "a"}], queue="q")
        for payloads in ({"a": 1}, "abc"):
            with pytest.raises(TypeError, match="payloads must be a list"):
                rota.enqueue_many(conn, "send", payloads)
        for name, value in (("unique_key", "k"), ("unique_for", 60), ("replace", True)):
            with pytest.raises(TypeError, match=f"enqueue_many has no option '{name}'"):
                rota.enqueue_many(conn, "send", [1], **{name: value})


def test_what_is_no_connection_is_refused(db):
    for nothing in ("postgresql:///", engine(db, "psycopg")):
        with pytest.raises(TypeError, match=r"a connection is needed, not (str|Engine)"):
            rota.enqueue(nothing, "t")


class Queue(str, Enum):  # noqa: UP042 (StrEnum is another thing)
    MAIL = "mail"


class Urgency(IntEnum):
    HIGH = 7


def test_a_member_of_an_enumeration_is_what_it_stands_for(db):
    with psycopg.connect(db) as conn:
        rota.enqueue(conn, Queue.MAIL, queue=Queue.MAIL, priority=Urgency.HIGH, timeout=1e-5)
        rota.enqueue_many(conn, [{"task": "mail", "queue": Queue.MAIL, "priority": Urgency.HIGH}])

    found = [(job["task"], job["queue"], job["priority"]) for job in jobs(db)]
    assert found == [("mail", "mail", 7)] * 2
    assert jobs(db)[0]["timeout"] == timedelta(microseconds=10)


def test_a_connection_of_the_driver_that_sqlalchemy_lends_will_do(db):
    conn = engine(db, "psycopg").raw_connection()
    assert rota.enqueue(conn, "t").created
    conn.commit()
    conn.close()

    assert len(jobs(db)) == 1


def test_a_cursor_of_the_connection_s_own_kind_is_not_used(db):
    with psycopg.connect(db, cursor_factory=psycopg.RawCursor) as conn:
        assert rota.enqueue(conn, "t").created


def test_rows_that_are_dicts_are_read_by_their_values(db):
    class Rows(psycopg.Cursor):
        def fetchall(self):
            return [
                dict(zip(("job_id", "created"), row, strict=True)) for row in super().fetchall()
            ]

    class Driver:  # as psycopg2 with its RealDictCursor
        def __init__(self, conn):
            self.conn = conn

        def cursor(self):
            return Rows(self.conn)

    with psycopg.connect(db) as conn:
        assert rota.enqueue(Driver(conn), "t") == (1, True)


def test_an_async_scoped_session_is_asynchronous(db):
    async def enqueue() -> None:
        make = async_sessionmaker(engine(db, "asyncpg"))
        session = async_scoped_session(make, scopefunc=asyncio.current_task)
        with pytest.raises(TypeError, match="is asynchronous"):
            rota.enqueue(session, "t")
        assert (await rota.enqueue_async(session, "t")).created
        await session.commit()
        await session.remove()

    asyncio.run(enqueue())

    assert len(jobs(db)) == 1


def test_nothing_is_imported_that_the_caller_does_not_have():
    import subprocess

    code = "import sys, rota; print([m for m in sys.argv[1:] if m in sys.modules])"
    names = ["sqlalchemy", "asyncpg", "django", "flask", "psycopg", "yoyo", "uvloop", "httptools"]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_times_are_those_that_were_meant(db):
    with psycopg.connect(db) as conn:
        rota.enqueue(conn, "a", run_at=AT.astimezone(UTC))
        rota.enqueue(conn, "b", run_at="2040-01-02 03:04:05.678901+05:30")
        rota.enqueue(conn, "c", timeout=0.25)
        rota.enqueue(conn, "d", timeout=timedelta(seconds=-1) + timedelta(seconds=3))
    found = {job["task"]: job for job in jobs(db)}

    assert found["a"]["run_at"] == found["b"]["run_at"] == AT
    assert found["c"]["timeout"] == timedelta(milliseconds=250)
    assert found["d"]["timeout"] == timedelta(seconds=2)
