"""Schedules: save, list, look at, preview, pause, resume, trigger, backfill, delete.

A name may hold slashes and be as our own paths are; escaped in a path, it is a name
(app/paths.py). Only "preview" needs no escape to be written, and is none.
"""

from typing import Any

import psycopg
from flask import Blueprint, Response, url_for
from psycopg import sql

from rota.app.answers import answer_page, answer_row, moments, next_url, read_page, read_rows
from rota.app.database import transaction
from rota.app.errors import RequestError, invalid
from rota.app.inputs import (
    PAGE_SIZE,
    Field,
    boolean,
    headers,
    instant,
    integer,
    json_value,
    parse_fields,
    read_body,
    read_query,
    row_id,
    rows_up_to,
    seconds,
    seconds_from_zero,
    text,
)
from rota.app.repeats import Made, once
from rota.db.gateway import call

blueprint = Blueprint("schedules", __name__)

TIMINGS = {
    "cron": Field(text, required=True),
    "interval_seconds": Field(seconds, argument="every", required=True),
    "every": Field(text, required=True),
}
OPTIONS = {
    "task": Field(text, required=True),
    "payload": Field(json_value),
    "time_zone": Field(text),
    "starts_at": Field(instant),
    "ends_at": Field(instant),
    "max_runs": Field(integer),
    "fixed_delay": Field(boolean),
    "jitter_seconds": Field(seconds_from_zero, argument="jitter"),
    "misfire": Field(text),
    "misfire_cap": Field(integer),
    "max_lateness_seconds": Field(seconds, argument="max_lateness"),
    "overlap": Field(text),
    "queue": Field(text),
    "priority": Field(integer),
    "max_retries": Field(integer),
    "timeout_seconds": Field(seconds, argument="timeout"),
    "headers": Field(headers),
    "key": Field(text),
}
NAME = {"name": Field(text, required=True)}
PREVIEW = {
    "time_zone": Field(text),
    "n": Field(integer),
    "from_time": Field(instant),
    "starts_at": Field(instant),
}
RANGE = {
    "starts_at": Field(instant, required=True),
    "ends_at": Field(instant, required=True),
}

SUMMARY = sql.SQL(
    """
    job_id, name, task, schedule_type, cron, every::text as every, time_zone, {starts_at},
    {ends_at}, max_runs, fixed_delay, extract(epoch from jitter)::float8 as jitter_seconds, misfire,
    misfire_cap, extract(epoch from max_lateness)::float8 as max_lateness_seconds, overlap, queue,
    key, priority, max_retries, extract(epoch from timeout)::float8 as timeout_seconds, {paused_at},
    state, run, {scheduled_for}, {run_at}, last_error, {created_at}
    """  # what is infinite is null
).format(**moments("starts_at", "ends_at", "paused_at", "scheduled_for", "run_at", "created_at"))
SCHEDULE = sql.SQL(
    "select {}, payload, headers from rota.schedule_status where name = %(name)s"
).format(SUMMARY)
# What the server says of a text that is no interval, before our function sees it.
NO_INTERVAL = (
    psycopg.errors.InvalidDatetimeFormat,
    psycopg.errors.DatetimeFieldOverflow,
    psycopg.errors.IntervalFieldOverflow,
)


@blueprint.post("/schedules")
def save_schedule() -> Made | Response:
    """Save a schedule under its name.

    Exactly one of `cron`, `interval_seconds` and `every` says when it runs. Where a schedule has
    the `name` already, it is changed and keeps its id and its place; what is left out takes its
    default.
    ---
    tags: [schedules]
    operationId: saveSchedule
    security: [producer, operator]
    parameters:
      - $ref: "#/components/parameters/IdempotencyKey"
    requestBody:
      required: true
      json: NewSchedule
      examples:
        cron:
          summary: Every night, by the clocks of Berlin
          value:
            name: nightly
            task: echo
            cron: 30 2 * * *
            time_zone: Europe/Berlin
            misfire: once
        every:
          summary: At the end of each month
          value:
            name: month-end
            task: echo
            every: P1M
            time_zone: America/New_York
            starts_at: "2030-01-31T09:00:00-05:00"
        interval:
          summary: Every five minutes, started up to 30 seconds later
          value: {name: poll, task: echo, interval_seconds: 300, jitter_seconds: 30}
    responses:
      201:
        description: The schedule was added.
        headers: {Location: {$ref: "#/components/headers/Location"}}
        json: CreatedJob
      200:
        description: The schedule of this name was changed.
        headers: {Location: {$ref: "#/components/headers/Location"}}
        json: CreatedJob
        example: {job_id: 1, created: false}
      422:
        code: RTV01
        message: "cron or interval_seconds or every: give exactly one of these"
    """
    arguments = _parse(read_body(), OPTIONS | NAME)
    if arguments["name"] == "preview":
        raise invalid("name", "/schedules/preview is a path of its own; choose another name")
    return once(lambda conn: _save(conn, arguments))


