"""No row, call, chore or job holds up a thread of the worker past its bound; see docs/inside.md."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection, sql
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from rota.testing import Clock
from rota.worker.attempt import Attempt
from rota.worker.clock import clock
from rota.worker.desk import Desk
from rota.worker.finisher import Finisher
from rota.worker.link import Link
from rota.worker.upkeep import Upkeep
from tests.waiting import wait_until
from tests.worker.conftest import Trace, WorkerProcess

StartWorker = Callable[..., WorkerProcess]
ReadJob = Callable[[int], dict[str, Any]]
Connect = Callable[..., Connection]

TIMED_OUT = "timed out; its place stays occupied until the handler returns"
CHORE_FAILED = "a chore failed, it is tried again later"


class CountingLink(Link):
    """A link that counts its calls."""

    calls = 0

    def once(self, work: Any) -> Any:
        self.calls += 1
        return super().once(work)


def claimed(conn: Connection, desk: Desk, count: int) -> list[Attempt]:
    """Enqueue and claim so many jobs."""
    jobs = [{"task": "echo", "max_retries": 5} for _ in range(count)]
    call(conn, "enqueue_jobs", jobs=Jsonb(jobs))
    rows = call(conn, "claim_next_job", worker="w", lease="60 s", max_jobs=count)
    held = [
        Attempt(
            (
                row["id"],
                str(row["token"]),
                row["task"],
                "{}",
                "default",
                1,
                5,
                None,
                0.0,
                1,
                None,
                None,
            ),
            clock(),
            clock() + 60,
            desk.report_progress,
        )
        for row in rows
    ]
    desk.take(held)
    for job in held:
        desk.start(job)
    return held


def finish_all(desk: Desk, link: Link) -> None:
    """Run a finisher until all is told."""
    desk.done.put(None)
    thread = threading.Thread(target=Finisher(desk, link, 60.0).run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    link.close()


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_thousand_special_finishes_take_a_few_calls(db: str, conn: Connection, lost: int) -> None:
    desk = Desk({})
    jobs = claimed(conn, desk, 1000)
    for job in jobs[:lost]:
        call(conn, "finish_job", job_id=job.id, token=job.token)
    for job in jobs:
        desk.settle(job, error="no such customer", retry=False)
    link = CountingLink(db, "test", desk.closing, 10.0, 0.5)

    finish_all(desk, link)

    states = dict(conn.execute("select state, count(*) from rota.jobs group by 1").fetchall())
    assert states == {"FAILED": 1000 - lost} | ({"COMPLETED": lost} if lost else {})
    assert link.calls <= 2 + 30 * lost
    assert not desk.held


@pytest.mark.parametrize("how", ["plain", "special", "released"])
@pytest.mark.parametrize("lock", ["for update", "for key share"])
def test_a_locked_row_holds_up_no_batch(
    db: str, conn: Connection, connect: Connect, how: str, lock: str
) -> None:
    desk = Desk({})
    jobs = claimed(conn, desk, 200)
    locked = {job.id for job in jobs[50:53]}
    blocker = connect(autocommit=False)
    blocker.execute(f"select from rota.live_jobs where id = any(%s) {lock}", [list(locked)])
    for job in jobs:
        if how == "released":
            desk.running.discard(job)
            desk.hand_back(job, "not now")
        else:
            desk.settle(job, error="no" if how == "special" else None, retry=how != "special")
    link = Link(db, "test", desk.closing, 10.0, 0.5)
    thread = threading.Thread(target=finish_all, args=[desk, link])
    thread.start()

    held = "select count(*) from rota.live_jobs where state = 'RUNNING'"
    expected = 0 if how == "released" and lock == "for key share" else 3
    wait_until(lambda: conn.execute(held).fetchone()[0] <= expected, timeout=20)
    time.sleep(1)
    assert conn.execute(held).fetchone() == (expected,)
    blocker.rollback()
    thread.join()

    assert conn.execute(held).fetchone() == (0,)
    assert not desk.held


def test_what_finishes_beside_a_locked_row_is_told_at_once(
    connect: Connect,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    trace: Trace,
    settled: Any,
) -> None:
    worker = start_worker("--concurrency", "4", "--poll", "0.05")
    locked = enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)
    blocker = connect(autocommit=False)
    blocker.execute("select from rota.live_jobs where id = %s for update", [locked])
    trace.open_gate()
    wait_until(lambda: trace.count()["end"] == 1)
    time.sleep(1)

    began = time.monotonic()
    for number in range(10):
        other = enqueue("echo", number)
        wait_until(lambda other=other: job(other)["state"] == "COMPLETED")
    took = time.monotonic() - began
    blocker.rollback()
    settled()

    assert took < 5
    assert job(locked)["state"] == "COMPLETED"
    assert worker.stop() == 0


def test_a_finish_that_never_ends_holds_up_others_for_a_bounded_time(
    db: str, conn: Connection
) -> None:
    desk = Desk({})
    jobs = claimed(conn, desk, 64)
    slow = jobs[13].id
    conn.execute(
        sql.SQL(
            """
            create function public.stall() returns trigger language plpgsql as $$
            begin
                if old.id = {} then perform pg_sleep(60); end if;
                return old;
            end;
            $$;

            create trigger stall before delete on rota.live_jobs
            for each row execute function public.stall()
            """
        ).format(slow)
    )
    for job in jobs:
        desk.settle(job)
    link = Link(db, "test", desk.closing, 0.5, 0.5)
    thread = threading.Thread(target=finish_all, args=[desk, link])
    thread.start()

    query = "select array_agg(id) from rota.live_jobs"
    wait_until(lambda: conn.execute(query).fetchone() == ([slow],), timeout=60)
    conn.execute("drop trigger stall on rota.live_jobs")
    thread.join()

    assert conn.execute(query).fetchone() == (None,)


def test_progress_of_locked_rows_costs_no_other_job_its_lease(
    conn: Connection,
    connect: Connect,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    trace: Trace,
    settled: Any,
) -> None:
    worker = start_worker("--lease", "2", "--concurrency", "20")
    other = enqueue("hold", trace.payload)
    chatty = [enqueue("chatter", trace.payload) for _ in range(12)]
    wait_until(lambda: trace.count()["start"] == 13)
    blocker = connect(autocommit=False)
    blocker.execute("select from rota.live_jobs where id = any(%s) for update", [chatty])

    ends_at = time.monotonic() + 6
    left = "select extract(epoch from lease_until - clock_timestamp()) from rota.jobs where id = %s"
    while time.monotonic() < ends_at:
        assert conn.execute(left, [other]).fetchone()[0] > 0
    blocker.rollback()
    trace.open_gate()
    wait_until(lambda: job(other)["state"] == "COMPLETED")

    assert job(other)["attempt"] == 1
    worker.kill()


def test_progress_of_a_locked_row_is_stored_once_it_is_free(
    connect: Connect,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    trace: Trace,
) -> None:
    worker = start_worker("--lease", "30")
    job_id = enqueue("counting_later", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)
    blocker = connect(autocommit=False)
    blocker.execute("select from rota.live_jobs where id = %s for update", [job_id])
    trace.open_gate()
    wait_until(lambda: trace.count()["reported"] == 1)
    time.sleep(1.5)  # one try is over

    blocker.rollback()

    wait_until(lambda: job(job_id)["progress"] == {"done": 7}, timeout=10)
    worker.kill()


def test_a_timeout_is_noticed_while_the_database_does_not_answer(
    connect: Connect, start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace
) -> None:
    worker = start_worker("--lease", "3")
    enqueue("hold", {**trace.payload, "minds": False}, timeout="2 seconds", max_retries=0)
    wait_until(lambda: trace.count()["start"] == 1)
    began = time.monotonic()

    blocker = connect(autocommit=False)
    blocker.execute("lock table rota.live_jobs in access exclusive mode")
    wait_until(
        lambda: worker.logged("timed out; its place stays occupied until the handler returns")
    )
    noticed = time.monotonic() - began
    blocker.rollback()
    trace.open_gate()

    assert noticed < 3
    worker.kill()


def test_a_locked_announcement_keeps_no_chore_from_its_turn(
    conn: Connection,
    connect: Connect,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    outcomes: Any,
) -> None:
    worker = start_worker("--queues", "nothing")
    wait_until(lambda: conn.execute("select count(*) from rota.worker_status").fetchone() == (1,))
    blocker = connect(autocommit=False)
    blocker.execute("select from rota.workers for update")
    lost = enqueue("echo", max_retries=0)
    call(conn, "claim_next_job", lease="1 second")

    wait_until(lambda: outcomes(lost) == ["LOST"], timeout=20)

    assert worker.stop() == 0  # though it cannot say good-bye
    assert worker.logged("could not say good-bye; operators see this worker until it is forgotten")
    blocker.rollback()


@pytest.mark.parametrize(
    "chore",
    ["announce_worker", "recover_workers", "do_chores", "maintain"],
)
@pytest.mark.parametrize("code", ["2BP01", "42P01", "XX000", "RTV01"])
def test_a_chore_that_fails_ends_no_worker(
    conn: Connection,
    chore: str,
    code: str,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
) -> None:
    break_function(conn, chore, code)

    worker = start_worker("--poll", "0.1")
    wait_until(lambda: len(worker.logged(CHORE_FAILED)) >= 3)
    job_id = enqueue("echo")
    wait_until(lambda: job(job_id)["state"] == "COMPLETED")

    assert {(line["chore"], line["sqlstate"]) for line in worker.logged(CHORE_FAILED)} == {
        (chore, code)
    }
    assert worker.stop() == 0


def test_a_worker_that_may_not_say_good_bye_ends_well(
    conn: Connection, start_worker: StartWorker
) -> None:
    break_function(conn, "dismiss_worker", "2BP01")
    worker = start_worker()

    assert worker.stop() == 0


def break_function(conn: Connection, name: str, code: str) -> None:
    """Have a function of ours fail with this SQLSTATE at every call."""
    (definition,) = conn.execute(
        "select pg_get_functiondef(('rota.' || %s)::regproc)", [name]
    ).fetchone()
    head, _, _ = definition.partition("AS $function$")
    conn.execute(
        f"{head} as $function$ begin raise exception 'broken' using errcode = '{code}'; end;"
        " $function$"
    )


def test_a_recovery_that_ran_out_of_time_asks_for_half(db: str, conn: Connection) -> None:
    (definition,) = conn.execute(
        "select pg_get_functiondef('rota.recover_jobs'::regproc)"
    ).fetchone()
    head, _, _ = definition.partition("AS $function$")
    conn.execute(
        f"""{head} as $function$
        begin
            if max_jobs > 100 then perform pg_sleep(60); end if;
            return max_jobs;
        end;
        $function$"""
    )
    desk = Desk({})
    link = Link(db, "test", desk.stopping, 0.3, 0.5)
    upkeep = Upkeep(desk, link, "w", {}, lambda: None)
    (recover,) = [chore for chore in upkeep._chores if chore.name == "do_chores"]

    for _ in range(4):
        upkeep._do(recover)
    failures = recover.pause.failures
    upkeep._do(recover)

    assert failures == 4
    assert recover.pause.failures == 0
    assert recover.due <= clock() + 1  # soon, for there may be more
    link.close()


def test_the_pause_after_a_slow_look_for_lost_leases_has_an_end(db: str, conn: Connection) -> None:
    conn.execute(
        "create or replace function rota.recover_jobs(max_jobs integer default 1000)"
        " returns integer language plpgsql as"
        " $$ begin perform pg_sleep(1); return 0; end $$"
    )
    desk = Desk({})
    link = Link(db, "test", desk.stopping, 5.0, 0.5)

    seconds = Upkeep(desk, link, "w", {}, lambda: None)._do_chores()

    assert 45 < seconds < 75
    link.close()


def test_what_upkeep_asks_of_the_database_is_no_more_than_before_there_were_statistics(
    db: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by when each chore comes again: a new call is one that every idle worker makes."""
    monkeypatch.setattr("random.uniform", lambda low, high: 1.0)
    desk = Desk({})
    link = Link(db, "test", desk.stopping, 5.0, 0.5)
    about = {"queues": ["default"], "concurrency": 1, "pid": 1, "version": "v"}
    upkeep = Upkeep(desk, link, str(uuid4()), about, lambda: None)
    upkeep._began -= 10  # a worker that has just started looks oftener
    seconds = {}

    for chore in upkeep._chores:
        upkeep._do(chore)
        seconds[chore.name] = round(chore.due - clock())

    assert seconds == {
        "announce_worker": 30,
        "bring_forward_jobs": 30,
        "recover_workers": 2,
        "do_chores": 5,
        "maintain": 3600,
    }
    assert conn.execute("select census_at is not null from rota.statistics_age()").fetchone()[0]
    link.close()


