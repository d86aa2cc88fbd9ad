"""What a worker's sessions rely on, they set themselves: whatever the database or the login say."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from rota.db.deploy import DeployError, deploy
from rota.db.session import settings
from rota.worker.link import SHIFTING, Link, is_hopeless, passes, shifts
from tests.waiting import wait_until
from tests.worker.conftest import WorkerProcess

StartWorker = Callable[..., WorkerProcess]
ReadJob = Callable[[int], dict[str, Any]]

HOSTILE = {
    "default_transaction_isolation": "repeatable read",
    "default_transaction_deferrable": "on",
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Australia/Lord_Howe",
    "search_path": "nowhere",
    "client_encoding": "LATIN1",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "statement_timeout": "300ms",
    "lock_timeout": "1ms",
    "idle_session_timeout": "500ms",
    "idle_in_transaction_session_timeout": "1ms",
    "transaction_timeout": "400ms",
}


@pytest.fixture(params=["direct", "pooled"])
def hostile(request: pytest.FixtureRequest, db: str, conn: Connection) -> Iterator[str]:
    """The URL of a database whose defaults are as hostile as they can be."""
    version = conn.info.server_version
    for name, value in HOSTILE.items():
        if name == "transaction_timeout" and version < 170000:
            continue
        conn.execute(f"alter database {conn.info.dbname} set {name} = '{value}'")
    yield request.getfixturevalue("pgbouncer") if request.param == "pooled" else db
    conn.execute(f"alter database {conn.info.dbname} reset all")


def test_a_worker_works_on_a_database_with_hostile_defaults(
    hostile: str,
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
) -> None:
    worker = start_worker("--poll", "0.1", "--lease", "3", url=hostile)

    echo = enqueue("echo", "€ \\ ' 1.5")
    slow = enqueue("sleep", {"seconds": 2})
    later, never, unknown = enqueue("later"), enqueue("never"), enqueue("sing")
    wait_until(lambda: job(echo)["state"] == job(slow)["state"] == "COMPLETED")
    wait_until(lambda: job(later)["last_error"] and job(unknown)["last_error"])
    wait_until(lambda: job(never)["state"] == "FAILED")
    wait_until(lambda: conn.execute("select count(*) from rota.workers").fetchone() == (1,))

    assert job(echo)["result"] == "€ \\ ' 1.5"
    assert job(slow)["attempt"] == 1
    assert job(slow)["progress"] is not None
    delay = job(later)["run_at"] - job(later)["created_at"]
    assert timedelta(hours=4, minutes=59) < delay < timedelta(hours=5, minutes=1)
    assert worker.stop() == 0
    assert not [line for line in worker.lines if line["level"] != "INFO" and "task" not in line]


@pytest.mark.parametrize("durable", [True, False])
def test_a_session_has_all_our_settings_and_behind_a_pooler_leaves_none(
    hostile: str, db: str, durable: bool
) -> None:
    link = Link(hostile, "test", None, 7.0, 0.5, durable=durable)
    names = list(settings(150000))
    names += ["statement_timeout", "lock_timeout", "idle_session_timeout", "synchronous_commit"]
    shown = "select name, current_setting(name) from unnest(%s::text[]) as name"
    with psycopg.connect(db, autocommit=True) as other:
        before = dict(other.execute(shown, [names]).fetchall())

    def look(conn: Connection) -> dict[str, str]:
        found = dict(conn.execute(shown, [names]).fetchall())
        (found["isolation"],) = conn.execute("show transaction_isolation").fetchone()
        return found

    inside = link.run(look)
    after = dict(link.connection().execute(shown, [names]).fetchall())

    wanted = settings(150000) | {"isolation": "read committed", "idle_session_timeout": "0"}
    wanted |= {"statement_timeout": "7s", "lock_timeout": "500ms"}
    wanted["synchronous_commit"] = "on" if durable else "off"
    same = {name: value for name, value in inside.items() if wanted[name] == value}
    assert inside.keys() - same.keys() <= {"timezone"}
    assert inside["timezone"] == "UTC"
    if link.pooled:
        own = {"client_encoding", "datestyle", "timezone", "standard_conforming_strings"}
        assert {name for name in names if after[name] != before[name]} <= own
    link.close()


def test_a_text_that_the_database_cannot_store_fails_that_attempt_alone(
    cluster: Any, start_worker: StartWorker, tmp_path: Any
) -> None:
    with psycopg.connect(cluster.url(), autocommit=True) as admin:
        admin.execute("drop database if exists latin with (force)")
        admin.execute("create database latin template template0 encoding latin1 locale 'C'")
    url = make_conninfo(cluster.url(), dbname="latin")
    try:
        deploy(url)
    except DeployError as error:
        pytest.skip(str(error))
    worker = start_worker("--poll", "0.1", url=url)

    with psycopg.connect(url, autocommit=True) as conn:
        query = "select (rota.enqueue_job(%s, max_retries => 0)).job_id"
        tasks = ["euro", "euro_error", "euro_progress", "euro_fail", "noop"]
        ids = [conn.execute(query, [task]).fetchone()[0] for task in tasks]
        wait_until(lambda: conn.execute("select count(*) from rota.live_jobs").fetchone() == (0,))
        ended = dict(conn.execute("select id, state from rota.jobs").fetchall())
        errors = conn.execute("select last_error from rota.jobs where task = 'euro'").fetchall()

    states = ["FAILED", "FAILED", "COMPLETED", "FAILED", "COMPLETED"]
    assert [ended[job_id] for job_id in ids] == states
    assert "no equivalent in encoding" in errors[0][0]
    assert worker.stop() == 0
    with psycopg.connect(cluster.url(), autocommit=True) as admin:
        admin.execute("drop database latin with (force)")


CODES = {
    "passing": (
        "08000 08006 25006 25P03 25P04 40001 40P01 53100 53200 53300 55P03 55006 57014 57P01 57P02"
        " 57P03 57P05 58030"
    ),
    "shifting": "0A000 26000 42703 42804 42883 42P01 42P05 XX000",
    "neither": "22003 22P02 22P05 23505 23514 28000 28P01 42501 42601 3F000 54001 RTC02 RTV01",
}


@pytest.mark.parametrize("kind", CODES)
def test_each_error_is_of_one_kind(kind: str) -> None:
    for code in CODES[kind].split():
        error = psycopg.errors.lookup(code)() if not code.startswith("RT") else None
        if error is None:
            error = psycopg.DatabaseError()
            error.sqlstate = code
        assert passes(error) is (kind == "passing"), code
        assert shifts(error) is (kind == "shifting"), code
        hopeless = code in SHIFTING or code in ("42501", "3F000")
        assert is_hopeless(error) is hopeless, code
