"""Jobs: add, list, look at, cancel, retry."""

import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from flask import Blueprint, Response, request, url_for
from psycopg import sql
from psycopg.types.json import Jsonb

from rota.app.answers import (
    OWN_QUEUE,
    answer,
    answer_page,
    answer_row,
    call_rows,
    moments,
    next_url,
    read_page,
    read_rows,
)
from rota.app.database import transaction
from rota.app.errors import RequestError, invalid
from rota.app.inputs import (
    MAX_ID,
    PAGE_SIZE,
    Field,
    boolean,
    headers,
    instant,
    integer,
    json_value,
    one_of,
    parse_fields,
    read_body,
    read_query,
    row_id,
    rows_up_to,
    seconds,
    seconds_from_zero,
    some_of,
    text,
    write_json,
)
from rota.app.repeats import Made, once
from rota.app.waiting import wait_or_answer
from rota.db.gateway import call

blueprint = Blueprint("jobs", __name__)

LONGEST_TO_RUN = timedelta(days=36_000)  # from now; as long as an interval may be


def time_to_run(value: Any) -> timedelta:
    """Take in how long from now a job is to run."""
    wait = seconds_from_zero(value)
    if not timedelta() <= wait <= LONGEST_TO_RUN:
        raise ValueError(f"must be from 0 to {LONGEST_TO_RUN.total_seconds():.0f}")
    return wait


COMMON = {
    "task": Field(text, required=True),
    "payload": Field(json_value),
    "queue": Field(text),
    "priority": Field(integer),
    "max_retries": Field(integer),
    "timeout_seconds": Field(seconds, argument="timeout"),
    "headers": Field(headers),
    "key": Field(text),
}
ONE_TIME = COMMON | {
    "run_at": Field(instant),
    "run_in_seconds": Field(time_to_run, argument="run_in"),
    "unique_key": Field(text),
    "unique_for_seconds": Field(seconds, argument="unique_for"),
    "replace": Field(boolean),
}
INTERVAL = COMMON | {
    "run_at": Field(instant, argument="starts_at"),
    "interval_seconds": Field(seconds, argument="every", required=True),
    "name": Field(text),
}
CRON = COMMON | {
    "run_at": Field(instant, argument="starts_at"),
    "cron": Field(text, required=True),
    "time_zone": Field(text),
    "name": Field(text),
}
KINDS = {
    "ONE_TIME": ("enqueue_job", ONE_TIME),
    "INTERVAL": ("schedule_job", INTERVAL),
    "CRON": ("schedule_job", CRON),
}
KIND = {"schedule_type": Field(one_of(*KINDS))}
BULK_ITEM = ONE_TIME | {"schedule_type": Field(one_of("ONE_TIME"))}

LIVE = {"WAITING", "SCHEDULED", "RUNNING"}
STATES = ("WAITING", "SCHEDULED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")
FILTERS = {
    "state": Field(some_of(*STATES)),
    "queue": Field(text),
    "task": Field(text),
    "schedule_type": Field(one_of("ONE_TIME", "INTERVAL", "CRON")),
    "unique_key": Field(text),
    "key": Field(text),
    "worker": Field(text),
    "created_since": Field(instant),
    "created_before": Field(instant),
    "finished_since": Field(instant),
    "finished_before": Field(instant),
}
WINDOWS = {
    name: Field(instant)
    for name in ("run_at_from", "run_at_before", "finished_at_from", "finished_at_before")
}
LIMIT = {"limit": Field(rows_up_to(200))}

