"""Queues: look at, pause, resume, configure, delete; limits of their keys."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import psycopg
from flask import Blueprint, Response
from psycopg import sql

from rota.app.answers import (
    OWN_QUEUE,
    answer_page,
    answer_row,
    moments,
    next_url,
    read_page,
    read_rows,
)
from rota.app.database import transaction
from rota.app.errors import RequestError
from rota.app.inputs import (
    PAGE_SIZE,
    Field,
    boolean,
    integer,
    parse_fields,
    read_body,
    read_query,
    rows_up_to,
    seconds,
    seconds_from_zero,
    text,
)
from rota.db.gateway import call

blueprint = Blueprint("queues", __name__)

HOUR = 3600  # seconds


def kept(value: Any) -> timedelta:
    """Take for how long something is kept; what rounding would make an hour is none."""
    span = seconds(value)
    if value < HOUR:
        raise ValueError("must be from 1 hour to 100 years")
    return span


def kept_if_at_all(value: Any) -> timedelta:
    """Take for how long something is kept, or 0."""
    return seconds_from_zero(value) if value == 0 else kept(value)


SETTINGS = {
    "max_retries": Field(integer),
    "backoff_base_seconds": Field(seconds, argument="backoff_base"),
    "backoff_cap_seconds": Field(seconds, argument="backoff_cap"),
    "timeout_seconds": Field(seconds, argument="timeout"),
    "max_running": Field(integer),
    "max_starts": Field(integer),
    "starts_period_seconds": Field(seconds, argument="starts_period"),
    "key_max_running": Field(integer),
    "key_max_starts": Field(integer),
    "key_starts_period_seconds": Field(seconds, argument="key_starts_period"),
    "key_in_order": Field(boolean),
    "keep_completed_seconds": Field(kept_if_at_all, argument="keep_completed"),
    "keep_failed_seconds": Field(kept, argument="keep_failed"),
}
LIMITS = {name: SETTINGS[name] for name in ("max_running", "max_starts", "starts_period_seconds")}
QUEUES = sql.SQL(
    """
    select queue, {paused_at}, max_retries,
        extract(epoch from backoff_base)::float8 as backoff_base_seconds,
        extract(epoch from backoff_cap)::float8 as backoff_cap_seconds,
        extract(epoch from timeout)::float8 as timeout_seconds,
        max_running, max_starts, extract(epoch from starts_period)::float8 as starts_period_seconds,
        key_max_running, key_max_starts,
        extract(epoch from key_starts_period)::float8 as key_starts_period_seconds, key_in_order,
        extract(epoch from keep_completed)::float8 as keep_completed_seconds,
        extract(epoch from keep_failed)::float8 as keep_failed_seconds,
        scheduled, due, running, {oldest_due_at}, waiting
    from rota.queue_status
    """
).format(**moments("paused_at", "oldest_due_at"))
ONE_QUEUE = QUEUES + sql.SQL("where queue = %(queue)s and") + OWN_QUEUE
IS_QUEUE = sql.SQL("select from rota.queue_status where queue = %(queue)s and") + OWN_QUEUE
KEYS = sql.SQL(
    """
    select key, max_running, max_starts,
        extract(epoch from starts_period)::float8 as starts_period_seconds
    from rota.key_limits
    where queue = %(queue)s
    """
)
NO_LIMITS = sql.SQL(
    """
    select %(key)s::text as key, null as max_running, null as max_starts,
        null as starts_period_seconds
    """
)


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

    What jobs get that do not say themselves, and limits: how many jobs may run at once in all
    workers together, and start in any such time, of the queue and of each key in it. A setting left
    out stays as it is, one that is null goes back to the built-in default, which for a limit is
    none.
    ---
    tags: [queues]
    operationId: configureQueue
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/Queue"
    requestBody:
      json: QueueSettings
      examples:
        defaults:
          summary: What jobs get that do not say themselves
          value:
            max_retries: 5
            backoff_base_seconds: 2.5
            backoff_cap_seconds: 600
            timeout_seconds: 60
        limits:
          summary: 50 jobs at once and 5 of each key, of which 100 may start a minute
          value:
            max_running: 50
            key_max_running: 5
            key_max_starts: 100
            key_starts_period_seconds: 60
    responses:
      200: {description: The queue as it is now., json: Queue}
      404: {$ref: "#/components/responses/NotFound"}
      422: {code: RTV01, message: "timeout_seconds: must be more than 0"}
    """
    settings = _read_settings(SETTINGS)
    with transaction() as conn:
        call(conn, "configure_queue", queue=queue, **settings)
        return _answer_queue(conn, queue)


