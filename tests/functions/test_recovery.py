"""Taking back what dead workers held: by one session at a time, in bounded calls, on record."""

from datetime import timedelta

import pytest

from rota.db.gateway import call


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
