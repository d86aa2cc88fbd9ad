"""Workflows and events where two transactions meet: every pair of calls, each order, each ending.

What comes of a pair must be what comes of the two calls one after the other. Then those who meet in
ways of their own: three sessions, a backend that is killed, functions of before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.calls import enqueue, held, workflow
from tests.concurrency.sessions import Session, forget_cursors, sqlstate
from tests.functions.test_workflows import claim, finish, graph, links, states
from tests.waiting import wait_until

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PREVIOUS = {"depends_on": "previous"}
RUN = {"if_parent_fails": "run"}
ENDINGS = ["commit", "rollback"]


@dataclass
class Scene:
    """The jobs of a workflow by their tasks, and the tokens of those that run."""

    ids: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)
    workflow_id: int = 0

    def pair(self, task: str) -> dict[str, Any]:
        return {"job_id": self.ids[task], "token": self.tokens[task]}

    def batch(self, *tasks: str) -> dict[str, Any]:
        return {
            "job_ids": [self.ids[task] for task in tasks],
            "tokens": [self.tokens[task] for task in tasks],
        }


def running(conn: Connection) -> Scene:
    """Three that run; c needs two of them, r goes on whatever comes, d and e are below."""
    rows = workflow(
        conn,
        *({"task": task, "node": task} for task in "xyz"),
        {"task": "c", "node": "c", "depends_on": ["x", "y"]},
        {"task": "r", "node": "r", "depends_on": ["x", "z"], "key": "k"} | RUN,
        {"task": "d", "node": "d", "depends_on": ["c", "r"]},
    )
    scene = Scene(dict(zip("xyzcrd", (row["job_id"] for row in rows), strict=True)))
    scene.workflow_id = rows[0]["workflow_id"]
    (row,) = workflow(conn, {"task": "e", "depends_on": [scene.ids["c"]], "key": "k"})
    scene.ids["e"] = row["job_id"]
    names = {job_id: task for task, job_id in scene.ids.items()}
    scene.tokens = {names[job_id]: token for job_id, token in claim(conn).items()}
    return scene


def ended(conn: Connection) -> Scene:
    """Two of the three have failed, and took all but r down."""
    scene = running(conn)
    for task in "xy":
        finish(conn, **scene.pair(task), error="boom")
    return scene


def scheduled(conn: Connection) -> Scene:
    """As it was enqueued, and nobody has claimed yet."""
    scene = running(conn)
    for task in "xyz":
        call(conn, "release_job", **scene.pair(task))
    return scene


Operation = tuple[str, Callable[[Scene], dict[str, Any]]]


def jobs_on(task: str, *parents: str, **more: Any) -> Callable[[Scene], dict[str, Any]]:
    return lambda s: {
        "jobs": Jsonb([{"task": task, "depends_on": [s.ids[p] for p in parents], **more}])
    }


ANY: dict[str, Operation] = {
    "cancel the workflow": ("cancel_workflow", lambda s: {"workflow_id": s.workflow_id}),
    "cancel x": ("cancel_job", lambda s: {"job_id": s.ids["x"]}),
    "cancel c": ("cancel_job", lambda s: {"job_id": s.ids["c"]}),
    "cancel r": ("cancel_job", lambda s: {"job_id": s.ids["r"]}),
    "cancel all that waits": (
        "cancel_jobs",
        lambda s: {"filter": Jsonb({"state": "WAITING"}), "dry_run": False},
    ),
    "cancel all": ("cancel_jobs", lambda s: {"filter": Jsonb({"ids": [*s.ids.values()]})}
        | {"dry_run": False}),
    "enqueue on x": ("enqueue_workflow", jobs_on("n", "x")),
    "enqueue on c, d and z": ("enqueue_workflow", jobs_on("n", "c", "d", "z", **RUN)),
    "maintain": ("maintain", lambda s: {}),
}  # fmt: skip
OF_RUNNING: dict[str, Operation] = {
    "finish x": ("finish_job", lambda s: s.pair("x")),
    "fail x": ("finish_job", lambda s: s.pair("x") | {"error": "boom", "retry": False}),
    "finish y": ("finish_job", lambda s: s.pair("y")),
    "finish x and z": ("finish_jobs", lambda s: s.batch("x", "z")),
    "finish z, y fails": ("finish_jobs", lambda s: s.batch("z", "y") | {"errors": [None, "boom"]}),
    "finish x, next on c and z": (
        "finish_job",
        lambda s: s.pair("x") | {"next": jobs_on("n", "c", "z")(s)["jobs"]},
    ),
    "finish y, next on r": (
        "finish_job",
        lambda s: s.pair("y") | {"next": jobs_on("m", "r")(s)["jobs"]},
    ),
}
OF_ENDED: dict[str, Operation] = {
    "retry x": ("retry_job", lambda s: {"job_id": s.ids["x"]}),
    "retry y": ("retry_job", lambda s: {"job_id": s.ids["y"]}),
    "retry d": ("retry_job", lambda s: {"job_id": s.ids["d"]}),
    "retry the workflow": ("retry_workflow", lambda s: {"workflow_id": s.workflow_id}),
    "retry all that failed": (
        "retry_jobs",
        lambda s: {"filter": Jsonb({"state": "FAILED"}), "dry_run": False},
    ),
    "enqueue on x, d and z by run": ("enqueue_workflow", jobs_on("n", "x", "d", "z", **RUN)),
    "finish z": ("finish_job", lambda s: s.pair("z")),
    "fail z": ("finish_job", lambda s: s.pair("z") | {"error": "boom", "retry": False}),
}
SCENES: dict[str, tuple[Callable[[Connection], Scene], dict[str, Operation]]] = {
    "running": (running, ANY | OF_RUNNING),
    "ended": (ended, ANY | OF_ENDED),
    "scheduled": (scheduled, ANY),
}


BULKS = {"cancel all that waits", "cancel all", "retry all that failed", "retry the workflow"}


class Bench:
    """Makes the scene, lets two sessions meet in it, and writes down what came of it."""

    def __init__(self, conn: Connection, name: str, first: Session, second: Session) -> None:
        self._conn = conn
        self._make, self.operations = SCENES[name]
        self._first = first
        self._second = second
        self._known: dict[tuple[str, ...], tuple[list[str], list[Any]]] = {}
        conn.execute("set jit = off")  # of our own looks

    def meet(self, first: str, second: str, ending: str) -> tuple[list[str], list[Any], bool]:
        scene = self._prepare()
        function, arguments = self.operations[first]
        self._first.begin()
        answers = [self._answer(lambda: self._first.call(function, **arguments(scene)))]
        function, arguments = self.operations[second]
        started = self._second.start(function, **arguments(scene))
        waited = started.waits()
        getattr(self._first, ending)()
        answers.append(self._answer(started.answer))
        return answers, self._seen(scene), waited

    def one_after_the_other(self, *names: str) -> tuple[list[str], list[Any]]:
        if names not in self._known:
            scene = self._prepare()
            answers = []
            for name in names:
                function, arguments = self.operations[name]
                answers.append(
                    self._answer(lambda f=function, a=arguments: call(self._conn, f, **a(scene)))
                )
            self._known[names] = (answers, self._seen(scene))
        return self._known[names]

    def _prepare(self) -> Scene:
        self._conn.execute(
            """
            delete from rota.live_jobs;
            delete from rota.finished_jobs;
            delete from rota.attempts;
            delete from rota.turns;
            delete from rota.workflows;
            delete from rota.workflow_jobs;
            delete from rota.job_dependencies;
            delete from rota.job_waits;
            """
        )
        return self._make(self._conn)

    def _answer(self, make: Callable[[], list[dict[str, Any]]]) -> str:
        try:
            rows = make()
        except psycopg.Error as error:
            assert (error.sqlstate or "").startswith("RT"), f"{error.sqlstate}: {error}"
            return f"refused, {error.sqlstate}"
        kept = ("state", "outcome", "changed", "cancel_workflow", "retry_workflow")
        return str([{name: row[name] for name in kept if name in row} for row in rows])

    def _seen(self, scene: Scene) -> list[Any]:
        """Return each job: its state, for whom it waits, with whom it went down."""
        assert call(self._conn, "check_invariants") == []
        names = {job_id: task for task, job_id in scene.ids.items()}
        rows = self._conn.execute(
            """
            select
                j.task, j.state, j.cancel_requested_at is not null, n.waits_for, n.ended_by,
                s.cancelled_at is not null
            from rota.jobs as j
            left join rota.workflow_nodes as n on n.job_id = j.id
            left join rota.workflow_status as s on s.id = n.workflow_id
            order by j.task
            """
        ).fetchall()
        return sorted(
            (
                task,
                state,
                asked,
                *(names.get(p, "new") for p in waits),
                names.get(down) or "",
                cancelled,
            )
            for task, state, asked, waits, down, cancelled in rows
        )


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", SCENES)
def test_two_calls_come_out_as_if_one_came_after_the_other(conn, session, name, ending):
    call(conn, "maintain")
    bench = Bench(conn, name, session(), session())
    complaints = []
    waits = 0

    for first in bench.operations:
        for second in bench.operations:
            answers, seen, waited = bench.meet(first, second, ending)
            waits += waited
            after = bench.one_after_the_other(*([first] if ending == "commit" else []), second)
            before = bench.one_after_the_other(second, *([first] if ending == "commit" else []))
            if second in BULKS and ending == "commit":
                continue  # it looks first for what it is about, and then locks it
            right = answers[1] in (after[0][-1], before[0][0]) and seen in (after[1], before[1])
            if not right:
                complaints.append(f"{first} / {second}: {answers} {seen}, not {after} or {before}")

    assert not complaints, "\n".join(complaints)
    assert waits > len(bench.operations)


# -- who enqueues, and the parent's worker


@pytest.mark.parametrize("ending", ENDINGS)
def test_neither_heartbeats_nor_claims_wait_for_who_enqueues_on_a_job(conn, session, ending):
    one, other = enqueue(conn), enqueue(conn)
    pair = held(conn)
    enqueuer, worker = session(), session()
    enqueuer.begin()
    parts = Jsonb([{"task": "t", "depends_on": [one, other]}])
    (row,) = enqueuer.call("enqueue_workflow", jobs=parts)

    beat = worker.start("heartbeat_job", **pair)
    assert not beat.waits()
    assert beat.answer()[0]["cancel_requested"] is False
    batch = {"job_ids": [pair["job_id"]], "tokens": [pair["token"]]}
    assert [b["job_id"] for b in worker.call("heartbeat_jobs", **batch)] == [one]
    assert worker.call("claim_next_job") == []
    assert worker.call("recover_jobs") == [{"recover_jobs": 0}]
    progress = worker.start("heartbeat_job", **pair, progress=Jsonb(1))
    assert progress.waits()
    getattr(enqueuer, ending)()
    progress.answer()

    assert finish(conn, **pair) == "COMPLETED"
    assert list(claim(conn)) == [other]
    assert states(conn, row["job_id"]) == ["WAITING" if ending == "commit" else None]


def test_a_finish_that_waits_for_who_enqueues_releases_what_he_has_added(conn, session):
    """And one that comes first is waited for by who enqueues: its child does not wait."""
    one = enqueue(conn)
    pair = held(conn)
    enqueuer, worker = session(), session()
    enqueuer.begin()
    (row,) = enqueuer.call("enqueue_workflow", jobs=Jsonb([{"task": "t", "depends_on": [one]}]))
    assert row["state"] == "WAITING"
    finishes = worker.start("finish_job", **pair)
    assert finishes.waits()
    enqueuer.commit()
    finishes.answer()
    assert states(conn, row["job_id"]) == ["SCHEDULED"]

    pair = held(conn)
    worker.begin()
    worker.call("finish_job", **pair)
    adds = enqueuer.start(
        "enqueue_workflow", jobs=Jsonb([{"task": "t", "depends_on": [pair["job_id"]]}])
    )
    assert adds.waits()
    worker.commit()
    (row,) = adds.answer()
    assert row["state"] == "SCHEDULED"


# -- many at once


def test_batches_that_share_children_wait_and_never_deadlock(conn, session):
    """Whatever the order of their jobs, and of their children's edges."""
    tasks = [{"task": "t", "node": name, "max_retries": 0} for name in "abcd"]
    children = [{"task": "t", "depends_on": list(names)} for names in ("abcd", "dcba", "ac", "bd")]
    ids = graph(conn, *tasks, *children)
    tokens = claim(conn)
    first, second, third = session(), session(), session()

    def batch(*job_ids):
        return {"job_ids": list(job_ids), "tokens": [tokens[job_id] for job_id in job_ids]}

    first.begin()
    first.call("finish_jobs", **batch(ids[3], ids[0]))
    last = third.start("finish_jobs", **batch(ids[1]), errors=["boom"])
    later = second.start("finish_jobs", **batch(ids[2]))
    assert later.waits() and last.waits()
    first.commit()
    later.answer()
    last.answer()

    assert states(conn, *ids[4:]) == ["CANCELLED", "CANCELLED", "SCHEDULED", "CANCELLED"]
    assert links(conn) == (0, 0)


