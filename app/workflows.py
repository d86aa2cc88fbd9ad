"""Workflows: jobs that wait for jobs. Add, list, look at, cancel, retry; what became of parents."""

from collections.abc import Callable
from typing import Any

import psycopg
from flask import Blueprint, Response, url_for
from psycopg import sql
from psycopg.types.json import Jsonb

from rota.app.answers import answer_page, moments, next_url, read_page, read_rows
from rota.app.database import transaction
from rota.app.errors import RequestError, invalid
from rota.app.inputs import (
    PAGE_SIZE,
    Field,
    one_of,
    parse_fields,
    read_body,
    read_query,
    row_id,
    rows_up_to,
    text,
    write_json,
)
from rota.app.jobs import IN_ORDER, LIMIT, ONE_TIME, one_time, set_times
from rota.app.repeats import Made, once
from rota.db.gateway import call

blueprint = Blueprint("workflows", __name__)

MOST_NODES = 1000  # in one answer


def parents(value: Any) -> Any:
    """Take on which jobs one depends: nodes and ids, or a word for several."""
    if value in ("all", "previous"):
        return value
    if not isinstance(value, list) or not all(type(it) in (str, int) for it in value):
        raise ValueError('must be a list of nodes and ids of jobs, or "all", or "previous"')
    return [text(it) if isinstance(it, str) else it for it in value]


NODE = {
    name: field for name, field in ONE_TIME.items() if name not in ("unique_for_seconds", "replace")
} | {
    "node": Field(text),
    "depends_on": Field(parents),
    "if_parent_fails": Field(one_of("cancel", "run")),
}


def nodes(where: str) -> Callable[[Any], list[dict[str, Any]]]:
    """Return a parser for the jobs of a workflow, which stand in that field."""

    def parse(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list):
            raise ValueError("must be a list of jobs")
        jobs = []
        for place, job in enumerate(value):
            within = f"{where}[{place}]"
            if not isinstance(job, dict):
                raise invalid(within, "must be an object")
            fields = parse_fields(job, NODE, "a job of a workflow", within=f"{within}.")
            jobs.append(one_time(fields, f"{within}."))
        return jobs

    return parse


def written(conn: psycopg.Connection, jobs: list[dict[str, Any]]) -> Jsonb:
    """Write the jobs of a workflow as the functions take them."""
    set_times(conn, jobs)
    return Jsonb(jobs, dumps=write_json)


STATUS = sql.SQL(
    """
    select id, name, state, {created_at}, {cancelled_at}, waiting, scheduled, running, completed,
        failed, cancelled
    from rota.workflow_status as w
    """
).format(**moments("created_at", "cancelled_at"))
NODES = sql.SQL(
    """
    select job_id, node, task, queue, state, depends_on, if_parent_fails, waits_for, ended_by
    from rota.workflow_nodes
    where workflow_id = %(id)s and job_id > %(after)s
    order by job_id
    """
)


@blueprint.post("/workflows")
def enqueue_workflow() -> Made | Response:
    """Add jobs that wait for one another, all or none.

    A job may depend on such as stand before it, by their `node`, and on any jobs that there are, by
    their ids: it is WAITING until the last of these has ended. Where one ends FAILED or CANCELLED,
    what depends on it is CANCELLED, or runs all the same: `if_parent_fails`.
    ---
    tags: [workflows]
    operationId: enqueueWorkflow
    security: [producer]
    parameters:
      - $ref: "#/components/parameters/IdempotencyKey"
    requestBody:
      required: true
      json: NewWorkflow
      examples:
        graph:
          summary: Two loads at once between an extract and a report
          value:
            name: nightly
            jobs:
              - {task: echo, node: extract}
              - {task: echo, node: eu, depends_on: [extract], payload: {region: eu}}
              - {task: echo, node: us, depends_on: [extract], payload: {region: us}}
              - {task: echo, node: report, depends_on: [eu, us]}
              - {task: echo, depends_on: all, if_parent_fails: run}
        chain:
          summary: One after the other
          value:
            jobs:
              - {task: echo, payload: {step: 1}}
              - {task: echo, payload: {step: 2}, depends_on: previous}
    responses:
      201:
        description: The jobs, in the order of the request.
        headers: {Location: {$ref: "#/components/headers/Location"}}
        json: CreatedWorkflow
      404: {code: RTN01, message: there is no job 1}
      422: {code: RTV01, message: "jobs[1].task: is required"}
    """
    fields = {"name": Field(text), "jobs": Field(nodes("jobs"), required=True)}
    arguments = parse_fields(read_body(), fields)

    def make(conn: psycopg.Connection) -> Made:
        jobs = written(conn, arguments.pop("jobs"))
        rows = call(conn, "enqueue_workflow", jobs=jobs, **arguments)
        workflow_id = rows[0]["workflow_id"]
        for row in rows:
            del row["workflow_id"]
        location = url_for("workflows.get_workflow", workflow_id=workflow_id)
        return {"workflow_id": workflow_id, "jobs": rows}, 201, {"Location": location}

    return once(make)


