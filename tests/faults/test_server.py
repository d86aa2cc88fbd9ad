"""What may befall the server, and what others may do to it."""

import os
import signal
import time

import psycopg
import pytest

from rota.db.gateway import call
from tests.faults.harness import LONG, House
from tests.waiting import wait_until


def test_f3_a_backend_killed_restarts_the_server_and_loses_nothing(house: House):
    house.worker()
    with house.producing(60, pause=0.03, payload={"seconds": 0.05}):
        victim = (
            house.value(
                """
            select a.pid from pg_stat_activity as a
            where a.datname = current_database() and a.application_name like 'rota worker: %%'
            limit 1
            """
            )
            if wait_until(lambda: house.effects("done") > 5)
            else 0
        )
        with house.fault("backend SIGKILL", "server"):
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: house.live() < 1000)

    house.decide(jobs=40)


def test_f4_a_server_that_crashes_again_and_again_loses_nothing(house: House):
    for _ in range(2):
        house.worker()
    with (
        house.producing(400 if LONG else 150, pause=0.03, payload={"seconds": 0.1}),
        house.producing_in_steps(100 if LONG else 30, pause=0.1),
    ):
        for number in range(12 if LONG else 4):
            house.weave(3)
            time.sleep(house.random.uniform(0.3, 3 if LONG else 1))
            house.crash("kill" if number % 2 == 0 else "immediate")

    house.decide(jobs=100, faults=4, naps=20, events=20)
    ended = dict(house.execute("select state, count(*) from rota.workflow_status group by state"))
    assert sum(ended.values()) >= 3
    assert ended.keys() <= {"COMPLETED", "FAILED", "CANCELLED"}


def test_f4_a_server_that_comes_back_finds_its_workers_alive(house: House):
    """Whatever ended their sessions; at the default lease nobody takes back what they run."""
    for _ in range(3):
        house.worker(lease=30, concurrency=2)
    attending = """
        select count(*) = 3
        from rota.workers as w
        join pg_stat_activity as a on a.pid = w.backend
        where w.server_since = rota._server_since()
    """
    wait_until(lambda: house.value(attending))
    house.produce(6, payload={"seconds": 12})
    wait_until(lambda: house.effects("start") == 6)
    time.sleep(1)  # until the claims are on disk, which are not waited for
    for mode in ("fast", "immediate"):
        with house.fault(f"server {mode}", "server"):
            house.cluster.stop(mode)
            time.sleep(2 if LONG else 0.5)
            house.cluster.start()
            wait_until(lambda: house.value(attending))
    with house.fault("backend SIGKILL", "server"):
        os.kill(house.value("select backend from rota.workers limit 1"), signal.SIGKILL)
        wait_until(lambda: house.live() == 6 and house.value(attending))
    time.sleep(2.5)  # in which somebody would be taken for dead

    house.decide(jobs=6)

    assert house.outcomes() == [["SUCCEEDED"]] * 6


def test_f5_a_claim_that_a_crash_lost_is_handed_out_anew_and_its_token_never_returns(
    house: House,
):
    house.execute("alter system set wal_writer_delay = '10s'")
    house.execute("select pg_reload_conf()")
    house.produce(1)
    with psycopg.connect(house.url) as conn:
        conn.execute("set synchronous_commit = off")
        [lost] = call(conn, "claim_next_job")
        conn.commit()
        with house.fault("crash before the claim was durable", "server"):
            house.cluster.kill()
            house.cluster.start()
    house.execute("alter system reset wal_writer_delay")
    house.execute("select pg_reload_conf()")

    with psycopg.connect(house.url, autocommit=True) as conn:
        again = call(conn, "claim_next_job")
        if again:
            assert again[0]["attempt"] == lost["attempt"]  # it was rewound
            with pytest.raises(psycopg.Error) as refused:
                call(conn, "finish_job", job_id=lost["id"], token=lost["token"])
            assert refused.value.sqlstate == "RTC02"
            call(conn, "finish_job", job_id=again[0]["id"], token=again[0]["token"])
    assert again, "the claim was durable: the crash came too late to prove anything"

    house.decide(jobs=1)
    assert house.outcomes() == [["SUCCEEDED"]]


def test_f15_workers_that_hold_connections_go_on_when_no_other_can_connect(house: House):
    house.produce(1)
    house.worker()
    wait_until(lambda: house.live() == 0)
    producer = house.producer()
    crowd: list[psycopg.Connection] = []
    with house.fault("connections exhausted", "server"):
        with pytest.raises(psycopg.OperationalError, match=r"too many|remaining"):
            while True:
                crowd.append(psycopg.connect(house.url))
        late = house.worker()
        wait_until(lambda: "trying again" in late.log.read_text())
        house.produce(30, conn=producer)
        wait_until(lambda: house.effects("done") == 31)
        for conn in crowd:
            conn.close()

    house.decide(jobs=31)

    assert house.outcomes() == [["SUCCEEDED"]] * 31


