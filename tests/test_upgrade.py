"""Upgrades that move what is on record: nobody is held up, nothing is lost, nothing shown twice.

In 0010 the table rota.job_executions became a view. Since 0075 the attempt that completes a
one-time job is its row in finished_jobs, and no row of its own.
"""

import contextlib
import io
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection, errors, sql
from psycopg.types.json import Jsonb

from rota.db.deploy import DeployError, deploy
from rota.db.gateway import call
from rota.db.version import FOLDER
from tests.waiting import wait_until

TABLES = """
    drop view rota.jobs, rota.job_executions, rota.executions, rota.schedule_status,
        rota.queue_status, rota.worker_status;
    alter table rota.attempts rename to job_executions;
    delete from rota._yoyo_migration where migration_id >= '0010';
    do $$
    declare
        v_name text;
    begin
        for v_name in
            select c.relname from pg_class as c
            where c.relnamespace = 'rota'::regnamespace and c.relname like 'attempts%'
        loop
            execute format(
                'alter table rota.%I rename to %I',
                v_name, replace(v_name, 'attempts', 'job_executions')
            );
        end loop;
    end;
    $$;
"""

# What the functions of before 0075 did otherwise: each file's text now, and the text of then.
TWO_ROWS = {
    "_complete_jobs": [
        (
            "    )\n    insert into rota.finished_jobs (",
            "    ), ended as (\n    insert into rota.finished_jobs (",
        ),
        ("worker, token, progress", "worker, progress"),
        ("g.worker,\n        g.token,", "g.worker,"),
        (
            "as r(job_id, result) on r.job_id = g.id;",
            """as r(job_id, result) on r.job_id = g.id
            ), recorded as (
                insert into rota.attempts (
                    job_id, run, attempt, outcome, worker, token, scheduled_for, started_at,
                    finished_at, result, job_state
                )
                select
                    g.id, g.run, g.attempt, 'SUCCEEDED', g.worker, g.token, g.scheduled_for,
                    g.started_at, v_now, r.result, 'COMPLETED'
                from gone as g
                left join unnest(job_ids, results) as r(job_id, result) on r.job_id = g.id
            )
            select 2 into v_kind;""",
        ),
    ],
    "_end_attempts": [
        (
            "worker, token, progress,\n                cancel",
            "worker, progress,\n                cancel",
        ),
        ("case when d.is_both then d.token end, ", ""),
        ("            where not d.is_both\n", ""),
    ],
    "_past_ending": [
        (
            "where f.id = _past_ending.job_id and f.token = _past_ending.token",
            "where false",
        ),
        ("f.token,", "null,"),
    ],
    "_count_minutes": [("f.token is not null", "false")],
    "check_invariants": [
        (", f.token\n", ", null::uuid as token\n"),
        ("f.token is not null", "false"),
        ("case when f.token is null then 1 else 0 end", "1"),
    ],
}
# The index of lanes before 0195.
WHOLE_LANES = """
    create index live_jobs_lane on rota.live_jobs (queue, rota._lane(key, priority), run_at, id)
"""
VIEWS_OF_TWO_ROWS = """
    drop view
        rota.job_executions, rota._walled_job_executions, rota._all_job_executions,
        rota.executions, rota._walled_executions, rota._all_executions;
    alter table rota.finished_jobs drop column token;
    create view rota.job_executions as
    select
        a.job_id, a.run, a.attempt, a.outcome, a.worker, a.started_at, a.finished_at, a.error,
        a.result, a.scheduled_for, a.job_state, a.next_run_at
    from rota.attempts as a;
    create view rota.executions as
    select
        a.job_id, a.run, a.attempt, a.outcome::text as outcome, a.worker, a.started_at,
        a.finished_at, a.error, a.result, a.scheduled_for, a.job_state::text as job_state,
        a.next_run_at
    from rota.attempts as a
    union all
    select
        j.id, j.run::bigint, j.attempt, 'RUNNING', j.worker, j.started_at, null, null, null,
        j.scheduled_for, j.state::text, null
    from rota.live_jobs as j
    where j.state = 'RUNNING';
    grant select on rota.job_executions, rota.executions to rota_reader;
    delete from rota._yoyo_migration where migration_id >= '0075';
"""

# Of a table the order of its columns is nobody's affair.
SHAPE = """
    select c.relname, c.relkind::text, array_agg(
        (a.attname, a.atttypid::regtype)
        order by case c.relkind when 'v' then a.attnum end, a.attname
    )
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'rota'::regnamespace and c.relkind in ('r', 'p', 'v')
    group by c.relname, c.relkind
    order by c.relname
"""


def write_two_rows(conn: Connection) -> None:
    """Give the database the functions, the views and the tables of before 0075."""
    for path in (FOLDER / "functions").rglob("*.sql"):
        text = path.read_text()
        for now, then in TWO_ROWS.get(path.stem, []):
            assert text.count(now) == 1, (path.name, now)
            text = text.replace(now, then)
        if path.stem in TWO_ROWS:
            conn.execute("set check_function_bodies = off")
            conn.execute(text.encode())
    conn.execute(VIEWS_OF_TWO_ROWS)
    conn.execute(WHOLE_LANES)
    conn.execute((FOLDER / "settings.sql").read_text().encode())
    conn.execute("reset check_function_bodies")


@pytest.fixture
def two_rows(empty_db: str) -> Iterator[Connection]:
    """A database as it was before 0075: each attempt is a row of its own."""
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute("set search_path = pg_catalog")
        with conn.transaction():
            write_two_rows(conn)
        yield conn


@pytest.fixture
def old(two_rows: Connection) -> Connection:
    """A database as it was before: job_executions is a table, and the functions know it so."""
    conn = two_rows
    functions = conn.execute(
        """
        select pg_get_functiondef(p.oid) from pg_proc as p
        where p.pronamespace = 'rota'::regnamespace
            and (p.prosrc like '%rota.attempts%' or p.proname = 'maintain')
        """
    ).fetchall()
    with conn.transaction():
        conn.execute(TABLES)
        conn.execute("set local check_function_bodies = off")
        for (function,) in functions:
            conn.execute(
                function.replace("rota.attempts", "rota.job_executions").replace(
                    "'attempts'", "'job_executions'"
                )
            )
        conn.execute((FOLDER / "migrations" / "0003_views.sql").read_text())
        conn.execute(
            "grant select on rota.jobs, rota.job_executions, rota.executions to rota_reader"
        )
    return conn


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deploy that waits for a call that the test holds up is soon tired of it."""
    monkeypatch.setattr("rota.db.deploy.LONGEST_CALL", 0.5)
    monkeypatch.setattr("rota.db.deploy.DROP_PATIENCE", 0.5)


# What there was not before 0140; the functions of then are in before_workflows.sql.
BEFORE_WORKFLOWS = """
    drop function rota.finish_job;
    drop table
        rota.workflows, rota.workflow_jobs, rota.job_dependencies, rota.job_waits, rota.job_steps,
        rota.events, rota.event_waits
        cascade;
    drop type
        rota.workflow_item, rota.enqueued_node, rota.parent_result, rota.held_jobs,
        rota.revivable_jobs, rota.recorded_step, rota.awaited_event
        cascade;
    alter table rota.live_jobs drop linked cascade;
    alter table rota.census drop waiting cascade;
    alter domain rota.job_state drop constraint known_state;
    alter domain rota.job_state add constraint known_state
        check (value in ('SCHEDULED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED'));
    alter domain rota.live_state drop constraint live_means_not_ended;
    alter domain rota.live_state add constraint live_means_not_ended
        check (value in ('SCHEDULED', 'RUNNING'));
    delete from rota._yoyo_migration where migration_id >= '0140';
