"""Many workers, many jobs, and a worker killed every second."""

import os
import time

from tests.faults.harness import LONG, House

JOBS = int(os.environ.get("ROTA_DRAIN_JOBS", "10000" if LONG else "1500"))
WORKERS, THREADS = 4, 8
KILL_PERIOD = 1.0  # seconds


def test_a_drain_loses_nothing_while_a_worker_is_killed_every_second(house: House):
    flaky = JOBS // 3
    house.produce(JOBS - flaky, max_retries=30, payload={"seconds": 0.05})
    house.produce(flaky, max_retries=3, payload={"seconds": 0.05, "fail": 0.5})
    workers = [house.worker(concurrency=THREADS) for _ in range(WORKERS)]

    next_kill = time.monotonic() + KILL_PERIOD
    while house.live():
        time.sleep(max(0.0, min(0.1, next_kill - time.monotonic())))
        if time.monotonic() >= next_kill:
            victim = house.random.randrange(WORKERS)
            house.kill(workers[victim])
            workers[victim] = house.worker(concurrency=THREADS)
            next_kill += KILL_PERIOD

    report = house.decide(jobs=JOBS, faults=3)
    states = dict(house.execute("select state, count(*)::int from rota.jobs group by state"))
    print(f"seed {house.seed}: {states}; {report.figures.line()}")
    assert set(states) == {"COMPLETED", "FAILED"}  # the checker has looked at their retries
    assert sum(states.values()) == JOBS
    assert report.figures.attempts > JOBS
