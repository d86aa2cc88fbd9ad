"""Work: claim jobs, keep their leases, finish them or hand them back.

As a worker does in SQL: the token of a lease is what proves that a job is held, and a repeated
finish is told what the first one was told. A claim that finds nothing may wait, without a thread or
a connection (app/waiting.py). One whose client has hung up before the answer could be sent hands
its jobs back; where nobody can notice that, the leases run out.
"""

import logging
import re
import threading
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
from flask import Blueprint, Response, current_app, g, request

from rota.app.answers import answer, answer_row, call_rows, moments
from rota.app.database import transaction
from rota.app.errors import RequestError, invalid
from rota.app.inputs import (
    Field,
    boolean,
    integer,
    json_value,
    parse_fields,
    queue_name,
    queue_names,
    read_body,
    row_id,
    seconds,
    seconds_from_zero,
    text,
)
from rota.app.waiting import CAN_WAIT, UNDELIVERED, wait_or_answer
from rota.app.workflows import nodes, written
from rota.db.gateway import call

blueprint = Blueprint("work", __name__)

LONGEST_WAIT = 30  # seconds
MOST_BYTES = 8 * 2**20  # of payloads and headers in one answer; but of any size there is one job
ANNOUNCED_EVERY = 30.0  # seconds
MOST_ANNOUNCED = 10_000  # workers whose last announcement is remembered
LONGEST_WORKER = 200  # characters of its name
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
IS_OVER = ("RTC02", "RTC03", "RTN01")  # what a release may find: the lease, or the job, has ended

log = logging.getLogger("rota.api")


def token(value: Any) -> UUID:
    """Take the token of a lease."""
    try:
        return UUID(text(value))
    except ValueError:
        raise ValueError("must be the token that the claim returned") from None


def worker_name(value: Any) -> str:
    """Take the name by which operators see who claims."""
    if not 1 <= len(text(value)) <= LONGEST_WORKER:
        raise ValueError(f"must have 1 to {LONGEST_WORKER} characters")
    if CONTROL.search(value):
        raise ValueError("must not contain control characters")
    return value


def waiting_time(value: Any) -> float:
    """Take how long a request may wait, in seconds."""
    wait = seconds_from_zero(value).total_seconds()
    if not 0 <= wait <= LONGEST_WAIT:
        raise ValueError(f"must be from 0 to {LONGEST_WAIT}")
    return wait


def job_id(value: Any) -> int:
    """Take the id of a job, in a body."""
    if type(value) is not int:
        raise ValueError("must be the id of a job")
    return row_id(str(value))


CLAIM = {
    "worker": Field(worker_name),
    "lease_seconds": Field(seconds, argument="lease"),
    "max_jobs": Field(integer),
}
WAIT = {"wait_seconds": Field(waiting_time)}
QUEUE = {"queue": Field(queue_name)}
QUEUES = {"queues": Field(queue_names, required=True)}
CLAIM_NEXT = CLAIM | QUEUES
HELD = {"token": Field(token, required=True)}
FINISH = HELD | {
    "error": Field(text),
    "result": Field(json_value),
    "retry": Field(boolean),
    "retry_in_seconds": Field(seconds_from_zero, argument="retry_in"),
    "next": Field(nodes("next")),
}
HEARTBEAT = HELD | {
    "lease_seconds": Field(seconds, argument="lease"),
    "progress": Field(json_value),
}
RELEASE = HELD | {
    "delay_seconds": Field(seconds_from_zero, argument="delay"),
    "reason": Field(text),
}
ID = {"job_id": Field(job_id, required=True)}
FINISHED_JOB = ID | HELD | {"error": Field(text), "result": Field(json_value)}
HELD_JOB = ID | HELD

CLAIMED = """
    id, token, task, payload, queue, priority, attempt, max_retries, {scheduled_for},
    {lease_until}, extract(epoch from timeout)::float8 as timeout_seconds, run, headers, key
"""