"""


@pytest.fixture
def no_workflows(empty_db: str) -> Iterator[Connection]:
    """A database as it was before 0140: no job waits for another one."""
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute("set search_path = pg_catalog")
        for statement in BEFORE_WORKFLOWS.split(";"):
            conn.execute(statement.encode())
        conn.execute(WHOLE_LANES)
        conn.execute(Path(__file__).with_name("before_workflows.sql").read_text())
        settings, place = (FOLDER / "settings.sql").read_text(), "unnest(s.functions) as f(name)"
        assert settings.count(place) == 1
        there = " where to_regproc('rota.' || f.name) is not null"
        conn.execute(settings.replace(place, place + there).encode())
        yield conn


# The last release in which all that ended was kept alike.
KEPT_ALIKE = "71051ec"


@pytest.fixture
def kept_alike(empty_db: str, tmp_path: Path) -> Iterator[Connection]:
    """A database as that release deploys it."""
    root = Path(__file__).parents[1]
    made = subprocess.run(
        ["git", "archive", KEPT_ALIKE, "db"], cwd=root, capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"commit {KEPT_ALIKE} is not in this clone: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(tmp_path, filter="data")
    deploy(empty_db, folder=tmp_path / "db", report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute("set search_path = pg_catalog")
        yield conn


def test_functions_of_before_go_on_where_the_tables_have_changed(
    kept_alike: Connection, empty_db: str, tmp_path: Path
) -> None:
    """As it is from the last migration until the functions are replaced."""
    shutil.copytree(FOLDER / "migrations", tmp_path / "db" / "migrations", dirs_exist_ok=True)
    with calls_under_way(empty_db):
        deploy(empty_db, folder=tmp_path / "db", report=lambda line: None)

    assert kept_alike.execute("select * from rota.check_invariants()").fetchall() == []


def finish_one(conn: Connection) -> dict:
    call(conn, "enqueue_job", task="t")
    (job,) = call(conn, "claim_next_job")
    held = {"job_id": job["id"], "token": job["token"]}
    call(conn, "finish_job", **held)
    return held


class Caller(threading.Thread):
    """Works and looks on while the upgrade goes by, in a session that keeps its plans."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__(daemon=True)
        self._conn = psycopg.connect(url, autocommit=True, prepare_threshold=2)
        self._number = number
        self.going = True
        self.turns = 0
        self.failures: list[str] = []

    def run(self) -> None:
        while self.going:
            try:
                self._turn()
            except (psycopg.Error, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.turns += 1
        self._conn.close()

    def _turn(self) -> None:
        conn = self._conn
        call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 4))
        rows = call(conn, "claim_next_job", max_jobs=4)
        pairs = {"job_ids": [row["id"] for row in rows], "tokens": [row["token"] for row in rows]}
        match (self.turns + self._number) % 4:
            case 0:
                told = call(conn, "finish_jobs", **pairs)
                again = call(conn, "finish_jobs", **pairs)
                assert told == again == [{"job_id": r["id"], "outcome": "COMPLETED"} for r in rows]
            case 1:
                call(conn, "finish_jobs", **pairs, errors=["boom"] * len(rows))
            case 2:
                for row in rows:
                    for _ in range(2):
                        call(conn, "release_job", job_id=row["id"], token=row["token"])
            case 3:
                call(conn, "recover_jobs")
                call(conn, "maintain")
                # The type of this column changes: who prepared it prepares it again.
                conn.execute("select state from rota.jobs where id = 1", prepare=False).fetchall()
                conn.execute("select outcome from rota.job_executions where job_id = 1").fetchall()
                conn.execute("select outcome from rota.executions where job_id = 1").fetchall()


@contextlib.contextmanager
def calls_under_way(url: str) -> Iterator[None]:
    """Have callers at work, well before and well after what is done here; none may fail."""
    callers = [Caller(url, number) for number in range(3)]
    for caller in callers:
        caller.start()
    try:
        wait_until(lambda: all(caller.turns > 8 for caller in callers))
        yield
        reached = {caller: caller.turns for caller in callers}
        wait_until(lambda: all(caller.turns > reached[caller] + 8 for caller in callers))
    finally:
        for caller in callers:
            caller.going = False
        for caller in callers:
            caller.join()
    assert [failure for caller in callers for failure in caller.failures] == []


def recorded(conn: Connection) -> list[tuple]:
    """Return (job, attempt, outcome) of all that is to be read; both views must say the same."""
    ended, every = (
        conn.execute(
            f"select job_id, attempt, outcome::text from {view}"  # noqa: S608
            " where finished_at is not null order by 1, 2, 3"
        ).fetchall()
        for view in ("rota.job_executions", "rota.executions")
    )
    assert ended == every
    return ended


@pytest.mark.parametrize("before", ["old", "two_rows", "no_workflows", "kept_alike"])
def test_no_call_fails_while_what_is_on_record_moves(request, before, empty_db):
    old = request.getfixturevalue(before)

    with calls_under_way(empty_db):
        deploy(empty_db, report=lambda line: None)

    assert old.execute("select * from rota.check_invariants()").fetchall() == []
    charged = [row for row in recorded(old) if row[2] != "RELEASED"]
    assert len(charged) == len(set(charged))


@pytest.mark.parametrize("before", ["old", "two_rows", "no_workflows", "kept_alike"])
def test_an_upgraded_database_looks_like_a_new_one(
    request, before, empty_db, cluster, administrate, new_name
):
    old = request.getfixturevalue(before)
    other = new_name()
    administrate("create database {}", other)
    deploy(cluster.url(other), report=lambda line: None)

    deploy(empty_db, report=lambda line: None)

    with psycopg.connect(cluster.url(other)) as new:
        new.execute("set search_path = pg_catalog")
        assert old.execute(SHAPE).fetchall() == new.execute(SHAPE).fetchall()
    administrate("drop database {} with (force)", other)