def test_f16_low_timeouts_of_a_role_leave_nothing_half_done(house: House):
    house.worker()
    blocker = psycopg.connect(house.url)
    with house.producing(40, pause=0.02), house.fault("low timeouts", "server"):
        house.execute(f"alter database {house.dbname} set statement_timeout = '40ms'")
        house.execute(f"alter database {house.dbname} set lock_timeout = '20ms'")
        house.execute(
            f"alter database {house.dbname} set idle_in_transaction_session_timeout = '50ms'"
        )
        for _ in range(3):
            blocker.execute("lock table rota.live_jobs in share mode")
            time.sleep(0.3)
            blocker.rollback()
        house.execute(f"alter database {house.dbname} reset all")
    blocker.close()

    house.decide(jobs=5)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_f18_a_caller_that_meets_a_conflict_is_told_to_repeat(house: House, level: str):
    with psycopg.connect(house.url) as first, psycopg.connect(house.url) as second:
        first.execute(f"set transaction isolation level {level}")
        first.execute("select count(*) from rota.live_jobs")
        call(second, "enqueue_job", task="work", unique_key="once")
        second.commit()

        with house.fault("isolation", "server"), pytest.raises(psycopg.Error) as refused:
            call(first, "enqueue_job", task="work", unique_key="once")
        first.rollback()
        [again] = call(first, "enqueue_job", task="work", unique_key="once")
        first.commit()

        assert refused.value.sqlstate == "40001"
        assert not again["created"]
        with pytest.raises(psycopg.Error) as refused:
            first.execute(f"set transaction isolation level {level}")
            call(first, "claim_next_job")
        assert refused.value.sqlstate == "RTC04"
    assert house.live() == 1


def test_f19_an_old_snapshot_does_not_slow_claims_down(house: House):
    backlog = 20_000
    enqueue = """
        select count(*) from rota.enqueue_jobs((
            select jsonb_agg(jsonb_build_object('task', 'other', 'queue', 'busy'))
            from generate_series(1, %s)
        ))
    """
    with psycopg.connect(house.url) as old, psycopg.connect(house.url, autocommit=True) as conn:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select count(*) from rota.live_jobs")
        with house.fault("old snapshot", "server"):
            for _ in range(backlog // 1000):
                conn.execute(enqueue, [1000])
                rows = call(conn, "claim_next_job", queues=["busy"], max_jobs=1000)
                ids, tokens = [row["id"] for row in rows], [row["token"] for row in rows]
                call(conn, "finish_jobs", job_ids=ids, tokens=tokens)
            conn.execute(enqueue, [50])
            took = []
            for _ in range(50):
                began = time.monotonic()
                [row] = call(conn, "claim_next_job", queues=["busy"])
                took.append(time.monotonic() - began)
                call(conn, "finish_job", job_id=row["id"], token=row["token"])

            house.produce(30)
            house.worker()
            house.drain()

    house.decide(jobs=30)
    print(f"a claim among {backlog} pinned jobs took {sorted(took)[25] * 1000:.2f} ms (median)")
    assert sorted(took)[25] < 0.02  # 15,000 dead rows a claim would take far longer


def test_f20_without_vacuum_nothing_is_lost(house: House):
    house.execute("alter table rota.live_jobs set (autovacuum_enabled = off)")
    with house.fault("no vacuum", "server"):
        for _ in range(2):
            house.worker(concurrency=8)
        house.produce(1500, payload={"fail": 0.2})

    house.decide(jobs=1500)


def test_f22_a_storm_of_notifications_and_a_listener_that_never_listens(house: House):
    deaf = psycopg.connect(house.url, autocommit=True)
    deaf.execute("listen rota_jobs")
    deaf.autocommit = False
    deaf.execute("select 1")  # and stays in its transaction
    house.worker(extra=("--queues", "default"))
    with (
        psycopg.connect(house.url, autocommit=True) as forger,
        house.fault("forged notifications", "server"),
        house.producing(50, pause=0.02),
    ):
        for number in range(3000):
            forger.execute("select pg_notify('rota_jobs', %s)", [f"forged {number}" * 100])
    house.drain()
    deaf.close()

    house.decide(jobs=50)
    assert house.outcomes() == [["SUCCEEDED"]] * 50


def test_f28_a_fleet_returns_to_a_restarted_server_in_its_own_time(house: House):
    fleet = 20 if LONG else 5
    house.produce(100, payload={"seconds": 0.05})
    workers = [house.worker(concurrency=1) for _ in range(fleet)]
    wait_until(lambda: all("started" in worker.log.read_text() for worker in workers), 120)
    with house.fault("server gone", "server"):
        house.cluster.stop("immediate")
        wait_until(lambda: all("trying again" in w.log.read_text() for w in workers), 60)
        time.sleep(3)  # how long it is gone
        house.cluster.start()

    house.decide(jobs=100)

    pauses = [
        line.split('"seconds": ')[1].split(",")[0]
        for worker in workers
        for line in worker.log.read_text().splitlines()
        if "trying again" in line
    ]
    assert len(set(pauses)) > len(pauses) // 2  # they do not march in step


def test_f32_a_locked_table_delays_and_loses_nothing(house: House):
    house.worker(lease=5)
    with (
        house.producing(60, pause=0.02, payload={"seconds": 0.1}),
        psycopg.connect(house.url) as locker,
    ):
        for _ in range(2):
            with house.fault("access exclusive lock", "server"):
                locker.execute("lock table rota.live_jobs in access exclusive mode")
                time.sleep(2)
                locker.rollback()
            time.sleep(0.3)

    house.decide(jobs=55)
