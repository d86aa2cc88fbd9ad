"""Taking back what dead workers held: by one session at a time, in bounded calls, on record."""

from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import psycopg
import pytest

from rota.db.gateway import call
from tests.waiting import wait_until

GRACE = timedelta(seconds=1.75)
SECOND = timedelta(seconds=1)


@pytest.fixture
def lose(conn, clock):
    """Claim so many jobs and let their leases run out."""

    def lose_jobs(number=1):
        for _ in range(number):
            call(conn, "enqueue_job", task="work")
        call(conn, "claim_next_job", max_jobs=number, worker="dead")
        clock.advance(timedelta(minutes=2))

    return lose_jobs


def recover(conn, **arguments):
    return call(conn, "recover_jobs", **arguments)[0]["recover_jobs"]


def chore(conn):
    return conn.execute(
        "select ran_at, took from rota.chores where chore = 'recover_jobs'"
    ).fetchone()


def test_a_login_without_rights_cannot_keep_recovery_from_its_work(conn, connect, lose):
    outsider = connect()
    outsider.execute("select pg_advisory_lock(hashtextextended('rota.recover_jobs', 0))")
    lose()

    assert recover(conn) == 1


def test_recovery_goes_on_though_the_row_of_its_chore_is_gone(conn, lose):
    conn.execute("delete from rota.chores")
    lose()

    assert recover(conn) == 1
    assert chore(conn) is not None


def test_two_sessions_do_not_recover_at_once_and_the_second_waits_for_nothing(connect, lose):
    first, second = connect(autocommit=False), connect()
    lose(3)
    second.execute("set lock_timeout = '1 s'")

    assert recover(first, max_jobs=1) == 1

    assert recover(second) == 0
    first.commit()
    assert recover(second) == 2


def test_recovery_records_when_it_last_took_something_back_and_how_long_that_took(conn, lose):
    assert chore(conn) == (None, None)
    lose()
    before = conn.execute("select rota._now()").fetchone()[0]

    recover(conn)

    ran_at, took = chore(conn)
    assert timedelta(0) <= ran_at - before < timedelta(minutes=1)
    assert timedelta(0) < took < timedelta(minutes=1)


def test_recovery_that_finds_nothing_locks_and_writes_nothing(connect, lose):
    conn, holder = connect(autocommit=False), connect(autocommit=False)
    call(conn, "enqueue_job", task="held")
    call(conn, "claim_next_job")
    conn.commit()

    assert recover(conn) == 0
    assert conn.execute("select pg_current_xact_id_if_assigned()").fetchone() == (None,)
    conn.commit()

    lose()  # a second one, and of the first the lease runs out, too
    holder.execute("select from rota.live_jobs for update")
    assert recover(conn) == 0, "both are held by somebody who is about to speak"
    conn.commit()
    assert chore(conn) == (None, None)


def test_recovery_stops_after_a_second_and_the_next_call_goes_on(conn, lose):
    lose(250)
    conn.execute("""
        create or replace function rota._backoff(
            attempt integer, base interval, cap interval
        )
            returns interval
            language plpgsql
        as $$
        begin
            perform pg_sleep(0.011);
            return '0';
        end;
        $$
    """)

    assert [recover(conn) for _ in range(4)] == [100, 100, 50, 0]


def test_recovery_goes_on_within_its_second_and_to_its_number(conn, lose):
    lose(350)

    assert [recover(conn, max_jobs=310) for _ in range(3)] == [310, 40, 0]


def test_recovery_leaves_alone_what_moved_between_its_look_and_its_lock(connect, clock, lose):
    """A heartbeat that is not committed yet: the look sees the old lease, the lock the new one."""
    conn, holder = connect(), connect(autocommit=False)
    call(conn, "enqueue_job", task="work")
    (job,) = call(conn, "claim_next_job")
    clock.advance(timedelta(minutes=2))
    call(holder, "heartbeat_job", job_id=job["id"], token=job["token"])

    assert recover(conn) == 0
    holder.commit()
    assert recover(conn) == 0

    state = conn.execute("select state from rota.jobs where id = %s", [job["id"]]).fetchone()
    assert state == ("RUNNING",)