@pytest.mark.parametrize("before", ["old", "two_rows"])
def test_what_was_finished_before_the_upgrade_is_known_after_it(request, before, empty_db):
    old = request.getfixturevalue(before)
    held = finish_one(old)
    assert old.execute("select count(*) from rota.job_executions").fetchone() == (1,)

    deploy(empty_db, report=lambda line: None)

    (told,) = call(old, "finish_job", **held)
    assert told["state"] == "COMPLETED"
    assert recorded(old) == [(held["job_id"], 1, "SUCCEEDED")]
    with pytest.raises(errors.UndefinedColumn):
        old.execute("select token from rota.job_executions")


def test_rights_that_were_granted_by_hand_move_to_the_view(old, empty_db, administrate):
    administrate("drop role if exists {}", "rota_test_analyst")
    administrate("create role {}", "rota_test_analyst")
    old.execute("grant select on rota.jobs, rota.job_executions to rota_test_analyst")
    old.execute("grant select (job_id, token) on rota.job_executions to public")

    deploy(empty_db, report=lambda line: None)

    readable = (
        "select array(select t.name from unnest(%s::text[]) as t(name)"
        " where has_any_column_privilege(%s, 'rota.' || t.name, 'select'))"
    )
    names = ["jobs", "job_executions", "attempts", "executions"]
    assert old.execute(readable, [names, "rota_test_analyst"]).fetchone() == (
        ["jobs", "job_executions"],
    )
    old.execute("drop owned by rota_test_analyst")
    administrate("drop role {}", "rota_test_analyst")


@pytest.mark.parametrize("read", ["jobs", "job_executions", "schedule_status"])
def test_a_view_of_somebody_else_is_named_and_nothing_is_dropped(old, empty_db, read):
    view = sql.Identifier("public", "mine")
    old.execute(
        sql.SQL("create view {} as select * from {}").format(view, sql.Identifier("rota", read))
    )

    with pytest.raises(psycopg.Error, match=r"\bmine depends on it") as refused:
        deploy(empty_db, report=lambda line: None)

    assert refused.value.sqlstate == "RTC05"
    assert f"rota.{read}" in str(refused.value)
    finish_one(old)
    assert old.execute(sql.SQL("select count(*) >= 0 from {}").format(view)).fetchone() == (True,)

    old.execute(sql.SQL("drop view {}").format(view))
    deploy(empty_db, report=lambda line: None)


def test_a_view_of_somebody_else_outlives_every_deploy_that_changes_nothing(empty_db):
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute("create view public.mine as select * from rota.jobs")

        deploy(empty_db, report=lambda line: None)

        assert conn.execute("select count(*) from public.mine").fetchone() == (0,)


def test_the_functions_of_before_go_on_between_the_migration_and_the_new_ones(two_rows, empty_db):
    """A deploy migrates first, and replaces the functions in a transaction of its own."""
    call(two_rows, "enqueue_job", task="t", max_retries=0)
    (failed,) = call(two_rows, "claim_next_job")
    failed = {"job_id": failed["id"], "token": failed["token"]}
    call(two_rows, "finish_job", **failed, error="x")
    call(two_rows, "retry_job", job_id=failed["job_id"])  # its plan is kept
    for path in sorted((FOLDER / "migrations").glob("007*.sql")):
        two_rows.execute(path.read_text().encode())

    (again,) = call(two_rows, "claim_next_job")
    again = {"job_id": again["id"], "token": again["token"]}
    call(two_rows, "finish_job", **again, error="x")
    call(two_rows, "retry_job", job_id=failed["job_id"])
    (last,) = call(two_rows, "claim_next_job")
    held = [finish_one(two_rows), {"job_id": last["id"], "token": last["token"]}]
    call(two_rows, "finish_job", **held[1])
    call(two_rows, "maintain")
    assert call(two_rows, "finish_job", **held[0])[0]["state"] == "COMPLETED"
    assert two_rows.execute("select * from rota.check_invariants()").fetchall() == []

    deploy(empty_db, report=lambda line: None)

    for one in held:
        assert call(two_rows, "finish_job", **one)[0]["state"] == "COMPLETED"
    assert call(two_rows, "finish_job", **again, error="x")[0]["state"] == "FAILED"
    assert recorded(two_rows) == [
        (failed["job_id"], 1, "FAILED"),
        (failed["job_id"], 1, "FAILED"),
        (failed["job_id"], 1, "SUCCEEDED"),
        (held[0]["job_id"], 1, "SUCCEEDED"),
    ]
    assert two_rows.execute("select * from rota.check_invariants()").fetchall() == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("errors", [None, ["x", None]], ids=["all succeeded", "one failed"])
@pytest.mark.parametrize("first", ["the waiting one", "another, by the new functions"])
def test_a_finish_under_way_while_the_functions_are_replaced_records_each_attempt_once(
    two_rows, empty_db, errors, first
):
    """It runs on as it was when it was called, and meets what the new functions have written."""
    call(two_rows, "enqueue_jobs", jobs=Jsonb([{"task": "t", "max_retries": 0}] * 2))
    rows = call(two_rows, "claim_next_job", max_jobs=2)
    pairs = {"job_ids": [row["id"] for row in rows], "tokens": [row["token"] for row in rows]}
    answers = []
    with (
        psycopg.connect(empty_db, autocommit=True) as finisher,
        psycopg.connect(empty_db) as holder,
    ):
        holder.execute("select from rota.live_jobs where id = %s for update", [rows[0]["id"]])
        thread = threading.Thread(
            target=lambda: answers.extend(call(finisher, "finish_jobs", **pairs, errors=errors))
        )
        thread.start()
        blocked = "select cardinality(pg_blocking_pids(%s)) > 0"
        pid = finisher.info.backend_pid
        wait_until(lambda: two_rows.execute(blocked, [pid]).fetchone()[0])

        deploy(empty_db, report=lambda line: None)

        if first != "the waiting one":
            told = call(holder, "finish_jobs", **pairs, errors=errors)
        holder.commit()
        thread.join()
        if first != "the waiting one":
            assert answers == told

    again = call(two_rows, "finish_jobs", **pairs, errors=errors)
    assert [row["outcome"] for row in again] == ["FAILED" if errors else "COMPLETED", "COMPLETED"]
    assert answers == again
    assert recorded(two_rows) == [
        (rows[0]["id"], 1, "FAILED" if errors else "SUCCEEDED"),
        (rows[1]["id"], 1, "SUCCEEDED"),
    ]
    assert two_rows.execute("select * from rota.check_invariants()").fetchall() == []


