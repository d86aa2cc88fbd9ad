"""Workflows: jobs that wait for jobs, as a graph that the server draws and as a table.

The graph has one box for several jobs where there are many; who wants to know which these are asks
for the jobs of that box.
"""

from collections import defaultdict
from typing import Any

import psycopg
from flask import Blueprint, Response, redirect, request, url_for

from rota.app.errors import RequestError, invalid
from rota.app.inputs import Field, one_of, parse_fields, read_query, row_id, text
from rota.app.ui.frame import act, page, rows, say
from rota.app.ui.graph import MOST_SINGLE, Box, draw, layers_of
from rota.app.ui.search import Place, find_workflows
from rota.app.ui.words import number

blueprint = Blueprint("workflows", __name__)

ON_A_PAGE = 50
SECONDS = 0.5  # that a list is searched for
MOST_DRAWN = 5_000  # jobs of a workflow
MOST_EDGES = 200_000
MOST_LISTED = 200
MOST_NAMED = 12  # parents of a job, in the table
STATES = {
    "": "any",
    "RUNNING": "RUNNING",
    "FAILED": "FAILED",
    "CANCELLED": "CANCELLED",
    "COMPLETED": "COMPLETED",
}
COUNTS = ("waiting", "scheduled", "running", "completed", "failed", "cancelled")

STATUS = """
    select id, name, created_at, cancelled_at, waiting, scheduled, running, completed, failed,
        cancelled, state
    from rota.workflow_status
    where id = %(id)s
"""
# Where there are very many edges, of each job the last: ids grow along the edges, so these are the
# deepest.
NODES = """
    select n.job_id as id, n.node, n.task, n.state, n.queue, n.if_parent_fails, n.ended_by,
        cardinality(n.depends_on) as parents,
        case when sum(cardinality(n.depends_on)) over () <= %(edges)s then n.depends_on
            else n.depends_on[greatest(1, cardinality(n.depends_on) + 1 - %(of_each)s):]
        end as depends_on
    from (
        select *
        from rota.workflow_nodes
        where workflow_id = %(id)s
        order by job_id
        limit %(rows)s
    ) as n
    order by n.job_id
"""
OUTSIDE = """
    select id, task, state, queue
    from rota.jobs
    where id = any(%(ids)s::bigint[])
"""


@blueprint.get("/workflows")
def index() -> Response:
    """List workflows, the newest first."""
    if "" in request.args.values():  # of fields of the form that were left empty
        kept = {name: value for name, value in request.args.items() if value}
        return redirect(url_for(".index", **kept))
    asked = read_query(
        {
            "id": Field(row_id),
            "named": Field(text),
            "state": Field(one_of(*filter(None, STATES))),
            "before": Field(Place.parse),
        }
    )
    if "id" in asked:
        return redirect(url_for(".show", workflow_id=asked["id"]))
    before = asked.pop("before", None)
    if before is not None and before.at is None:
        raise invalid("before", "must be as the links of the pages have it")
    return page("workflows.html", lambda conn: _list(conn, asked, before))


def _list(conn: psycopg.Connection, asked: dict[str, Any], before: Place | None) -> dict[str, Any]:
    states = [asked["state"]] if "state" in asked else None
    found = find_workflows(
        conn, asked.get("named", "").strip() or None, states, ON_A_PAGE, SECONDS, before
    )
    more = url_for(".index", **asked, before=str(found.more)) if found.more else None
    return {
        "workflows": found.jobs,
        "stopped_at": found.stopped_at,
        "more": more,
        "asked": asked,
        "states": STATES,
        "is_first": before is None,
        "counts": COUNTS,
    }


@blueprint.get("/workflows/<id:workflow_id>")
def show(workflow_id: int) -> Response:
    """Show a workflow, and of the jobs of one box, or all of them, which they are."""
    asked = read_query(
        {
            "layer": Field(_place),
            "task": Field(text),
            "state": Field(text),
            "after": Field(row_id),
        }
    )
    return page("workflow.html", lambda conn: _read(conn, workflow_id, asked))


def _place(value: str) -> int:
    if not value.isdecimal() or not value.isascii() or len(value) > 9:
        raise ValueError("must be the number of a layer")
    return int(value)


def _read(conn: psycopg.Connection, workflow_id: int, asked: dict[str, Any]) -> dict[str, Any]:
    found = rows(conn, STATUS, id=workflow_id)
    if not found:
        raise RequestError(
            404,
            f"there is no workflow {workflow_id}",
            code="RTN01",
            hint="It is forgotten with the last of its jobs.",
        )
    [workflow] = found
    total = sum(workflow[name] for name in COUNTS)
    jobs = rows(
        conn,
        NODES,
        id=workflow_id,
        rows=MOST_DRAWN,
        edges=MOST_EDGES,
        of_each=MOST_EDGES // MOST_DRAWN,
    )
    known = {job["id"]: job for job in jobs}
    for job in jobs:
        job["is_outside"] = False
    outside = _outside(conn, jobs, known)
    every = sorted([*outside, *jobs], key=lambda job: job["id"])
    layers_of(every)
    graph = draw(every) if len(every) > 1 or outside else None
    names = {job["id"]: job["node"] for job in jobs if job["node"]}
    is_grouped = graph is not None and graph.is_grouped
    chosen = _chosen(jobs, asked, graph.band if graph else 1)
    is_chosen = bool(asked.keys() - {"after"})
    return {
        "workflow": workflow,
        "total": total,
        "drawn": len(jobs),
        "graph": graph,
        "is_live": any(workflow[name] for name in COUNTS[:3]),
        "retriable": workflow["failed"] + workflow["cancelled"],
        "live": sum(workflow[name] for name in COUNTS[:3]),
        "groups": [_group(box) for box in graph.boxes] if graph and is_grouped else [],
        "label": _label,
        "link": lambda box: _link(workflow_id, box),
        "jobs": chosen[:MOST_LISTED],
        "is_chosen": is_chosen,
        "chosen": len(chosen),
        "asked": asked,
        "more": chosen[MOST_LISTED - 1]["id"] if len(chosen) > MOST_LISTED else None,
        "shows_jobs": is_chosen or len(jobs) <= MOST_SINGLE or not is_grouped,
        "parents": lambda job: _parents(job, names),
        "counts": COUNTS,
    }