# Which jobs a list by state may hold, for the indexes to know it: by the state alone they would not
# tell in which of the two halves of rota.jobs they lie.
OF_STATE = {
    "WAITING": sql.SQL("finished_at is null"),
    "SCHEDULED": sql.SQL("finished_at is null"),
    "RUNNING": sql.SQL("finished_at is null and state = 'RUNNING'"),
    "COMPLETED": sql.SQL("finished_at is not null"),
    "FAILED": sql.SQL("finished_at is not null and state = 'FAILED'"),
    "CANCELLED": sql.SQL("finished_at is not null and state = 'CANCELLED'"),
}
CONDITIONS = {  # those that are no equality
    "state": "j.{column} = any({value})",
    "created_since": "j.created_at >= {value}",
    "created_before": "j.created_at < {value}",
    "finished_since": "j.finished_at >= {value}",
    "finished_before": "j.finished_at < {value}",
}
LOOK = 100_000  # jobs that one page looks at; those that no index finds come page by page

SUMMARY = sql.SQL(
    """
    id, task, state, schedule_type, queue, priority, {run_at}, {scheduled_for}, run, attempt,
    max_retries, extract(epoch from timeout)::float8 as timeout_seconds, unique_key, key, name,
    worker, {lease_until}, {cancel_requested_at}, cancel_reason, last_error,
    {created_at}, {started_at}, {finished_at}
    """
).format(
    **moments(
        "run_at",
        "scheduled_for",
        "lease_until",
        "cancel_requested_at",
        "created_at",
        "started_at",
        "finished_at",
    )
)
EXECUTIONS = sql.SQL(
    """
    select run, attempt, outcome, worker, {started_at}, {finished_at}, error, result
    from rota.executions as e
    where job_id = %(id)s
    """
).format(**moments("started_at", "finished_at"))
NEWEST_FIRST = sql.SQL(
    "order by e.finished_at desc nulls first, run desc, attempt desc, outcome desc"
)
# Whatever statistics say: a page is read in the order of the index, not sorted out of all there is.
IN_ORDER = "set local enable_bitmapscan = off; set local enable_seqscan = off"
EXECUTION_POSITION = sql.SQL(
    "concat_ws(',', coalesce(r.finished_at, 'infinity'), r.run, r.attempt, r.outcome)"
)
JOB = sql.SQL(
    """
    select {summary}, progress, payload, headers, result,
        array(
            select row_to_json(e) from ({executions} {newest_first} limit 20) as e
        ) as executions,
        %(executions_url)s::text as executions_url
    from rota.jobs
    where id = %(id)s
    """
).format(summary=SUMMARY, executions=EXECUTIONS, newest_first=NEWEST_FIRST)

JOB_AND_WHETHER_IT_ENDED = sql.SQL(
    "select row_to_json(r)::text, r.finished_at is not null from ({}) as r"
).format(JOB)
LONGEST_WAIT = 30  # seconds


@blueprint.post("/jobs")
def enqueue_job() -> Made | Response:
    """Add a job.

    A job of type `ONE_TIME` runs once; one of type `INTERVAL` runs again and again, every
    `interval_seconds`, and one of type `CRON` whenever its expression says, by the clocks of its
    `time_zone`; `/schedules` knows more about such jobs. Where a live job of the queue holds the
    `unique_key` already, it is returned and none is added; where a recurring job has the `name`
    already, it is updated.
    ---
    tags: [jobs]
    operationId: enqueueJob
    security: [producer]
    parameters:
      - $ref: "#/components/parameters/IdempotencyKey"
    requestBody:
      required: true
      json: NewJob
      examples:
        now:
          summary: As soon as a worker is free
          value: {task: echo, payload: {greeting: hello}}
        later:
          summary: Not before a moment, at most once under its key
          value:
            task: echo
            payload: {order: 7}
            run_at: "2030-01-31T09:00:00+01:00"
            priority: 10
            max_retries: 5
            timeout_seconds: 30
            unique_key: order-7
        recurring:
          summary: Every minute
          value:
            task: echo
            schedule_type: INTERVAL
            interval_seconds: 60
            name: every-minute
        cron:
          summary: On weekdays at nine, by the clocks of New York
          value:
            task: echo
            schedule_type: CRON
            cron: 0 9 * * MON-FRI
            time_zone: America/New_York
            name: good-morning
    responses:
      201:
        description: The job was added.
        headers: {Location: {$ref: "#/components/headers/Location"}}
        json: CreatedJob
      200:
        description: A live job of the queue holds this key, or had this name, already.
        headers: {Location: {$ref: "#/components/headers/Location"}}
        json: CreatedJob
        example: {job_id: 1, created: false}
      422: {code: RTV01, message: "task: is required"}
    """
    body = read_body()
    chosen = parse_fields({"schedule_type": body.pop("schedule_type", None)}, KIND)
    kind = chosen.get("schedule_type", "ONE_TIME")
    function, fields = KINDS[kind]
    arguments = one_time(parse_fields(body, fields, f"a job of type {kind}"))

    def make(conn: psycopg.Connection) -> Made:
        set_times(conn, [arguments])
        [job] = call(conn, function, **arguments)
        location = url_for("jobs.get_job", job_id=job["job_id"])
        return job, 201 if job["created"] else 200, {"Location": location}

    return once(make)


