"""Eight sessions build graphs of jobs, run, break, cancel and retry them; all is settled once.

Each transaction makes one call, and none ever deadlocks. No child starts before its parents have
ended, as its policy says; each event that somebody waits for wakes him; when the failures have been
retried every job has completed, and no edge is left. ``ROTA_STRESS_SECONDS`` makes it longer,
``ROTA_SEED`` repeats the choices of a run (though not the moments at which the sessions meet).
"""

import os
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.test_limits_stress import (
    HISTORY,
    KEYS,
    SEED,
    SESSIONS,
    Attempt,
    House,
    Worker,
    interrupted,
    most_at_once,
)
from tests.conftest import NEWEST, SERVER_VERSION
from tests.waiting import wait_until

SECONDS = float(os.environ.get("ROTA_STRESS_SECONDS", "30" if SERVER_VERSION == NEWEST else "10"))
UNIQUE_KEYS = 200
MOST_LIVE = 1000  # no graph is added beside more
HOUR = timedelta(hours=1)

PLAIN, LIMITED, ORDER = "plain", "limited", "order"
QUEUES: dict[str, dict[str, Any]] = {
    PLAIN: {},
    LIMITED: {"max_running": 6, "key_max_running": 2},
    ORDER: {"key_in_order": True},
}

# A started child whose parent had not ended as its policy asks for: of those that are to complete,
# every attempt of the child; of others, the first attempt of each, where they are on record.
EARLY = """
    with attempt as materialized (
        select e.job_id, e.run, e.started_at, e.finished_at, e.job_state
        from rota.job_executions as e
        where e.started_at is not null
    ), first_end as (
        select f.id, coalesce(a.finished_at, case when f.run = 1 then f.finished_at end) as at
        from rota.finished_jobs as f
        left join attempt as a
            on a.job_id = f.id and a.run = 1 and a.job_state in ('COMPLETED', 'FAILED', 'CANCELLED')
    ), completion as (
        select f.id, f.finished_at as at
        from rota.finished_jobs as f
        where f.state = 'COMPLETED'
    )
    select n.job_id, p.id, n.if_parent_fails
    from rota.workflow_jobs as n
    join attempt as a on a.job_id = n.job_id
    cross join lateral unnest(n.depends_on) as p(id)
    left join completion as c on c.id = p.id
    left join first_end as f on f.id = p.id
    where case n.if_parent_fails
        when 'cancel' then (a.started_at < c.at) is not false
        else a.started_at < f.at
    end
"""
LEFT = """
    select
        (select count(*) from rota.live_jobs) as live,
        (select count(*) from rota.finished_jobs where state <> 'COMPLETED') as failed,
        (select count(*) from rota.job_dependencies) as edges,
        (select count(*) from rota.job_waits) as waits,
        (select count(*) from rota.turns) as turns
"""