def test_a_large_history_is_not_looked_through(two_rows, empty_db):
    """Neither rewritten: the files of its weeks stay the same."""
    finish_one(two_rows)
    files = (
        "select relname, pg_relation_filenode(oid) from pg_class where relname like %s order by 1"
    )
    before = two_rows.execute(files, ["finished_jobs%"]).fetchall()
    scans = (
        "select sum(seq_scan) from pg_stat_xact_user_tables where relname like 'finished_jobs%%'"
    )

    with two_rows.transaction():
        for path in sorted((FOLDER / "migrations").glob("0075*.sql")):
            two_rows.execute(path.read_text().encode())
        assert two_rows.execute(scans.replace("%%", "%")).fetchone() == (0,)

    assert two_rows.execute(files, ["finished_jobs%"]).fetchall() == before


def test_a_worker_of_before_announces_itself_on_while_the_functions_are_replaced(
    empty_db: str,
) -> None:
    """Its call does not know of ``attends``, and the function of before is gone in one moment."""
    deploy(empty_db, report=lambda line: None)
    ended, announced, refused = threading.Event(), 0, []
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute(
            """
            drop function rota.announce_worker;
            alter table rota.workers drop backend, drop server_since, drop gone_at;
            delete from rota._yoyo_migration where migration_id >= '0070';
            create function rota.announce_worker(
                worker text, host text, pid integer, queues text[], concurrency integer,
                version text, tasks text[] default null, overrun integer default null,
                clock timestamptz default null
            )
                returns void language sql as 'select'
            """
        )

    def announce() -> None:
        nonlocal announced
        about = {"host": "h", "pid": 1, "queues": ["default"], "concurrency": 1, "version": "v"}
        with psycopg.connect(empty_db, autocommit=True) as conn:
            while not ended.is_set():
                try:
                    call(conn, "announce_worker", worker="old", **about, tasks=["a"], overrun=0)
                    announced += 1
                except psycopg.Error as error:
                    refused.append(error.sqlstate)

    worker = threading.Thread(target=announce)
    worker.start()
    wait_until(lambda: announced > 10)
    deploy(empty_db, report=lambda line: None)
    before = announced
    wait_until(lambda: announced > before + 10)
    ended.set()
    worker.join()

    assert refused == []
    with psycopg.connect(empty_db) as conn:
        row = conn.execute("select worker, backend, server_since from rota.workers").fetchone()
    assert row == ("old", None, None)


class Keeper(Caller):
    """Enqueues under keys that live jobs hold, each in the queue of its holder."""

    def _turn(self) -> None:
        key = f"key {self._number} {self.turns % 5}"
        queue = f"q{self._number}"
        (first,) = call(self._conn, "enqueue_job", task="t", queue=queue, unique_key=key)
        (again,) = call(self._conn, "enqueue_job", task="u", queue=queue, unique_key=key)
        assert again == {"job_id": first["job_id"], "created": False}


def test_keys_become_unique_per_queue_while_producers_go_on(empty_db):
    """Before, an index without the queue said who holds a key, and the functions asked by it."""
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        (function,) = conn.execute(
            "select pg_get_functiondef('rota.enqueue_job'::regproc)"
        ).fetchone() or ("",)
        before = function.replace("(j.unique_key), (j.queue)", "(j.unique_key)").replace(
            "\n            and j.queue || '' = enqueue_job.queue;", ";"
        )
        assert before.count("queue") == function.count("queue") - 4
        conn.execute(before)
        conn.execute(
            """
            create unique index live_jobs_unique_key
                on rota.live_jobs (unique_key) where unique_key is not null;
            drop index rota.live_jobs_unique_key_of_queue;
            delete from rota._yoyo_migration where migration_id like '0086%'
            """
        )
        keepers = [Keeper(empty_db, number) for number in range(3)]
        for keeper in keepers:
            keeper.start()
        wait_until(lambda: all(keeper.turns > 8 for keeper in keepers))

        deploy(empty_db, report=lambda line: None)

        reached = {keeper: keeper.turns for keeper in keepers}
        wait_until(lambda: all(keeper.turns > reached[keeper] + 8 for keeper in keepers))
        for keeper in keepers:
            keeper.going = False
        for keeper in keepers:
            keeper.join()
        assert [failure for keeper in keepers for failure in keeper.failures] == []
        indexes = conn.execute(
            "select c.relname, i.indisvalid from pg_index as i"
            " join pg_class as c on c.oid = i.indexrelid"
            " where i.indrelid = 'rota.live_jobs'::regclass and c.relname like '%unique%'"
        ).fetchall()
        assert indexes == [("live_jobs_unique_key_of_queue", True)]
        assert call(conn, "enqueue_job", task="t", queue="q9", unique_key="key 0 0")[0]["created"]


def test_a_build_of_an_index_that_was_cut_off_is_begun_anew(empty_db):
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute(
            """
            update pg_index set indisvalid = false
            where indexrelid = 'rota.live_jobs_unique_key_of_queue'::regclass;
            delete from rota._yoyo_migration where migration_id like '0086%'
            """
        )

        deploy(empty_db, report=lambda line: None)

        assert conn.execute(
            "select indisvalid from pg_index"
            " where indexrelid = 'rota.live_jobs_unique_key_of_queue'::regclass"
        ).fetchone() == (True,)


def test_what_is_left_of_a_build_holds_nobody_up_for_long_behind_an_open_writer(empty_db):
    """Its index is dropped, which waits for the writer that the build waited for in vain."""
    deploy(empty_db, report=lambda line: None)
    with (
        psycopg.connect(empty_db, autocommit=True) as conn,
        psycopg.connect(empty_db) as writer,
        psycopg.connect(empty_db, autocommit=True) as reader,
    ):
        conn.execute(
            """
            update pg_index set indisvalid = false
            where indexrelid = 'rota.live_jobs_unique_key_of_queue'::regclass;
            delete from rota._yoyo_migration where migration_id like '0086%'
            """
        )
        writer.execute("lock table rota.live_jobs in row exclusive mode")
        upgrade = threading.Thread(
            target=deploy, kwargs={"url": empty_db, "report": lambda line: None}
        )
        upgrade.start()
        drops = """
            select from pg_locks
            where relation = 'rota.live_jobs'::regclass
                and mode = 'AccessExclusiveLock' and not granted
        """
        wait_until(lambda: conn.execute(drops).rowcount)
        reader.execute("set statement_timeout = '20s'")

        try:
            reader.execute("select from rota.live_jobs")
        finally:
            writer.rollback()
            upgrade.join()

        assert conn.execute(
            "select indisvalid from pg_index"
            " where indexrelid = 'rota.live_jobs_unique_key_of_queue'::regclass"
        ).fetchone() == (True,)


