"""Partitions ahead, retention, and what maintain must never touch."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.waiting import wait_until


@pytest.fixture
def conn(conn):
    """A connection that shows names and warnings as they are, whatever the database says."""
    conn.execute("set quote_all_identifiers = off")
    conn.execute("set client_min_messages = 'notice'")
    return conn


def finish_one(conn, **ending):
    (row,) = call(conn, "enqueue_job", task="work", max_retries=0)
    (claimed,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"], **ending)
    return row["job_id"]


def partitions(conn, parent):
    return {
        row[0]
        for row in conn.execute(
            "select inhrelid::regclass::text from pg_inherits where inhparent = %s::regclass",
            [f"rota.{parent}"],
        )
    }


def in_default(conn, parent):
    table = sql.Identifier("rota", f"{parent}_default")
    return conn.execute(sql.SQL("select count(*) from {}").format(table)).fetchone()[0]


@pytest.mark.parametrize("parent", ["finished_jobs", "attempts"])
def test_the_coming_weeks_are_prepared(conn, clock, parent):
    before = partitions(conn, parent)
    clock.advance(timedelta(days=7))

    call(conn, "maintain")
    call(conn, "maintain")

    assert len(partitions(conn, parent) - before) == 1
    finish_one(conn)
    assert in_default(conn, parent) == 0


def test_a_week_that_nobody_prepared_is_caught_and_moved(conn, clock):
    clock.advance(timedelta(days=200))
    job_id = finish_one(conn, result=Jsonb({"kept": True}))
    assert in_default(conn, "finished_jobs") == 1

    call(conn, "maintain")

    for parent in ("finished_jobs", "attempts"):
        assert in_default(conn, parent) == 0
    assert conn.execute("select result from rota.jobs where id = %s", [job_id]).fetchone() == (
        {"kept": True},
    )


def test_retention_drops_old_weeks_and_never_a_live_job(conn, clock):
    call(conn, "configure_retention", retention=timedelta(days=7))
    old = finish_one(conn, error="x")
    (live,) = call(conn, "enqueue_job", task="waits", run_at="2090-01-01")
    (tick,) = call(conn, "schedule_job", task="tick", every="1 hour", starts_at="2090-01-01")
    clock.advance(timedelta(days=21))
    young = finish_one(conn)

    call(conn, "maintain")

    kept = {row[0] for row in conn.execute("select id from rota.jobs")}
    assert kept == {live["job_id"], tick["job_id"], young}
    assert old not in kept
    executions = {row[0] for row in conn.execute("select job_id from rota.job_executions")}
    assert executions == {young}
    assert conn.execute("select count(*) from rota.schedules").fetchone()[0] == 1


def test_the_definition_of_a_schedule_goes_with_its_job(conn, clock):
    (tick,) = call(conn, "schedule_job", task="tick", every="1 hour")
    call(conn, "cancel_job", job_id=tick["job_id"])
    call(conn, "maintain")
    assert conn.execute("select count(*) from rota.schedules").fetchone()[0] == 1
    clock.advance(timedelta(days=120))

    call(conn, "maintain")
    call(conn, "maintain")

    assert conn.execute("select count(*) from rota.schedules").fetchone()[0] == 0


@pytest.mark.parametrize("retention", ["59 minutes", "-1 day", "200 years", None])
def test_a_retention_out_of_range_is_refused(conn, retention):
    with pytest.raises(psycopg.Error, match="retention") as caught:
        call(conn, "configure_retention", retention=retention)

    assert caught.value.sqlstate == "RTV01"


def test_maintain_gives_way_to_a_reader_and_lets_finishes_through(connect, clock):
    conn, reader = connect(), connect(autocommit=False)
    clock.advance(timedelta(days=70))
    reader.execute("select count(*) from rota.finished_jobs")

    call(conn, "maintain")
    finish_one(conn)

    reader.rollback()
    call(conn, "maintain")
    assert in_default(conn, "finished_jobs") == 0


def test_copies_of_a_lane_are_removed_but_for_one(connect):
    one, other = connect(autocommit=False), connect(autocommit=False)
    call(one, "enqueue_job", task="a", queue="new")
    call(other, "enqueue_job", task="b", queue="new")
    one.commit()
    other.commit()

    call(one, "maintain")
    one.commit()

    assert one.execute("select queue, priority from rota.lanes").fetchall() == [("new", 0)]
    assert len(call(one, "claim_next_job", queues=["new"], max_jobs=5)) == 2
    one.commit()


def test_workers_unseen_for_a_day_are_forgotten(conn, clock):
    arguments = {"host": "h", "pid": 1, "queues": ["a"], "concurrency": 1, "version": "v"}
    call(conn, "announce_worker", worker="gone", **arguments)
    clock.advance(timedelta(hours=25))
    call(conn, "announce_worker", worker="here", **arguments)

    call(conn, "maintain")

    assert conn.execute("select worker from rota.workers").fetchall() == [("here",)]


def test_of_many_lanes_each_is_kept_once(conn):
    for queue in ("a", "b"):
        for priority in (0, 1):
            call(conn, "enqueue_job", task="a", queue=queue, priority=priority)
    conn.execute("insert into rota.lanes select l.* from rota.lanes as l")
    conn.execute("insert into rota.lanes select l.* from rota.lanes as l")

    call(conn, "maintain")

    assert conn.execute("select queue, priority from rota.lanes order by 1, 2").fetchall() == [
        (queue, priority) for queue in ("a", "b") for priority in (0, 1)
    ]


def test_what_the_default_partitions_caught_is_dropped_with_its_time(conn, clock):
    """A week that nobody prepared and that is over at the next look."""
    call(conn, "configure_retention", retention=timedelta(days=7))
    clock.advance(timedelta(days=200))
    old = finish_one(conn)
    clock.advance(timedelta(days=30))
    young = finish_one(conn)

    call(conn, "maintain")

    assert conn.execute("select id from rota.jobs").fetchall() == [(young,)]
    assert conn.execute("select distinct job_id from rota.executions").fetchall() == [(young,)]
    assert old != young


def test_a_week_is_kept_until_all_of_it_is_older_than_the_retention(conn, clock):
    """Finished on a Monday's last moment; dropped when that week's Sunday is past retention."""
    monday = datetime(2031, 1, 6, tzinfo=UTC)
    call(conn, "configure_retention", retention=timedelta(days=10))
    clock.set(monday)
    call(conn, "maintain")
    clock.set(monday + timedelta(days=6, hours=23))
    kept = finish_one(conn)

    for days, ids in ((16.9, [(kept,)]), (17.1, [])):
        clock.set(monday + timedelta(days=days))
        call(conn, "maintain")
        assert conn.execute("select id from rota.jobs").fetchall() == ids


def test_a_worker_is_remembered_for_a_day(conn, clock):
    arguments = {"host": "h", "pid": 1, "queues": ["a"], "concurrency": 1, "version": "v"}
    call(conn, "announce_worker", worker="w", **arguments)
    clock.advance(timedelta(hours=23))

    call(conn, "maintain")

    assert conn.execute("select worker from rota.worker_status").fetchall() == [("w",)]


def test_four_weeks_ahead_are_prepared(conn, clock):
    clock.advance(timedelta(days=365))
    call(conn, "maintain")

    for _ in range(4):
        clock.advance(timedelta(days=7))
        finish_one(conn)

    assert in_default(conn, "finished_jobs") == 0
    clock.advance(timedelta(days=7))
    finish_one(conn)
    assert in_default(conn, "finished_jobs") == 1


def test_a_session_that_keeps_maintain_waiting_is_given_up_soon(connect, clock):
    """Each half gives up as a whole; the rest is done all the same."""
    conn, reader = connect(), connect(autocommit=False)
    clock.advance(timedelta(days=70))
    reader.execute("lock table rota.finished_jobs in share row exclusive mode")
    conn.execute("insert into rota.lanes values ('twice', 0), ('twice', 0)")
    conn.execute("set statement_timeout = '5s'")  # a tenth of it would do

    call(conn, "maintain")

    reader.rollback()
    assert conn.execute("select count(*) from rota.lanes").fetchone() == (1,)


def warnings_of(conn):
    """Return a list to which each warning of the session is added from now on."""
    seen = []
    conn.add_notice_handler(
        lambda notice: seen.append(f"{notice.severity}: {notice.message_primary}")
    )
    return seen


def chore(conn):
    return conn.execute("select ran_at, took from rota.chores where chore = 'maintain'").fetchone()


def test_a_login_without_any_right_cannot_keep_maintain_from_its_work(
    connect, conn, clock, administrate
):
    administrate("create role {} login", "rota_test_nobody")
    stranger = connect()
    stranger.execute("set role rota_test_nobody")
    for lock in ("hashtextextended('rota.maintain', 0)", "hashtextextended('maintain', 0)"):
        stranger.execute(f"select pg_advisory_lock({lock})")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        stranger.execute("select from rota.chores for update")
    clock.advance(timedelta(days=70))

    call(conn, "maintain")

    assert len(partitions(conn, "finished_jobs")) == 11  # five of today, five of then, the default
    administrate("drop role {}", "rota_test_nobody")


def test_one_session_at_a_time_maintains_and_it_leaves_a_note(connect, conn, clock):
    other = connect(autocommit=False)
    clock.set(datetime(2030, 1, 1, tzinfo=UTC))
    call(other, "maintain")

    call(conn, "maintain")
    meanwhile = chore(conn)
    other.commit()

    assert meanwhile != chore(conn)
    ran_at, took = chore(conn)
    assert timedelta(0) <= ran_at - datetime(2030, 1, 1, tzinfo=UTC) < timedelta(minutes=1)
    assert timedelta(0) < took < timedelta(minutes=1)


def test_a_chore_whose_row_is_gone_is_done_all_the_same(conn, clock):
    conn.execute("delete from rota.chores")
    clock.advance(timedelta(days=70))

    call(conn, "maintain")

    assert len(partitions(conn, "attempts")) == 11
    assert chore(conn) is not None


def test_a_week_that_cannot_be_dropped_is_named_and_stops_no_other(conn, clock):
    finish_one(conn)
    for _ in range(2):
        clock.advance(timedelta(days=7))
        finish_one(conn)
    call(conn, "configure_retention", retention=timedelta(days=7))
    first, second, *_ = sorted(partitions(conn, "finished_jobs") - {"finished_jobs_default"})
    conn.execute(
        sql.SQL("create view public.mine as select id from {}").format(
            sql.Identifier("rota", first)
        )
    )
    clock.advance(timedelta(days=60))
    seen = warnings_of(conn)

    call(conn, "maintain")

    assert first in partitions(conn, "finished_jobs")
    assert second not in partitions(conn, "finished_jobs")
    assert not {"attempts" + first.removeprefix("finished_jobs")} & partitions(conn, "attempts")
    (warning,) = seen
    assert warning.startswith(f"WARNING: rota.{first} could not be dropped: ")
    assert "view public.mine depends on" in warning

    conn.execute("drop view public.mine")
    call(conn, "maintain")
    assert first not in partitions(conn, "finished_jobs")


def test_a_week_that_somebody_reads_directly_stops_no_other(connect, conn, clock):
    call(conn, "configure_retention", retention=timedelta(days=7))
    first, second, *_ = sorted(partitions(conn, "finished_jobs") - {"finished_jobs_default"})
    reader = connect(autocommit=False)
    reader.execute(sql.SQL("select count(*) from {}").format(sql.Identifier("rota", first)))
    clock.advance(timedelta(days=60))
    seen = warnings_of(conn)

    call(conn, "maintain")

    left = partitions(conn, "finished_jobs")
    assert first in left and second not in left
    assert [warning for warning in seen if first in warning]
    reader.rollback()


def test_a_part_of_upkeep_that_fails_stops_no_other(conn, clock):
    conn.execute(
        """
        create function public.refuse() returns trigger language plpgsql as
            $$ begin raise exception 'not this one'; end $$;
        create trigger refuse before delete on rota.lanes
            for each statement execute function public.refuse();
        create trigger refuse before delete on rota.workers
            for each statement execute function public.refuse();
        create trigger refuse before delete on rota.schedules
            for each statement execute function public.refuse();
        """
    )
    clock.advance(timedelta(days=70))
    seen = warnings_of(conn)

    call(conn, "maintain")

    assert len([warning for warning in seen if "not this one" in warning]) == 3
    assert len(partitions(conn, "finished_jobs")) == 11
    assert len(partitions(conn, "attempts")) == 11


def test_what_functions_of_before_left_to_wait_is_put_into_its_lane(conn, connect):
    """It keeps the place of its key. One whose row somebody holds is not waited for."""
    call(conn, "configure_queue", queue="q", key_in_order=True)
    for key in "aabb":
        call(conn, "enqueue_job", task="t", queue="q", key=key)

    def claim():
        return call(conn, "claim_next_job", queues=["q"], max_jobs=4)

    heads = wait_until(claim)
    for row in heads:
        held = {"job_id": row["id"], "token": row["token"]}
        call(conn, "finish_job", **held, error="boom", retry_in=timedelta(0))
    conn.execute("update rota.live_jobs set left_lane = true where counted")
    first, second = sorted(row["id"] for row in heads)

    def lost():
        broken = conn.execute("select invariant, job_id from rota.check_invariants()").fetchall()
        assert all(rule == "C9: what waits stands in its lane" for rule, _ in broken)
        return sorted(job_id for _, job_id in broken)

    assert claim() == []
    assert lost() == [first, second]

    holder = connect(autocommit=False)
    holder.execute("select from rota.live_jobs where id = %s for no key update", [second])
    call(conn, "maintain")
    assert [row["id"] for row in claim()] == [first]
    assert lost() == [second]

    holder.rollback()
    call(conn, "maintain")
    assert [row["id"] for row in claim()] == [second]
    assert lost() == []


def test_weeks_of_the_past_that_nobody_prepared_get_their_partition(conn, clock):
    clock.advance(timedelta(days=100))
    past = finish_one(conn)
    clock.advance(timedelta(days=30))
    finish_one(conn)

    call(conn, "maintain")

    assert in_default(conn, "finished_jobs") == in_default(conn, "attempts") == 0
    (partition,) = conn.execute(
        "select tableoid::regclass::text from rota.finished_jobs where id = %s", [past]
    ).fetchone()
    assert partition in partitions(conn, "finished_jobs")


def test_while_the_retention_is_being_changed_weeks_are_made_and_none_is_dropped(
    conn, connect, clock
):
    finish_one(conn)
    clock.advance(timedelta(days=200))
    finish_one(conn)
    clock.advance(timedelta(days=60))
    assert in_default(conn, "finished_jobs") == 1
    changing = connect(autocommit=False)
    call(changing, "configure_retention", retention=timedelta(days=7))

    call(conn, "maintain")

    assert in_default(conn, "finished_jobs") == in_default(conn, "attempts") == 0
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (2,)


def test_rows_of_the_default_partition_go_when_the_retention_has_passed(conn, clock):
    clock.advance(timedelta(days=200))
    finish_one(conn)
    clock.advance(timedelta(days=120))

    call(conn, "maintain")

    assert in_default(conn, "finished_jobs") == in_default(conn, "attempts") == 0
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (0,)


def test_a_retention_that_was_lowered_and_raised_again_breaks_no_rule(conn, clock):
    call(conn, "enqueue_job", task="long", max_retries=100)
    for _ in range(2):
        (job,) = call(conn, "claim_next_job")
        held = {"job_id": job["id"], "token": job["token"]}
        call(conn, "finish_job", **held, error="x", retry_in=timedelta(0))
        clock.advance(timedelta(days=20))
    call(conn, "configure_retention", retention=timedelta(days=7))
    call(conn, "maintain")
    assert conn.execute("select count(*) from rota.job_executions").fetchone() == (0,)

    call(conn, "configure_retention", retention=timedelta(days=90))
    call(conn, "maintain")

    assert conn.execute("select * from rota.check_invariants()").fetchall() == []
    conn.execute("update rota.settings set kept_since = '-infinity'")
    assert conn.execute("select count(*) from rota.check_invariants()").fetchone() == (2,)
    conn.execute("delete from rota.live_jobs")


def test_nothing_is_dropped_while_the_retention_is_being_changed(connect, conn, clock):
    other = connect(autocommit=False)
    call(other, "configure_retention", retention=timedelta(days=300))
    clock.advance(timedelta(days=150))
    before = partitions(conn, "finished_jobs")

    call(conn, "maintain")

    assert before < partitions(conn, "finished_jobs")
    other.commit()


@pytest.mark.parametrize(
    ("deadlock_timeout", "lock_timeout"),
    [("1s", "200ms"), ("10s", "200ms"), ("100ms", "50ms"), ("1ms", "1ms")],
)
def test_maintain_waits_for_a_lock_no_longer_than_half_of_deadlock_timeout(
    conn, deadlock_timeout, lock_timeout
):
    conn.execute(
        """
        create function public.tell() returns trigger language plpgsql as
            $$ begin raise warning '%', current_setting('lock_timeout'); return null; end $$;
        create trigger tell before delete on rota.lanes
            for each statement execute function public.tell();
        """
    )
    conn.execute("select set_config('deadlock_timeout', %s, false)", [deadlock_timeout])
    before = conn.execute("show lock_timeout").fetchone()
    seen = warnings_of(conn)

    call(conn, "maintain")

    assert seen == [f"WARNING: {lock_timeout}"]
    assert conn.execute("show lock_timeout").fetchone() == before


def counted(conn):
    """Return when the last census was, and up to when minutes are about to be counted."""
    return conn.execute(
        "select c.ran_at, r.ready_until from rota.chores as c, rota.chores as r"
        " where c.chore = 'take_census' and r.chore = 'roll_up'"
    ).fetchone()


def test_chores_are_recovery_first_and_counting_when_there_is_nothing_to_recover(conn, clock):
    before = counted(conn)
    call(conn, "enqueue_job", task="t")
    call(conn, "claim_next_job", lease=timedelta(seconds=1))
    clock.advance(timedelta(minutes=5))

    (found,) = call(conn, "do_chores")
    meanwhile = counted(conn)
    (rest,) = call(conn, "do_chores")

    assert (found["recovered"], rest["recovered"]) == (1, 0)
    assert found["again_in_seconds"] < 1
    assert 5 <= rest["again_in_seconds"] <= 60
    assert meanwhile == before
    assert all(new != old for new, old in zip(counted(conn), before, strict=True))


def test_an_empty_house_is_counted_once_a_minute_and_one_with_jobs_at_once(conn, clock):
    def counted_anew(seconds):
        clock.advance(timedelta(seconds=seconds))
        before = counted(conn)[0]
        call(conn, "do_chores")
        return counted(conn)[0] != before

    call(conn, "do_chores")

    assert [counted_anew(seconds) for seconds in (20, 20, 21, 20)] == [False, False, True, False]
    call(conn, "enqueue_job", task="t", run_at=datetime(2040, 1, 1, tzinfo=UTC))
    assert [counted_anew(seconds) for seconds in (0, 5, 10)] == [True, False, True]


@pytest.mark.parametrize("broken", ["take_census", "roll_up"])
def test_what_cannot_be_counted_stops_nothing_else(conn, clock, broken):
    (definition,) = conn.execute(
        "select pg_get_functiondef(('rota.' || %s)::regproc)", [broken]
    ).fetchone()
    head, _, _ = definition.partition("AS $function$")
    conn.execute(f"{head} as $function$ begin raise exception 'broken'; end; $function$")
    before = counted(conn)
    clock.advance(timedelta(minutes=5))
    seen = warnings_of(conn)

    call(conn, "do_chores")

    assert [text.rpartition(": ")[2] for text in seen] == ["broken"]
    assert [new != old for new, old in zip(counted(conn), before, strict=True)] == [
        broken != "take_census",
        broken != "roll_up",
    ]