class Weaver(Worker):
    """A session that does to graphs of jobs whatever it draws."""

    _queues = tuple(QUEUES)

    def _graph(self, most: int) -> list[dict[str, Any]]:
        pick = self._random
        number = pick.randint(2, most)
        shape = pick.choice(["any", "any", "any", "fan", "chain"])
        jobs = []
        for place in range(number):
            before = [f"n{place}" for place in range(place)]
            if shape == "any":
                depends_on: Any = pick.sample(before, min(place, pick.randint(0, 4)))
            elif shape == "chain":
                depends_on = "previous"
            else:
                depends_on = "all" if place == number - 1 else before[:1]
            jobs.append(
                {
                    "node": f"n{place}",
                    "depends_on": depends_on,
                    "if_parent_fails": pick.choice(["cancel", "cancel", "run"]),
                    **self._options(),
                }
            )
        if pick.random() < 0.3:
            for number, job in enumerate(pick.sample(jobs, min(2, len(jobs)))):
                job["unique_key"] = self._unique_key(number)
        return jobs

    def _unique_key(self, number: int = 0) -> str:
        """Draw a key that some live job may hold; two of one graph have different ones."""
        return f"u{self._random.randrange(number, UNIQUE_KEYS, 2)}"

    def _options(self) -> dict[str, Any]:
        pick = self._random
        options: dict[str, Any] = {
            "task": "t",
            "queue": pick.choice([PLAIN, PLAIN, PLAIN, LIMITED, ORDER]),
            "max_retries": pick.choice([0, 0, 1]),
            "priority": pick.choice([0, 0, 0, 5]),
        }
        if options["queue"] != PLAIN or pick.random() < 0.1:
            options["key"] = pick.choice(KEYS)
        if pick.random() < 0.05:
            later = timedelta(milliseconds=pick.randint(1, 500))
            options["run_at"] = (datetime.now(UTC) + later).isoformat()
        return options

    def _some_jobs(self, most: int) -> list[int]:
        """Return ids of jobs that came lately, most of them live."""
        rows = self._conn.execute(
            "select id from (select id from rota.jobs order by id desc limit 300) as j"
            " order by random() limit %s",
            [self._random.randint(1, most)],
        ).fetchall()
        return [job_id for (job_id,) in rows]

    def _add(self) -> None:
        pick = self._random
        if self._any_job("select count(*) from rota.live_jobs") > MOST_LIVE:
            return
        jobs = self._graph(pick.choice([5, 25, 60]))
        if pick.random() < 0.4:  # children of others' jobs, one of which would be enough to refuse
            for job in pick.sample(jobs, min(3, len(jobs))):
                if isinstance(job["depends_on"], list):
                    job["depends_on"] += self._some_jobs(3)
                    job["if_parent_fails"] = pick.choice(["cancel", "run", "run"])
        rows = self._call("enqueue_workflow", jobs=Jsonb(jobs), linger=0.2, undone=0.1)
        self._house.did["added"] += len(rows)
        keys = sum("unique_key" in job for job in jobs)
        self._house.did["unique keys " + ("taken" if rows else "refused")] += keys

    def _add_plain(self) -> None:
        if self._any_job("select count(*) from rota.live_jobs") < MOST_LIVE:
            options = self._options()
            if self._random.random() < 0.2:
                options["unique_key"] = self._unique_key()
            for row in self._call("enqueue_job", **options, linger=0.2, undone=0.1):
                self._house.did["merged by key"] += not row["created"]

    def _finish_with_next(self) -> None:
        for row in self._some_held(1):
            jobs = self._graph(5)
            if self._random.random() < 0.3:
                jobs[0]["depends_on"] = self._some_jobs(2)
            rows = self._call(
                "finish_job",
                job_id=row["id"],
                token=row["token"],
                next=Jsonb(jobs),
                linger=0.2,
                undone=0.1,
            )
            self._house.did["finished with next"] += len(rows)

    def _finish_well(self) -> None:
        some = self._some_held(20)
        self._call(
            "finish_jobs",
            job_ids=[row["id"] for row in some],
            tokens=[row["token"] for row in some],
        )

    def _sleep(self) -> None:
        for row in self._some_held(1):
            nap = timedelta(milliseconds=self._random.randint(0, 100))
            answer = self._call(
                "sleep_job", job_id=row["id"], token=row["token"], step="nap", delay=nap, undone=0.1
            )
            self._held += [row for one in answer if one["state"] == "RUNNING"]
            self._house.did["slept"] += 1

    def _await(self) -> None:
        for row in self._some_held(1):
            answer = self._call(
                "await_event",
                job_id=row["id"],
                token=row["token"],
                step="event",
                event=event_of(row["id"]),
                timeout=HOUR,
                linger=0.2,
                undone=0.1,
            )
            for one in answer:
                self._house.did[one["state"]] += 1
                if one["state"] == "ARRIVED":
                    self._held.append(row)

    def _emit(self) -> None:
        """Emit an event that somebody waits for, or might."""
        names = self._conn.execute(
            "select event from rota.event_waits order by random() limit 1"
        ).fetchall()
        if self._random.random() < 0.3 and not self._house.is_calm:
            names = [(event_of(job_id),) for job_id in self._some_jobs(1)]
        for (name,) in names:
            self._call("emit_event", event=name, linger=0.2, undone=0.1)
            self._house.did["emitted"] += 1

    def _cancel_workflow(self) -> None:
        self._call(
            "cancel_workflow",
            workflow_id=self._any_job(
                "select id from (select id from rota.workflows order by id desc limit 50) as w"
                " order by random() limit 1"
            ),
            linger=0.3,
            undone=0.3,
        )

    def _retry_workflow(self) -> None:
        self._call(
            "retry_workflow",
            workflow_id=self._any_job(
                "select w.workflow_id from rota.workflow_jobs as w"
                " join rota.finished_jobs as f on f.id = w.job_id and f.state <> 'COMPLETED'"
                " order by random() limit 1"
            ),
            linger=0.3,
            undone=0.1,
        )

    def _cancel_many(self) -> None:
        ids = {"ids": self._some_jobs(10)}
        self._call("cancel_jobs", filter=Jsonb(ids), dry_run=False, linger=0.3, undone=0.3)

    def _retry_many(self) -> None:
        ids = {"ids": self._some_jobs(50)}
        self._call("retry_jobs", filter=Jsonb(ids), dry_run=False, linger=0.3, undone=0.1)

    def _kill(self) -> None:
        self._conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'weaver'"
            " order by random() limit 1"
        )
        self._house.did["killed"] += 1

    _calm = (
        (Worker._claim, 40),
        (_finish_well, 30),
        (Worker._recover, 3),
        (_emit, 5),
        (_retry_workflow, 3),
        (Worker._retry, 3),
    )
    _busy = (
        (Worker._claim, 40),
        (Worker._finish, 30),
        (_finish_with_next, 3),
        (Worker._recover, 3),
        (Worker._release, 2),
        (_add, 6),
        (_add_plain, 3),
        (_sleep, 3),
        (_await, 6),
        (_emit, 4),
        (Worker._abandon, 1.5),
        (Worker._cancel, 2),
        (Worker._retry, 3),
        (_cancel_workflow, 0.5),
        (_retry_workflow, 1),
        (_cancel_many, 0.5),
        (_retry_many, 0.5),
        (Worker._upkeep, 0.5),
        (_kill, 0.6),
    )