@blueprint.post("/queues/<queue:queue>/claim")
def claim_from_queue(queue: str) -> Response:
    """Claim jobs of a queue.

    Each is leased to the caller until `lease_until`: until then nobody else gets it, and it is to
    be finished, handed back or its lease extended. Where no job is due the request waits for one,
    up to `wait_seconds`.
    ---
    tags: [work]
    operationId: claimFromQueue
    security: [worker]
    parameters:
      - $ref: "#/components/parameters/AnyQueue"
    requestBody:
      json: Claim
      example: {worker: mailer-1, lease_seconds: 60, max_jobs: 1, wait_seconds: 0}
    responses:
      200: {description: The jobs that were claimed., json: ClaimedJobs}
      204: {description: There was no job.}
      404: {$ref: "#/components/responses/NotFound"}
      422: {code: RTV01, message: "wait_seconds: must be from 0 to 30"}
    """
    arguments = parse_fields(read_body(), CLAIM | WAIT)
    return _claim([parse_fields({"queue": queue}, QUEUE)["queue"]], arguments)


@blueprint.post("/jobs/claim")
def claim_jobs() -> Response:
    """Claim jobs of several queues.

    As `POST /queues/{queue}/claim` does; the highest priority comes first, whatever its queue.
    ---
    tags: [work]
    operationId: claimJobs
    security: [worker]
    requestBody:
      required: true
      json: ClaimFromQueues
      example: {queues: [default, mail], worker: mailer-1, lease_seconds: 60, max_jobs: 10}
    responses:
      200: {description: The jobs that were claimed., json: ClaimedJobs}
      204: {description: There was no job.}
      422: {code: RTV01, message: "queues: is required"}
    """
    arguments = parse_fields(read_body(), CLAIM | WAIT | QUEUES)
    return _claim(arguments.pop("queues"), arguments)


@blueprint.post("/jobs/<id:job_id>/finish")
def finish_job(job_id: int) -> Response:
    """Finish a job: its attempt has succeeded, or failed with an error.

    Said again, because the answer was lost, it is answered as the first time. With `claim_next`
    the next jobs are claimed in the same request. The jobs of `next` are added with the finish of
    an attempt that succeeded, as `POST /workflows` adds jobs, and by none that fails or is late:
    those that depend on nothing else depend on this one, whose result they find among their
    parents'.
    ---
    tags: [work]
    operationId: finishJob
    security: [worker]
    parameters:
      - $ref: "#/components/parameters/JobId"
    requestBody:
      required: true
      json: Finish
      examples:
        done:
          summary: It has succeeded
          value: {token: 3f333df6-90a4-4fda-8dd3-9485d27cee36, result: {sent: 3}}
        next:
          summary: It has succeeded, and others come after it
          value:
            token: 3f333df6-90a4-4fda-8dd3-9485d27cee36
            result: {parts: 2}
            next:
              - {task: echo, payload: {part: 1}}
              - {task: echo, payload: {part: 2}}
              - {task: echo, depends_on: all}
    responses:
      200: {description: What became of the job., json: FinishedJob}
      404: {$ref: "#/components/responses/NotFound"}
      409: {$ref: "#/components/responses/LeaseLost"}
      422: {code: RTV01, message: "token: is required"}
    """
    arguments, following = _with_next(read_body(), FINISH)
    with transaction() as conn:
        if "next" in arguments:
            arguments["next"] = written(conn, arguments["next"])
        (outcome,) = call_rows(
            conn, "job_id, state, {run_at}", moments("run_at"), "finish_job", job_id=job_id,
            **arguments,
        )  # fmt: skip
        claimed = _claim_rows(conn, following)
    if claimed is None:
        return answer_row(outcome)
    return Response(
        f'{outcome[:-1]},"claimed":[{",".join(claimed)}]}}\n', mimetype="application/json"
    )


@blueprint.post("/jobs/finish")
def finish_jobs() -> Response:
    """Finish many jobs at once.

    A pair of `job_id` and `token` that holds no lease keeps none of the others from its end: its
    outcome is `LEASE_LOST`, or `CONFLICT` where it was finished in another way before.
    ---
    tags: [work]
    operationId: finishJobs
    security: [worker]
    requestBody:
      required: true
      json: FinishMany
      example:
        jobs:
          - {job_id: 1, token: 3f333df6-90a4-4fda-8dd3-9485d27cee36, result: {sent: 3}}
          - {job_id: 2, token: 3f333df6-90a4-4fda-8dd3-9485d27cee36, error: no such address}
    responses:
      200:
        description: What became of each job, in the order of the request.
        json: FinishedJobs
      422: {code: RTV01, message: "jobs[1].token: is required"}
    """
    arguments, following = _with_next(read_body(), {"jobs": Field(_finished, required=True)})
    jobs = arguments["jobs"]
    with transaction() as conn:
        outcomes = call_rows(
            conn, "job_id, outcome", {}, "finish_jobs",
            job_ids=[job["job_id"] for job in jobs],
            tokens=[job["token"] for job in jobs],
            errors=[job.get("error") for job in jobs],
            results=[job.get("result") for job in jobs],
        )  # fmt: skip
        claimed = _claim_rows(conn, following)
    return answer(jobs=outcomes, **({} if claimed is None else {"claimed": claimed}))


