"""Random histories of one queue with keys, limits and order, one call after the other.

What becomes of a job is the other machine's (machine.py). Here each claim is judged: by the jobs as
they stood before it, and by the starts that came before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.model.database import Database

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

keys = st.sampled_from([None, "a", "a", "b", "c"])
limits = st.sampled_from([None, None, 1, 2, 4])
windows = st.sampled_from([None, None, 2, 4])
soon = st.sampled_from([timedelta(0), timedelta(0), MINUTE])
whiches = st.integers(0, 10)

# What is done beside claims, and with what.
DEEDS = st.one_of(
    *(
        st.tuples(st.just(deed), st.fixed_dictionaries(arguments))
        for deed, arguments in [
            (
                "enqueue",
                {
                    "keyed": st.lists(keys, min_size=1, max_size=6),
                    "priority": st.sampled_from([0, 0, 1]),
                    "delay": st.sampled_from([timedelta(0), timedelta(0), MINUTE, -MINUTE]),
                },
            ),
            ("time_passes", {"step": st.sampled_from([MINUTE / 60, 0.4 * MINUTE, 2 * MINUTE])}),
            ("time_passes", {"step": st.just(MINUTE)}),
            (
                "finish",
                {"which": whiches, "error": st.sampled_from([None, "no"]), "retry_in": soon},
            ),
            ("finish_all", {}),
            ("release", {"which": whiches, "delay": soon}),
            ("cancel", {"which": whiches}),
            ("retry_all", {}),
            ("recover", {}),
            ("maintain", {}),
            ("limit", {"of_queue": limits, "of_keys": limits}),
            ("limit_key", {"key": st.sampled_from(["a", "b"]), "of_key": limits}),
        ]
    )
)

JOBS = """
    select j.id, j.key, j.priority, j.state::text, j.run_at, j.attempt, j.token
    from rota.live_jobs as j
    order by j.run_at, j.id
