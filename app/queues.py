"""Queues: look at, pause, resume, configure, delete."""

import psycopg
from flask import Blueprint, Response
from psycopg import sql

from rota.app.answers import OWN_QUEUE, answer_page, moments, next_url, read_page, read_rows
from rota.app.database import transaction
from rota.app.errors import RequestError
from rota.app.inputs import (
    PAGE_SIZE,
    Field,
    integer,
    parse_fields,
    read_body,
    read_query,
    rows_up_to,
    seconds,
    text,
)
from rota.db.gateway import call

blueprint = Blueprint("queues", __name__)

SETTINGS = {
    "max_retries": Field(integer),
    "backoff_base_seconds": Field(seconds, argument="backoff_base"),
    "backoff_cap_seconds": Field(seconds, argument="backoff_cap"),
    "timeout_seconds": Field(seconds, argument="timeout"),
}
QUEUES = sql.SQL(
    """
    select queue, {paused_at}, max_retries,
        extract(epoch from backoff_base)::float8 as backoff_base_seconds,
        extract(epoch from backoff_cap)::float8 as backoff_cap_seconds,
        extract(epoch from timeout)::float8 as timeout_seconds,
        scheduled, due, running, {oldest_due_at}
    from rota.queue_status
    """
).format(**moments("paused_at", "oldest_due_at"))
ONE_QUEUE = QUEUES + sql.SQL("where queue = %(queue)s and") + OWN_QUEUE


@blueprint.get("/queues")
def list_queues() -> Response:
    """List the queues by name, their settings and the jobs that wait in them.

    A setting that is null was never set; the built-in default holds.
    ---
    tags: [queues]
    operationId: listQueues
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/Limit"
      - $ref: "#/components/parameters/AfterQueue"
    responses:
      200:
        description: A page of queues.
        json: Queues
    """
    query = read_query({"limit": Field(rows_up_to(200)), "after": Field(text)})
    limit = query.pop("limit", PAGE_SIZE)
    select = sql.SQL("{} {} order by queue").format(
        QUEUES, sql.SQL("where queue > %(after)s" if query else "")
    )
    with transaction() as conn:
        queues, last = read_page(conn, select, query, limit, sql.SQL("r.queue"))
    return answer_page("queues", queues, next_url(last, "after"))


@blueprint.get("/queues/<queue:queue>")
def get_queue(queue: str) -> Response:
    """Look at a queue.

    ---
    tags: [queues]
    operationId: getQueue
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/Queue"
    responses:
      200: {description: The queue., json: Queue}
      404: {code: RTN03, message: there is no queue default}
    """
    with transaction() as conn:
        return _answer_queue(conn, queue)


@blueprint.delete("/queues/<queue:queue>")
def delete_queue(queue: str) -> tuple[str, int]:
    """Forget a queue without live jobs.

    Its settings and its pause go with it; the history of its jobs stays. It begins anew with the
    next job that is added to it.
    ---
    tags: [queues]
    operationId: deleteQueue
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/OldQueue"
    responses:
      204: {description: It is gone.}
      404:
        code: RTN03
        message: there is no queue old-mail
        hint: A queue begins with its first job, or with configure_queue.
      409:
        code: RTC01
        message: queue old-mail has live jobs
        hint: Let them end, or cancel them, and then delete the queue.
    """
    parse_fields(read_body(), {})
    with transaction() as conn:
        call(conn, "delete_queue", queue=queue)
    return "", 204


@blueprint.post("/queues/<queue:queue>/pause")
def pause_queue(queue: str) -> Response:
    """Pause a queue.

    None of its jobs is claimed until it is resumed; running ones go on. A name that nobody uses is
    not found; to pause a queue before its first job, change its settings first.
    ---
    tags: [queues]
    operationId: pauseQueue
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/Queue"
    responses:
      200: {$ref: "#/components/responses/PausedQueue"}
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
    operationId: resumeQueue
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/Queue"
    responses:
      200: {description: The queue as it is now., json: Queue}
    """
    parse_fields(read_body(), {})
    with transaction() as conn:
        call(conn, "resume_queue", queue=queue)
        return _answer_queue(conn, queue)


@blueprint.patch("/queues/<queue:queue>")
def configure_queue(queue: str) -> Response:
    """Change the settings of a queue, or make it.

    What jobs get that do not say themselves. A setting left out stays as it is, one that is null
    goes back to the built-in default.
    ---
    tags: [queues]
    operationId: configureQueue
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/Queue"
    requestBody:
      json: QueueSettings
      example:
        max_retries: 5
        backoff_base_seconds: 2.5
        backoff_cap_seconds: 600
        timeout_seconds: 60
    responses:
      200: {description: The queue as it is now., json: Queue}
      404: {$ref: "#/components/responses/NotFound"}
      422: {code: RTV01, message: "timeout_seconds: must be more than 0"}
    """
    body = read_body()
    settings = parse_fields(body, SETTINGS)
    unset = [SETTINGS[name].argument or name for name, value in body.items() if value is None]
    with transaction() as conn:
        call(conn, "configure_queue", queue=queue, **settings, unset=unset)
        return _answer_queue(conn, queue)


def _answer_queue(conn: psycopg.Connection, queue: str) -> Response:
    rows = read_rows(conn, ONE_QUEUE, {"queue": queue})
    if not rows:
        raise RequestError(404, f"there is no queue {queue}", code="RTN03")
    return Response(rows[0] + "\n", mimetype="application/json")