@pytest.mark.parametrize("chore", ["maintain", "take_census", "roll_up"])
def test_a_worker_does_what_is_to_be_done_for_all(
    conn: Connection, clock: Clock, start_worker: StartWorker, chore: str
) -> None:
    done = "select ran_at, ready_until from rota.chores where chore = %s"
    first = conn.execute(done, [chore]).fetchone()
    clock.advance(timedelta(minutes=5))

    start_worker()

    wait_until(lambda: conn.execute(done, [chore]).fetchone() != first)


def test_no_chore_is_done_in_a_session_that_was_not_announced(
    conn: Connection, start_worker: StartWorker
) -> None:
    """Seen from outside such a worker is gone, and its jobs would be taken back."""
    conn.execute(
        "create sequence rota_test.turns; create table rota_test.looks (announced boolean)"
    )
    bodies = {
        "bring_forward_jobs": "if nextval('rota_test.turns') = 1 then"
        " perform pg_terminate_backend(pg_backend_pid()); end if; return 0;",
        "recover_workers": "insert into rota_test.looks select exists ("
        " select from rota.workers as w where w.backend = pg_backend_pid()); return '1 s';",
    }
    for name, body in bodies.items():
        (definition,) = conn.execute(
            "select pg_get_functiondef(%s::regproc)", [f"rota.{name}"]
        ).fetchone()
        head, _, _ = definition.partition("AS $function$")
        conn.execute(f"{head} as $function$ begin {body} end; $function$")

    worker = start_worker()
    looks = "select announced from rota_test.looks limit 3"
    wait_until(lambda: len(conn.execute(looks).fetchall()) == 3)

    assert conn.execute(looks).fetchall() == [(True,)] * 3
    assert worker.stop() == 0