@blueprint.post("/jobs/bulk")
def enqueue_jobs() -> Made | Response:
    """Add many jobs of type ONE_TIME, all or none.

    ---
    tags: [jobs]
    operationId: enqueueJobs
    security: [producer]
    parameters:
      - $ref: "#/components/parameters/IdempotencyKey"
    requestBody:
      required: true
      json: NewJobs
      example:
        jobs:
          - {task: echo, payload: {order: 8}, unique_key: order-8}
          - {task: echo, payload: {order: 9}, unique_key: order-9, timeout_seconds: 2.5}
    responses:
      201:
        description: The jobs, in the order of the request; at least one was added.
        json: CreatedJobs
      200:
        description: None was added, for live jobs hold all of the keys.
        json: CreatedJobs
        example: {jobs: [{job_id: 1, created: false}, {job_id: 2, created: false}]}
      422: {code: RTV01, message: "jobs[1].task: is required"}
    """
    arguments = parse_fields(read_body(), {"jobs": Field(_bulk, required=True)})

    def make(conn: psycopg.Connection) -> Made:
        set_times(conn, arguments["jobs"])
        jobs = call(conn, "enqueue_jobs", jobs=Jsonb(arguments["jobs"], dumps=write_json))
        return {"jobs": jobs}, 201 if any(job["created"] for job in jobs) else 200, {}

    return once(make)


@blueprint.get("/jobs")
def list_jobs() -> Response:
    """List jobs, the newest first.

    Payloads, results and executions are left out; the job itself has them. A page looks at 100,000
    jobs at most, so it may hold fewer than `limit`, or none, and `next` leads on; only the last has
    no `next`. With the state `RUNNING` it looks at all live jobs.
    ---
    tags: [jobs]
    operationId: listJobs
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/States"
      - $ref: "#/components/parameters/OfQueue"
      - $ref: "#/components/parameters/OfTask"
      - $ref: "#/components/parameters/OfScheduleType"
      - $ref: "#/components/parameters/OfUniqueKey"
      - $ref: "#/components/parameters/OfKey"
      - $ref: "#/components/parameters/OfWorker"
      - $ref: "#/components/parameters/CreatedSince"
      - $ref: "#/components/parameters/CreatedBefore"
      - $ref: "#/components/parameters/FinishedSince"
      - $ref: "#/components/parameters/FinishedBefore"
      - $ref: "#/components/parameters/Limit"
      - name: before
        in: query
        description: Only jobs with a lower id; `next` has it set.
        schema: {type: integer, format: int64, minimum: 0}
    responses:
      200:
        description: A page of jobs.
        json: Jobs
    """
    query = read_query(FILTERS | LIMIT | {"before": Field(row_id)})
    limit = query.pop("limit", PAGE_SIZE)
    with transaction() as conn:
        if not looks_at_all(query):
            conn.execute("set local enable_sort = off")  # whatever statistics say, by index
        page = page_of_jobs(query)
        rows = conn.execute(page, query | {"rows": limit + 1}, prepare=False).fetchall()
    jobs = [job for job, _ in rows[:limit] if job is not None]
    if len(jobs) == len(rows):
        return answer_page("jobs", jobs, None)
    looked_no_further = rows[-1][0] is None
    _, last_id = rows[-1] if looked_no_further else rows[limit - 1]
    return answer_page("jobs", jobs, next_url(last_id))