def _outside(
    conn: psycopg.Connection, jobs: list[dict[str, Any]], known: dict[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the jobs that are no part of it, on which some of it depends."""
    ids = sorted({parent for job in jobs for parent in job["depends_on"]} - known.keys())
    if not ids:
        return []
    found = {row["id"]: row for row in rows(conn, OUTSIDE, ids=ids[:MOST_DRAWN])}
    return [
        {
            "id": parent,
            "task": found.get(parent, {}).get("task"),
            "state": found.get(parent, {}).get("state"),
            "node": None,
            "depends_on": [],
            "is_outside": True,
        }
        for parent in ids[:MOST_DRAWN]
    ]


def _chosen(jobs: list[dict[str, Any]], asked: dict[str, Any], band: int) -> list[dict[str, Any]]:
    """Return the jobs that are asked for."""
    first = asked.get("layer")
    return [
        job
        for job in jobs
        if (first is None or first <= job["layer"] < first + band)
        and ("task" not in asked or job["task"] == asked["task"])
        and ("state" not in asked or job["state"] == asked["state"])
        and job["id"] > asked.get("after", 0)
    ]


def _label(box: Box) -> tuple[str, str]:
    """Return the two lines that stand in a box."""
    [first, *others] = box.jobs
    if others:
        return box.task or "several tasks", f"{number(len(box.jobs))} {box.state or 'jobs'}"
    name = first["node"] or first["task"] or "another job"
    if box.is_outside:
        return name, f"outside · {first['state'] or 'job ' + str(first['id'])}"
    return name, first["state"] or "no longer kept"


def _link(workflow_id: int, box: Box) -> str:
    """Return where a box leads: to its job, or to the list of its jobs."""
    if len(box.jobs) == 1:
        return url_for("ui.jobs.show", job_id=box.jobs[0]["id"])
    asked = {"layer": box.layer, "task": box.task, "state": box.state}
    return (
        url_for(
            ".show", workflow_id=workflow_id, **{k: v for k, v in asked.items() if v is not None}
        )
        + "#jobs"
    )


def _group(box: Box) -> dict[str, Any]:
    """Return the row of a box in the table of boxes."""
    states: dict[str, int] = defaultdict(int)
    for job in box.jobs:
        states[job["state"]] += 1
    return {
        "box": box,
        "layer": box.layer + 1,
        "jobs": len(box.jobs),
        "states": sorted(states.items(), key=lambda pair: -pair[1]),
    }


def _parents(job: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """Return the parents of a job that a table names, the last first where there are many."""
    shown = job["depends_on"][-MOST_NAMED:]
    return {
        "shown": [{"id": parent, "name": names.get(parent) or str(parent)} for parent in shown],
        "more": job["parents"] - len(shown),
    }


@blueprint.post("/workflows/<id:workflow_id>/cancel")
def cancel(workflow_id: int) -> Response:
    """Cancel what is live of it."""
    reason = request.form.get("reason", "").strip()
    arguments = parse_fields({"reason": reason} if reason else {}, {"reason": Field(text)})
    [done] = _steer("cancel_workflow", workflow_id, **arguments)
    ended = done["cancel_workflow"]
    said = (
        f"Workflow {workflow_id}: {number(ended)} {'job is' if ended == 1 else 'jobs are'}"
        " cancelled; those that run were asked to end."
    )
    return say(said, url_for(".show", workflow_id=workflow_id))


@blueprint.post("/workflows/<id:workflow_id>/retry")
def retry(workflow_id: int) -> Response:
    """Bring back what failed or was cancelled of it."""
    [done] = _steer("retry_workflow", workflow_id)
    back = done["retry_workflow"]
    said = f"Workflow {workflow_id}: {number(back)} {'job is' if back == 1 else 'jobs are'} back."
    return say(said, url_for(".show", workflow_id=workflow_id))


def _steer(function: str, workflow_id: int, **arguments: Any) -> list[dict[str, Any]]:
    """Do this to all of it; who sees a part of it only is told so."""
    try:
        return act(function, workflow_id=workflow_id, **arguments)
    except psycopg.Error as error:
        if error.sqlstate != "RTN01":
            raise
    raise RequestError(
        404,
        f"there is no workflow {workflow_id} of which you see all jobs",
        code="RTN01",
        hint="Who sees a part of a workflow can cancel and retry the jobs of that part.",
    )