@blueprint.post("/jobs/<id:job_id>/heartbeat")
def heartbeat_job(job_id: int) -> Response:
    """Extend the lease of a job, and learn whether it is asked to stop.

    ---
    tags: [work]
    operationId: heartbeatJob
    security: [worker]
    parameters:
      - $ref: "#/components/parameters/JobId"
    requestBody:
      required: true
      json: Heartbeat
      example:
        token: 3f333df6-90a4-4fda-8dd3-9485d27cee36
        lease_seconds: 60
        progress: {sent: 2}
    responses:
      200: {description: The lease as it is now., json: Lease}
      404: {$ref: "#/components/responses/NotFound"}
      409: {$ref: "#/components/responses/LeaseLost"}
      422: {code: RTV01, message: "token: is required"}
    """
    arguments = parse_fields(read_body(), HEARTBEAT)
    with transaction(durable=False) as conn:
        (lease,) = call_rows(
            conn, "{lease_until}, cancel_requested", moments("lease_until"), "heartbeat_job",
            job_id=job_id, **arguments,
        )  # fmt: skip
    return answer_row(lease)


@blueprint.post("/jobs/heartbeat")
def heartbeat_jobs() -> Response:
    """Extend many leases at once.

    A job whose lease is lost is absent from the answer; its work is to be dropped.
    ---
    tags: [work]
    operationId: heartbeatJobs
    security: [worker]
    requestBody:
      required: true
      json: HeartbeatMany
      example:
        jobs:
          - {job_id: 1, token: 3f333df6-90a4-4fda-8dd3-9485d27cee36}
        lease_seconds: 60
    responses:
      200: {description: The leases that are held., json: Leases}
      422: {code: RTV01, message: "jobs[0].token: is required"}
    """
    fields = {
        "jobs": Field(_held, required=True),
        "lease_seconds": Field(seconds, argument="lease"),
    }
    arguments = parse_fields(read_body(), fields)
    jobs = arguments.pop("jobs")
    with transaction(durable=False) as conn:
        leases = call_rows(
            conn, "job_id, {lease_until}, cancel_requested", moments("lease_until"),
            "heartbeat_jobs",
            job_ids=[job["job_id"] for job in jobs],
            tokens=[job["token"] for job in jobs],
            **arguments,
        )  # fmt: skip
    return answer(jobs=leases)


@blueprint.post("/jobs/<id:job_id>/release")
def release_job(job_id: int) -> dict[str, Any]:
    """Hand a job back unfinished; the attempt is not charged.

    ---
    tags: [work]
    operationId: releaseJob
    security: [worker]
    parameters:
      - $ref: "#/components/parameters/JobId"
    requestBody:
      required: true
      json: Release
      example:
        token: 3f333df6-90a4-4fda-8dd3-9485d27cee36
        delay_seconds: 5
        reason: shutting down
    responses:
      200:
        description: What became of the job.
        json: JobOutcome
      404: {$ref: "#/components/responses/NotFound"}
      409: {$ref: "#/components/responses/LeaseLost"}
      422: {code: RTV01, message: "token: is required"}
    """
    arguments = parse_fields(read_body(), RELEASE)
    with transaction() as conn:
        return call(conn, "release_job", job_id=job_id, **arguments)[0]