def event_of(job_id: int) -> str:
    """The event that a job waits for: some wait for the same one."""
    return f"e{job_id // 3}"


def test_workflows_settle_whatever_eight_sessions_do(conn, connect):
    print(f"seed {SEED}")
    for queue, limits in QUEUES.items():
        moment = timedelta(milliseconds=50)
        call(conn, "configure_queue", queue=queue, backoff_base=moment, **limits)
    house = House(SECONDS)
    workers = [
        Weaver(house, partial(connect, application_name="weaver"), number)
        for number in range(SESSIONS)
    ]

    broken: list[Any] = []
    for worker in workers:
        worker.start()
    while not house.is_calm and not broken:
        broken = conn.execute("select * from rota.check_invariants()").fetchall()
        time.sleep(0.3)

    def left() -> dict[str, int]:
        cursor = conn.execute(LEFT)
        return dict(zip([c.name for c in cursor.description], cursor.fetchone(), strict=True))

    nothing = dict.fromkeys(left(), 0)
    try:
        wait_until(lambda: left() == nothing or house.unexpected, 120)
        assert all(worker.is_alive() for worker in workers)
    finally:
        house.ended.set()
        for worker in workers:
            worker.join(60)
        print(dict(house.did), left())

    assert house.unexpected == []
    assert broken == []
    assert conn.execute("select * from rota.check_invariants()").fetchall() == []
    assert left() == nothing
    assert conn.execute(EARLY).fetchall() == []
    of_queue, of_key = defaultdict(list), defaultdict(list)
    for attempt in [Attempt(*row) for row in conn.execute(HISTORY).fetchall()]:
        of_queue[attempt.queue].append(attempt)
        of_key[attempt.queue, attempt.key].append(attempt)
    seen = {
        "queue, at once": most_at_once(of_queue[LIMITED]),
        "its keys, at once": max(most_at_once(of_key[LIMITED, key]) for key in KEYS),
        "in order, at once": max(most_at_once(of_key[ORDER, key]) for key in KEYS),
    }
    assert seen == {"queue, at once": 6, "its keys, at once": 2, "in order, at once": 1}
    assert [a for key in KEYS for a in interrupted(of_key[ORDER, key])] == []
    deeds = ["added", "finished with next", "slept", "RELEASED", "ARRIVED", "emitted"]
    deeds += ["claims undone", "abandoned", "killed", "unique keys taken", "unique keys refused"]
    assert min(house.did[deed] for deed in deeds) > 0