def test_two_transactions_that_each_finish_two_jobs_may_deadlock_and_lose_nothing(conn, session):
    """As docs/inside.md says: whose transaction is ended repeats it."""
    ids = graph(
        conn,
        *({"node": name} for name in "abcd"),
        {"depends_on": ["a", "c"]},
        {"depends_on": ["b", "d"]},
    )
    tokens = claim(conn)
    first, second = session(), session()
    pairs = [{"job_id": job_id, "token": tokens[job_id]} for job_id in ids[:4]]
    first.begin(), second.begin()
    first.call("finish_job", **pairs[0])
    second.call("finish_job", **pairs[3])
    crossing = [first.start("finish_job", **pairs[1]), second.start("finish_job", **pairs[2])]

    ended = []
    for one, (begun, mine) in zip(
        (first, second), zip(crossing, ((0, 1), (3, 2)), strict=True), strict=True
    ):
        try:
            begun.answer()
        except psycopg.errors.DeadlockDetected:
            one.rollback()
            ended.append(mine)
        else:
            one.commit()

    assert len(ended) == 1
    for place in ended[0]:
        finish(conn, **pairs[place])
    assert states(conn, *ids) == ["COMPLETED"] * 4 + ["SCHEDULED"] * 2


def test_two_finishes_with_next_on_each_other_s_children_do_not_deadlock(conn, session):
    """What a finish settles, and what its next depends on, is locked at once."""
    ids = graph(
        conn,
        *({"node": name} for name in "ab"),
        {"depends_on": ["a"]},
        {"depends_on": ["b"]},
        {"depends_on": ["a", "b"]},
    )
    tokens = claim(conn)
    first, second, third = session(), session(), session()

    def finish_of(place, *parents):
        following = [{"task": "n", "depends_on": [ids[p] for p in parents]}]
        pair = {"job_id": ids[place], "token": tokens[ids[place]]}
        return pair | {"next": Jsonb(following)}

    holder = third
    holder.begin()  # who holds the child that comes first, so that both wait for it
    holder.call("enqueue_workflow", jobs=Jsonb([{"task": "t", "depends_on": [ids[2]]}]))
    one = first.start("finish_job", **finish_of(0, 3, 4))
    two = second.start("finish_job", **finish_of(1, 4, 2))
    assert one.waits() and two.waits()
    holder.commit()
    one.answer(), two.answer()

    assert states(conn, *ids[2:]) == ["SCHEDULED"] * 3