def test_a_chore_under_way_at_a_stop_is_ended(conn: Connection, start_worker: StartWorker) -> None:
    conn.execute(
        "create or replace function rota.maintain() returns void language plpgsql"
        " security definer as $$ begin perform pg_sleep(60); end $$"
    )
    worker = start_worker()
    sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    wait_until(lambda: conn.execute(sleeping).fetchone() == (1,))
    began = time.monotonic()

    assert worker.stop() == 0

    assert time.monotonic() - began < 10
    assert conn.execute(sleeping).fetchone() == (0,)


def test_places_that_overrun_handlers_hold_are_shown(
    conn: Connection, start_worker: StartWorker, enqueue: Callable[..., int], trace: Trace
) -> None:
    worker = start_worker("--concurrency", "3")
    shown = "select overrun from rota.worker_status"
    wait_until(lambda: conn.execute(shown).fetchall() == [(0,)])

    for _ in range(2):
        enqueue("hold", {**trace.payload, "minds": False}, timeout="300 ms", max_retries=0)
    wait_until(lambda: conn.execute(shown).fetchall() == [(2,)], timeout=15)
    trace.open_gate()
    wait_until(lambda: conn.execute(shown).fetchall() == [(0,)], timeout=15)

    (tasks, ahead) = conn.execute(
        "select tasks, extract(epoch from clock_difference) from rota.worker_status"
    ).fetchone()
    assert {"echo", "hold"} <= set(tasks)
    assert abs(ahead) < 5
    assert worker.stop() == 0