@blueprint.get("/schedules")
def list_schedules() -> Response:
    """List the live schedules, the newest first.

    Payloads are left out; the schedule itself has it.
    ---
    tags: [schedules]
    operationId: listSchedules
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/Limit"
      - name: before
        in: query
        description: Only schedules with a lower job_id; `next` has it set.
        schema: {type: integer, format: int64, minimum: 0}
    responses:
      200:
        description: A page of schedules.
        json: Schedules
    """
    query = read_query({"limit": Field(rows_up_to(200)), "before": Field(row_id)})
    limit = query.pop("limit", PAGE_SIZE)
    select = sql.SQL("select {} from rota.schedule_status {} order by job_id desc").format(
        SUMMARY, sql.SQL("where job_id < %(before)s" if query else "")
    )
    with transaction() as conn:
        schedules, last_id = read_page(conn, select, query, limit, sql.SQL("r.job_id"))
    return answer_page("schedules", schedules, next_url(last_id))


@blueprint.get("/schedules/<schedule:name>")
def get_schedule(name: str) -> Response:
    """Look at a schedule: its definition, its present run, and the next.

    ---
    tags: [schedules]
    operationId: getSchedule
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/ScheduleName"
    responses:
      200:
        description: The schedule.
        json: Schedule
      404: {code: RTN02, message: there is no live schedule nightly}
    """
    with transaction() as conn:
        rows = read_rows(conn, SCHEDULE, {"name": name})
    if not rows:
        raise RequestError(404, f"there is no live schedule {name}", code="RTN02")
    return answer_row(rows[0])


@blueprint.put("/schedules/<schedule:name>")
def put_schedule(name: str) -> Made:
    """Save a schedule under the name in the path.

    As `POST /schedules` does.
    ---
    tags: [schedules]
    operationId: putSchedule
    security: [producer, operator]
    parameters:
      - $ref: "#/components/parameters/ScheduleName"
    requestBody:
      required: true
      json: ScheduleSettings
      example: {task: echo, cron: "0 4 * * MON-FRI", time_zone: Europe/Berlin}
    responses:
      201:
        description: The schedule was added.
        headers: {Location: {$ref: "#/components/headers/Location"}}
        json: CreatedJob
      200:
        description: The schedule was changed.
        headers: {Location: {$ref: "#/components/headers/Location"}}
        json: CreatedJob
        example: {job_id: 1, created: false}
      404: {$ref: "#/components/responses/NotFound"}
      422: {code: RTV01, message: "every: must be an interval, such as P1M or 1 month"}
    """
    arguments = _parse(read_body(), OPTIONS) | {"name": name}
    with transaction() as conn:
        return _save(conn, arguments)


@blueprint.delete("/schedules/<schedule:name>")
def delete_schedule(name: str) -> dict[str, Any]:
    """End a schedule for good.

    A run under way is asked to stop; then the schedule ends with it.
    ---
    tags: [schedules]
    operationId: deleteSchedule
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/ScheduleName"
    responses:
      200:
        description: What became of the schedule's job.
        json: JobOutcome
        example: {job_id: 1, state: CANCELLED, run_at: null}
    """
    return _steer("delete_schedule", name)


@blueprint.post("/schedules/<schedule:name>/pause")
def pause_schedule(name: str) -> dict[str, Any]:
    """Start no more runs of a schedule.

    A run under way ends as it would.
    ---
    tags: [schedules]
    operationId: pauseSchedule
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/ScheduleName"
    responses:
      200:
        description: What became of the schedule's job.
        json: JobOutcome
        example: {job_id: 1, state: SCHEDULED, run_at: null}
    """
    return _steer("pause_schedule", name)