@pytest.mark.parametrize("ending", ENDINGS)
def test_of_two_last_parents_one_releases_the_child(conn, session, ending):
    x, y, child = graph(conn, {"node": "x"}, {"node": "y"}, {"depends_on": "all"})
    tokens = claim(conn)
    first, second = session(), session()
    first.begin()
    first.call("finish_job", job_id=x, token=tokens[x])
    later = second.start("finish_job", job_id=y, token=tokens[y])
    assert later.waits()
    getattr(first, ending)()
    later.answer()

    if ending == "rollback":
        assert states(conn, child) == ["WAITING"]
        finish(conn, x, tokens[x])
    assert list(claim(conn)) == [child]


# -- events


def wait_for(pair, step="s", timeout=HOUR):
    return {**pair, "step": step, "event": "e", "timeout": timeout}


@pytest.mark.parametrize("known", [False, True], ids=["a new name", "somebody waits already"])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("first", ["await", "emit"])
def test_an_event_and_who_waits_for_it_meet(conn, session, known, first, ending):
    if known:
        enqueue(conn)
        call(conn, "await_event", **wait_for(held(conn)))
    one = enqueue(conn)
    pair = held(conn)
    waiter, emitter = session(), session()
    calls = {
        "await": lambda: waiter.start("await_event", **wait_for(pair)),
        "emit": lambda: emitter.start("emit_event", event="e", payload=Jsonb(1)),
    }
    (opener, then) = (waiter, "emit") if first == "await" else (emitter, "await")
    opener.begin()
    answers = {first: calls[first]().answer()}
    started = calls[then]()
    assert started.waits()
    getattr(opener, ending)()
    answers[then] = started.answer()

    if ending == "rollback" and first == "await":
        assert answers["emit"] == [{"emit_event": 1 if known else 0}]
        (again,) = call(conn, "await_event", **wait_for(pair))
        assert again == {"state": "ARRIVED", "payload": 1}
    elif ending == "rollback":
        assert answers["await"][0]["state"] == "RELEASED"
        assert call(conn, "emit_event", event="e", payload=Jsonb(1)) == [
            {"emit_event": 2 if known else 1}
        ]
    elif first == "emit":
        assert answers["await"] == [{"state": "ARRIVED", "payload": 1}]
    else:
        assert answers["await"][0]["state"] == "RELEASED"
        assert answers["emit"] == [{"emit_event": 2 if known else 1}]
    if states(conn, one) == ["SCHEDULED"]:
        pairs = claim(conn)
        (again,) = call(conn, "await_event", **wait_for({"job_id": one, "token": pairs[one]}))
        assert again == {"state": "ARRIVED", "payload": 1}
    assert states(conn, one) == ["RUNNING"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_event_comes_while_the_time_of_who_waits_is_up(conn, session, clock, ending):
    """The claim holds the job; who emits waits for it, and then the job asks."""
    one = enqueue(conn)
    call(conn, "await_event", **wait_for(held(conn)))
    clock.advance(HOUR)
    worker, emitter = session(), session()
    forget_cursors(worker.conn)
    worker.begin()
    (row,) = worker.call("claim_next_job")
    told = emitter.start("emit_event", event="e", payload=Jsonb(1))
    assert told.waits()
    getattr(worker, ending)()
    told.answer()

    token = row["token"] if ending == "commit" else claim(conn)[one]
    (answer,) = call(conn, "await_event", **wait_for({"job_id": one, "token": token}))
    assert answer == {"state": "ARRIVED", "payload": 1}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("then", ["await", "emit"])
def test_an_event_s_row_goes_while_somebody_comes_to_wait_or_to_emit(
    conn, session, clock, then, ending
):
    one = enqueue(conn)
    call(conn, "await_event", **wait_for(held(conn)))
    call(conn, "cancel_job", job_id=one)
    clock.advance(2 * DAY)
    enqueue(conn)
    pair = held(conn)
    keeper, other = session(), session()
    keeper.begin()
    keeper.call("maintain")
    if then == "await":
        started = other.start("await_event", **wait_for(pair))
    else:
        started = other.start("emit_event", event="e", payload=Jsonb(1))
    assert started.waits()
    getattr(keeper, ending)()
    (answer,) = started.answer()

    if then == "await":
        assert answer["state"] == "RELEASED"
        assert call(conn, "emit_event", event="e", payload=Jsonb(1)) == [{"emit_event": 1}]
        pair = held(conn)
    (answer,) = call(conn, "await_event", **wait_for(pair))
    assert answer == {"state": "ARRIVED", "payload": 1}


def test_maintain_passes_by_an_event_that_somebody_comes_to_wait_for(conn, session, clock):
    one = enqueue(conn)
    call(conn, "await_event", **wait_for(held(conn)))
    call(conn, "cancel_job", job_id=one)
    clock.advance(2 * DAY)
    enqueue(conn)
    waiter, keeper = session(), session()
    waiter.begin()
    waiter.call("await_event", **wait_for(held(conn)))

    keeper.call("maintain")
    waiter.commit()

    assert call(conn, "emit_event", event="e") == [{"emit_event": 1}]


def test_a_cancel_and_an_emit_meet_at_who_waits(conn, session):
    one = enqueue(conn)
    call(conn, "await_event", **wait_for(held(conn)))
    canceller, emitter = session(), session()
    canceller.begin()
    canceller.call("cancel_job", job_id=one)
    told = emitter.start("emit_event", event="e")
    assert told.waits()
    canceller.commit()

    assert told.answer() == [{"emit_event": 0}]
    assert states(conn, one) == ["CANCELLED"]


# -- a backend that is killed


KILLED: dict[str, tuple[str, Operation]] = {
    **{name: ("running", OF_RUNNING[name]) for name in OF_RUNNING},
    **{name: ("running", ANY[name]) for name in ANY},
    **{f"{name}, of ended": ("ended", OF_ENDED[name]) for name in OF_ENDED if name != "retry d"},
}


@pytest.mark.parametrize(("scene", "operation"), KILLED.values(), ids=KILLED)
def test_who_is_killed_in_the_midst_has_done_nothing(conn, connect, session, scene, operation):
    """While it waits for a row, and when all is done but the commit."""
    make, _ = SCENES[scene]
    there = make(conn)
    function, arguments = operation
    query = (
        "select id, state, (select count(*) from rota.job_dependencies) from rota.jobs order by 1"
    )
    before = conn.execute(query).fetchall()

    blocker = connect(autocommit=False)
    blocker.execute("select from rota.job_waits order by job_id desc limit 1 for update")
    waiting = session()
    started = waiting.start(function, **arguments(there))
    if started.waits():
        terminate(conn, waiting.conn)
        with pytest.raises(psycopg.OperationalError):
            started.answer()
        assert conn.execute(query).fetchall() == before
    blocker.rollback()
    if function != "maintain" and started._future.done() and not started._future.exception():
        return  # it waits for nobody there, and is done
    done = session()
    done.begin()
    done.call(function, **arguments(there))
    terminate(conn, done.conn)

    assert conn.execute(query).fetchall() == before
    assert call(conn, "check_invariants") == []
    call(conn, function, **arguments(there))


def terminate(conn, killed):
    pid = killed.info.backend_pid
    conn.execute("select pg_terminate_backend(%s)", [pid])
    gone = "select not exists (select from pg_stat_activity where pid = %s)"
    wait_until(lambda: conn.execute(gone, [pid]).fetchone()[0])


# -- functions of before


COMPLETE_AS_BEFORE = """
    create or replace function rota._complete_jobs(
        job_ids bigint[], tokens uuid[], results jsonb[]
    )
        returns boolean
        language plpgsql
        set search_path = pg_catalog, pg_temp
    as $$
    declare
        v_held tid[];
    begin
        v_held := array(
            select j.ctid
            from rota.live_jobs as j
            where j.id = any(job_ids) and (j.id, j.token) in (select * from unnest(job_ids, tokens))
            order by j.id
            for no key update
        );

        with gone as (
            delete from rota.live_jobs as j where j.ctid = any(v_held) returning j.*
        )
        insert into rota.finished_jobs (
            id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
            attempt, max_retries, worker, token, created_at, started_at, finished_at, headers, key
        )
        select
            g.id, g.task, g.payload, g.queue, g.priority, 'COMPLETED', g.schedule_type, g.run_at,
            g.scheduled_for, g.run, g.attempt, g.max_retries, g.worker, g.token, g.created_at,
            g.started_at, rota._now(), g.headers, g.key
        from gone as g;

        return true;
    end;
    $$
"""


def test_a_finish_of_before_that_waits_while_a_child_is_enqueued_is_healed(conn, session):
    """It looks for no edges: it had begun before the deploy's commit."""
    (new,) = conn.execute("select pg_get_functiondef('rota._complete_jobs'::regproc)").fetchone()
    one = enqueue(conn)
    pair = held(conn)
    conn.execute(COMPLETE_AS_BEFORE)
    old, enqueuer = session(), session()
    enqueuer.begin()
    rows = enqueuer.call(
        "enqueue_workflow",
        jobs=Jsonb([{"task": "t", "depends_on": [one]}, {"task": "t", **PREVIOUS}]),
    )
    child, below = (row["job_id"] for row in rows)
    finishes = old.start("finish_job", **pair)
    assert finishes.waits()
    conn.execute(new)
    enqueuer.commit()
    finishes.answer()
    assert states(conn, one, child) == ["COMPLETED", "WAITING"]
    assert [row["invariant"][:2] for row in call(conn, "check_invariants")] == ["W3"]

    call(conn, "maintain")

    assert states(conn, one, child, below) == ["COMPLETED", "SCHEDULED", "WAITING"]
    assert call(conn, "check_invariants") == []
    finish(conn, child, claim(conn)[child])
    assert states(conn, below) == ["SCHEDULED"]


def test_children_that_wait_for_a_finish_that_is_rolled_back_wait_on(conn, session):
    one, child = graph(conn, {}, PREVIOUS)
    pair = held(conn)
    worker = session()
    worker.begin()
    worker.call("finish_job", **pair)
    worker.rollback()

    assert states(conn, one, child) == ["RUNNING", "WAITING"]
    finish(conn, **pair)
    assert states(conn, child) == ["SCHEDULED"]


def test_a_late_call_is_refused_where_the_job_is_taken_back_meanwhile(conn, session, clock):
    """A step that is recorded late, and a finish with next that is late, change nothing."""
    one, _ = graph(conn, {"max_retries": 0}, PREVIOUS)
    pair = held(conn)
    clock.advance(HOUR)
    recoverer, late, later = session(), session(), session()
    recoverer.begin()
    recoverer.call("recover_jobs")
    steps = late.start("record_step", **pair, step="s")
    finishes = later.start("finish_job", **pair, next=Jsonb([{"task": "n", "depends_on": [one]}]))
    assert steps.waits() and finishes.waits()
    recoverer.commit()

    with sqlstate("RTC02"):
        steps.answer()
    with sqlstate("RTC02"):
        finishes.answer()
    assert conn.execute("select count(*) from rota.job_steps").fetchone() == (0,)
    assert conn.execute("select count(*) from rota.jobs where task = 'n'").fetchone() == (0,)