def rename(conn: Connection, old: str, new: str) -> None:
    conn.execute(
        sql.SQL("alter function rota.{} rename to {}").format(*map(sql.Identifier, (old, new)))
    )


@pytest.mark.parametrize("function", ["claim_next_job", "finish_jobs", "heartbeat_jobs"])
def test_a_function_that_a_deploy_replaces_is_waited_for(
    function: str,
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    job: ReadJob,
    trace: Trace,
) -> None:
    worker = start_worker("--poll", "0.1", "--lease", "3")
    held = enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)

    rename(conn, function, "elsewhere")
    trace.open_gate()
    other = enqueue("echo")
    time.sleep(1.5)
    rename(conn, "elsewhere", function)

    wait_until(lambda: job(held)["state"] == job(other)["state"] == "COMPLETED")
    assert (job(held)["attempt"], job(other)["attempt"]) == (1, 1)
    assert worker.stop() == 0


@pytest.mark.parametrize("function", ["claim_next_job", "finish_jobs"])
def test_a_function_that_is_gone_for_good_ends_the_worker_with_clear_words(
    function: str,
    conn: Connection,
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    trace: Trace,
) -> None:
    worker = start_worker("--poll", "0.1", "--grace", "1")
    enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)

    rename(conn, function, "elsewhere")
    trace.open_gate()

    assert worker.wait(90) == 1
    [line] = worker.logged("the worker cannot go on")
    assert function in line["error"]
    assert "run rota deploy" in line["error"]
    assert "exception" not in line