@blueprint.get("/jobs/counts")
def count_jobs() -> Response:
    """Count jobs by their state.

    Of the newest 100,000 that a list with the same filters would look at; where there are more,
    `complete` is false. With the state `RUNNING` all live jobs are looked at.
    ---
    tags: [jobs]
    operationId: countJobs
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/States"
      - $ref: "#/components/parameters/OfQueue"
      - $ref: "#/components/parameters/OfTask"
      - $ref: "#/components/parameters/OfScheduleType"
      - $ref: "#/components/parameters/OfUniqueKey"
      - $ref: "#/components/parameters/OfKey"
      - $ref: "#/components/parameters/OfWorker"
      - $ref: "#/components/parameters/CreatedSince"
      - $ref: "#/components/parameters/CreatedBefore"
      - $ref: "#/components/parameters/FinishedSince"
      - $ref: "#/components/parameters/FinishedBefore"
    responses:
      200:
        description: How many there are.
        json: Counts
      422:
        code: RTV01
        message: >-
          state: must be some of WAITING, SCHEDULED, RUNNING, COMPLETED, FAILED, CANCELLED, with
          commas between them
    """
    query = read_query(FILTERS)
    with transaction() as conn:
        if not looks_at_all(query):
            conn.execute("set local enable_sort = off")
        rows = conn.execute(counts_of_jobs(query), query, prepare=False).fetchall()
    counts = dict.fromkeys(STATES, 0) | {state: count for state, count, _ in rows if state}
    looked_at = sum(looked for _, _, looked in rows)
    complete = looks_at_all(query) or looked_at < LOOK
    return answer(counts=json.dumps(counts), complete=json.dumps(complete))


@blueprint.get("/jobs/<id:job_id>")
def get_job(job_id: int) -> Response:
    """Look at a job.

    With its last 20 executions, the newest first, the running one included. With `wait` the answer
    comes when the job has ended, or when so many seconds have passed.
    ---
    tags: [jobs]
    operationId: getJob
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/JobId"
      - name: wait
        in: query
        description: How many seconds to wait at most for the job to end.
        schema: {type: integer, minimum: 0, maximum: 30}
    responses:
      200:
        description: The job.
        json: Job
      422: {code: RTV01, message: "wait: must be a whole number from 0 to 30"}
    """
    asked_at = time.monotonic()
    wait = read_query({"wait": Field(_waiting_time)}).get("wait", 0)
    executions_url = url_for("jobs.list_executions", job_id=job_id)
    arguments = {"id": job_id, "executions_url": executions_url}
    with transaction() as conn:
        row = conn.execute(JOB_AND_WHETHER_IT_ENDED, arguments).fetchone()
    if row is None:
        raise _not_found(job_id)
    job, has_ended = row
    if not has_ended:
        wait_or_answer(request.environ, wait, asked_at, job_id=job_id)
    return answer_row(job)


