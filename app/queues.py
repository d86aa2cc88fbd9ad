"""Queues: look at, pause, resume, configure."""

import psycopg
from flask import Blueprint, Response
from psycopg import sql

from app.answers import answer, read_rows
from app.database import transaction
from app.errors import RequestError
from app.inputs import Field, integer, parse_fields, read_body, seconds
from db.gateway import call

blueprint = Blueprint("queues", __name__)

SETTINGS = {
    "max_retries": Field(integer),
    "backoff_base_seconds": Field(seconds, argument="backoff_base"),
    "backoff_cap_seconds": Field(seconds, argument="backoff_cap"),
    "timeout_seconds": Field(seconds, argument="timeout"),
}
QUEUES = sql.SQL(
    """
    select queue, paused_at, max_retries,
        extract(epoch from backoff_base)::float8 as backoff_base_seconds,
        extract(epoch from backoff_cap)::float8 as backoff_cap_seconds,
        extract(epoch from timeout)::float8 as timeout_seconds,
        scheduled, due, running, oldest_due_at
    from rota.queue_status
    """
)
ALL_QUEUES = QUEUES + sql.SQL("order by queue")
ONE_QUEUE = QUEUES + sql.SQL("where queue = %(queue)s")


@blueprint.get("/queues")
def list_queues() -> Response:
    """List the queues, their settings and the jobs that wait in them.

    A setting that is null was never set; the built-in default holds.
    ---
    tags: [queues]
    responses:
      200:
        description: All queues.
        content:
          application/json:
            schema: {$ref: "#/components/schemas/Queues"}
    """
    with transaction() as conn:
        return answer(queues=read_rows(conn, ALL_QUEUES))


@blueprint.post("/queues/<queue:queue>/pause")
def pause_queue(queue: str) -> Response:
    """Pause a queue.

    None of its jobs is claimed until it is resumed; running ones go on.
    ---
    tags: [queues]
    parameters:
      - $ref: "#/components/parameters/Queue"
    responses:
      200: {$ref: "#/components/responses/Queue"}
      422: {$ref: "#/components/responses/Invalid"}
    """
    parse_fields(read_body(), {})
    with transaction() as conn:
        call(conn, "pause_queue", queue=queue)
        return _answer_queue(conn, queue)


@blueprint.post("/queues/<queue:queue>/resume")
def resume_queue(queue: str) -> Response:
    """Resume a paused queue.

    ---
    tags: [queues]
    parameters:
      - $ref: "#/components/parameters/Queue"
    responses:
      200: {$ref: "#/components/responses/Queue"}
      422: {$ref: "#/components/responses/Invalid"}
    """
    parse_fields(read_body(), {})
    with transaction() as conn:
        call(conn, "resume_queue", queue=queue)
        return _answer_queue(conn, queue)


@blueprint.patch("/queues/<queue:queue>")
def configure_queue(queue: str) -> Response:
    """Change the settings of a queue.

    What jobs get that do not say themselves; a setting left out stays as it is.
    ---
    tags: [queues]
    parameters:
      - $ref: "#/components/parameters/Queue"
    requestBody:
      content:
        application/json:
          schema: {$ref: "#/components/schemas/QueueSettings"}
          example:
            max_retries: 5
            backoff_base_seconds: 2.5
            backoff_cap_seconds: 600
            timeout_seconds: 60
    responses:
      200: {$ref: "#/components/responses/Queue"}
    """
    settings = parse_fields(read_body(), SETTINGS)
    with transaction() as conn:
        call(conn, "configure_queue", queue=queue, **settings)
        return _answer_queue(conn, queue)


def _answer_queue(conn: psycopg.Connection, queue: str) -> Response:
    rows = read_rows(conn, ONE_QUEUE, {"queue": queue})
    if not rows:
        raise RequestError(404, f"there is no queue {queue}")
    return Response(rows[0] + "\n", mimetype="application/json")
