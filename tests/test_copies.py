"""Copies of a database: dumps, publications, a switch-over to a subscriber."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.deploy import ROLES, deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from tests.conftest import SERVER_VERSION, TEST_SETTINGS
from tests.waiting import wait_until


@pytest.fixture
def new_cluster(server_folder: Path) -> Iterator[Cluster]:
    """A server of the test's own, without our roles, that can replicate logically."""
    settings = {**TEST_SETTINGS, "wal_level": "logical", "max_connections": "50"}
    with Cluster(server_folder / "pg", SERVER_VERSION, settings) as server:
        yield server


def create(cluster: Cluster, name: str) -> str:
    with psycopg.connect(cluster.url(), autocommit=True) as conn:
        conn.execute(f"create database {name}")
    return cluster.url(name)


def dump(cluster: Cluster, source: str, *options: str) -> bytes:
    return subprocess.run(
        [cluster.bin / "pg_dump", *options, source], capture_output=True, check=True
    ).stdout


def restore(cluster: Cluster, target: str, dumped: bytes) -> list[str]:
    """Pipe a dump into psql, as one does; return what psql complained about."""
    process = subprocess.run(
        [cluster.bin / "psql", "--no-psqlrc", "--quiet", target],
        input=dumped,
        capture_output=True,
        check=True,
    )
    return process.stderr.decode().splitlines()


def work(conn: psycopg.Connection, name: str) -> None:
    """Leave a job in each state, a schedule, history, and a job that awaits an event."""
    for retries in (0, 3):
        call(conn, "enqueue_job", task="work", max_retries=retries, unique_key=f"{name}-{retries}")
    call(conn, "enqueue_jobs", jobs='[{"task": "work"}, {"task": "work"}]')
    call(conn, "schedule_job", task="work", name=name, cron="* * * * *")
    first, second, third = call(conn, "claim_next_job", max_jobs=3)
    call(conn, "finish_job", job_id=first["id"], token=first["token"], error="no")
    call(conn, "finish_job", job_id=second["id"], token=second["token"], error="not yet")
    call(conn, "finish_job", job_id=third["id"], token=third["token"])
    jobs = [{"task": "work", "queue": name}, {"task": "work", "queue": name, "depends_on": "all"}]
    call(conn, "enqueue_workflow", jobs=Jsonb(jobs), name=name)
    (parent,) = call(conn, "claim_next_job", queues=[name])
    held = {"job_id": parent["id"], "token": parent["token"]}
    call(conn, "record_step", **held, step="one", result=Jsonb(1))
    wait = {"step": "two", "event": f"{name} goes on", "timeout": "1 hour"}
    call(conn, "await_event", **held, **wait)


def go_on(conn: psycopg.Connection, name: str) -> None:
    """Bring the jobs to their end of which one awaits an event, and one that."""
    assert call(conn, "emit_event", event=f"{name} goes on", payload=Jsonb(2)) == [
        {"emit_event": 1}
    ]
    (parent,) = call(conn, "claim_next_job", queues=[name])
    held = {"job_id": parent["id"], "token": parent["token"]}
    wait = {"step": "two", "event": f"{name} goes on", "timeout": "1 hour"}
    assert call(conn, "await_event", **held, **wait) == [{"state": "ARRIVED", "payload": 2}]
    steps = call(conn, "recorded_steps", job_id=parent["id"])
    assert [step["step"] for step in steps] == ["one", "two"]
    call(conn, "finish_job", **held, result=Jsonb(3))
    (child,) = call(conn, "claim_next_job", queues=[name])
    (result,) = call(conn, "parent_results", job_id=child["id"])
    assert (result["job_id"], result["result"]) == (parent["id"], 3)
    call(conn, "finish_job", job_id=child["id"], token=child["token"])


def contents(conn: psycopg.Connection) -> list[tuple]:
    return conn.execute(
        """
        select 'job', id, state::text, task, payload, scheduled_for from rota.jobs
        union all
        select 'execution', job_id, outcome, worker, result, started_at from rota.executions
        union all
        select 'schedule', job_id, cron, time_zone, null, starts_at from rota.schedules
        union all
        select 'node', job_id, state, node, to_jsonb(waits_for), null from rota.workflow_nodes
        order by 1, 2, 3
        """
    ).fetchall()