@blueprint.get("/jobs/<id:job_id>/executions")
def list_executions(job_id: int) -> Response:
    """List the executions of a job, the newest first.

    ---
    tags: [jobs]
    operationId: listExecutions
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/JobId"
      - $ref: "#/components/parameters/Limit"
      - name: before
        in: query
        description: Where the page starts; `next` has it set.
        schema: {type: string, format: cursor}
    responses:
      200:
        description: A page of executions.
        json: Executions
    """
    query = read_query(LIMIT | {"before": Field(execution_position)})
    before = query.get("before")
    page = sql.SQL("{} {} {}").format(
        EXECUTIONS,
        sql.SQL(
            "and (finished_at, run, attempt, outcome)"
            " < (%(finished_at)s::timestamptz, %(run)s, %(attempt)s, %(outcome)s)"
            if before
            else ""
        ),
        NEWEST_FIRST,
    )
    arguments = {"id": job_id} | (before or {})
    with transaction() as conn:
        if not read_rows(conn, sql.SQL("select from rota.jobs where id = %(id)s"), arguments):
            raise _not_found(job_id)
        conn.execute(IN_ORDER)
        executions, position = read_page(
            conn, page, arguments, query.get("limit", PAGE_SIZE), EXECUTION_POSITION
        )
    return answer_page("executions", executions, next_url(position))


@blueprint.get("/jobs/<id:job_id>/why")
def explain_job(job_id: int) -> Response:
    """Say why a job does not run.

    Or that it does, or how it ended: all that is so of it, what blocks it first. No row is locked
    and nothing is written, so it may be asked at any time.
    ---
    tags: [jobs]
    operationId: explainJob
    security: [operator, reader]
    parameters:
      - $ref: "#/components/parameters/JobId"
    responses:
      200:
        description: The reasons; at least one.
        json: Reasons
    """
    with transaction() as conn:
        columns = "blocks, code, reason, remedy, evidence"
        reasons = call_rows(conn, columns, {}, "explain_job", job_id=job_id)
    if json.loads(reasons[0])["code"] == "UNKNOWN":
        raise _not_found(job_id)
    return answer(reasons=reasons)


@blueprint.post("/jobs/<id:job_id>/cancel")
def cancel_job(job_id: int) -> dict[str, Any]:
    """Cancel a job.

    A job that does not run ends at once. A running one is asked to stop: it ends CANCELLED when its
    handler returns, or when its lease runs out. With a job end those that depend on it, unless they
    are to run when others fail.
    ---
    tags: [jobs]
    operationId: cancelJob
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/JobId"
    requestBody:
      json: Cancellation
      example: {reason: not needed any more}
    responses:
      200:
        description: What became of the job.
        json: JobOutcome
        example: {job_id: 1, state: CANCELLED, run_at: null}
      409: {code: RTC01, message: job 1 is COMPLETED already}
      422: {code: RTV01, message: "reason: must be a string"}
    """
    arguments = parse_fields(read_body(), {"reason": Field(text)})
    with transaction() as conn:
        return call(conn, "cancel_job", job_id=job_id, **arguments)[0]


@blueprint.post("/jobs/<id:job_id>/retry")
def retry_job(job_id: int) -> dict[str, Any]:
    """Run a FAILED or CANCELLED job again.

    Under its own id; its history is kept. Jobs that were cancelled because this one had not
    completed come back with it.
    ---
    tags: [jobs]
    operationId: retryJob
    security: [operator]
    parameters:
      - $ref: "#/components/parameters/JobId"
    responses:
      200:
        description: What became of the job.
        json: JobOutcome
      409:
        code: RTC01
        message: job 1 is COMPLETED; only a FAILED or CANCELLED job can be retried
    """
    parse_fields(read_body(), {})
    with transaction() as conn:
        return call(conn, "retry_job", job_id=job_id)[0]


@blueprint.post("/jobs/cancel")
def cancel_jobs() -> dict[str, Any]:
    """Cancel many jobs.

    All that a filter asks for, up to `max_jobs`, as `POST /jobs/{job_id}/cancel` does one. Unless
    `dry_run` is false, they are only counted. Call until nothing more is changed.
    ---
    tags: [jobs]
    operationId: cancelJobs
    security: [operator]
    requestBody:
      required: true
      json: BulkCancellation
      examples:
        count:
          summary: How many would it be?
          value: {filter: {queue: default, state: [SCHEDULED]}}
        cancel:
          summary: Cancel them
          value:
            filter: {queue: default, state: [SCHEDULED], run_at_before: "2030-02-01T00:00:00Z"}
            reason: not needed any more
            max_jobs: 500
            dry_run: false
    responses:
      200:
        description: What was changed, or would be.
        json: BulkOutcome
      422: {code: RTV01, message: "filter: is required"}
    """
    return _steer("cancel_jobs", {"reason": Field(text)})