@pytest.mark.parametrize("small", [2**30, -1], ids=["small weeks", "large weeks"])
def test_the_weeks_that_are_there_are_indexed_by_time_and_nothing_is_done_twice(
    empty_db, monkeypatch, small
):
    monkeypatch.setattr("rota.db.deploy.SMALL", small)
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute(
            """
            drop index rota.finished_jobs_times;
            drop index rota.times_of_attempts;
            delete from rota._yoyo_migration where migration_id like '0100%';
            create index finished_jobs_default_times on rota.finished_jobs_default (id);
            """
        )

        deploy(empty_db, report=lambda line: None)
        query = """
            select c.oid, c.relname, i.indisvalid and m.amname = 'brin'
            from pg_index as i
            join pg_class as c on c.oid = i.indexrelid
            join pg_am as m on m.oid = c.relam
            where c.relname ~ 'time'
                and c.relname ~ 'finished_jobs|attempts'
                and c.relnamespace = 'rota'::regnamespace
            order by 1
        """
        indexes = conn.execute(query).fetchall()
        deploy(empty_db, report=lambda line: None)

        assert len(indexes) == 2 + 2 * 6
        assert {is_right for _, _, is_right in indexes} == {True}
        assert conn.execute(query).fetchall() == indexes


def test_a_week_in_use_is_left_without_its_index_and_the_deploy_says_so(empty_db, monkeypatch):
    monkeypatch.setattr("rota.db.deploy.ATTEMPTS", 1)
    monkeypatch.setattr("rota.db.deploy.LOCK_TIMEOUT", "100ms")
    deploy(empty_db, report=lambda line: None)
    with (
        psycopg.connect(empty_db, autocommit=True) as conn,
        psycopg.connect(empty_db) as writer,
    ):
        conn.execute(
            """
            drop index rota.finished_jobs_times;
            delete from rota._yoyo_migration where migration_id like '0100%';
            """
        )
        writer.execute("lock table rota.finished_jobs_default in row exclusive mode")
        said = []

        deploy(empty_db, report=said.append)
        writer.rollback()

        assert [line for line in said if "finished_jobs_default is in use" in line]
        said.clear()
        deploy(empty_db, report=said.append)
        assert not [line for line in said if "in use" in line]


def test_an_old_transaction_does_not_hold_a_deploy_up_for_each_week_anew(empty_db, monkeypatch):
    monkeypatch.setattr("rota.db.deploy.SMALL", -1)
    deploy(empty_db, report=lambda line: None)
    with (
        psycopg.connect(empty_db, autocommit=True) as conn,
        psycopg.connect(empty_db) as holder,
    ):
        conn.execute(
            """
            drop index rota.finished_jobs_times, rota.times_of_attempts;
            delete from rota._yoyo_migration where migration_id like '0100%';
            """
        )
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select from rota.live_jobs")
        monkeypatch.setattr("rota.db.deploy.BUILD_PATIENCE", 0.5)
        monkeypatch.setattr("rota.db.deploy.LOCK_TIMEOUT", "100ms")
        said = []

        began = time.monotonic()
        deploy(empty_db, report=said.append)

        assert time.monotonic() - began < 20
        assert len([line for line in said if "is in use" in line]) == 12


# What there was not before 0120; the functions of then are in before_keys.sql.
BEFORE_KEYS = """
    alter function rota._watch_jobs() rename to _refuse_impossible_jobs;
    drop function rota.enqueue_job, rota.enqueue_many, rota._use_lane, rota._bad_job;
    drop view rota._all_stored_jobs, rota.schedule_status, rota.queue_heads, rota.queue_status,
        rota.queue_census, rota.key_limits cascade;
    alter table rota.census drop no_room, drop oldest_with_room_at, drop if exists waiting;
    alter type rota.job_filter drop attribute key;
    alter table rota.live_jobs drop key, drop counted, drop left_lane;
    alter table rota.finished_jobs drop key;
    create index live_jobs_by_lane on rota.live_jobs (queue, priority desc, run_at, id);
    alter table rota.lanes drop keyed;
    alter type rota.claimed_job drop attribute key;
    drop table rota.turns, rota.flows, rota.flow_locks, rota.unique_keys cascade;
    drop type rota.key_turn, rota.taken_turns, rota.taken_turn cascade;
    alter table rota.queues
        drop max_running, drop max_starts, drop starts_period, drop key_max_running,
        drop key_max_starts, drop key_starts_period, drop key_in_order, drop limited;
    drop function rota._lane;
    drop domain rota.job_key;
    delete from rota._yoyo_migration where migration_id >= '0120';
"""

FILES = """
    select c.relname, pg_relation_filenode(c.oid) from pg_class as c
    where c.relnamespace = 'rota'::regnamespace and c.relkind = 'r'
        and c.relname not like 'yoyo_%'
"""


@pytest.fixture
def keyless(empty_db: str) -> Iterator[Connection]:
    """A database as it was before 0120: no job has a key, and no queue limits."""
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True, prepare_threshold=None) as conn:
        conn.execute(BEFORE_KEYS)
        conn.execute(Path(__file__).with_name("before_keys.sql").read_text())
        conn.execute((FOLDER / "settings.sql").read_text().encode())
        yield conn


def test_the_functions_of_before_go_on_when_a_deploy_of_keys_ends_before_the_new_ones(
    keyless: Connection, empty_db: str
) -> None:
    """Whatever ends it there: here a function that no file creates."""
    keyless.execute("create function rota.stray() returns integer language sql return 1")
    with pytest.raises(DeployError, match="stray"):
        deploy(empty_db, report=lambda line: None)

    call(keyless, "enqueue_job", task="t", queue="mail")
    call(keyless, "enqueue_jobs", jobs=Jsonb([{"task": "t", "queue": "mail"}] * 2))
    call(keyless, "enqueue_many", task="t", queue="mail", payloads=Jsonb([1, 2]))
    rows = call(keyless, "claim_next_job", queues=["mail"], max_jobs=3)
    held = [{"job_id": row["id"], "token": row["token"]} for row in rows]
    call(keyless, "finish_job", **held[0])
    call(keyless, "finish_job", **held[1], error="boom")
    assert call(keyless, "take_census", older_than=timedelta(0), force=True) == [
        {"take_census": True}
    ]
    counted = keyless.execute("select queue, scheduled, running from rota.census").fetchall()
    assert counted == [("mail", 3, 1)]

    keyless.execute("drop function rota.stray")
    deploy(empty_db, report=lambda line: None)

    call(keyless, "finish_job", **held[2])
    keyless.execute("update rota.chores set ran_at = null where chore = 'take_census'")
    call(keyless, "take_census", older_than=timedelta(0), force=True)
    counted = keyless.execute("select queue, scheduled, running from rota.census").fetchall()
    assert counted == [("mail", 3, 0)]
    assert keyless.execute("select to_regclass('rota.live_jobs_by_lane')").fetchone() == (None,)
    assert keyless.execute("select * from rota.check_invariants()").fetchall() == []