def _claim(queues: list[str], arguments: dict[str, Any]) -> Response:
    """Claim, and wait where nothing is there."""
    asked_at = time.monotonic()
    wait = arguments.pop("wait_seconds", 0)
    following = arguments | {"queues": queues}
    with transaction(durable=False) as conn:
        claimed = _claim_rows(conn, following) or []
    if claimed:
        return answer(jobs=claimed)
    waiting = current_app.extensions["waiting"]
    can_wait = wait and request.environ.get(CAN_WAIT)
    if can_wait and not waiting.make_room(queues, g.get("principal")):
        raise RequestError(503, "requests wait for too many queues already; try again")
    wait_or_answer(request.environ, wait, asked_at, queues=queues)
    return Response(status=204)


def _claim_rows(conn: psycopg.Connection, arguments: dict[str, Any] | None) -> list[str] | None:
    """Claim, and note what is to be done should the answer not reach its client."""
    if arguments is None:
        return None
    arguments["worker"] = arguments.get("worker") or f"http, {request.remote_addr}"
    current_app.extensions["announcements"].announce(conn, arguments["worker"], arguments["queues"])
    times = moments("scheduled_for", "lease_until")
    claimed = call_rows(conn, CLAIMED, times, "claim_next_job", **arguments, max_bytes=MOST_BYTES)
    current_app.extensions["upkeep"].claimed_by(g.get("token_hash"))
    if claimed:
        request.environ[UNDELIVERED] = False
        request.environ["rota.claimed"] = claimed
    return claimed


@blueprint.before_request
def hand_back() -> Response | None:
    """Hand back what was claimed for a client that has gone, when the server asks again for that.

    The same request is what it asks, so that it is judged as it was.
    """
    if not request.environ.get(UNDELIVERED):
        return None
    jobs = [current_app.json.loads(job) for job in request.environ.pop("rota.claimed")]
    del request.environ[UNDELIVERED]
    with transaction() as conn:
        for job in sorted(jobs, key=lambda job: job["id"]):
            try:
                with conn.transaction():  # one that cannot be keeps back none of the others
                    call(
                        conn, "release_job", job_id=job["id"], token=job["token"],
                        reason="the client that claimed it had gone",
                    )  # fmt: skip
            except psycopg.DatabaseError as error:
                if conn.closed:
                    raise
                if error.sqlstate not in IS_OVER:
                    fields = {"job_id": job["id"], "sqlstate": error.sqlstate}
                    log.warning("a job is not handed back", extra={"fields": fields})
    return Response(status=204)


def _with_next(
    body: dict[str, Any], fields: dict[str, Field]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Take a body that may have ``claim_next``; return that by itself."""
    arguments = parse_fields(body, fields | {"claim_next": Field(_claim_next)})
    return arguments, arguments.pop("claim_next", None)


def _claim_next(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return parse_fields(value, CLAIM_NEXT, "claim_next", within="claim_next.")


def _finished(value: Any) -> list[dict[str, Any]]:
    return _jobs(value, FINISHED_JOB)


def _held(value: Any) -> list[dict[str, Any]]:
    return _jobs(value, HELD_JOB)


def _jobs(value: Any, fields: dict[str, Field]) -> list[dict[str, Any]]:
    """Take a list of jobs that are held."""
    if not isinstance(value, list):
        raise ValueError("must be a list of jobs")
    for place, job in enumerate(value):
        if not isinstance(job, dict):
            raise invalid(f"jobs[{place}]", "must be an object")
    return [
        parse_fields(job, fields, "a job in a batch", within=f"jobs[{place}].")
        for place, job in enumerate(value)
    ]


class Announcements:
    """Shows those who claim to operators, each at most twice a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[str | None, str], float] = {}

    def announce(self, conn: psycopg.Connection, worker: str, queues: list[str]) -> None:
        """Announce a worker, unless its principal did that lately.

        Its row is its own; two requests of one worker that meet there wait for no more than a
        claim. Behind a wall a name or a queue may be refused (42501): such a worker is not shown,
        and its claim is judged by itself.
        """
        now, who = time.monotonic(), (g.get("principal"), worker)
        with self._lock:
            if now - self._last.get(who, -ANNOUNCED_EVERY) < ANNOUNCED_EVERY:
                return
            if len(self._last) >= MOST_ANNOUNCED:
                self._last.clear()
            self._last[who] = now
        with suppress(psycopg.errors.InsufficientPrivilege), conn.transaction():
            call(
                conn, "announce_worker", worker=worker, host=request.remote_addr, pid=None,
                queues=queues, concurrency=None, version=None,
            )  # fmt: skip