@blueprint.post("/jobs/retry")
def retry_jobs() -> dict[str, Any]:
    """Run many FAILED or CANCELLED jobs again.

    All that a filter asks for, up to `max_jobs`, as `POST /jobs/{job_id}/retry` does one. Unless
    `dry_run` is false, they are only counted. Jobs that cannot come back, because a live job holds
    their `unique_key`, are left out.
    ---
    tags: [jobs]
    operationId: retryJobs
    security: [operator]
    requestBody:
      required: true
      json: BulkRetry
      examples:
        count:
          summary: How many would it be?
          value: {filter: {task: echo, finished_at_from: "2020-01-31T00:00:00Z"}}
        retry:
          summary: Retry them
          value: {filter: {task: echo, state: [FAILED, CANCELLED]}, dry_run: false}
    responses:
      200:
        description: What was changed, or would be.
        json: BulkOutcome
      422: {code: RTV01, message: "filter: is required"}
    """
    return _steer("retry_jobs", {})


def page_of_jobs(filters: Mapping[str, Any]) -> sql.Composed:
    """Return the query for a page of jobs, the newest first, as rows of (JSON text, id).

    Its parameters are the filters and ``rows``, the number of rows to return. If the page is not
    full after ``LOOK`` jobs, a last row without text has the id of the last job that was looked at.
    No index may hold what a claim changes, so all live jobs are looked at for the RUNNING ones.
    """
    everything = looks_at_all(filters)
    looked_at = sql.SQL("from rota.jobs where {} and {} order by id desc").format(
        of_states(filters.get("state")),
        sql.SQL("id < %(before)s" if "before" in filters else "true"),
    )
    return sql.SQL(
        """
        select p.job, p.id
        from (
            (
                select row_to_json(r)::text as job, r.id
                from (
                    select {summary}
                    from (select * {looked_at} {at_most}) as j
                    where {conditions}
                    order by j.id desc
                    limit %(rows)s
                ) as r
            )
            union all
            (select null, id {looked_at} {at_last})
        ) as p
        limit %(rows)s
        """
    ).format(
        summary=SUMMARY,
        looked_at=looked_at,
        at_most=sql.SQL("" if everything else f"limit {LOOK}"),
        at_last=sql.SQL("limit 0" if everything else f"offset {LOOK - 1} limit 1"),
        conditions=_conditions(filters),
    )


def _steer(function: str, more: dict[str, Field]) -> dict[str, Any]:
    fields = {
        "filter": Field(_filter, required=True),
        "max_jobs": Field(integer),
        "dry_run": Field(boolean),
    }
    arguments = parse_fields(read_body(), fields | more)
    with transaction() as conn:
        return call(conn, function, **arguments)[0]