# -- workers whose sessions are gone


def name(number):
    return str(UUID(int=number))


def announce(conn, number, **arguments):
    about = {"host": "h", "pid": 1, "queues": ["default"], "concurrency": 1, "version": "v"}
    arguments = {"worker": name(number), "attends": True, **arguments}
    call(conn, "announce_worker", **(about | arguments))


def end_session(conn, ended):
    """End a session, and wait until the server has noticed, as it does of a process that died."""
    pid = ended.info.backend_pid
    ended.close()
    there = "select count(*) from pg_stat_activity where pid = %s"
    wait_until(lambda: conn.execute(there, [pid]).fetchone() == (0,))


def look(conn):
    return call(conn, "recover_workers")[0]["recover_workers"]


def executions(conn):
    return conn.execute(
        "select outcome, attempt, error from rota.job_executions order by finished_at"
    ).fetchall()


@pytest.fixture
def attend(connect):
    """Announce workers, each in a session of its own by which it attends; return the session."""

    def one(number, **arguments):
        conn = connect()
        announce(conn, number, **arguments)
        return conn

    return one


@pytest.fixture
def clock(clock, conn):
    clock.set(conn.execute("select clock_timestamp()").fetchone()[0])
    return clock


@pytest.fixture
def job_of(conn):
    """Have a worker claim a job."""

    def claim(number, **arguments):
        call(conn, "enqueue_job", task="work", max_retries=5)
        (job,) = call(conn, "claim_next_job", worker=name(number), **arguments)
        return {"job_id": job["id"], "token": job["token"]}

    return claim


def seen_gone(conn, clock, session):
    """End a worker's session, have a look see that, and let the time pass that it has to return."""
    end_session(conn, session)
    assert timedelta(0) < look(conn) <= GRACE
    clock.advance(GRACE)


def recovered_in_time(conn, clock):
    """Look for the dead for longer than anybody has to return; return how many jobs are lost."""
    for _ in range(3):
        look(conn)
        clock.advance(GRACE)
    return recover(conn)


def test_a_worker_whose_session_stays_away_is_taken_for_dead_and_its_job_starts_again(
    conn, clock, attend, job_of
):
    dead = attend(1)
    attend(2)
    job, other = job_of(1), job_of(2)
    end_session(conn, dead)

    assert timedelta(0) < look(conn) <= GRACE
    clock.advance(GRACE - SECOND)
    assert timedelta(0) < look(conn)
    assert recover(conn) == 0
    clock.advance(SECOND)
    assert look(conn) == timedelta(0)
    assert look(conn) > timedelta(0)

    assert [recover(conn), recover(conn)] == [1, 0]
    assert executions(conn) == [("LOST", 1, f"worker {name(1)} died")]
    assert dict(conn.execute("select worker, stopped_at is null from rota.worker_status")) == {
        name(1): False,
        name(2): True,
    }
    (again,) = call(conn, "claim_next_job", worker=name(2))
    assert (again["id"], again["attempt"]) == (job["job_id"], 2)
    call(conn, "finish_job", **other)
    with pytest.raises(psycopg.Error) as refused:
        call(conn, "finish_job", **job)
    assert refused.value.sqlstate == "RTC02"


def test_a_dead_worker_s_job_of_a_queue_that_it_announced_later_starts_again_at_once(
    conn, clock, attend
):
    dead = attend(1, queues=["mail"])
    call(conn, "enqueue_job", task="work", queue="web")
    announce(dead, 1, queues=["web"])
    call(conn, "claim_next_job", worker=name(1), queues=["web"])

    seen_gone(conn, clock, dead)
    look(conn)

    assert recover(conn) == 1
    assert executions(conn) == [("LOST", 1, f"worker {name(1)} died")]