@blueprint.post("/schedules/<schedule:name>/resume")
def resume_schedule(name: str) -> dict[str, Any]:
    """Let a paused schedule run again, from its next slot on.

    ---
    tags: [schedules]
    operationId: resumeSchedule
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/ScheduleName"
    responses:
      200:
        description: What became of the schedule's job.
        json: JobOutcome
    """
    return _steer("resume_schedule", name)


@blueprint.post("/schedules/<schedule:name>/trigger")
def trigger_schedule(name: str) -> dict[str, Any]:
    """Run a schedule once now, beside its slots.

    At once, or when the run under way has ended.
    ---
    tags: [schedules]
    operationId: triggerSchedule
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/ScheduleName"
    responses:
      200:
        description: What became of the schedule's job.
        json: JobOutcome
      409: {code: RTC01, message: schedule "nightly" is over}
    """
    return _steer("trigger_schedule", name)


@blueprint.post("/schedules/<schedule:name>/backfill")
def backfill_schedule(name: str) -> Made | Response:
    """Add a job for each slot from one time until before another.

    At most 1,000 at a time. A slot whose job of an earlier backfill is still live gets no second.
    ---
    tags: [schedules]
    operationId: backfillSchedule
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/ScheduleName"
      - $ref: "#/components/parameters/IdempotencyKey"
    requestBody:
      required: true
      json: Range
      example: {starts_at: "2030-01-01T00:00:00Z", ends_at: "2030-01-03T00:00:00Z"}
    responses:
      201:
        description: The jobs, one for each slot; at least one was added.
        json: CreatedJobs
      200:
        description: None was added.
        json: CreatedJobs
        example: {jobs: [{job_id: 1, created: false}, {job_id: 2, created: false}]}
      422: {code: RTV01, message: "ends_at: is required"}
    """
    arguments = parse_fields(read_body(), RANGE)

    def make(conn: psycopg.Connection) -> Made:
        jobs = call(conn, "backfill_schedule", name=name, **arguments)
        return {"jobs": jobs}, 201 if any(job["created"] for job in jobs) else 200, {}

    return once(make)


@blueprint.post("/schedules/preview")
def preview_schedule() -> dict[str, Any]:
    """List the next runs that a timing would have.

    Exactly one of `cron`, `interval_seconds` and `every`. The note says what a change of the clocks
    does to a run: its local time was skipped (moved), several fell on one moment (merged), or it
    comes twice (repeated). Nothing is saved.
    ---
    tags: [schedules]
    operationId: previewSchedule
    security: [producer, operator, reader]
    requestBody:
      required: true
      json: Preview
      example:
        cron: 0,30 2 * * *
        time_zone: Europe/Berlin
        n: 5
        from_time: "2030-03-30T00:00:00Z"
    responses:
      200:
        description: The runs.
        json: PreviewedRuns
      422: {code: RTV01, message: "n: must be an integer"}
    """
    arguments = _parse(read_body(), PREVIEW)
    with transaction() as conn:
        return {"runs": _call(conn, "preview_schedule", arguments)}


def _save(conn: psycopg.Connection, arguments: dict[str, Any]) -> Made:
    [job] = _call(conn, "schedule_job", arguments)
    location = url_for("schedules.get_schedule", name=arguments["name"])
    return job, 201 if job["created"] else 200, {"Location": location}


def _parse(body: dict[str, Any], fields: dict[str, Field]) -> dict[str, Any]:
    """Check a body that says when something runs, in exactly one of three ways."""
    given = {name: field for name, field in TIMINGS.items() if name in body}
    if len(given) != 1:
        raise invalid(" or ".join(given or TIMINGS), "give exactly one of these")
    return parse_fields(body, given | fields)


def _call(
    conn: psycopg.Connection, function: str, arguments: dict[str, Any]
) -> list[dict[str, Any]]:
    try:
        return call(conn, function, **arguments)
    except NO_INTERVAL:
        raise invalid("every", "must be an interval, such as P1M or 1 month") from None


def _steer(function: str, name: str) -> dict[str, Any]:
    parse_fields(read_body(), {})
    with transaction() as conn:
        return call(conn, function, name=name)[0]
