"""Random graphs of jobs beside all that ``machine.py`` does with single ones."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from psycopg.types.json import Jsonb

from tests.model import graph
from tests.model.database import Database
from tests.model.machine import (
    RotaMachine,
    errors,
    good_jobs,
    good_options,
    leases,
    limits,
    results,
    session_numbers,
    wanted_key,
    whiches,
)
from tests.model.world import World

MOST = 4

graphs = st.lists(
    st.fixed_dictionaries(
        {
            "options": st.fixed_dictionaries(
                {
                    name: st.sampled_from(values)
                    for name, values in (
                        good_options | {"max_retries": [0, 0, 1], "task": ["t"], "timeout": [None]}
                    ).items()
                }
            ),
            # On which of those before it, by places, or by a word, and of all others it depends.
            "inside": st.one_of(
                st.lists(st.integers(0, MOST), max_size=2), st.sampled_from(["all", "previous"])
            ),
            "outside": st.lists(whiches, max_size=1),
            "policy": st.sampled_from(["cancel", "cancel", "run"]),
        }
    ),
    min_size=1,
    max_size=MOST,
)
Graph = list[dict[str, Any]]


class Weaver(RotaMachine):
    """Sessions that enqueue, cancel and retry workflows, and let some follow a finish."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.workflows: list[int] = []

    @initialize(
        bulk=st.lists(good_jobs, min_size=1, max_size=3),
        max_jobs=limits,
        lease=leases,
        drawn=st.one_of(st.none(), graphs),
    )
    def start(
        self, bulk: list[dict[str, Any]], max_jobs: int, lease: timedelta, drawn: Graph | None
    ) -> None:
        """Begin with a graph, too, often enough."""
        super().start(bulk, max_jobs, lease)
        if drawn:
            self.enqueue_workflow(0, drawn)
            self.claim(0, ["a", "b"], lease, max_jobs)

    # -- graphs

    def document(self, drawn: Graph, ids: list[list[int]]) -> list[dict[str, Any]]:
        jobs = []
        for place, job in enumerate(drawn):
            inside = job["inside"]
            if isinstance(inside, str):
                depends_on: Any = inside
            else:
                depends_on = [f"n{other % place}" for other in inside if place] + ids[place]
            jobs.append(
                {
                    **self.arguments(job["options"], as_json=True),
                    "node": f"n{place}",
                    "depends_on": depends_on,
                    "if_parent_fails": job["policy"],
                }
            )
        return jobs

    def outside(self, session: int, drawn: Graph) -> list[list[int]]:
        """The jobs that exist already on which each depends."""
        return [
            []
            if isinstance(job["inside"], str)
            else [
                self.any_job(session, which, "WAITING", "RUNNING", "SCHEDULED", "FAILED")
                for which in job["outside"]
            ]
            for job in drawn
        ]

    def refuses_graph(
        self, world: World, session: int, drawn: Graph, ids: list[list[int]]
    ) -> str | None:
        """Why a workflow is refused that waits for nobody."""
        view = world.view(session)
        named = {job_id for some in ids for job_id in some}
        if named - view.keys():
            return "RTN01"
        if any(view[job_id].recurring for job_id in named):
            return "RTV01"
        for job, some in zip(drawn, ids, strict=True):
            bad = any(view[job_id].state in graph.BAD for job_id in some)
            if bad and job["policy"] == "cancel":
                return "RTC01"
        return None

    def keys(self, drawn: Graph) -> list[Any]:
        keys = [wanted_key(job["options"]) for job in drawn]
        return [key for key in keys if key is not None]

    def key_is_taken(self, world: World, session: int, drawn: Graph) -> bool:
        keys = self.keys(drawn)
        return len(set(keys)) < len(keys) or any(
            world.holder(session, "key_of_queue", key) for key in keys
        )

    def key_is_in_the_balance(self, world: World, session: int, drawn: Graph) -> bool:
        return any(
            world.key_is_in_the_balance(session, "key_of_queue", key) for key in self.keys(drawn)
        )

    def was_woven(
        self,
        session: int,
        drawn: Graph,
        ids: list[list[int]],
        rows: list[tuple[int, int, str]],
        after: int | None = None,
    ) -> None:
        """Add the jobs of a workflow, each (its id, its workflow, its state), to the model."""
        view = self.world.view(session)
        places = [job_id for job_id, _, _ in rows]
        for place, (job, (job_id, workflow, state)) in enumerate(zip(drawn, rows, strict=True)):
            assert job_id not in self.seen
            self.seen.append(job_id)
            match job["inside"]:
                case "all":
                    parents = set(places[:place])
                case "previous":
                    parents = set(places[:place][-1:])
                case others:
                    parents = {places[other % place] for other in others if place}
                    parents |= set(ids[place])
                    if not parents and after is not None:
                        parents = {after}
            edges = {(p, job_id) for p in parents if p in places or view[p].live}
            new = self.new_job(job_id, job["options"])
            if edges:
                new = replace(new, state="WAITING", run_at=None)
            assert state == new.state
            new = replace(
                new,
                workflow=workflow,
                depends_on=tuple(sorted(parents)),
                if_parent_fails=job["policy"],
            )
            self.world.write(session, new)
            self.world.lead(session, edges)
        for job_id in {job_id for some in ids for job_id in some}:
            if view[job_id].live:
                self.world.write(session, view[job_id])  # marked, as one on which others depend
            elif view[job_id].state in graph.BAD:
                self.world.lock(session, [job_id])

    @rule(session=session_numbers, drawn=graphs)
    def enqueue_workflow(self, session: int, drawn: Graph) -> None:
        ids = self.outside(session, drawn)
        named = {job_id for some in ids for job_id in some}
        waits = graph.is_any_held(self.world, session, named)
        refused = None
        if not waits:
            refused = self.refuses_graph(self.world, session, drawn, ids)
        if refused is None:
            waits = waits or self.key_is_in_the_balance(self.world, session, drawn)
            if not waits and self.key_is_taken(self.world, session, drawn):
                refused = "RTC03"
        jobs = self.document(drawn, ids)
        rows = self.call(session, waits, refused, "enqueue_workflow", jobs=Jsonb(jobs))
        if rows is not None:
            assert [row["node"] for row in rows] == [job["node"] for job in jobs]
            self.workflows.append(rows[0]["workflow_id"])
            told = [(row["job_id"], row["workflow_id"], row["state"]) for row in rows]
            self.was_woven(session, drawn, ids, told)
        self.agree(session)

    @rule(session=session_numbers, which=whiches, drawn=graphs, error=errors, result=results)
    def finish_with_next(
        self, session: int, which: int, drawn: Graph, error: str | None, result: Any
    ) -> None:
        job_id, token = self.pair(which, session)
        job, past = self.lease(session, job_id, token), self.past(session, job_id, token)
        if (job and job.recurring) or error == "long":
            return
        ids = self.outside(session, drawn)
        how = {"error": error, "result": result}
        refused = self.refuses_finish(job, past, error, result)
        waits = refused is None and self.waits_to_end(session, job_id, token, **how)
        named = {other for some in ids for other in some}
        held: set[int] = set()
        if job and named:
            below = graph.reached(self.world, session, [job_id], [job_id])
            held = {job_id} | named | graph.waiting(self.world, session, below)
            waits = waits or graph.is_any_held(self.world, session, held)
        trial = self.world.trial(session)
        adds = bool(job) and self.world.end(job, **how).state == "COMPLETED"
        if adds:
            trial.write(session, trial.end(job, **how))
            graph.settle(trial, session, [job_id], [])
            if not waits:
                refused = self.refuses_graph(trial, session, drawn, ids)
            if refused is None:
                waits = waits or self.key_is_in_the_balance(trial, session, drawn)
                if not waits and self.key_is_taken(trial, session, drawn):
                    refused = "RTC03"
        rows = self.call(
            session,
            waits,
            refused,
            "finish_job",
            job_id=job_id,
            token=token,
            error=error,
            result=None if result is None else Jsonb(result),
            next=Jsonb(self.document(drawn, ids)),
        )
        if rows is not None:
            told = (rows[0]["job_id"], rows[0]["state"], rows[0]["run_at"])
            if job is None:
                assert told == (job_id, past.job_state, past.next_run_at)
            else:
                view = self.world.view(session)
                self.world.lock(session, [i for i in held if view[i].state != "COMPLETED"])
                self.ends(session, job, told, **how)
            if adds:
                self.was_woven(session, drawn, ids, self.added(session), after=job_id)
                self.database.tally["next", "added"] += 1
        self.agree(session)

    def added(self, session: int) -> list[tuple[int, int, str]]:
        """The jobs of the latest workflow, which a finish added and did not name."""
        actual = self.database.jobs(self.database.sessions[session]).values()
        new = [job for job in actual if job.id not in self.seen]
        self.workflows.append(new[0].workflow)
        return sorted((job.id, job.workflow, job.state) for job in new)

    # -- operators

    def any_workflow(self, which: int) -> int:
        return self.workflows[-1 - which % len(self.workflows)] if which < 30 else 0

    def jobs_of(self, session: int, workflow: int) -> list[int]:
        view = self.world.view(session)
        return [job.id for job in view.values() if job.workflow == workflow]

    def is_steered(self, session: int, workflow: int) -> bool:
        """Whether another session has cancelled or retried the workflow."""
        return any(workflow in other.workflows for other in self.world.others(session))

    def steer(self, session: int, workflow: int) -> None:
        if layer := self.world.layer(session):
            layer.workflows.add(workflow)

    @precondition(lambda self: self.workflows)
    @rule(session=session_numbers, which=whiches, reason=st.sampled_from([None, "enough"]))
    def cancel_workflow(self, session: int, which: int, reason: str | None) -> None:
        workflow = self.any_workflow(which)
        jobs = self.jobs_of(session, workflow)
        touched = graph.touched_by_cancel(self.world, session, jobs)
        waits = bool(jobs) and (
            self.is_steered(session, workflow) or graph.is_any_held(self.world, session, touched)
        )
        rows = self.call(
            session,
            waits,
            None if jobs else "RTN01",
            "cancel_workflow",
            workflow_id=workflow,
            reason=reason,
        )
        if rows is not None:
            self.steer(session, workflow)
            ended = graph.cancel(self.world, session, jobs, reason)
            assert rows == [{"cancel_workflow": ended}]
        self.agree(session)

    @precondition(lambda self: self.workflows)
    @rule(session=session_numbers, which=whiches)
    def retry_workflow(self, session: int, which: int) -> None:
        workflow = self.any_workflow(which)
        jobs = self.jobs_of(session, workflow)
        refused = None if jobs else "RTN01"
        found, waits = graph.Revival(), False
        if jobs:
            found = graph.revival(self.world, session, jobs)
            waits, refused = self.revives(session, found)
            waits = waits or self.is_steered(session, workflow)
        rows = self.call(session, waits, refused, "retry_workflow", workflow_id=workflow)
        if rows is not None:
            self.steer(session, workflow)
            graph.revive(self.world, session, found)
            assert rows == [{"retry_workflow": len(found.back)}]
        self.agree(session)