def test_those_who_sleep_are_told_of_a_job_that_a_dead_worker_lost(
    connect, conn, clock, attend, job_of
):
    dead = attend(1)
    job_of(1)
    seen_gone(conn, clock, dead)
    sleeper = connect()
    sleeper.execute("listen rota_jobs")
    call(sleeper, "begin_sleep", queues=["default"])

    look(conn)
    recover(conn)

    assert [heard.payload for heard in sleeper.notifies(timeout=5, stop_after=1)] == ["default"]


def test_only_the_first_loss_of_a_dead_worker_starts_again_at_once(conn, clock, attend, job_of):
    call(conn, "configure_queue", queue="default", backoff_base=timedelta(hours=1))
    waits = "select run_at > rota._now() from rota.jobs"
    job_of(1)
    for number, waited in ((1, False), (2, True)):
        if number == 2:
            call(conn, "claim_next_job", worker=name(2))
        dead = attend(number)
        seen_gone(conn, clock, dead)
        look(conn)

        assert recover(conn) == 1
        assert conn.execute(waits).fetchone() == (waited,)


def test_a_lease_of_a_dead_worker_that_ran_out_is_lost_as_any_other(conn, clock, attend, job_of):
    call(conn, "configure_queue", queue="default", backoff_base=timedelta(hours=1))
    dead = attend(1)
    job_of(1, lease=SECOND)
    seen_gone(conn, clock, dead)
    look(conn)

    assert recover(conn) == 1

    assert executions(conn) == [("LOST", 1, f"the lease of worker {name(1)} ran out")]
    assert conn.execute("select run_at > rota._now() from rota.jobs").fetchone() == (True,)


def test_a_worker_that_comes_back_in_time_keeps_its_jobs(conn, clock, attend, job_of):
    cut = attend(1)
    job_of(1)
    for _ in range(3):
        seen_gone(conn, clock, cut)
        cut = attend(1)

        assert look(conn) > timedelta(0)
        clock.advance(2 * GRACE)
        assert look(conn) > timedelta(0)
    assert recover(conn) == 0


def test_a_worker_that_comes_back_after_it_was_taken_for_dead_keeps_what_was_not_taken_yet(
    conn, clock, attend, job_of
):
    dead = attend(1)
    job_of(1)
    seen_gone(conn, clock, dead)
    assert look(conn) == timedelta(0)

    attend(1)

    assert recover(conn) == 0
    query = "select stopped_at from rota.worker_status"
    assert conn.execute(query).fetchone() == (None,)


def test_what_a_worker_claims_after_it_was_seen_gone_is_left_to_it(conn, clock, attend, job_of):
    dead = attend(1)
    job_of(1)
    seen_gone(conn, clock, dead)
    late = job_of(1)
    look(conn)

    assert [recover(conn), recover(conn)] == [1, 0]

    assert call(conn, "heartbeat_job", **late)


def test_a_held_row_is_passed_by_and_taken_back_when_its_holder_is_gone(
    conn, connect, clock, attend, job_of
):
    dead = attend(1)
    job = job_of(1)
    handler = connect(autocommit=False)
    call(handler, "hold_lease", **job)
    seen_gone(conn, clock, dead)
    look(conn)

    assert recover(conn) == 0
    handler.rollback()
    assert recover(conn) == 1


@pytest.mark.parametrize("arguments", [{"attends": False}, {"attends": None}, {}])
def test_a_worker_that_does_not_attend_has_its_leases_alone(
    conn, connect, clock, attend, job_of, arguments
):
    """Behind a pooler, of an older version, or a session that claims by hand."""
    about = {"host": "h", "pid": 1, "queues": ["default"], "concurrency": 1, "version": "v"}
    sessions = [attend(1), connect()]
    for number in (1, 2):
        call(sessions[1], "announce_worker", worker=name(number), **about, **arguments)
        job_of(number)
    for session in sessions:
        end_session(conn, session)

    assert recovered_in_time(conn, clock) == 0