def test_a_worker_and_a_producer_of_before_go_on_while_jobs_get_keys(
    keyless: Connection, empty_db: str
) -> None:
    """They name the columns of a claim, and know no argument for a key."""
    call(keyless, "enqueue_many", task="t", payloads=Jsonb([0] * 2000), queue="waiting")
    files = dict(keyless.execute(FILES).fetchall())
    ended, done, refused = threading.Event(), 0, []
    claim = "select id, token, task, run from rota.claim_next_job(queues => %s, max_bytes => 9999)"

    def go_on() -> None:
        nonlocal done
        with psycopg.connect(empty_db, autocommit=True, prepare_threshold=0) as conn:
            while not ended.is_set():
                try:
                    call(conn, "enqueue_job", task="t", payload=Jsonb(done))
                    for job_id, token, *_ in conn.execute(claim, [["default"]]).fetchall():
                        call(conn, "finish_jobs", job_ids=[job_id], tokens=[token])
                    done += 1
                except psycopg.Error as error:
                    refused.append(error.sqlstate)

    worker = threading.Thread(target=go_on)
    worker.start()
    wait_until(lambda: done > 10)
    deploy(empty_db, report=lambda line: None)
    before = done
    wait_until(lambda: done > before + 10)
    ended.set()
    worker.join()

    # To write a table anew takes as long as it is large, and nobody reads or writes it meanwhile.
    assert files.items() <= dict(keyless.execute(FILES).fetchall()).items()
    # A call in the very moment in which claims get one more column; workers ask again (link.py).
    assert refused in ([], ["42804"])
    with psycopg.connect(empty_db, autocommit=True) as conn:
        call(conn, "configure_queue", queue="keyed", key_max_running=1)
        for _ in range(2):
            call(conn, "enqueue_job", task="t", queue="keyed", key="a")
        claimed = call(conn, "claim_next_job", queues=["keyed"], max_jobs=3)
        assert [row["key"] for row in claimed] == ["a"]
        states = conn.execute("select state, count(*) from rota.jobs group by 1 order by 1")
        waiting = 2001 + len(refused)  # a job that was added is left where its claim was refused
        assert states.fetchall() == [("COMPLETED", done), ("RUNNING", 1), ("SCHEDULED", waiting)]
        assert conn.execute("select * from rota.check_invariants()").fetchall() == []


def test_nobody_waits_while_the_index_of_lanes_without_keys_is_dropped(
    empty_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The producer's transaction stays open: the deploy says so and ends; the next one drops it."""
    monkeypatch.setattr("rota.db.deploy.LONGEST_CALL", 0.1)
    monkeypatch.setattr("rota.db.deploy.DROP_PATIENCE", 4.0, raising=False)
    deploy(empty_db, report=lambda line: None)
    said, waited = [], []
    deploying = threading.Thread(target=deploy, args=(empty_db,), kwargs={"report": said.append})
    index = "select to_regclass('rota.live_jobs_by_lane')"
    with (
        psycopg.connect(empty_db, autocommit=True) as conn,
        psycopg.connect(empty_db) as producer,
    ):
        conn.execute(
            "create index live_jobs_by_lane on rota.live_jobs (queue, priority desc, run_at, id)"
        )
        call(producer, "enqueue_job", task="t", queue="open")
        call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 200))
        deploying.start()
        while deploying.is_alive():
            began = time.monotonic()
            for row in call(conn, "claim_next_job"):
                call(conn, "release_job", job_id=row["id"], token=row["token"])
            waited.append(time.monotonic() - began)
            time.sleep(0.01)

        assert [line for line in said if "live_jobs_by_lane could not be dropped" in line]
        assert said[-1].startswith("rota ")
        assert max(waited) < 2  # a drop that locks everybody out does so for DROP_PATIENCE
        assert conn.execute(index).fetchone() != (None,)

        producer.commit()
        deploy(empty_db, report=lambda line: None)

        assert conn.execute(index).fetchone() == (None,)


def test_jobs_with_keys_that_come_before_the_triggers_have_their_turn_with_these(
    empty_db: str,
) -> None:
    """In a database of a time without them the functions are there a moment before."""
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute(
            "drop trigger impossible_jobs on rota.live_jobs;"
            "drop trigger impossible_changes on rota.live_jobs"
        )
        [job] = call(conn, "enqueue_job", task="t", key="a")
        assert call(conn, "claim_next_job") == []

        deploy(empty_db, report=lambda line: None)

        assert [row["id"] for row in call(conn, "claim_next_job")] == [job["job_id"]]


# A deploy stops before a statement of this text, and before it notes that such a migration is
# applied, for as long as the text stands there. Not in rota: there are to be no strays.
HALTS = """
    create schema halts;
    create table halts.texts (text text not null);

    create function halts.stop(what text) returns void language plpgsql as $$
    begin
        while exists (select from halts.texts as t where strpos(what, t.text) > 0) loop
            perform pg_sleep(0.1);
        end loop;
    end;
    $$;

    create function halts.statement() returns event_trigger language plpgsql as $$
    begin
        perform halts.stop(current_query());
    end;
    $$;

    create function halts.note() returns trigger language plpgsql as $$
    begin
        perform halts.stop('note ' || new.migration_id);
        return new;
    end;
    $$;

    create event trigger halts_statement on ddl_command_start execute function halts.statement();

    create trigger halts_note before insert on rota._yoyo_migration
        for each row execute function halts.note();
"""

HALTED = """
    select pid from pg_stat_activity
    where application_name = 'rota deploy' and wait_event = 'PgSleep'
        and datname = current_database()
"""

HELD_UP = """
    select pid from pg_stat_activity
    where application_name = 'rota deploy' and wait_event_type = 'Lock' and query like '%index%'
        and datname = current_database()
"""

DEPLOYS = """
    select from pg_stat_activity
    where application_name = 'rota deploy' and datname = current_database()
"""


class Deploy:
    """A deploy in a process of its own, and where it is seen in the server."""

    def __init__(self, conn: Connection, url: str) -> None:
        self.conn = conn
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rota.db.deploy", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until(self, look: str) -> int:
        """Wait until a look finds its backend; return the backend's pid."""
        row = wait_until(
            lambda: self.process.poll() is not None or self.conn.execute(look).fetchone()
        )
        assert row is not True, self.process.communicate()
        return row[0]

    def kill(self) -> None:
        """Kill the process; what the server does for it ends by itself, and soon."""
        self.process.kill()
        self.process.communicate()
        wait_until(lambda: not self.conn.execute(DEPLOYS).rowcount, timeout=10)

    def terminate(self, pid: int) -> None:
        """End its backend; the process ends by that, with a line."""
        self.conn.execute("select pg_terminate_backend(%s)", [pid])
        _, said = self.process.communicate()
        assert self.process.returncode == 1
        assert said.splitlines()[-1].startswith("deploy failed: ")


