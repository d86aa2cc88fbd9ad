"""The upgrade in which rota.job_executions became a view: nobody is held up, nothing is lost."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import Connection, errors, sql
from psycopg.types.json import Jsonb

from rota.db.deploy import FOLDER, deploy
from rota.db.gateway import call
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

SHAPE = """
    select c.relname, c.relkind::text, array_agg((a.attname, a.atttypid::regtype) order by a.attnum)
    from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
    where c.relnamespace = 'rota'::regnamespace and c.relkind in ('r', 'p', 'v')
    group by c.relname, c.relkind
    order by c.relname
"""


@pytest.fixture
def old(empty_db: str) -> Iterator[Connection]:
    """A database as it was before: job_executions is a table, and the functions know it so."""
    deploy(empty_db, report=lambda line: None)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        conn.execute("set search_path = pg_catalog")
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
        yield conn


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
            except psycopg.Error as error:
                self.failures.append(f"{error.sqlstate}: {error}")
            self.turns += 1
        self._conn.close()

    def _turn(self) -> None:
        conn = self._conn
        call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}] * 4))
        rows = call(conn, "claim_next_job", max_jobs=4)
        pairs = {"job_ids": [row["id"] for row in rows], "tokens": [row["token"] for row in rows]}
        match (self.turns + self._number) % 4:
            case 0:
                call(conn, "finish_jobs", **pairs)
                call(conn, "finish_jobs", **pairs)
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


def test_no_call_fails_while_the_table_of_attempts_gets_its_name(old, empty_db):
    callers = [Caller(empty_db, number) for number in range(3)]
    for caller in callers:
        caller.start()
    wait_until(lambda: all(caller.turns > 8 for caller in callers))

    deploy(empty_db, report=lambda line: None)

    reached = {caller: caller.turns for caller in callers}
    wait_until(lambda: all(caller.turns > reached[caller] + 8 for caller in callers))
    for caller in callers:
        caller.going = False
    for caller in callers:
        caller.join()
    assert [failure for caller in callers for failure in caller.failures] == []
    assert old.execute("select * from rota.check_invariants()").fetchall() == []


def test_an_upgraded_database_looks_like_a_new_one(old, empty_db, cluster, administrate, new_name):
    other = new_name()
    administrate("create database {}", other)
    deploy(cluster.url(other), report=lambda line: None)

    deploy(empty_db, report=lambda line: None)

    with psycopg.connect(cluster.url(other)) as new:
        new.execute("set search_path = pg_catalog")
        assert old.execute(SHAPE).fetchall() == new.execute(SHAPE).fetchall()
    administrate("drop database {} with (force)", other)


def test_what_was_finished_before_the_upgrade_is_known_after_it(old, empty_db):
    held = finish_one(old)

    deploy(empty_db, report=lambda line: None)

    (told,) = call(old, "finish_job", **held)
    assert told["state"] == "COMPLETED"
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
            " and j.queue = enqueue_job.queue", ""
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