@pytest.mark.parametrize("function", ["claim_next_job", "finish_jobs"])
def test_a_right_that_is_taken_away_ends_the_worker_and_is_named(
    function: str,
    conn: Connection,
    db: str,
    login: Callable[..., str],
    start_worker: StartWorker,
    enqueue: Callable[..., int],
    trace: Trace,
) -> None:
    url = login("rota_worker")
    worker = start_worker("--poll", "0.1", "--grace", "1", url=url)
    enqueue("hold", trace.payload)
    wait_until(lambda: trace.count()["start"] == 1)

    (signature,) = conn.execute(
        "select ('rota.' || %s)::regproc::oid::regprocedure::text", [function]
    ).fetchone()
    conn.execute(f"revoke execute on function {signature} from rota_worker")
    trace.open_gate()

    assert worker.wait(60) == 1
    [line] = worker.logged("the worker cannot go on")
    assert f"permission denied for function {function}" in line["error"]
    assert "grant rota_worker to rota_test" in line["error"]
    assert "deploy" not in line["error"]


def test_what_keeps_a_worker_from_starting_is_told_apart(
    conn: Connection, db: str, empty_db: str, login: Callable[..., str], start_worker: StartWorker
) -> None:
    def refusal(url: str) -> str:
        worker = start_worker(url=url, ready=False)
        assert worker.wait() == 2
        [line] = worker.logged("cannot start")
        return line["error"]

    nobody, reader = refusal(login()), refusal(login("rota_reader"))
    missing = refusal(empty_db)
    conn.execute("alter function rota.version() rename to version_of_old")
    odd = refusal(db)
    nonsense = refusal("nonsense")

    assert "permission denied for schema rota" in nobody
    assert "permission denied for function rota.claim_next_job" in reader
    assert all("grant rota_worker to rota_test" in text for text in (nobody, reader))
    assert not any("deploy" in text for text in (nobody, reader))
    assert "Rota is not in this database" in missing
    assert "other functions than this checkout" in odd
    assert all("run rota deploy" in text for text in (missing, odd))
    assert nonsense == "DATABASE_URL is not a PostgreSQL connection string"


def test_the_finish_of_one_job_that_a_trigger_refuses_costs_only_that_job(
    conn: Connection, db: str
) -> None:
    desk = Desk({})
    jobs = claimed(conn, desk, 100)
    bad = {jobs[7].id, jobs[70].id}
    conn.execute(
        sql.SQL(
            """
            create function public.refuse() returns trigger language plpgsql as $$
            begin
                if new.id = any({}) and new.state = 'COMPLETED' then perform 1 / 0; end if;
                return new;
            end;
            $$;

            create trigger refuse before insert on rota.finished_jobs
            for each row execute function public.refuse()
            """
        ).format(list(bad))
    )
    for job in jobs:
        desk.settle(job)

    finish_all(desk, Link(db, "test", desk.closing, 10.0, 0.5))

    ended = "select count(*) from rota.finished_jobs where state = 'COMPLETED'"
    assert conn.execute(ended).fetchone() == (98,)
    errors = conn.execute(
        "select id, last_error from rota.live_jobs where state = 'SCHEDULED'"
    ).fetchall()
    assert {job_id for job_id, _ in errors} == bad
    assert all("division by zero" in error for _, error in errors)


def test_no_error_of_a_connection_is_lost_on_its_thread(db: str) -> None:
    link = Link(db, "test", threading.Event(), 5.0, 5.0)
    pid = link.run(lambda conn: conn.info.backend_pid)

    with pytest.raises(ZeroDivisionError):
        link.run(lambda conn: conn.execute("select 1").fetchone()[0] / 0)
    again = link.run(lambda conn: conn.info.backend_pid)

    assert again != pid  # a session in which something unexpected happened is not used again
    with pytest.raises(psycopg.errors.DivisionByZero):
        link.run(lambda conn: conn.execute("select 1 / 0"))
    link.close()