def work_as_before(conn: Connection) -> None:
    """What workers and producers of before do goes on, however far a deploy has come."""
    call(conn, "enqueue_job", task="t", queue="mail")
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t", "queue": "mail"}] * 2))
    call(conn, "enqueue_many", task="t", queue="mail", payloads=Jsonb([1, 2]))
    rows = call(conn, "claim_next_job", queues=["mail"], max_jobs=5)
    assert len(rows) == 5
    for row in rows[1:]:
        call(conn, "finish_job", job_id=row["id"], token=row["token"])
    held = {"job_id": rows[0]["id"], "token": rows[0]["token"]}
    call(conn, "finish_job", **held, error="boom", retry_in=timedelta(0))
    [again] = call(conn, "claim_next_job", queues=["mail"], max_jobs=5)
    assert again["id"] == rows[0]["id"]
    call(conn, "finish_job", job_id=again["id"], token=again["token"])
    conn.execute("update rota.chores set ran_at = null where chore = 'take_census'")
    assert call(conn, "take_census", older_than=timedelta(0), force=True) == [{"take_census": True}]


def test_a_deploy_of_keys_may_be_killed_at_each_step_and_the_next_one_goes_on(
    keyless: Connection, empty_db: str
) -> None:
    """One time the process is killed, the next time its backend in the server."""
    indexes = [
        "create index concurrently if not exists live_jobs_lane",
        "create index concurrently if not exists live_jobs_counted",
        "create index concurrently if not exists live_jobs_in_lane",
        "drop index concurrently rota.live_jobs_by_lane",
        "drop index concurrently rota.live_jobs_lane",
    ]
    notes = [f"note {path.stem}" for path in sorted((FOLDER / "migrations").glob("01[23]*.sql"))]
    functions = "create or replace function rota.claim_next_job("
    triggers = "enable always trigger wall_changed"
    places = [
        "create domain",
        *notes[:2],
        *indexes[:2],
        *notes[2:],
        indexes[2],
        functions,
        *indexes[3:],
        triggers,
    ]
    keyless.execute(HALTS)

    for place, who in zip(places, cycle(["process", "backend"]), strict=False):
        keyless.execute("insert into halts.texts values (%s)", [place])
        deployed = Deploy(keyless, empty_db)
        pid = deployed.wait_until(HALTED)
        with psycopg.connect(empty_db) as producer:
            if place in indexes:  # it goes on until it waits for somebody who writes
                producer.execute("lock table rota.live_jobs in row exclusive mode")
                keyless.execute("delete from halts.texts")
                pid = deployed.wait_until(HELD_UP)
            if who == "process":
                deployed.kill()
            else:
                deployed.terminate(pid)
        keyless.execute("delete from halts.texts")
        work_as_before(keyless)

    keyless.execute("drop schema halts cascade")
    deploy(empty_db, report=lambda line: None)

    work_as_before(keyless)
    invalid = "select indexrelid::regclass::text from pg_index where not indisvalid"
    assert keyless.execute(invalid).fetchall() == []
    assert keyless.execute("select to_regclass('rota.live_jobs_by_lane')").fetchone() == (None,)
    call(keyless, "configure_queue", queue="keyed", key_max_running=1)
    call(keyless, "enqueue_many", task="t", queue="keyed", key="a", payloads=Jsonb([1, 2]))
    assert len(call(keyless, "claim_next_job", queues=["keyed"], max_jobs=5)) == 1
    assert keyless.execute("select * from rota.check_invariants()").fetchall() == []


def test_a_job_in_strict_order_that_waits_since_before_keeps_its_place_and_is_found(
    kept_alike: Connection, empty_db: str
) -> None:
    """It is counted, and the index of lanes of now has nothing that is counted and runs."""
    call(kept_alike, "configure_queue", queue="q", key_in_order=True)
    call(kept_alike, "enqueue_many", task="t", queue="q", key="k", payloads=Jsonb([1, 2]))
    claim = {"queues": ["q"], "max_jobs": 2}
    [head] = wait_until(lambda: call(kept_alike, "claim_next_job", **claim))
    held = {"job_id": head["id"], "token": head["token"]}
    call(kept_alike, "finish_job", **held, error="boom", retry_in=timedelta(0))

    deploy(empty_db, report=lambda line: None)

    again = wait_until(lambda: call(kept_alike, "claim_next_job", **claim))
    assert [row["id"] for row in again] == [head["id"]]
    assert kept_alike.execute("select * from rota.check_invariants()").fetchall() == []


def test_a_census_is_taken_with_the_functions_of_before_once_it_counts_what_waits(
    conn: Connection,
) -> None:
    """Up to the new functions, which may be for long, what the migration has made counts."""
    call(conn, "enqueue_workflow", jobs=Jsonb([{"task": "t"}, {"task": "t", "depends_on": "all"}]))
    conn.execute((FOLDER / "migrations" / "0143_waiting_counted.sql").read_text().encode())

    assert call(conn, "take_census", older_than="0 seconds") == [{"take_census": True}]

    census = conn.execute(
        "select scheduled, due, no_room, oldest_due_at = oldest_with_room_at, waiting"
        " from rota.queue_census"
    )
    assert census.fetchall() == [(1, 1, 0, True, 1)]
    call(conn, "doctor")


def test_queues_of_before_in_which_only_starts_are_limited_are_known_as_such(
    conn: Connection,
) -> None:
    """By the migration, and as if their limits were set now."""
    minute = timedelta(minutes=1)
    window = {"max_starts": 9, "starts_period": minute}
    call(conn, "configure_queue", queue="plain", max_retries=1)
    call(conn, "configure_queue", queue="starts", **window)
    call(
        conn, "configure_queue", queue="starts of keys", key_max_starts=9, key_starts_period=minute
    )
    call(conn, "configure_key", queue="starts of a key", key="k", **window)
    call(conn, "configure_queue", queue="runs too", key_max_running=1, **window)
    call(conn, "configure_queue", queue="a key runs too", **window)
    call(conn, "configure_key", queue="a key runs too", key="k", max_running=1)
    call(conn, "configure_queue", queue="order", key_in_order=True, **window)
    call(conn, "configure_queue", queue="only runs", max_running=1)
    query = "select name, limited from rota.queues order by name"
    as_set_now = conn.execute(query).fetchall()
    conn.execute("update rota.queues set limited = limited & 15")

    conn.execute((FOLDER / "migrations" / "0193_starts_alone.sql").read_text().encode())

    assert conn.execute(query).fetchall() == as_set_now
    alone = [name for name, limited in as_set_now if limited & 16]
    assert alone == ["starts", "starts of a key", "starts of keys"]