def _filter(value: Any) -> Jsonb:
    """Take a filter as the functions read it; what may stand in it together is theirs to say."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    fields = {
        "ids": Field(_list_of(_id)),
        "state": Field(_list_of(text)),
        "queue": Field(text),
        "task": Field(text),
        "schedule_type": Field(text),
        "unique_key": Field(text),
        "key": Field(text),
        **WINDOWS,
    }
    for name, item in value.items():
        if item is None and name in fields:  # an empty variable must not mean all of them
            raise invalid(f"filter.{name}", "must not be null")
    return Jsonb(parse_fields(value, fields, "a filter", within="filter."), dumps=write_json)


def _list_of(parse: Any) -> Any:
    """Return a parser for a list."""

    def parse_all(values: Any) -> list[Any]:
        if not isinstance(values, list):
            raise ValueError("must be a list")
        return [parse(value) for value in values]

    return parse_all


def _id(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_ID:
        raise ValueError("must hold ids of jobs")
    return value


def looks_at_all(filters: Mapping[str, Any]) -> bool:
    """Tell whether a page looks at all live jobs."""
    return filters.get("state") == ["RUNNING"]


def of_states(states: list[str] | None) -> sql.Composable:
    """Say in which half of rota.jobs these states lie, and for one of them where its index is."""
    if states is None:
        return sql.SQL("true")
    if len(states) == 1:
        return OF_STATE[states[0]]
    if set(states) <= LIVE:
        return sql.SQL("finished_at is null")
    return sql.SQL("true" if LIVE & set(states) else "finished_at is not null")


def _conditions(filters: Mapping[str, Any]) -> sql.Composable:
    """Return what the jobs ``j`` of a list have in common."""
    conditions = [OWN_QUEUE if "queue" in filters else sql.SQL("true")]
    for name in filters:
        if name in FILTERS:
            condition = CONDITIONS.get(name, "j.{column} = {value}")
            conditions.append(
                sql.SQL(condition).format(column=sql.Identifier(name), value=sql.Placeholder(name))
            )
    return sql.SQL(" and ").join(conditions)


def counts_of_jobs(filters: Mapping[str, Any]) -> sql.Composed:
    """Return the query that counts jobs by state, as rows of (state, number, number looked at)."""
    return sql.SQL(
        """
        select j.state, count(*) filter (where {conditions}), count(*)
        from (
            select * from rota.jobs where {of_states} order by id desc {at_most}
        ) as j
        group by j.state
        """
    ).format(
        conditions=_conditions(filters),
        of_states=of_states(filters.get("state")),
        at_most=sql.SQL("" if looks_at_all(filters) else f"limit {LOOK}"),
    )


def _waiting_time(value: str) -> int:
    if not value.isdecimal() or len(value) > 9 or int(value) > LONGEST_WAIT:
        raise ValueError(f"must be a whole number from 0 to {LONGEST_WAIT}")
    return int(value)


def one_time(job: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Check that a job is not to run at two times."""
    if "run_at" in job and "run_in" in job:
        raise invalid(f"{within}run_in_seconds", "give this or run_at")
    return job


def set_times(conn: psycopg.Connection, jobs: list[dict[str, Any]]) -> None:
    """Say when those are to run that run in so many seconds from now, by the database's clock."""
    if not any("run_in" in job for job in jobs):
        return
    row = conn.execute("select extract(epoch from now())::float8").fetchone()
    for job in jobs:
        if "run_in" in job:
            job["run_at"] = datetime.fromtimestamp(row[0], UTC) + job.pop("run_in")


def _bulk(value: Any) -> list[dict[str, Any]]:
    """Take a list of jobs."""
    if not isinstance(value, list):
        raise ValueError("must be a list of jobs")
    for place, job in enumerate(value):
        if not isinstance(job, dict):
            raise invalid(f"jobs[{place}]", "must be an object")
    jobs = [
        parse_fields(job, BULK_ITEM, "a job in a bulk", within=f"jobs[{place}].")
        for place, job in enumerate(value)
    ]
    for place, job in enumerate(jobs):
        job.pop("schedule_type", None)
        one_time(job, f"jobs[{place}].")
    return jobs


def execution_position(value: str) -> dict[str, Any]:
    """Take a position that EXECUTION_POSITION has written."""
    position = re.fullmatch(r"(infinity|[0-9T:.+-]{1,40}),([0-9]{1,18}),([0-9]{1,9}),(\w+)", value)
    if position is None:
        raise ValueError("must be as the link to the next page has it")
    finished_at, run, attempt, outcome = position.groups()
    return {
        "finished_at": finished_at if finished_at == "infinity" else instant(finished_at),
        "run": int(run),
        "attempt": int(attempt),
        "outcome": outcome,
    }


def _not_found(job_id: int) -> RequestError:
    return RequestError(404, f"there is no job {job_id}", code="RTN01")
