"""Steps: what a job has done so far, sleeps without a worker, events that jobs await and get.

A worker asks, with the token of its lease. Whoever hands its job back by one of these holds it no
more, and finds what it had recorded when the job is claimed again.
"""

import re
from typing import Any

from flask import Blueprint, Response
from psycopg import sql

from rota.app.answers import answer_page, answer_row, call_rows, moments, next_url, read_page
from rota.app.database import transaction
from rota.app.inputs import (
    PAGE_SIZE,
    Field,
    instant,
    json_value,
    parse_fields,
    read_body,
    read_query,
    seconds_from_zero,
    text,
)
from rota.app.jobs import LIMIT
from rota.app.work import HELD
from rota.db.gateway import call

blueprint = Blueprint("steps", __name__)

STEP = HELD | {"step": Field(text, required=True)}
RECORD = STEP | {"result": Field(json_value)}
SLEEP = STEP | {"delay_seconds": Field(seconds_from_zero, argument="delay", required=True)}
AWAIT = STEP | {
    "event": Field(text, required=True),
    "timeout_seconds": Field(seconds_from_zero, argument="timeout", required=True),
}
EVENT = {"payload": Field(json_value)}

STEPS = sql.SQL(
    """
    select step, result, {recorded_at}
    from rota.recorded_steps(job_id => %(id)s) as s
    {after}
    order by s.recorded_at, s.step collate "C"
    """
)
AFTER = sql.SQL(
    """where (s.recorded_at, s.step collate "C") > (%(at)s::timestamptz, %(step)s::text)"""
)
POSITION = sql.SQL("r.recorded_at || ',' || r.step")


def step_position(value: str) -> dict[str, Any]:
    """Take a position that POSITION has written."""
    position = re.fullmatch(r"([0-9T:.+-]{1,40}),([^\x00]{1,200})", value)
    if position is None:
        raise ValueError("must be as the link to the next page has it")
    return {"at": instant(position[1]), "step": position[2]}


@blueprint.get("/jobs/<id:job_id>/steps")
def list_steps(job_id: int) -> Response:
    """List the steps that a job has recorded so far.

    Those of its present run, and after its end of the last; of a job that runs once all of them.
    ---
    tags: [steps]
    operationId: listSteps
    security: [worker, operator, reader]
    parameters:
      - $ref: "#/components/parameters/JobId"
      - $ref: "#/components/parameters/Limit"
      - name: after
        in: query
        description: Where the page starts; `next` has it set.
        schema: {type: string, format: step-cursor}
    responses:
      200:
        description: A page of steps, in their order.
        json: Steps
    """
    query = read_query(LIMIT | {"after": Field(step_position)})
    after = query.get("after")
    select = STEPS.format(after=AFTER if after else sql.SQL(""), **moments("recorded_at"))
    arguments = {"id": job_id} | (after or {})
    with transaction() as conn:
        steps, last = read_page(conn, select, arguments, query.get("limit", PAGE_SIZE), POSITION)
    return answer_page("steps", steps, next_url(last, "after"))


@blueprint.post("/jobs/<id:job_id>/steps")
def record_step(job_id: int) -> Response:
    """Record that a step of a job is done, unless that is recorded.

    The first result that is recorded for a step stays, and is what is answered.
    ---
    tags: [steps]
    operationId: recordStep
    security: [worker]
    parameters:
      - $ref: "#/components/parameters/JobId"
    requestBody:
      required: true
      json: StepToRecord
      example:
        token: 3f333df6-90a4-4fda-8dd3-9485d27cee36
        step: charge
        result: {charge: ch_7}
    responses:
      200: {description: What is recorded., json: RecordedStep}
      404: {$ref: "#/components/responses/NotFound"}
      409: {$ref: "#/components/responses/LeaseLost"}
      422: {code: RTV01, message: "step: is required"}
    """
    arguments = parse_fields(read_body(), RECORD)
    with transaction() as conn:
        (row,) = call_rows(
            conn, "record_step as result", {}, "record_step", job_id=job_id, **arguments
        )
    return answer_row(row)


@blueprint.post("/jobs/<id:job_id>/sleep")
def sleep_job(job_id: int) -> Response:
    """Hand a job back for some time, as one of its steps; the attempt is not charged.

    It wakes so many seconds after the step was reached for the first time. `RUNNING` means that
    this time has come: the job is held still, and goes on.
    ---
    tags: [steps]
    operationId: sleepJob
    security: [worker]
    parameters:
      - $ref: "#/components/parameters/JobId"
    requestBody:
      required: true
      json: Sleep
      example:
        token: 3f333df6-90a4-4fda-8dd3-9485d27cee36
        step: a day later
        delay_seconds: 86400
    responses:
      200: {description: What became of the job., json: JobOutcome}
      404: {$ref: "#/components/responses/NotFound"}
      409: {$ref: "#/components/responses/LeaseLost"}
      422: {code: RTV01, message: "step: is required"}
    """
    arguments = parse_fields(read_body(), SLEEP)
    with transaction() as conn:
        (outcome,) = call_rows(
            conn, "job_id, state, {run_at}", moments("run_at"), "sleep_job", job_id=job_id,
            **arguments,
        )  # fmt: skip
    return answer_row(outcome)


@blueprint.post("/jobs/<id:job_id>/await")
def await_event(job_id: int) -> Response:
    """Take the payload of an event, or hand a job back until it comes, as one of its steps.

    `ARRIVED` and `TIMED_OUT` are recorded with the step: the job is held still, and goes on. With
    `RELEASED` it is not; it is due again when the event comes, or when so many seconds have passed
    since the step was reached for the first time. With `CANCELLED` it has ended.
    ---
    tags: [steps]
    operationId: awaitEvent
    security: [worker]
    parameters:
      - $ref: "#/components/parameters/JobId"
    requestBody:
      required: true
      json: Await
      example:
        token: 3f333df6-90a4-4fda-8dd3-9485d27cee36
        step: payment
        event: "paid:7"
        timeout_seconds: 86400
    responses:
      200: {description: "Whether it has come, and its payload.", json: AwaitedEvent}
      404: {$ref: "#/components/responses/NotFound"}
      409: {$ref: "#/components/responses/LeaseLost"}
      422: {code: RTV01, message: "step: is required"}
    """
    arguments = parse_fields(read_body(), AWAIT)
    with transaction() as conn:
        (event,) = call_rows(conn, "state, payload", {}, "await_event", job_id=job_id, **arguments)
    return answer_row(event)


@blueprint.post("/events/<name:event>")
def emit_event(event: str) -> dict[str, Any]:
    """Tell jobs that an event has come.

    Those that await it now are due at once, those that await it later need not wait. What is told
    first of a name counts, and all that is told of it afterwards changes nothing, so a name has an
    id in it.
    ---
    tags: [steps]
    operationId: emitEvent
    security: [producer, operator]
    parameters:
      - $ref: "#/components/parameters/Event"
    requestBody:
      json: NewEvent
      example: {payload: {amount: 12.5}}
    responses:
      200: {description: How many jobs waited for it., json: EmittedEvent}
      404: {$ref: "#/components/responses/NotFound"}
      422:
        code: RTV01
        message: "paid: is not a field of this request"
        hint: Its fields are payload.
    """
    arguments = parse_fields(read_body(), EVENT)
    with transaction() as conn:
        (woken,) = call(conn, "emit_event", event=event, **arguments)
    return {"woken": woken["emit_event"]}
