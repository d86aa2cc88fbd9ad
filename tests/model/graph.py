"""What Rota promises about jobs that depend on jobs, in the model; see rota._settle.

An edge leads from a parent to a child as long as the parent has not ended. Whoever changes how many
edges lead to a WAITING job holds the job, as whoever writes it does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tests.model.world import ENDED, Edge, Job, World

BAD = ("FAILED", "CANCELLED")


def reached(world: World, session: int, parents: Iterable[int], failed: Iterable[int]) -> set[int]:
    """The jobs that change when these parents end, some of them failed."""
    view, edges = world.view(session), world.edges(session)
    parents, failed = set(parents), set(failed)
    doomed: set[int] = set()
    while True:
        more = {
            child
            for parent, child in edges
            if parent in doomed | (parents & failed) and view[child].if_parent_fails == "cancel"
        }
        if more == doomed:
            return {child for parent, child in edges if parent in parents | doomed}
        doomed = more


def waiting(world: World, session: int, job_ids: Iterable[int]) -> set[int]:
    """Those of these jobs that wait for others."""
    view = world.view(session)
    return {job_id for job_id in job_ids if job_id in view and view[job_id].state == "WAITING"}


def is_any_held(world: World, session: int, job_ids: Iterable[int]) -> bool:
    """Whether another session holds one of these; one that completed nobody holds."""
    view = world.view(session)
    return any(
        job_id in view and view[job_id].state != "COMPLETED" and world.is_held(session, job_id)
        for job_id in job_ids
    )


def settle(world: World, session: int, ended: Iterable[int], failed: Iterable[int]) -> None:
    """Free or cancel what depends on jobs that have ended."""
    ended, failed = set(ended), set(failed)
    world.lock(session, waiting(world, session, reached(world, session, ended, failed)))
    while ended:
        view = world.view(session)
        settled = {edge for edge in world.edges(session) if edge[0] in ended}
        world.cut(session, settled)
        causes: dict[int, int] = {}
        for parent, child in sorted(settled, reverse=True):
            if parent in failed and view[child].if_parent_fails == "cancel":
                causes[child] = parent
        open_to = {child for _, child in world.edges(session)}
        for child in {child for _, child in settled} - causes.keys() - open_to:
            if view[child].state == "WAITING":
                run_at = max(view[child].scheduled_for, world.now)
                world.write(session, replace(view[child], state="SCHEDULED", run_at=run_at))
        for child, cause in causes.items():
            if view[child].state == "WAITING":
                reason = f"job {cause}, on which it depends, did not complete"
                gone = replace(world.cancel(view[child], reason), ended_by=cause)
                world.write(session, gone)
        ended = failed = set(causes)


def end(world: World, session: int, jobs: Iterable[Job]) -> None:
    """Settle what depends on those of these jobs that have ended by one call."""
    ended = [job for job in jobs if job.state in ENDED]
    settle(world, session, [job.id for job in ended], [job.id for job in ended if job.state in BAD])


def waits_to_end(world: World, session: int, jobs: Iterable[Job]) -> bool:
    """Whether the end of these jobs waits for somebody who holds what depends on them."""
    ended = [job for job in jobs if job.state in ENDED]
    failed = [job.id for job in ended if job.state in BAD]
    below = reached(world, session, [job.id for job in ended], failed)
    return is_any_held(world, session, waiting(world, session, below))


# -- cancel


def touched_by_cancel(world: World, session: int, job_ids: Iterable[int]) -> set[int]:
    """The live jobs that a cancel of these holds."""
    view, job_ids = world.view(session), set(job_ids)
    below = waiting(world, session, reached(world, session, job_ids, job_ids))
    return below | {job_id for job_id in job_ids if job_id in view and view[job_id].live}


def cancel(world: World, session: int, job_ids: Iterable[int], reason: str | None) -> int:
    """Cancel jobs by one call, and what depends on them; return how many of them have ended."""
    view, job_ids = world.view(session), set(job_ids)
    world.lock(session, touched_by_cancel(world, session, job_ids))
    cancelled = [world.cancel(view[job_id], reason) for job_id in job_ids if view[job_id].live]
    for job in cancelled:
        world.write(session, job)
    end(world, session, cancelled)
    return sum(job.state == "CANCELLED" for job in cancelled)


# -- retry


@dataclass
class Revival:
    """What a retry brings back."""

    held: set[int] = field(default_factory=set)
    back: set[int] = field(default_factory=set)
    causes: dict[int, int] = field(default_factory=dict)  # with whom the others have gone down now
    edges: set[Edge] = field(default_factory=set)


def is_of_workflow(world: World, session: int, job_ids: Iterable[int]) -> bool:
    """Whether one of these is of a workflow, or has taken one down that is."""
    view, job_ids = world.view(session), set(job_ids)
    return any(
        job.ended_by in job_ids or (job.id in job_ids and job.workflow is not None)
        for job in view.values()
    )


def revival(world: World, session: int, job_ids: Iterable[int]) -> Revival:
    """What a retry of these jobs, of which some are of workflows, will do; see _revivable."""
    view = world.view(session)
    family = set(job_ids)
    while more := {job.id for job in view.values() if job.ended_by in family} - family:
        family |= more
    concerned = family | {p for i in family if i in view for p in view[i].depends_on}
    held = {i for i in concerned if i in view and view[i].state != "COMPLETED"}
    bad = {i for i in held if view[i].state in BAD}
    back, bad = bad & family, bad - family
    found = Revival(held=held)

    keys = set()
    left = set()
    for i in sorted(back):
        if view[i].workflow is not None and view[i].unique_key is not None:
            if view[i].key_of_queue in keys:
                left.add(i)
            keys.add(view[i].key_of_queue)
    while True:
        bad |= left
        back -= left
        stays = {
            i: min(causes)
            for i in back
            if view[i].if_parent_fails == "cancel" and (causes := bad & set(view[i].depends_on))
        }
        found.causes |= {i: cause for i, cause in stays.items() if view[i].ended_by is not None}
        left = set(stays)
        if not left:
            break
    found.back = back
    live = {i for i in held if view[i].live} | back
    found.edges = {(p, i) for i in back for p in view[i].depends_on if p in live}
    return found


def revive(world: World, session: int, found: Revival) -> None:
    """Bring jobs back, to wait for those of their parents that live."""
    view = world.view(session)
    world.lock(session, found.held)
    for i, cause in found.causes.items():
        world.write(session, replace(view[i], ended_by=cause))
    wait = {child for _, child in found.edges}
    for i in found.back:
        job = replace(world.retry(view[i]), ended_by=None)
        if i in wait:
            job = replace(job, state="WAITING", run_at=None)
        world.write(session, job)
    for parent in {parent for parent, _ in found.edges} - found.back:
        world.write(session, view[parent])  # it is marked, as one on which others depend
    world.lead(session, found.edges)