def test_a_worker_that_stopped_by_itself_is_not_taken_for_dead(conn, clock, attend, job_of):
    stopped = attend(1)
    job_of(1)
    seen_gone(conn, clock, stopped)
    call(conn, "dismiss_worker", worker=name(1))

    assert recovered_in_time(conn, clock) == 0


def test_sessions_that_a_restart_of_the_server_ended_make_nobody_dead(conn, clock, attend, job_of):
    dead = attend(1)
    job_of(1)
    end_session(conn, dead)
    conn.execute("update rota.workers set server_since = server_since - interval '1 minute'")

    assert recovered_in_time(conn, clock) == 0


def test_a_crash_begins_another_life_of_the_server_as_a_reset_of_its_statistics_does(conn):
    """By that a crash shows, which leaves the start of the server as it was."""
    since = "select rota._server_since()"
    before = conn.execute(since).fetchone()

    conn.execute("select pg_stat_reset_shared('bgwriter')")

    assert conn.execute(since).fetchone() > before


def test_only_a_name_that_nobody_else_can_have_attends(conn):
    with pytest.raises(psycopg.Error) as refused:
        announce(conn, 1, worker="psql-1")
    assert refused.value.sqlstate == "RTV01"

    announce(conn, 1, worker="psql-1", attends=False)


def test_a_transaction_that_goes_on_sees_who_has_come_back(conn, connect, clock, attend, job_of):
    cut = attend(1)
    job_of(1)
    looker = connect(autocommit=False)
    looker.execute("select count(*) from pg_stat_activity")
    end_session(conn, cut)
    attend(1)

    assert look(looker) > GRACE
    clock.advance(GRACE)
    assert look(looker) > timedelta(0)


def test_locks_of_outsiders_keep_no_dead_worker_alive(conn, connect, clock, attend, job_of):
    outsider = connect()
    for classid in range(1919906913, 1919906917):
        outsider.execute("select pg_advisory_lock(%s, hashtext(%s))", [classid, name(1)])
    dead = attend(1)
    job_of(1)
    seen_gone(conn, clock, dead)

    assert look(conn) == timedelta(0)
    assert recover(conn) == 1


def test_a_look_at_workers_who_are_all_there_writes_nothing(connect, attend):
    attend(1)
    conn = connect(autocommit=False)

    look(conn)

    assert conn.execute("select pg_current_xact_id_if_assigned()").fetchone() == (None,)


def test_workers_look_in_turn_twice_a_second_together(conn, clock, attend):
    (began,) = conn.execute("select rota._now()").fetchone()
    sessions = [attend(number) for number in range(5)]
    due = dict.fromkeys(sessions, began)
    looks = []
    for _ in range(25):
        session = min(due, key=due.get)
        clock.set(due[session])
        looks.append(due[session])
        due[session] += look(session)

    gaps = [later - earlier for earlier, later in pairwise(looks[5:])]
    assert all(0.4 < gap.total_seconds() < 0.6 for gap in gaps), gaps
    assert look(attend(6)) <= 3 * SECOND


def test_a_worker_that_is_alone_looks_every_two_seconds(conn, clock, attend):
    assert look(attend(1)) == 2 * SECOND


def test_a_look_in_a_large_fleet_comes_within_half_a_minute(conn, clock, attend):
    attend(1)
    conn.execute(
        "insert into rota.workers (worker, host, pid, queues, concurrency, version, started_at,"
        " last_seen_at, backend, server_since)"
        " select 'w' || n, host, pid, queues, concurrency, version, started_at, last_seen_at,"
        " backend, server_since from rota.workers, generate_series(1, 200) as n"
    )

    assert look(conn) <= 30 * SECOND
