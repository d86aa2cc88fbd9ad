"""check_invariants() finds each kind of damage, made here by hand with the guards taken away."""

from collections.abc import Iterator

import pytest
from psycopg import Connection

from rota.db.gateway import call
from tests.functions.views import as_before

WITHOUT_CHECKS = """
    do $$
    declare
        v_check record;
    begin
        for v_check in
            select
                case when c.contypid = 0
                    then format('table %s', c.conrelid::regclass)
                    else format('domain %s', c.contypid::regtype)
                end as owner,
                c.conname
            from pg_constraint as c
            where c.connamespace = 'rota'::regnamespace and c.contype = 'c' and c.coninhcount = 0
        loop
            execute format('alter %s drop constraint %I', v_check.owner, v_check.conname);
        end loop;
    end;
    $$;
    alter table rota.live_jobs disable trigger user;
    drop index rota.live_jobs_unique_key_of_queue;
    alter table rota.finished_jobs drop constraint finished_jobs_pkey;
"""

DAMAGE = {
    "S1": "update rota.live_jobs set state = 'COMPLETED' where id = 1",
    "S2": "update rota.live_jobs set token = null where id = 2",
    "S3": "update rota.finished_jobs set state = 'RUNNING' where id = 3",
    "S4: a job is live or": "update rota.finished_jobs set id = 1 where id = 3",
    "S4: a job is finished": "insert into rota.finished_jobs"
    " select (f).* from (select f from rota.finished_jobs as f where id = 3) as copy",
    "S4: a COMPLETED": "update rota.attempts set outcome = 'FAILED' where job_id = 3",
    "S5": "update rota.live_jobs set attempt = 9 where id = 2",
    "S6": "update rota.live_jobs set run_at = 'infinity' where id = 1",
    "S10: one": "insert into rota.attempts"
    " select (e).* from (select e from rota.attempts as e where job_id = 3) as copy",
    "S10: every": "delete from rota.attempts where job_id = 3",
    "S10: no": "update rota.attempts set attempt = 2 where job_id = 3",
    "L3: a token": "insert into rota.attempts"
    " select (e).* from (select e from rota.attempts as e where job_id = 3) as copy",
    "L3: a live": "update rota.live_jobs set token ="
    " (select token from rota.attempts where job_id = 4) where id = 4",
    "C2": "delete from rota.lanes",
    "C2: claims": "update rota.lanes set queue = 'another'",
    "C2: claims know": "update rota.lanes set priority = 77",
    "E5": "update rota.live_jobs set unique_key = 'k' where id in (1, 2)",
    "K2: a live": "delete from rota.schedules",
    "K2: a schedule": "update rota.finished_jobs set schedule_type = 'CRON', state = 'FAILED'"
    " where id = 3",
}


@pytest.fixture
def damaged(conn: Connection) -> Iterator[Connection]:
    """Jobs: 1 waits, 2 runs, 3 completed before 0075, 4 runs again, 5 repeats, 6 has completed."""
    for priority in (0, 1, 3, 2):
        call(conn, "enqueue_job", task="work", priority=priority)
    (third,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=third["id"], token=third["token"])
    (fourth,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=fourth["id"], token=fourth["token"], error="x", retry_in="0")
    call(conn, "claim_next_job", max_jobs=2)
    call(conn, "schedule_job", task="tick", every="1 hour", starts_at="2040-01-01")
    call(conn, "enqueue_job", task="work", priority=9)
    (sixth,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=sixth["id"], token=sixth["token"])
    as_before(conn, third["id"])
    assert [third["id"], fourth["id"], sixth["id"]] == [3, 4, 6]
    assert conn.execute("select * from rota.check_invariants()").fetchall() == []
    conn.execute(WITHOUT_CHECKS)
    yield conn
    conn.execute("truncate rota.live_jobs, rota.finished_jobs, rota.attempts, rota.schedules")


@pytest.mark.parametrize(("rule", "damage"), DAMAGE.items(), ids=DAMAGE)
def test_each_kind_of_damage_is_found(damaged, rule, damage):
    damaged.execute(damage)

    found = {row[0] for row in damaged.execute("select invariant from rota.check_invariants()")}

    assert any(invariant.startswith(rule) for invariant in found), found