@blueprint.get("/queues/<queue:queue>/keys")
def list_keys(queue: str) -> Response:
    """List the keys of a queue that have limits of their own.

    All other keys have those that the queue has for each key, and so has one of these where it says
    null.
    ---
    tags: [queues]
    operationId: listKeys
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/Queue"
      - $ref: "#/components/parameters/Limit"
      - $ref: "#/components/parameters/AfterKey"
    responses:
      200:
        description: A page of keys.
        json: Keys
    """
    query = read_query({"limit": Field(rows_up_to(200)), "after": Field(text)})
    limit = query.pop("limit", PAGE_SIZE)
    select = sql.SQL("{} {} order by key").format(
        KEYS, sql.SQL("and key > %(after)s" if query else "")
    )
    with transaction() as conn:
        if not read_rows(conn, IS_QUEUE, {"queue": queue}):
            raise _not_found(queue)
        keys, last = read_page(conn, select, query | {"queue": queue}, limit, sql.SQL("r.key"))
    return answer_page("keys", keys, next_url(last, "after"))


@blueprint.patch("/queues/<queue:queue>/keys/<key:key>")
def configure_key(queue: str, key: str) -> Response:
    """Change the limits of one key of a queue.

    In place of those that the queue has for each key. A limit left out stays as it is, one that is
    null is the queue's again.
    ---
    tags: [queues]
    operationId: configureKey
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/Queue"
      - $ref: "#/components/parameters/Key"
    requestBody:
      json: KeySettings
      example: {max_running: 20, max_starts: 500, starts_period_seconds: 60}
    responses:
      200: {description: The limits of its own that the key has now., json: Key}
      404: {$ref: "#/components/responses/NotFound"}
      422: {code: RTV01, message: "starts_period_seconds: must be more than 0"}
    """
    limits = _read_settings(LIMITS)
    with transaction() as conn:
        call(conn, "configure_key", queue=queue, key=key, **limits)
        arguments = {"queue": queue, "key": key}
        found = read_rows(conn, KEYS + sql.SQL("and key = %(key)s"), arguments)
        (row,) = found or read_rows(conn, NO_LIMITS, arguments)
    return answer_row(row)


@blueprint.delete("/queues/<queue:queue>/keys/<key:key>")
def delete_key(queue: str, key: str) -> tuple[str, int]:
    """Take the limits of its own from a key.

    From then on it has those that the queue has for each key; its jobs stay as they are.
    ---
    tags: [queues]
    operationId: deleteKey
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/Queue"
      - $ref: "#/components/parameters/Key"
    responses:
      204: {description: It has none of its own.}
    """
    parse_fields(read_body(), {})
    unset = [field.argument or name for name, field in LIMITS.items()]
    with transaction() as conn:
        is_queue = read_rows(conn, IS_QUEUE, {"queue": queue})
        call(conn, "configure_key", queue=queue, key=key, unset=unset)
        if not is_queue:  # now it would be one
            raise _not_found(queue)
    return "", 204


def _read_settings(fields: Mapping[str, Field]) -> dict[str, Any]:
    """Read settings from the body; those that are null there are to be unset."""
    body = read_body()
    settings = parse_fields(body, fields)
    unset = [fields[name].argument or name for name, value in body.items() if value is None]
    return settings | {"unset": unset}


def _answer_queue(conn: psycopg.Connection, queue: str) -> Response:
    rows = read_rows(conn, ONE_QUEUE, {"queue": queue})
    if not rows:
        raise _not_found(queue)
    return answer_row(rows[0])


def _not_found(queue: str) -> RequestError:
    return RequestError(
        404,
        f"there is no queue {queue}",
        code="RTN03",
        hint="A queue begins with its first job, or with configure_queue.",
    )
