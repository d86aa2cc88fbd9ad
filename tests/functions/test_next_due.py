"""When the next job is due: what an idle worker sleeps until."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from rota.db.gateway import call

HOUR = timedelta(hours=1)


def next_due(conn, queues=("default",), within=HOUR):
    return call(conn, "next_due_in", queues=list(queues), within=within)[0]["next_due_in"]


def enqueue_for(conn, seconds, **arguments):
    run_at = datetime.now(UTC) + timedelta(seconds=seconds)
    return call(conn, "enqueue_job", task="t", run_at=run_at, **arguments)[0]["job_id"]


def about(seconds):
    return pytest.approx(timedelta(seconds=seconds), abs=timedelta(seconds=5))


def test_the_next_job_of_any_priority_decides(conn):
    enqueue_for(conn, 300, priority=7)
    enqueue_for(conn, 200, priority=-7)
    enqueue_for(conn, 400)

    assert next_due(conn) == about(200)


def test_only_the_named_queues_count_and_none_that_is_paused(conn):
    enqueue_for(conn, 100, queue="other")
    enqueue_for(conn, 200, queue="mail")
    enqueue_for(conn, 300)
    assert next_due(conn, ["default", "mail", "nobody's"]) == about(200)

    call(conn, "pause_queue", queue="mail")

    assert next_due(conn, ["default", "mail"]) == about(300)
    assert next_due(conn, ["nobody's"]) is None
    assert next_due(conn, []) is None


def test_what_is_due_after_the_time_asked_for_does_not_count(conn):
    enqueue_for(conn, 300)

    assert next_due(conn, within=timedelta(seconds=200)) is None
    assert next_due(conn, within=timedelta(0)) is None


def test_what_was_due_before_does_not_count(conn):
    """A claim in the same statement has taken it, or cannot have it."""
    enqueue_for(conn, -1)
    enqueue_for(conn, 300)

    assert next_due(conn) == about(300)


def test_what_falls_due_during_the_statement_counts(conn):
    """A claim that came before it in the same statement has looked too early for it."""
    enqueue_for(conn, 0.3)

    (left,) = conn.execute(
        "select rota.next_due_in() from (select pg_sleep(0.6) offset 0) as waited"
    ).fetchone()

    assert left == timedelta(0)


def test_a_job_that_runs_does_not_count(conn, clock):
    enqueue_for(conn, 100)
    clock.advance(timedelta(seconds=200))
    call(conn, "claim_next_job")
    clock.reset()

    assert next_due(conn) is None


def test_the_clock_of_the_database_decides(conn, clock):
    enqueue_for(conn, 3000)

    clock.advance(timedelta(seconds=2000))

    assert next_due(conn) == about(1000)


@pytest.mark.parametrize("within", [None, timedelta(seconds=-1), timedelta(days=2)])
def test_a_time_that_makes_no_sense_is_refused(conn, within):
    with pytest.raises(psycopg.Error) as caught:
        next_due(conn, within=within)

    assert caught.value.sqlstate == "RTV01"


def test_one_probe_a_lane_finds_it_however_many_jobs_wait(connect):
    conn = connect()
    conn.execute(
        """
        select count(*) from rota.enqueue_jobs((
            select jsonb_agg(jsonb_build_object(
                'task', 't', 'run_at', clock_timestamp() + g * interval '1 second'
            ))
            from generate_series(100, 20100) as g
        ))
        """
    )
    before = rows_read(connect, conn)

    assert next_due(conn, within=24 * HOUR) == about(100)

    assert rows_read(connect, conn) - before <= 2


def rows_read(connect, conn):
    """Return how many rows of the hot table were read so far, with the counters flushed."""
    conn.execute("select pg_stat_force_next_flush()")
    conn.execute("select 1")
    return (
        connect()
        .execute(
            "select seq_tup_read + idx_tup_fetch from pg_stat_user_tables"
            " where schemaname = 'rota' and relname = 'live_jobs'"
        )
        .fetchone()[0]
    )