class Veteran(threading.Thread):
    """A worker and producer of before there were workflows: six arguments, by name or in order."""

    FINISHES = (
        "select * from rota.finish_job(job_id => %s, token => %s, error => %s, result => %s,"
        " retry_in => %s, retry => %s)",
        "select * from rota.finish_job(%s, %s, %s, %s, %s, %s)",
        "select (rota.finish_job(%s, %s, %s, %s, %s, %s)).state",
    )

    def __init__(self, url: str, number: int) -> None:
        super().__init__(daemon=True)
        self._url, self._number = url, number
        self.going, self.turns = True, 0
        self.refused: list[str] = []

    def run(self) -> None:
        prepared = 0 if self._number % 2 else None
        with psycopg.connect(self._url, autocommit=True, prepare_threshold=prepared) as conn:
            while self.going:
                try:
                    self._turn(conn)
                except psycopg.Error as error:
                    self.refused.append(f"{error.sqlstate} {error}")
                self.turns += 1

    def _turn(self, conn: Connection) -> None:
        queue = f"q{self._number}"
        ask(call, conn, "enqueue_job", task="t", queue=queue, max_retries=0)
        for job in ask(call, conn, "claim_next_job", queues=[queue]):
            held = [job["id"], job["token"]]
            ask(call, conn, "heartbeat_job", job_id=held[0], token=held[1])
            finish = self.FINISHES[self._number % 3]
            match self.turns % 4:
                case 0:
                    ask(conn.execute, finish, [*held, None, Jsonb(1), None, True])
                    ask(conn.execute, finish, [*held, None, Jsonb(1), None, True])
                case 1:
                    ask(conn.execute, finish, [*held, "boom", None, None, True])
                    ask(call, conn, "retry_job", job_id=held[0])
                case 2:
                    ask(call, conn, "release_job", job_id=held[0], token=held[1])
                    ask(call, conn, "cancel_job", job_id=held[0])
                case 3:
                    ask(call, conn, "cancel_job", job_id=held[0])
                    ask(conn.execute, finish, [*held, None, None, None, False])


def ask(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call, and again after the instant in which what is called is replaced, as the docs say."""
    try:
        return function(*arguments, **named)
    except (errors.UndefinedFunction, errors.InternalError_):
        return function(*arguments, **named)


def test_workers_of_before_go_on_while_jobs_learn_to_wait(no_workflows, empty_db):
    """Each calls finish_job as it always did, while another function takes that one's place."""
    veterans = [Veteran(empty_db, number) for number in range(4)]
    for veteran in veterans:
        veteran.start()
    wait_until(lambda: all(veteran.turns > 8 for veteran in veterans))

    deploy(empty_db, report=lambda line: None)

    reached = {veteran: veteran.turns for veteran in veterans}
    wait_until(lambda: all(veteran.turns > reached[veteran] + 8 for veteran in veterans))
    for veteran in veterans:
        veteran.going = False
    for veteran in veterans:
        veteran.join()
    assert [refused for veteran in veterans for refused in veteran.refused] == []
    assert no_workflows.execute("select * from rota.check_invariants()").fetchall() == []
    (last,) = call(no_workflows, "enqueue_job", task="t", queue="after")
    document = Jsonb([{"task": "t", "queue": "after", "depends_on": [last["job_id"]]}])
    (child,) = call(no_workflows, "enqueue_workflow", jobs=document)
    assert child["state"] == "WAITING"
    (job,) = call(no_workflows, "claim_next_job", queues=["after"])
    no_workflows.execute(Veteran.FINISHES[1], [job["id"], job["token"], None, Jsonb(2), None, True])
    (job,) = call(no_workflows, "claim_next_job", queues=["after"])
    assert job["id"] == child["job_id"]
    (parent,) = call(no_workflows, "parent_results", job_id=job["id"])
    assert (parent["state"], parent["result"]) == ("COMPLETED", 2)


def test_that_jobs_can_wait_rewrites_and_reads_no_table_and_locks_one(no_workflows):
    finish_one(no_workflows)
    call(no_workflows, "enqueue_job", task="t")
    files = """
        select c.oid, pg_relation_filenode(c.oid)
        from pg_class as c
        where c.relnamespace = 'rota'::regnamespace and c.relkind in ('r', 'i')
        order by 1
    """
    before = no_workflows.execute(files).fetchall()
    read = """
        select s.relname, s.seq_scan from pg_stat_xact_user_tables as s
        where s.schemaname = 'rota' and s.relid = any(%s)
        order by 1
    """
    locked = """
        select l.relation::regclass::text
        from pg_locks as l
        where l.pid = pg_backend_pid()
            and l.mode in ('ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            and l.relation = any(%s)
    """
    known = [oid for oid, _ in before]

    for path in sorted((FOLDER / "migrations").glob("014*.sql")):
        with no_workflows.transaction():
            scans = no_workflows.execute(read, [known]).fetchall()
            no_workflows.execute(path.read_text().encode())
            no_workflows.execute(path.read_text().encode())  # yoyo may run one twice
            assert no_workflows.execute(read, [known]).fetchall() == scans
            taken = no_workflows.execute(locked, [known]).fetchall()
            assert taken in ([], [("rota.live_jobs",)], [("rota.census",)]), path

    assert [row for row in no_workflows.execute(files).fetchall() if row[0] in known] == before


@pytest.mark.usefixtures("impatient")
def test_a_finish_of_before_that_leaves_a_child_behind_is_made_good_by_upkeep(
    no_workflows, empty_db
):
    """It began under functions that knew of no children, and waited while a job got one."""
    for path in sorted((FOLDER / "migrations").glob("014*.sql")):
        no_workflows.execute(path.read_text().encode())
    call(no_workflows, "enqueue_job", task="t")
    (job,) = call(no_workflows, "claim_next_job")
    held = {"job_id": job["id"], "token": job["token"]}
    answers = []
    with (
        psycopg.connect(empty_db, autocommit=True) as finisher,
        psycopg.connect(empty_db) as holder,
    ):
        call(holder, "hold_lease", **held)
        thread = threading.Thread(
            target=lambda: answers.extend(call(finisher, "finish_job", **held))
        )
        thread.start()
        blocked = "select cardinality(pg_blocking_pids(%s)) > 0"
        pid = finisher.info.backend_pid
        wait_until(lambda: no_workflows.execute(blocked, [pid]).fetchone()[0])
        deploy(empty_db, report=lambda line: None)
        document = Jsonb([{"task": "child", "depends_on": [job["id"]]}])

        (child,) = call(holder, "enqueue_workflow", jobs=document)
        holder.commit()
        thread.join()

    assert [answer["state"] for answer in answers] == ["COMPLETED"]
    state = "select state from rota.jobs where id = %s"
    assert no_workflows.execute(state, [child["job_id"]]).fetchone() == ("WAITING",)
    call(no_workflows, "maintain")
    assert no_workflows.execute(state, [child["job_id"]]).fetchone() == ("SCHEDULED",)
    assert no_workflows.execute("select * from rota.check_invariants()").fetchall() == []