"""


@dataclass
class Job:
    """A live job."""

    id: int
    key: str | None
    priority: int
    state: str
    run_at: datetime
    attempt: int
    token: UUID | None


class KeyMachine(RuleBasedStateMachine):
    """One session that makes, claims and ends jobs of a queue, and changes its limits."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.conn = database.sessions[0]
        self.now = START
        self.queue: dict[str, int | None] = {}
        self.keys: dict[str, dict[str, int | None]] = {}  # exceptions
        self.in_order = False
        self.starts: list[tuple[datetime, str | None]] = []
        self.begun: set[int] = set()  # what has started; what has ended since matters no more
        self.claims: Iterator[int] = iter(())

    # Windows and order are there from the start: they count from when they are set (docs/keys.md).
    @initialize(
        in_order=st.booleans(),
        starts=windows,
        key_starts=windows,
        keyed=st.lists(keys, min_size=4, max_size=8),
        claims=st.lists(st.sampled_from([0, 1, 1, 2, 100]), max_size=5),
    )
    def start(
        self,
        in_order: bool,
        starts: int | None,
        key_starts: int | None,
        keyed: list[str | None],
        claims: list[int],
    ) -> None:
        self.claims = cycle([1, *claims])
        self.database.empty()
        self.database.set_clock(START)
        self.in_order = in_order
        self.queue = {"max_starts": starts, "key_max_starts": key_starts}
        call(
            self.conn,
            "configure_queue",
            queue="q",
            **self.queue,
            starts_period=MINUTE if starts else None,
            key_starts_period=MINUTE if key_starts else None,
            key_in_order=in_order or None,
        )
        self.enqueue(keyed, 0, timedelta(0))

    @rule(deed=DEEDS)
    def go_on(self, deed: tuple[str, dict[str, Any]]) -> None:
        """Something is done, and workers claim what they can, but not each time."""
        name, arguments = deed
        getattr(self, name)(**arguments)
        if max_jobs := next(self.claims):
            self.claim(max_jobs)
        assert self.database.broken_invariants() == []

    # -- what makes jobs due, or makes room

    def enqueue(self, keyed: list[str | None], priority: int, delay: timedelta) -> None:
        run_at = (self.now + delay).isoformat()
        common = {"task": "t", "queue": "q", "priority": priority, "run_at": run_at}
        call(self.conn, "enqueue_jobs", jobs=Jsonb([{**common, "key": key} for key in keyed]))

    def time_passes(self, step: timedelta) -> None:
        self.now += step
        self.database.set_clock(self.now)

    def one(self, which: int, *states: str) -> Job | None:
        jobs = [job for job in self.jobs().values() if job.state in states]
        return jobs[which % len(jobs)] if jobs else None

    def finish(self, which: int, error: str | None, retry_in: timedelta) -> None:
        if job := self.one(which, "RUNNING"):
            held = {"job_id": job.id, "token": job.token}
            call(self.conn, "finish_job", **held, error=error, retry_in=retry_in)

    def finish_all(self) -> None:
        held = [(job.id, job.token) for job in self.jobs().values() if job.state == "RUNNING"]
        job_ids, tokens = [job_id for job_id, _ in held], [token for _, token in held]
        call(self.conn, "finish_jobs", job_ids=job_ids, tokens=tokens)

    def release(self, which: int, delay: timedelta | None) -> None:
        if job := self.one(which, "RUNNING"):
            call(self.conn, "release_job", job_id=job.id, token=job.token, delay=delay)

    def cancel(self, which: int) -> None:
        if job := self.one(which, "SCHEDULED", "RUNNING"):
            call(self.conn, "cancel_job", job_id=job.id)

    def retry_all(self) -> None:
        ended = "select id from rota.finished_jobs where state in ('FAILED', 'CANCELLED')"
        for (job_id,) in self.conn.execute(ended).fetchall():
            call(self.conn, "retry_job", job_id=job_id)
            self.begun.discard(job_id)

    def recover(self) -> None:
        call(self.conn, "recover_jobs")

    def maintain(self) -> None:
        call(self.conn, "maintain")

    def limit(self, of_queue: int | None, of_keys: int | None) -> None:
        running = {"max_running": of_queue, "key_max_running": of_keys}
        unset = [name for name, value in running.items() if value is None]
        call(self.conn, "configure_queue", queue="q", **running, unset=unset)
        self.queue |= running

    def limit_key(self, key: str, of_key: int | None) -> None:
        unset = None if of_key else ["max_running"]
        call(self.conn, "configure_key", queue="q", key=key, max_running=of_key, unset=unset)
        self.keys[key] = {"max_running": of_key}

    # -- a claim, and what is said of it

    def claim(self, max_jobs: int) -> None:
        # A slow scan leaves a cursor, which may delay a job; the model knows no slowness.
        self.conn.execute("reset all")
        before = self.jobs()
        lease = 1.5 * MINUTE
        rows = call(self.conn, "claim_next_job", queues=["q"], max_jobs=max_jobs, lease=lease)
        started = [before[row["id"]] for row in rows]
        assert len(started) == len({job.id for job in started}) <= max_jobs
        priorities = [job.priority for job in started]
        assert priorities == sorted(priorities, reverse=True)

        for job in started:
            assert self.may_start(job, before, surely=False), (job, before)
            assert not self.overtaken(job, before), (job, before)
            job.state = "RUNNING"
            self.starts.append((self.now, job.key))
            self.begun.add(job.id)

        lowest = priorities[-1] if len(started) == max_jobs else -100
        left = [job for job in before.values() if self.may_start(job, before, surely=True)]
        assert [job for job in left if job.priority > lowest] == []
        assert {job.id: job.state for job in before.values()} == {
            job.id: job.state for job in self.jobs().values()
        }

    def may_start(self, job: Job, jobs: dict[int, Job], surely: bool) -> bool:
        """Whether a job is due and has room; a window opens a 64th of it late, at most."""
        if job.state != "SCHEDULED" or job.run_at > self.now:
            return False
        since = self.now - MINUTE * (65 / 64 if surely else 1)
        recent = [key for at, key in self.starts if at > since]
        running = [other.key for other in jobs.values() if other.state == "RUNNING"]
        if not has_room(self.queue.get("max_running"), len(running)):
            return False
        if not has_room(self.queue.get("max_starts"), len(recent)):
            return False
        if job.key is None:
            return True
        own = self.keys.get(job.key, {}).get("max_running") or self.queue.get("key_max_running")
        if self.in_order and any(
            other.id in self.begun and other.key == job.key and other.id != job.id
            for other in jobs.values()
        ):
            return False
        return has_room(own, running.count(job.key)) and has_room(
            self.queue.get("key_max_starts"), recent.count(job.key)
        )

    def overtaken(self, job: Job, jobs: dict[int, Job]) -> list[Job]:
        """The jobs of its key and priority whose place in the order is before its own."""
        return [
            other
            for other in jobs.values()
            if (other.key, other.priority, other.state) == (job.key, job.priority, "SCHEDULED")
            and (other.run_at, other.id) < (job.run_at, job.id)
            and not (self.in_order and job.key and job.id in self.begun)
        ]

    def jobs(self) -> dict[int, Job]:
        cursor = self.conn.cursor(row_factory=class_row(Job))
        return {job.id: job for job in cursor.execute(JOBS).fetchall()}

    def teardown(self) -> None:
        self.database.tally["claim_next_job", "started"] += len(self.starts)


def has_room(limit: int | None, taken: int) -> bool:
    return limit is None or taken < limit
