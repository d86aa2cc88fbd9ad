"""What two sessions can do with one job, from which states, and the table of what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.concurrency.sessions import Session, forget_cursors

KEY = "the key"
NAME = "the name"
EVENT = "the event"
MOMENT = timedelta(microseconds=1)  # a lease that has run out when the call returns
LONGER = timedelta(hours=2)  # the lease that a heartbeat asks for
AT_ONCE = timedelta(0)


@dataclass(frozen=True)
class Subject:
    """The job that both sessions act on, and the last token that was issued for it.

    With a job that depends on it, if one does, and the workflow of both.
    """

    job_id: int
    token: Any
    child_id: int | None = None
    workflow_id: int | None = None


@dataclass(frozen=True)
class Operation:
    """A call about one job, and how to write down its rows."""

    function: str
    arguments: Callable[[Subject], dict[str, Any]]
    words: Callable[[list[dict[str, Any]], Subject], str]
    passed_by: str | None = None  # what it says when it leaves alone what another session holds


def _held(subject: Subject) -> dict[str, Any]:
    return {"job_id": subject.job_id, "token": subject.token}


def _batch(subject: Subject) -> dict[str, Any]:
    return {"job_ids": [subject.job_id], "tokens": [subject.token]}


def _of_ids(subject: Subject) -> dict[str, Any]:
    return {"filter": Jsonb({"ids": [subject.job_id]}), "dry_run": False}


def _changed(rows: list[dict[str, Any]], _: Subject) -> str:
    return "changed" if rows[0]["changed"] else "nothing"


def _state(rows: list[dict[str, Any]], _: Subject) -> str:
    return rows[0]["state"]


def _beat(rows: list[dict[str, Any]], _: Subject) -> str:
    if not rows:
        return "nothing"
    extended = rows[0]["lease_until"] > datetime.now(UTC) + LONGER / 2
    asked = ", cancel asked" if rows[0]["cancel_requested"] else ""
    return f"{'extended' if extended else 'lease as it was'}{asked}"


def _made(rows: list[dict[str, Any]], subject: Subject) -> str:
    if rows[0]["created"]:
        return "a new job"
    return "this job" if rows[0]["job_id"] == subject.job_id else "another job"


OPERATIONS = {
    "claim": Operation(
        "claim_next_job",
        lambda _: {},
        lambda rows, _: f"claimed, attempt {rows[0]['attempt']}" if rows else "nothing",
        passed_by="nothing",
    ),
    "finish": Operation("finish_job", _held, _state),
    "fail": Operation(
        "finish_job", lambda s: {**_held(s), "error": "boom", "retry_in": AT_ONCE}, _state
    ),
    "heartbeat": Operation(
        "heartbeat_job",
        lambda s: {**_held(s), "lease": LONGER},
        _beat,
        passed_by="lease as it was",
    ),
    "recover": Operation(
        "recover_jobs",
        lambda _: {},
        lambda rows, _: "taken back" if rows[0]["recover_jobs"] else "nothing",
        passed_by="nothing",
    ),
    "cancel": Operation("cancel_job", lambda s: {"job_id": s.job_id}, _state),
    "release": Operation("release_job", _held, _state),
    "enqueue": Operation("enqueue_job", lambda _: {"task": "t", "unique_key": KEY}, _made),
    "retry": Operation("retry_job", lambda s: {"job_id": s.job_id}, _state),
    "cancel_jobs": Operation("cancel_jobs", _of_ids, _changed, passed_by="nothing"),
    "retry_jobs": Operation("retry_jobs", _of_ids, _changed, passed_by="nothing"),
    "maintain": Operation("maintain", lambda _: {}, lambda *_: "done"),
    "schedule": Operation(
        "schedule_job", lambda _: {"task": "t", "every": timedelta(hours=2), "name": NAME}, _made
    ),
    "hold_lease": Operation("hold_lease", _held, lambda *_: "held"),
    "finish_jobs": Operation("finish_jobs", _batch, lambda rows, _: rows[0]["outcome"]),
    "heartbeat_jobs": Operation(
        "heartbeat_jobs",
        lambda s: {**_batch(s), "lease": LONGER},
        _beat,
        passed_by="lease as it was",
    ),
    "give up": Operation(
        "finish_job", lambda s: {**_held(s), "error": "boom", "retry": False}, _state
    ),
    "finish, next": Operation(
        "finish_job", lambda s: {**_held(s), "next": Jsonb([{"task": "t"}])}, _state
    ),
    "add a child": Operation(
        "enqueue_workflow",
        lambda s: {"jobs": Jsonb([{"task": "t", "depends_on": [s.job_id]}])},
        _state,
    ),
    "add a finally": Operation(
        "enqueue_workflow",
        lambda s: {
            "jobs": Jsonb([{"task": "t", "depends_on": [s.job_id], "if_parent_fails": "run"}])
        },
        _state,
    ),
    "cancel child": Operation("cancel_job", lambda s: {"job_id": s.child_id}, _state),
    "retry child": Operation("retry_job", lambda s: {"job_id": s.child_id}, _state),
    "cancel all": Operation(
        "cancel_workflow",
        lambda s: {"workflow_id": s.workflow_id},
        lambda rows, _: f"{rows[0]['cancel_workflow']} ended",
    ),
    "retry all": Operation(
        "retry_workflow",
        lambda s: {"workflow_id": s.workflow_id},
        lambda rows, _: f"{rows[0]['retry_workflow']} back",
    ),
    "sleep": Operation("sleep_job", lambda s: {**_held(s), "step": "nap", "delay": LONGER}, _state),
    "await": Operation(
        "await_event",
        lambda s: {**_held(s), "step": "s", "event": EVENT, "timeout": LONGER},
        _state,
    ),
    "emit": Operation(
        "emit_event", lambda _: {"event": EVENT}, lambda rows, _: f"{rows[0]['emit_event']} woken"
    ),
    "record": Operation("record_step", lambda s: {**_held(s), "step": "s"}, lambda *_: "recorded"),
}


def _enqueue(conn: Connection) -> int:
    return call(conn, "enqueue_job", task="t", unique_key=KEY)[0]["job_id"]


def _schedule(conn: Connection) -> int:
    return call(conn, "schedule_job", task="t", every=timedelta(hours=1), name=NAME)[0]["job_id"]


def _claim(conn: Connection, **arguments: Any) -> Subject:
    forget_cursors(conn)
    (claimed,) = call(conn, "claim_next_job", worker="w", **arguments)
    return Subject(claimed["id"], claimed["token"])


def _waiting(conn: Connection) -> Subject:
    subject = _claim(conn)
    call(conn, "release_job", **_held(subject))
    return subject


def _expired(conn: Connection) -> Subject:
    return _claim(conn, lease=MOMENT)


def _failed(conn: Connection) -> Subject:
    subject = _claim(conn)
    call(conn, "finish_job", **_held(subject), error="boom", retry=False)
    return subject


def _cancelled(conn: Connection) -> Subject:
    subject = _waiting(conn)
    call(conn, "cancel_job", job_id=subject.job_id)
    return subject


def _workflow(conn: Connection) -> int:
    jobs = [{"task": "t", "node": "a"}, {"task": "t", "depends_on": ["a"]}]
    return call(conn, "enqueue_workflow", jobs=Jsonb(jobs))[0]["job_id"]


def _parent(conn: Connection) -> Subject:
    subject = _claim(conn)
    ((child, workflow),) = conn.execute(
        "select job_id, workflow_id from rota.workflow_jobs where depends_on <> '{}'"
    ).fetchall()
    return Subject(subject.job_id, subject.token, child, workflow)


def _failed_parent(conn: Connection) -> Subject:
    subject = _parent(conn)
    call(conn, "finish_job", **_held(subject), error="boom", retry=False)
    return subject


def _awaiting(conn: Connection) -> Subject:
    subject = _claim(conn)
    call(conn, "await_event", **_held(subject), step="s", event=EVENT, timeout=LONGER)
    return subject


WORKFLOWS = list(OPERATIONS)[list(OPERATIONS).index("give up") :]  # and steps and events
ONE_TIME = [name for name in OPERATIONS if name not in ("schedule", *WORKFLOWS)]
RECURRING = [name for name in OPERATIONS if name not in ("enqueue", *WORKFLOWS)]
GRAPH = ["finish", "give up", "finish, next", "cancel", "retry", "heartbeat", "maintain"]
GRAPH += ["add a child", "add a finally", "cancel child", "retry child", "cancel all", "retry all"]
EVENTS = ["claim", "finish", "cancel", "retry", "release", "maintain", "await", "emit", "record"]

# Where the lease ran out, what differs from a running job.
LATE = ["finish", "heartbeat", "recover", "hold_lease", "heartbeat_jobs"]

# How a job gets there, what can be tried on it, and what the first session tries. The job's last
# token was issued in every state.
STATES: dict[str, tuple[Callable, Callable, list[str], list[str]]] = {
    "one-time, waiting": (_enqueue, _waiting, ONE_TIME, ONE_TIME),
    "one-time, running": (_enqueue, _claim, ONE_TIME, ONE_TIME),
    "one-time, its lease ran out": (_enqueue, _expired, ONE_TIME, LATE),
    "one-time, failed": (_enqueue, _failed, ONE_TIME, ONE_TIME),
    "recurring, waiting": (_schedule, _waiting, RECURRING, RECURRING),
    "recurring, running": (_schedule, _claim, RECURRING, RECURRING),
    "recurring, its lease ran out": (_schedule, _expired, RECURRING, LATE),
    "recurring, cancelled": (_schedule, _cancelled, RECURRING, RECURRING),
    "a parent, running": (_workflow, _parent, GRAPH, GRAPH),
    "a parent, failed": (_workflow, _failed_parent, GRAPH, GRAPH),
    "one-time, running, events": (_enqueue, _claim, EVENTS, EVENTS),
    "one-time, awaiting an event": (_enqueue, _awaiting, EVENTS, EVENTS),
}


@dataclass(frozen=True)
class Seen:
    """What came of a pair: what the second session got, and what then stands in the tables."""

    waited: bool
    answer: str
    jobs: str


class Bench:
    """Makes a job, lets two sessions act on it, and writes down what came of it."""

    def __init__(self, conn: Connection, first: Session, second: Session) -> None:
        self._conn = conn
        self._first = first
        self._second = second
        self._known: dict[tuple[str, tuple[str, ...]], Seen] = {}

    def effect_of(self, state: str, name: str) -> str | None:
        """Return what an operation does in this state; None when it writes and locks nothing."""
        subject = self._prepare(state)
        with self._conn.transaction(force_rollback=True):
            answer = self._answer(OPERATIONS[name], subject)
            if answer.startswith("refused"):
                return None
            wrote = self._conn.execute("select pg_current_xact_id_if_assigned()").fetchone()
        return answer if wrote != (None,) else None

    def overlapping(self, state: str, first: str, second: str, ending: str) -> Seen:
        """Begin the second while the first is open; then commit or roll back the first."""
        subject = self._prepare(state)
        self._first.begin()
        self._first.call(OPERATIONS[first].function, **OPERATIONS[first].arguments(subject))

        operation = OPERATIONS[second]
        started = self._second.start(operation.function, **operation.arguments(subject))
        waited = started.waits()
        getattr(self._first, ending)()
        seen = Seen(waited, self._worded(operation, subject, started.answer), self._jobs(subject))

        broken = self._conn.execute("select * from rota.check_invariants()").fetchall()
        assert not broken, f"{state}: {second} during {first}, then {ending}: {broken}"
        return seen

    def one_after_the_other(self, state: str, *names: str) -> Seen:
        """Do each of them alone; say what the last one got."""
        if (state, names) not in self._known:
            subject = self._prepare(state)
            answers = ["", *(self._answer(OPERATIONS[name], subject) for name in names)]
            self._known[state, names] = Seen(False, answers[-1], self._jobs(subject))
        return self._known[state, names]

    def _prepare(self, state: str) -> Subject:
        forget_cursors(self._conn)
        self._conn.execute(
            """
            delete from rota.live_jobs;
            delete from rota.finished_jobs;
            delete from rota.attempts;
            delete from rota.schedules;
            delete from rota.workflows;
            delete from rota.workflow_jobs;
            delete from rota.job_dependencies;
            delete from rota.job_waits;
            delete from rota.job_steps;
            delete from rota.events;
            delete from rota.event_waits;
            """
        )
        make, bring, *_ = STATES[state]
        make(self._conn)
        # A copy of a lane, as concurrent first jobs leave them: something for maintain to do.
        self._conn.execute("insert into rota.lanes select * from rota.lanes limit 1")
        return bring(self._conn)

    def _answer(self, operation: Operation, subject: Subject) -> str:
        return self._worded(
            operation,
            subject,
            lambda: self._call(operation, subject),
        )

    def _call(self, operation: Operation, subject: Subject) -> list[dict[str, Any]]:
        forget_cursors(self._conn)
        return call(self._conn, operation.function, **operation.arguments(subject))

    def _worded(self, operation: Operation, subject: Subject, answer: Callable) -> str:
        try:
            return operation.words(answer(), subject)
        except psycopg.Error as error:
            assert (error.sqlstate or "").startswith("RT"), f"{error.sqlstate}: {error}"
            return f"refused, {error.sqlstate}"

    def _jobs(self, subject: Subject) -> str:
        """Describe the job, and any other that was made: state, run.attempt and executions."""
        rows = self._conn.execute(
            """
            select
                j.id,
                j.state::text,
                format('%s.%s', j.run, j.attempt),
                j.run_at,
                clock_timestamp(),
                j.cancel_requested_at is not null and j.state = 'RUNNING',
                array(
                    select lower(e.outcome)
                    from rota.job_executions as e
                    where e.job_id = j.id
                    order by e.finished_at, e.run, e.attempt
                )
            from rota.jobs as j
            order by j.id
            """
        ).fetchall()
        return "; ".join(_describe(_prefix(job_id, subject), *rest) for job_id, *rest in rows)


def _prefix(job_id: int, subject: Subject) -> str:
    return {subject.job_id: "", subject.child_id: "child: "}.get(job_id, "new: ")


def _describe(
    prefix: str,
    state: str,
    attempt: str,
    run_at: datetime,
    now: datetime,
    asked: bool,
    outcomes: list[str],
) -> str:
    words = [f"{prefix}{state} {attempt}"]
    if state == "SCHEDULED" and run_at > now + timedelta(minutes=1):
        words.append("later")
    if asked:
        words.append("cancel asked")
    return " ".join([*words, *(f"[{', '.join(outcomes)}]" for _ in outcomes[:1])])


def table(bench: Bench, state: str) -> tuple[list[str], list[str]]:
    """Return the lines of a state's table, and complaints about rows that cannot be right."""
    *_, seconds, firsts = STATES[state]
    lines, complaints = [], []
    for first in firsts:
        effect = bench.effect_of(state, first)
        if effect is None:
            continue
        lines.append(f"\n## {state}; the first session has called {first}: {effect}\n")
        for second in seconds:
            seen = {
                ending: bench.overlapping(state, first, second, ending)
                for ending in ("commit", "rollback")
            }
            lines.append(
                f"{second:14} {'waits' if seen['commit'].waited else '-':5}  "
                f"commit:   {seen['commit'].answer:24} {seen['commit'].jobs}\n"
                f"{'':20}  rollback: {seen['rollback'].answer:24} {seen['rollback'].jobs}"
            )
            complaints += [
                f"{state}: {second} during {first}, then {ending}: {one}"
                for ending, one in seen.items()
                if not is_right(bench, state, first, second, ending, one)
            ]
    return lines, complaints


def is_right(bench: Bench, state: str, first: str, second: str, ending: str, seen: Seen) -> bool:
    """Whether both got what they would have got one after the other, in either order.

    After a rollback, the second must have got what it gets alone. In both cases it may have passed
    by what the first one held: it did not wait, said so, and left everything as it was.
    """
    alone = bench.one_after_the_other(state, second)
    survived = [first] if ending == "commit" else []
    after = bench.one_after_the_other(state, *survived, second)
    if (seen.answer, seen.jobs) == (after.answer, after.jobs):
        return True
    if not seen.waited and seen.answer == OPERATIONS[second].passed_by:
        return seen.jobs == bench.one_after_the_other(state, *survived).jobs
    before = bench.one_after_the_other(state, second, *survived)
    return (seen.answer, seen.jobs) == (alone.answer, before.jobs)