@pytest.mark.parametrize("roles", [True, False], ids=["with roles", "without roles"])
def test_a_dump_can_be_restored_and_goes_on(new_cluster, roles):
    """What psql complains about is roles that are missing; the next deploy makes them."""
    source, target = create(new_cluster, "source"), create(new_cluster, "target")
    deploy(source)
    with psycopg.connect(source, autocommit=True) as conn:
        work(conn, "before")
        expected = contents(conn)
    dumped = dump(new_cluster, source)
    if not roles:
        with psycopg.connect(new_cluster.url(), autocommit=True) as conn:
            conn.execute("drop database source")
            for role in ROLES:
                conn.execute(f"drop role {role}")

    complaints = restore(new_cluster, target, dumped)

    assert all('role "rota_' in line for line in complaints)
    assert bool(complaints) is not roles
    with psycopg.connect(target, autocommit=True) as conn:
        assert contents(conn) == expected
        assert call(conn, "check_invariants") == []
        work(conn, "after")
        go_on(conn, "before")
        call(conn, "maintain")
        assert conn.execute("show search_path").fetchone() == ('"$user", public',)

    deploy(target)

    with psycopg.connect(target, autocommit=True) as conn:
        assert call(conn, "check_invariants") == []
        assert conn.execute("show search_path").fetchone() == ('"$user", public, rota',)
        conn.execute("set role rota_worker")
        assert len(call(conn, "claim_next_job", max_jobs=100)) > 0


def catch_up(publisher: psycopg.Connection, slot: str) -> None:
    """Wait until a subscriber has all that was committed by now."""
    (position,) = publisher.execute("select pg_current_wal_lsn()").fetchone()
    confirmed = """
        select from pg_replication_slots where slot_name = %s and confirmed_flush_lsn >= %s
    """
    wait_until(lambda: publisher.execute(confirmed, [slot, position]).rowcount)


def test_a_publication_for_all_tables_stops_nothing_and_a_subscriber_can_take_over(new_cluster):
    source, target = create(new_cluster, "source"), create(new_cluster, "target")
    deploy(source)
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("create publication everything for all tables")
        conn.execute("select pg_create_logical_replication_slot('copy', 'pgoutput')")
        work(conn, "early")
    restore(new_cluster, target, dump(new_cluster, source, "--schema-only", "--no-publications"))
    with (
        psycopg.connect(source, autocommit=True) as old,
        psycopg.connect(target, autocommit=True) as new,
    ):
        host = new_cluster.data_dir
        new.execute(
            f"create subscription copy connection 'host={host} user=postgres dbname=source'"
            " publication everything with (create_slot = false)"
        )
        synchronised = "select bool_and(srsubstate = 'r') from pg_subscription_rel"
        wait_until(lambda: new.execute(synchronised).fetchone()[0])
        old.execute("insert into rota.lanes select * from rota.lanes")
        old.execute(
            "insert into rota.attempts (job_id, run, attempt, outcome, scheduled_for,"
            " finished_at, job_state) values (1, 1, 0, 'SKIPPED', now(), '2020-01-01', 'FAILED')"
        )
        work(old, "late")
        (failed,) = old.execute("select min(id) from rota.jobs where state = 'FAILED'").fetchone()
        call(old, "retry_job", job_id=failed)
        call(old, "maintain")
        expected = contents(old)
        catch_up(old, "copy")

        wait_until(lambda: contents(new) == expected)
        assert [row["invariant"] for row in call(new, "check_invariants")] == [
            "E9: the sequence is ahead of every id"
        ]
        new.execute("drop subscription copy")

    lines: list[str] = []
    deploy(target, report=lines.append)

    highest = max(row[1] for row in expected)
    assert any(f"goes on at {highest + 1}" in line for line in lines)
    with psycopg.connect(target, autocommit=True) as conn:
        work(conn, "new")
        go_on(conn, "late")
        go_on(conn, "early")
        call(conn, "maintain")
        assert call(conn, "check_invariants") == []


def test_every_table_tells_its_rows_apart_for_replication(conn):
    """Else a table that is published can neither be updated nor deleted from."""
    call(conn, "maintain")

    assert (
        conn.execute(
            """
        select c.relname
        from pg_class as c
        where c.relnamespace = 'rota'::regnamespace
            and c.relkind = 'r'
            and c.relreplident <> 'f'
            and not exists (select from pg_index as i where i.indrelid = c.oid and i.indisprimary)
        """
        ).fetchall()
        == []
    )
