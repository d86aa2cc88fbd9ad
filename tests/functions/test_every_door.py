"""Each function that people call, for each role, and beside a foreign key that is being written."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.functions.test_every_parameter import SCENES, START, first_jobs, signatures

ROLES = ("rota_producer", "rota_worker", "rota_operator", "rota_reader", "rota_api")
NEEDED = {  # arguments of those that need some
    "enqueue_jobs": {"jobs": Jsonb([{"task": "a"}, {"task": "a", "unique_key": "k"}])},
    "enqueue_job": {"task": "a", "unique_key": "k", "queue": "new"},
    "begin_sleep": {"queues": ["a"]},
    "end_sleep": {"queues": ["a"]},
    "dismiss_worker": {"worker": "w"},
    "pause_queue": {"queue": "mail"},
    "delete_queue": {"queue": "mail"},
    "resume_queue": {"queue": "mail"},
    "configure_retention": {"retention": "8 days"},
    "cancel_jobs": {"filter": Jsonb({"task": "a"})},
    "retry_jobs": {"filter": Jsonb({"task": "a"})},
    "was_deployed": {"version": "v"},
}
NO_WORDS = (
    "maintain",
    "recover_workers",
    "shard",
    "statistics_age",
    "check_invariants",
    "doctor",
    "version",
    "needs_token",
    "visible_queues",
    "binding_principals",
)
SCENERY = SCENES | dict.fromkeys(NO_WORDS, lambda conn: {})


def arguments_of(conn, function):
    return (SCENERY[function](conn) or {}) | NEEDED.get(function, {})


def test_no_door_is_forgotten_here(conn):
    assert set(SCENERY) == set(signatures(conn))


@pytest.mark.parametrize("function", SCENERY)
def test_a_role_can_use_the_doors_that_are_open_to_it_and_no_other(connect, function):
    """Open means that the call does its work, though the role has no right on any table."""
    conn = connect(autocommit=False)
    opened = []
    for role in ROLES:
        (may,) = conn.execute(
            "select bool_or(has_function_privilege(%s, oid, 'execute')) from pg_proc"
            " where pronamespace = 'rota'::regnamespace and proname = %s",
            [role, function],
        ).fetchone()
        arguments = arguments_of(conn, function)
        conn.execute(f"set local role {role}")
        try:
            if function == "end_request":  # which is about the caller's own
                call(conn, "begin_request", key=arguments["key"], fingerprint="f")
            call(conn, function, **arguments)
            opened.append(role)
            assert may
        except psycopg.errors.InsufficientPrivilege:
            assert not may
        conn.rollback()

    assert opened


# A producer of ours may have rows that refer to jobs; one that is being written locks the job.
HOLDS_UP_NOBODY = [
    *("claim_next_job", "heartbeat_job", "heartbeat_jobs", "hold_lease", "release_job"),
    *("pause_schedule", "resume_schedule", "trigger_schedule", "recover_jobs", "finish_job"),
    *("schedule_job", "cancel_job"),
]


@pytest.mark.parametrize("function", HOLDS_UP_NOBODY)
def test_an_open_foreign_key_insert_holds_up_no_function_that_keeps_the_job(connect, function):
    conn, writer = connect(), connect(autocommit=False)
    conn.execute("create table notes (job_id bigint references rota.live_jobs (id))")
    arguments = arguments_of(conn, function)
    if function == "schedule_job":
        call(conn, function, **arguments)
    if function == "cancel_job":
        call(conn, "claim_next_job")
    jobs = first_jobs(conn, 9)
    writer.execute("insert into notes select unnest(%s::bigint[])", [jobs])
    conn.execute("set lock_timeout = '2s'")
    before = conn.execute("select * from rota.jobs order by id").fetchall()

    call(conn, function, **arguments)

    if function != "hold_lease":
        assert conn.execute("select * from rota.jobs order by id").fetchall() != before or (
            function == "schedule_job"
        )
    writer.rollback()


def test_the_null_of_a_time_is_the_null_of_a_run(conn):
    for left_out in ("cron", "time_zone", "after"):
        arguments = {"cron": "0 9 * * *", "time_zone": "UTC", "after": START} | {left_out: None}
        assert call(conn, "next_run", **arguments) == [{"next_run": None}]
