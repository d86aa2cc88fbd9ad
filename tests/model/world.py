"""What Rota promises about jobs, as a small model in Python: states, leases, attempts, locks.

A session with an open transaction has a layer of its own over the committed jobs: what it wrote,
and what it locked. Nobody else can write those jobs until it ends, so at a commit the layer is laid
over the committed jobs, and at a rollback it is thrown away.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

ENDED = ("COMPLETED", "FAILED", "CANCELLED")
EVER = datetime.max


@dataclass(frozen=True)
class Between:
    """A time that the database draws by chance, within these bounds."""

    earliest: datetime
    latest: datetime


@dataclass(frozen=True)
class Execution:
    """One row of attempts."""

    run: int
    attempt: int
    outcome: str
    worker: str | None
    token: UUID | None
    scheduled_for: datetime
    started_at: datetime | None
    finished_at: datetime
    error: str | None
    result: Any
    job_state: str
    next_run_at: datetime | Between | None


Edge = tuple[int, int]  # from a parent that has not ended to a child
Key = tuple[str, str]  # a unique_key, and the queue in which it is unique


def key_of(unique_key: str | None, queue: str) -> Key | None:
    return None if unique_key is None else (unique_key, queue)


@dataclass(frozen=True)
class Job:
    """One row of live_jobs or of finished_jobs, with the executions of the job.

    ``run_at`` is None where it is infinity; the last fields are of workflow_jobs.
    """

    id: int
    task: str
    queue: str
    priority: int
    state: str
    schedule_type: str
    run_at: datetime | Between | None
    scheduled_for: datetime
    run: int
    attempt: int
    max_retries: int
    timeout: timedelta | None
    unique_key: str | None
    name: str | None
    token: UUID | None
    worker: str | None
    lease_until: datetime | None
    started_at: datetime | None
    progress: Any
    cancel_requested_at: datetime | None
    cancel_reason: str | None
    last_error: str | None
    created_at: datetime
    result: Any
    finished_at: datetime | None
    executions: tuple[Execution, ...] = ()
    workflow: int | None = None
    depends_on: tuple[int, ...] = ()
    if_parent_fails: str | None = None
    ended_by: int | None = None

    @property
    def live(self) -> bool:
        return self.state not in ENDED

    @property
    def key_of_queue(self) -> Key | None:
        return key_of(self.unique_key, self.queue)

    @property
    def recurring(self) -> bool:
        return self.schedule_type != "ONE_TIME"

    def ended_under(self, token: UUID | None) -> Execution | None:
        """The execution that this token ended, which a repeated call is answered from."""
        if token is None:
            return None
        return next((e for e in self.executions if e.token == token), None)


@dataclass
class Queue:
    """The settings of a queue."""

    paused: bool = False
    max_retries: int | None = None
    backoff_base: timedelta | None = None
    backoff_cap: timedelta | None = None
    timeout: timedelta | None = None


@dataclass
class Layer:
    """What one open transaction has written and locked."""

    written: dict[int, Job] = field(default_factory=dict)
    locked: set[int] = field(default_factory=set)
    keys: set[tuple[str, str | Key]] = field(default_factory=set)  # of live jobs that it wrote
    recovers: bool = False  # it holds the lock that lets one session recover at a time
    led: set[Edge] = field(default_factory=set)
    cut: set[Edge] = field(default_factory=set)
    workflows: set[int] = field(default_factory=set)  # that it cancelled or retried

    def copy(self) -> "Layer":
        return Layer(
            dict(self.written),
            set(self.locked),
            set(self.keys),
            self.recovers,
            set(self.led),
            set(self.cut),
            set(self.workflows),
        )


@dataclass
class Transaction:
    """An open transaction: its layer, and the layers to which its savepoints lead back."""

    layer: Layer = field(default_factory=Layer)
    savepoints: list[Layer] = field(default_factory=list)


class World:
    """The committed jobs, the queues, the clock, and the open transactions over them."""

    def __init__(self, now: datetime, sessions: int) -> None:
        self.now = now
        self.committed: dict[int, Job] = {}
        self.committed_edges: set[Edge] = set()
        self.queues: dict[str, Queue] = {}
        self.open: list[Transaction | None] = [None] * sessions

    # -- transactions

    def layer(self, session: int) -> Layer | None:
        transaction = self.open[session]
        return transaction.layer if transaction else None

    def others(self, session: int) -> list[Layer]:
        """The layers of the other sessions' open transactions."""
        return [t.layer for number, t in enumerate(self.open) if t and number != session]

    def commit(self, session: int) -> None:
        layer = self.layer(session)
        assert layer is not None
        self.committed.update(layer.written)
        self.committed_edges = self.committed_edges - layer.cut | layer.led
        self.open[session] = None

    def rollback(self, session: int) -> None:
        self.open[session] = None

    # -- what a session sees and does

    def view(self, session: int) -> dict[int, Job]:
        """The jobs as this session sees them."""
        layer = self.layer(session)
        return self.committed | layer.written if layer else dict(self.committed)

    def edges(self, session: int) -> set[Edge]:
        """The edges as this session sees them."""
        layer = self.layer(session)
        return self.committed_edges - layer.cut | layer.led if layer else set(self.committed_edges)

    def lead(self, session: int, edges: set[Edge]) -> None:
        """Add edges."""
        if layer := self.layer(session):
            layer.led |= edges
            layer.cut -= edges
        else:
            self.committed_edges |= edges

    def cut(self, session: int, edges: set[Edge]) -> None:
        """Take edges away."""
        if layer := self.layer(session):
            layer.led -= edges
            layer.cut |= edges
        else:
            self.committed_edges -= edges

    def trial(self, session: int) -> "World":
        """A copy in which to try what this session is about to do."""
        other = World(self.now, len(self.open))
        other.committed, other.queues = dict(self.committed), self.queues
        other.committed_edges = set(self.committed_edges)
        other.open = [
            Transaction(t.layer.copy(), t.savepoints) if t and number == session else t
            for number, t in enumerate(self.open)
        ]
        return other

    def write(self, session: int, job: Job) -> None:
        layer = self.layer(session)
        (layer.written if layer else self.committed)[job.id] = job
        if layer and job.live:
            values = {"key_of_queue": job.key_of_queue, "name": job.name}
            layer.keys.update((name, value) for name, value in values.items() if value is not None)

    def lock(self, session: int, job_ids: Iterable[int]) -> None:
        """Hold row locks, without a change, until the transaction ends."""
        if layer := self.layer(session):
            layer.locked.update(job_ids)

    def settle(self, session: int, job: Job, actual: Job) -> None:
        """Put in what the database drew, after a look at its bounds."""
        bounds, drawn = job.run_at, actual.run_at
        assert bounds.earliest <= drawn <= bounds.latest, (bounds, drawn)
        self.write(
            session,
            replace(
                job,
                run_at=drawn,
                executions=tuple(
                    replace(e, next_run_at=drawn) if e.next_run_at == bounds else e
                    for e in job.executions
                ),
            ),
        )

    # -- who waits for whom

    def is_held(self, session: int, job_id: int) -> bool:
        """Whether another session has locked or written this job."""
        return any(job_id in o.locked or job_id in o.written for o in self.others(session))

    def leases_matched(
        self, session: int, job_ids: Iterable[int | None], tokens: Iterable[UUID | None]
    ) -> list[int]:
        """The jobs that a look for any of these ids under any of these tokens locks."""
        view, wanted = self.view(session), set(tokens) - {None}
        return [
            job_id
            for job_id in set(job_ids)
            if job_id in view and view[job_id].live and view[job_id].token in wanted
        ]

    def key_is_in_the_balance(self, session: int, attribute: str, value: str | Key | None) -> bool:
        """Whether an insert of this key waits for another transaction to decide about it.

        It waits for one that has inserted the key, though it may have ended that job since, and
        for one that has written, not merely locked, the job that holds it.
        """
        if value is None:
            return False
        return any(
            (attribute, value) in other.keys
            or any(
                job_id in self.committed
                and self.committed[job_id].live
                and getattr(self.committed[job_id], attribute) == value
                for job_id in other.written
            )
            for other in self.others(session)
        )

    def holder(self, session: int, attribute: str, value: str | Key | None) -> Job | None:
        """The live job that this session sees under a key."""
        if value is None:
            return None
        jobs = self.view(session).values()
        return next((j for j in jobs if j.live and getattr(j, attribute) == value), None)

    # -- the life of a job

    def backoff(self, job: Job) -> Between:
        """When the retry of a failed attempt may come."""
        queue = self.queues.get(job.queue, Queue())
        base = (queue.backoff_base or timedelta(seconds=5)).total_seconds()
        cap = (queue.backoff_cap or timedelta(hours=1)).total_seconds()
        longest = min(cap, base * 2 ** min(max(job.attempt - 1, 0), 40))
        return Between(self.now, self.now + timedelta(seconds=longest, microseconds=1))

    def claim(self, job: Job, token: UUID, worker: str, lease: timedelta) -> Job:
        return replace(
            job,
            state="RUNNING",
            token=token,
            worker=worker,
            lease_until=self.now + lease,
            attempt=job.attempt + 1,
            started_at=self.now,
        )

    def end(
        self,
        job: Job,
        ending: str | None = None,
        error: str | None = None,
        result: Any = None,
        retry_in: timedelta | None = None,
        retry: bool = True,
    ) -> Job:
        """What becomes of a one-time job when its attempt ends; see rota._end_attempts."""
        if ending == "LOST":
            outcome, error = "LOST", f"the lease of worker {job.worker} ran out"
        elif job.cancel_requested_at is not None:
            outcome = "CANCELLED"
        elif ending == "RELEASED":
            outcome = "RELEASED"
        elif error is None:
            outcome = "SUCCEEDED"
        elif job.timeout is not None and self.now >= job.started_at + job.timeout:
            outcome = "TIMED_OUT"
        else:
            outcome = "FAILED"

        run_at: datetime | Between | None = None
        if job.cancel_requested_at is not None:
            state = "CANCELLED"
        elif outcome == "RELEASED":
            state = "SCHEDULED"
            run_at = self.now + retry_in if retry_in else job.run_at
        elif outcome == "SUCCEEDED":
            state = "COMPLETED"
        elif retry and job.attempt <= job.max_retries:
            state = "SCHEDULED"
            run_at = self.backoff(job) if retry_in is None else self.now + retry_in
        else:
            state = "FAILED"

        execution = Execution(
            run=job.run,
            attempt=job.attempt,
            outcome=outcome,
            worker=job.worker,
            token=job.token,
            scheduled_for=job.scheduled_for,
            started_at=job.started_at,
            finished_at=self.now,
            error=error,
            result=result,
            job_state=state,
            next_run_at=run_at,
        )
        ended = replace(
            job,
            state=state,
            token=None,
            lease_until=None,
            last_error=job.last_error if error is None else error,
            executions=(*job.executions, execution),
        )
        if state == "SCHEDULED":
            return replace(
                ended,
                run_at=run_at,
                attempt=job.attempt - (outcome == "RELEASED"),
                worker=None,
                started_at=None,
            )
        return replace(ended, result=result, finished_at=self.now)

    def cancel(self, job: Job, reason: str | None) -> Job:
        if job.state == "RUNNING":
            return replace(
                job,
                cancel_requested_at=job.cancel_requested_at or self.now,
                cancel_reason=job.cancel_reason if job.cancel_reason is not None else reason,
            )
        return replace(
            job,
            state="CANCELLED",
            cancel_requested_at=self.now,
            cancel_reason=reason,
            finished_at=self.now,
        )

    def retry(self, job: Job) -> Job:
        return replace(
            job,
            state="SCHEDULED",
            run_at=self.now,
            scheduled_for=self.now,
            run=job.run + 1,
            attempt=0,
            worker=None,
            started_at=None,
            progress=None,
            cancel_requested_at=None,
            cancel_reason=None,
            result=None,
            finished_at=None,
        )


def differences(expected: Job | None, actual: Job | None) -> dict[str, tuple[Any, Any]]:
    """The fields in which two jobs differ, as (expected, actual)."""
    if expected is None or actual is None:
        return {} if expected is actual else {"job": (expected, actual)}
    return {
        f.name: (getattr(expected, f.name), getattr(actual, f.name))
        for f in fields(Job)
        if getattr(expected, f.name) != getattr(actual, f.name)
    }