# A row of attempts for the job that completed: {attempt, outcome}, {token}.
ANOTHER = (
    "insert into rota.attempts (job_id, run, attempt, outcome, token, scheduled_for, started_at,"
    " finished_at, job_state) select 6, 1, {}, {}, now(), now(), now(), 'SCHEDULED'"
    " from rota.finished_jobs as f where f.id = 6"
)
# Each arm of the function, with the damage that only it sees, and the job that it must name.
ARMS = [
    ("S2: RUNNING", 2, "update rota.live_jobs set worker = null where id = 2"),
    ("S2: RUNNING", 2, "update rota.live_jobs set lease_until = null where id = 2"),
    ("S2: RUNNING", 1, "update rota.live_jobs set started_at = now() where id = 1"),
    ("S5: attempts", 1, "update rota.live_jobs set attempt = -1 where id = 1"),
    ("S5: attempts", 2, "update rota.live_jobs set attempt = 0 where id = 2"),
    ("S5: attempts", 4, "update rota.live_jobs set max_retries = 0 where id = 4"),
    ("S6: a job", 1, "update rota.live_jobs set run_at = '-infinity' where id = 1"),
    ("S10: every", 4, "delete from {attempts} where job_id = 4"),
    ("S10: every", 4, "update {attempts} set run = 9 where job_id = 4"),
    ("S10: every", 4, "update {attempts} set outcome = 'RELEASED' where job_id = 4"),
    ("S10: every", 3, "delete from {attempts} where job_id = 3"),
    ("S10: every", 3, "update {attempts} set run = 0 where job_id = 3"),
    ("S10: every", 2, "update rota.live_jobs set attempt = 2 where id = 2"),
    ("S10: no", 4, "update {attempts} set run = 2 where job_id = 4"),
    ("S10: no", 4, "update {attempts} set attempt = 3 where job_id = 4"),
    ("S4: a COMPLETED", 3, "update {attempts} set run = 0 where job_id = 3"),
    ("S4: a COMPLETED", 6, "update rota.finished_jobs set token = null where id = 6"),
    ("S4: a COMPLETED", 6, ANOTHER.format("2, 'SUCCEEDED'", "gen_random_uuid()")),
    ("S10: every", 6, "update rota.finished_jobs set token = null where id = 6"),
    ("S10: every", 6, "update rota.finished_jobs set attempt = 2 where id = 6"),
    ("S10: one", 6, ANOTHER.format("1, 'FAILED'", "gen_random_uuid()")),
    ("S10: no", 6, ANOTHER.format("2, 'FAILED'", "gen_random_uuid()")),
    ("L3: a token", 6, ANOTHER.format("1, 'RELEASED'", "f.token")),
    (
        "L3: a live",
        6,
        "insert into rota.live_jobs (id, task, payload, queue, priority, state, run_at,"
        " scheduled_for, attempt, max_retries, token, worker, lease_until, started_at, created_at)"
        " select id, task, payload, queue, priority, 'RUNNING', run_at, scheduled_for, 1, 3, token,"
        " 'w', now(), now(), now() from rota.finished_jobs where id = 6",
    ),
    ("K2: a live", 5, "update rota.live_jobs set schedule_type = 'CRON' where id = 5"),
    ("K2: a live", 5, "update rota.live_jobs set run_at = 'infinity' where id = 5"),
]
# What may look odd and is none of it.
SOUND = [
    "update rota.schedules set paused_at = now(); update rota.live_jobs set run_at = 'infinity'"
    " where id = 5",
    "update rota.settings set kept_since = '2010-01-01';"
    " update rota.live_jobs set created_at = '2000-01-01' where id = 4;"
    " delete from {attempts} where job_id = 4",
    "update rota.settings set kept_since = '2010-01-01';"
    " update rota.finished_jobs set created_at = '2000-01-01' where id = 3;"
    " delete from {attempts} where job_id = 3",
    "update rota.finished_jobs set state = 'CANCELLED' where id = 3;"
    " update {attempts} set outcome = 'FAILED' where job_id = 3",
    "update rota.live_jobs set unique_key = id::text",
]


def damage(conn, statement):
    """Do it by hand, whatever the table of attempts is called."""
    (table,) = conn.execute(
        "select coalesce(to_regclass('rota.attempts'), 'rota.job_executions'::regclass)::text"
    ).fetchone()
    conn.execute(statement.replace("{attempts}", table))


@pytest.mark.parametrize(("rule", "job_id", "statement"), ARMS)
def test_damage_is_found_where_it_is(damaged, rule, job_id, statement):
    damage(damaged, statement)

    found = damaged.execute("select invariant, job_id from rota.check_invariants()").fetchall()

    assert {job for invariant, job in found if invariant.startswith(rule)} == {job_id}
    assert {job for _, job in found} == {job_id}


@pytest.mark.parametrize("statement", SOUND)
def test_what_is_sound_is_not_called_damaged(damaged, statement):
    damage(damaged, statement)

    assert damaged.execute("select * from rota.check_invariants()").fetchall() == []