@blueprint.get("/workflows")
def list_workflows() -> Response:
    """List workflows, the newest first.

    How many of its jobs are in which state, and what is its own: RUNNING while any is live, else
    FAILED, CANCELLED or COMPLETED, the worst first.
    ---
    tags: [workflows]
    operationId: listWorkflows
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/Limit"
      - name: before
        in: query
        description: Only workflows with a lower id; `next` has it set.
        schema: {type: integer, format: int64, minimum: 0}
    responses:
      200:
        description: A page of workflows.
        json: Workflows
    """
    query = read_query(LIMIT | {"before": Field(row_id)})
    limit = query.pop("limit", PAGE_SIZE)
    select = sql.SQL("{} {} order by w.id desc").format(
        STATUS, sql.SQL("where w.id < %(before)s" if query else "")
    )
    with transaction() as conn:
        conn.execute(IN_ORDER)  # or those of all pages would be counted
        workflows, last = read_page(conn, select, query, limit, sql.SQL("r.id"))
    return answer_page("workflows", workflows, next_url(last))


@blueprint.get("/workflows/<id:workflow_id>")
def get_workflow(workflow_id: int) -> Response:
    """Look at a workflow and its jobs.

    The first 1,000 of them, in the order in which they were added, unless `limit` says less; `next`
    leads on. `waits_for` are those parents that have not ended yet, `ended_by` is the job whose end
    cancelled this one, and whose retry brings it back.
    ---
    tags: [workflows]
    operationId: getWorkflow
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/WorkflowId"
      - name: limit
        in: query
        description: How many jobs to return at most.
        schema: {type: integer, minimum: 1, maximum: 1000}
      - name: after
        in: query
        description: Only jobs with a higher id; `next` has it set.
        schema: {type: integer, format: int64, minimum: 0}
    responses:
      200:
        description: The workflow.
        json: Workflow
      422: {code: RTV01, message: "limit: must be a whole number from 1 to 1000"}
    """
    query = read_query({"limit": Field(rows_up_to(MOST_NODES)), "after": Field(row_id)})
    limit = query.pop("limit", MOST_NODES)
    arguments = {"id": workflow_id, "after": query.get("after", 0)}
    with transaction() as conn:
        found = read_rows(conn, STATUS + sql.SQL("where w.id = %(id)s"), arguments)
        if not found:
            raise _not_found(workflow_id)
        jobs, last = read_page(conn, NODES, arguments, limit, sql.SQL("r.job_id"))
    page = answer_page("jobs", jobs, next_url(last, "after")).get_data(as_text=True)
    return Response(f"{found[0][:-1]},{page[1:]}", mimetype="application/json")


@blueprint.post("/workflows/<id:workflow_id>/cancel")
def cancel_workflow(workflow_id: int) -> dict[str, Any]:
    """Cancel what is left of a workflow.

    What does not run ends at once, also what was to run when others fail. What runs is asked to
    stop, as with `POST /jobs/{job_id}/cancel`.
    ---
    tags: [workflows]
    operationId: cancelWorkflow
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/WorkflowId"
    requestBody:
      json: Cancellation
      example: {reason: not needed any more}
    responses:
      200:
        description: How many jobs have ended by it.
        json: CancelledWorkflow
      422: {code: RTV01, message: "reason: must be a string"}
    """
    arguments = parse_fields(read_body(), {"reason": Field(text)})
    with transaction() as conn:
        (ended,) = call(conn, "cancel_workflow", workflow_id=workflow_id, **arguments)
    return {"cancelled": ended["cancel_workflow"]}


@blueprint.post("/workflows/<id:workflow_id>/retry")
def retry_workflow(workflow_id: int) -> dict[str, Any]:
    """Run again those jobs of a workflow that are FAILED or CANCELLED.

    Those whose parents are among them wait for these again. What is COMPLETED stays as it is.
    ---
    tags: [workflows]
    operationId: retryWorkflow
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/WorkflowId"
    responses:
      200:
        description: How many jobs are back.
        json: RetriedWorkflow
    """
    parse_fields(read_body(), {})
    with transaction() as conn:
        (back,) = call(conn, "retry_workflow", workflow_id=workflow_id)
    return {"retried": back["retry_workflow"]}


@blueprint.get("/jobs/<id:job_id>/parents")
def list_parents(job_id: int) -> Response:
    """List what became of the jobs on which a job depends.

    Their results, too, or their last errors. Of a parent that history does not hold any more only
    the id is known.
    ---
    tags: [workflows]
    operationId: listParents
    security: [worker, operator, reader]
    parameters:
      - $ref: "#/components/parameters/JobId"
      - $ref: "#/components/parameters/Limit"
      - name: after
        in: query
        description: Only parents with a higher id; `next` has it set.
        schema: {type: integer, format: int64, minimum: 0}
    responses:
      200:
        description: A page of parents, the oldest first.
        json: Parents
    """
    query = read_query(LIMIT | {"after": Field(row_id)})
    select = sql.SQL(
        """
        select job_id, node, state, result, error
        from rota.parent_results(job_id => %(id)s)
        where job_id > %(after)s
        order by job_id
        """
    )
    arguments = {"id": job_id, "after": query.get("after", 0)}
    with transaction() as conn:
        found, last = read_page(
            conn, select, arguments, query.get("limit", PAGE_SIZE), sql.SQL("r.job_id")
        )
    return answer_page("parents", found, next_url(last, "after"))


def _not_found(workflow_id: int) -> RequestError:
    return RequestError(404, f"there is no workflow {workflow_id}", code="RTN01")
