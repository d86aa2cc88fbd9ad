"""One job: what it is, why it does not run, what became of each attempt, and how it differs."""

from datetime import datetime
from typing import Any

import psycopg
from flask import Response, request, url_for
from psycopg import sql

from rota.app.errors import RequestError, invalid
from rota.app.inputs import (
    MAX_ID,
    Field,
    integer,
    json_value,
    parse_fields,
    parse_json,
    read_query,
    text,
)
from rota.app.jobs import IN_ORDER, NEWEST_FIRST, execution_position
from rota.app.ui import hiding
from rota.app.ui.frame import act, page, reading, rows, say
from rota.app.ui.jobs import blueprint
from rota.app.ui.search import find_ended
from rota.db.gateway import call

LONGEST_SHOWN = 20_000  # characters of a document
LONGEST_COPIED = 200_000
LARGEST_READ = 4_000_000  # bytes of one that is read at all
ATTEMPTS = 50
IN_TIMELINE = 12  # attempts
MOST_KEYS = 100
RELATIVES = 50  # that a job depends on, or that depend on it
STEPS_SHOWN = 100
LONGEST_STEP = 300  # characters of a result

JOB = sql.SQL(
    """
    select id, task, state, schedule_type, queue, priority, run_at, scheduled_for, run, attempt,
        max_retries, extract(epoch from timeout)::float8 as timeout, key, unique_key, name,
        worker, lease_until, cancel_requested_at, cancel_reason, created_at, started_at,
        finished_at,
        progress is not null as has_progress, {progress} as progress,
        {payload} as payload,
        result is not null as has_result, {result} as result
    from rota.jobs
    where id = %(id)s
    """
)
# The characters that are shown and one more; whole where keys are to be found in it first.
AS_SHOWN = sql.SQL(
    """
    case when pg_column_size({0}) <= {largest} then case when {hides}
        then case when octet_length({0}::text) <= {largest} then {0}::text end
        else left(jsonb_pretty({0}), {longest} + 1)
    end end
    """
)
EXECUTIONS = sql.SQL(
    """
    select run, attempt, outcome, worker, scheduled_for, started_at, finished_at, next_run_at,
        left(error, 20000) as error, length(error) > 20000 as is_cut,
        extract(epoch from finished_at - started_at)::float8 as took
    from (
        select *
        from rota.executions as e
        where job_id = %(id)s and {before} and {since}
        {newest_first}
        limit %(rows)s
    ) as r
    """
)
BEFORE = sql.SQL(
    "(finished_at, run, attempt, outcome)"
    " < (%(finished_at)s::timestamptz, %(run)s, %(attempt)s, %(outcome)s)"
)
# What runs often has enough in a short time. Behind a wall the limit does not reach the index.
SINCE = sql.SQL("finished_at >= %(since)s::timestamptz - interval '1 day'")
ALWAYS = sql.SQL("true")
# A payload that is no object is one with a single key.
DIFFERENCE = """
    with payloads as (
        select id, case when jsonb_typeof(payload) = 'object' then payload
            else jsonb_build_object('(the payload)', payload) end as payload
        from rota.jobs
        where id in (%(this)s, %(that)s)
    )
    select coalesce(a.key, b.key) as key,
        case
            when b.key is null then 'added'
            when a.key is null then 'removed'
            when a.value <> b.value then 'changed'
            else 'same'
        end as difference,
        case when length(a.value::text) <= 2000 then a.value::text end as this,
        case when length(b.value::text) <= 2000 then b.value::text end as that
    from (
        select e.key, e.value from payloads cross join jsonb_each(payload) as e where id = %(this)s
    ) as a
    full join (
        select e.key, e.value from payloads cross join jsonb_each(payload) as e where id = %(that)s
    ) as b on b.key = a.key
    order by (a.value is not distinct from b.value), coalesce(a.key, b.key) collate "C"
    limit %(rows)s
"""
# Its place in a workflow, and those on which it depends. Behind a wall only ids and states are told
# of those in other queues, which parent_results knows. Each is asked for by its id: through these
# views nothing else reaches an index.
NODE = """
    select workflow_id, node, depends_on
    from rota.workflow_nodes
    where job_id = %(id)s
"""
WORKFLOW = "select name from rota.workflow_status where id = %(id)s"
PARENTS = """
    select p.job_id as id, p.node, p.state, j.task
    from rota.parent_results(%(id)s) as p
    left join rota.jobs as j on j.id = p.job_id and j.id = any(%(ids)s::bigint[])
    order by p.job_id
"""
SOME_PARENTS = """
    select i.id, n.node, j.state, j.task
    from unnest(%(ids)s::bigint[]) as i(id)
    left join rota.jobs as j on j.id = i.id and j.id = any(%(ids)s::bigint[])
    left join rota.workflow_nodes as n on n.job_id = i.id and n.job_id = any(%(ids)s::bigint[])
    order by i.id
"""
# The open edges tell of all; of a job that has ended its workflow tells.
WAIT_FOR_IT = """
    select child_id as id
    from rota.open_dependencies
    where parent_id = %(id)s
"""
BELOW_IT = """
    select job_id as id
    from rota.workflow_nodes
    where workflow_id = %(workflow)s
        and job_id > %(id)s
        and depends_on @> array[%(id)s::bigint]
"""
CHILDREN = """
    select job_id as id, node, state, task
    from rota.workflow_nodes
    where job_id = any(%(ids)s::bigint[])
    order by job_id
"""
STEPS = """
    select step, recorded_at,
        case when is_sleep then result ->> 'sleep_until' end as slept_until,
        case when is_event then result ->> 'event' end as event,
        case when is_event then result ->> 'state' end as event_state,
        case
            when pg_column_size(result) > 100000 or is_sleep then null
            when is_event then nullif(result -> 'payload', 'null')::text
            else result::text
        end as result,
        pg_column_size(result) > 100000 as is_large,
        count(*) over () as number
    from rota.recorded_steps(%(id)s)
    cross join lateral (
        select result = jsonb_build_object('sleep_until', result -> 'sleep_until') as is_sleep,
            jsonb_typeof(result) = 'object' and result ?& array['event', 'state', 'payload']
                as is_event
    ) as k
    order by recorded_at desc, step collate "C" desc
    limit %(rows)s
"""
TO_COPY = """
    select id, task, queue, priority, max_retries, timeout::text as timeout, unique_key,
        case when octet_length(payload::text) <= %(longest)s then jsonb_pretty(payload) end
            as payload
    from rota.jobs
    where id = %(id)s
"""


@blueprint.get("/jobs/<id:job_id>")
def show(job_id: int) -> Response:
    """Show a job."""
    given = read_query(
        {"compare": Field(_other_job), "executions_before": Field(execution_position)}
    )
    return page("job.html", lambda conn: _read(conn, job_id, **given))


@blueprint.post("/jobs/<id:job_id>/retry")
def retry(job_id: int) -> Response:
    """Bring it back."""
    act("retry_job", job_id=job_id)
    return say(f"Job {job_id} is scheduled again.", url_for(".show", job_id=job_id))


@blueprint.post("/jobs/<id:job_id>/cancel")
def cancel(job_id: int) -> Response:
    """Cancel it."""
    reason = request.form.get("reason", "").strip()
    arguments = parse_fields({"reason": reason} if reason else {}, {"reason": Field(text)})
    [outcome] = act("cancel_job", job_id=job_id, **arguments)
    said = (
        f"Job {job_id} was asked to end: it does when its handler gives way, or its lease runs out."
        if outcome["state"] == "RUNNING"
        else f"Job {job_id} is cancelled."
    )
    return say(said, url_for(".show", job_id=job_id))


@blueprint.get("/jobs/<id:job_id>/copy")
def copy(job_id: int) -> Response:
    """Show a form that has what the job has."""

    def read(conn: psycopg.Connection) -> dict[str, Any]:
        job = _job_to_copy(conn, job_id)
        if hiding.hides_anything():
            job["payload"] = hiding.cover(job["payload"])
        return {"job": job, "hides": hiding.hides_anything()}

    return page("job_copy.html", read)


@blueprint.post("/jobs/<id:job_id>/copy")
def enqueue_copy(job_id: int) -> Response:
    """Enqueue what the form has."""
    form = parse_fields(
        {name: value for name, value in request.form.items() if value and name != "form"},
        {
            "payload": Field(parse_json, required=True),
            "queue": Field(text, required=True),
            "priority": Field(_written_integer, required=True),
        },
        "this form",
    )
    with reading() as conn:
        job = _job_to_copy(conn, job_id)
    payload = form["payload"]
    if hiding.hides_anything():
        payload = hiding.uncover(payload, job["payload"])
    try:
        document = json_value(payload)
    except ValueError as error:
        raise invalid("payload", str(error)) from None
    [made] = act(
        "enqueue_job",
        task=job["task"],
        payload=document,
        queue=form["queue"],
        priority=form["priority"],
        max_retries=job["max_retries"],
        timeout=job["timeout"],
    )
    return say(
        f"Job {made['job_id']} is enqueued, a copy of job {job_id}.",
        url_for(".show", job_id=made["job_id"]),
    )


def _read(
    conn: psycopg.Connection,
    job_id: int,
    compare: int | None = None,
    executions_before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    shown = {
        column: AS_SHOWN.format(
            sql.Identifier(column),
            largest=sql.Literal(LARGEST_READ),
            longest=sql.Literal(LONGEST_SHOWN),
            hides=sql.Literal(hiding.hides_anything()),
        )
        for column in ("progress", "payload", "result")
    }
    found = rows(conn, JOB.format(**shown), id=job_id)
    reasons = _reasons(conn, job_id)
    if not found:
        raise _unknown(job_id, reasons)
    [job] = found
    for column in shown:
        job[column] = _shown(job[column])
    other = _compare(conn, job, compare)
    relatives = _relatives(conn, job)
    steps = _steps(conn, job_id)
    conn.execute(IN_ORDER)
    arguments = {"id": job_id, "rows": ATTEMPTS + 1} | (executions_before or {})
    arguments["since"] = arguments.get("finished_at") or "now"
    is_often = job["schedule_type"] != "ONE_TIME"
    for since in [SINCE, ALWAYS] if is_often else [ALWAYS]:
        query = EXECUTIONS.format(
            before=BEFORE if executions_before else ALWAYS,
            since=since,
            newest_first=NEWEST_FIRST,
        )
        attempts = conn.execute(query, arguments, prepare=False).fetchall()
        if len(attempts) > ATTEMPTS:
            break
    more = _position(attempts[ATTEMPTS - 1]) if len(attempts) > ATTEMPTS else None
    del attempts[ATTEMPTS:]
    return {
        "job": job,
        "reasons": reasons,
        "attempts": attempts,
        "older": url_for(".show", job_id=job_id, executions_before=more) if more else None,
        "is_first": executions_before is None,
        "timeline": _timeline(job, attempts) if executions_before is None else [],
        "is_live": job["finished_at"] is None,
        "other": other,
        "compare": compare,
        "steps": steps,
        "all_steps": steps[0]["number"] if steps else 0,
        **relatives,
    }


def _relatives(conn: psycopg.Connection, job: dict[str, Any]) -> dict[str, Any]:
    """Return on which jobs it depends, and which on it."""
    [node] = rows(conn, NODE, id=job["id"]) or [None]
    children = {row["id"] for row in rows(conn, WAIT_FOR_IT, id=job["id"])}
    if node:
        workflow = node["workflow_id"]
        named = rows(conn, WORKFLOW, id=workflow)
        node["workflow"] = named[0]["name"] if named else None
        below = rows(conn, BELOW_IT, id=job["id"], workflow=workflow)
        children |= {row["id"] for row in below}
    parents = None
    if node and node["depends_on"]:
        ids = node["depends_on"]
        query, shown = (PARENTS, ids) if len(ids) <= RELATIVES else (SOME_PARENTS, ids[-RELATIVES:])
        found = rows(conn, query, id=job["id"], ids=shown)
        parents = {"jobs": found, "more": len(ids) - len(found)}
    shown = sorted(children)[:RELATIVES]
    found = rows(conn, CHILDREN, ids=shown) if shown else []
    return {
        "node": node,
        "parents": parents,
        "children": {"jobs": found, "more": len(children) - len(found)} if found else None,
    }


def _steps(conn: psycopg.Connection, job_id: int) -> list[dict[str, Any]]:
    """Return the last steps that it recorded, in their order."""
    steps = rows(conn, STEPS, id=job_id, rows=STEPS_SHOWN)
    for step in steps:
        result = step["result"]
        if result is not None and hiding.hides_anything():
            result = hiding.cover(result, indent=None)
        step["is_cut"] = result is not None and len(result) > LONGEST_STEP
        step["result"] = result and result[:LONGEST_STEP]
    return steps[::-1]


def _position(attempt: dict[str, Any]) -> str:
    """Return what execution_position reads."""
    ended = attempt["finished_at"] or "infinity"
    return f"{ended},{attempt['run']},{attempt['attempt']},{attempt['outcome']}"


def _reasons(conn: psycopg.Connection, job_id: int) -> list[dict[str, Any]] | None:
    """Return why it does not run; None for who may not ask, or where it took too long."""
    try:
        with conn.transaction():
            return call(conn, "explain_job", job_id=job_id)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.QueryCanceled):
        return None


def _unknown(job_id: int, reasons: list[dict[str, Any]] | None) -> RequestError:
    reason = (reasons or [{}])[0]
    told = (reason.get("reason") or f"There is no job {job_id}").rstrip(".")
    return RequestError(404, told, code="RTN01", hint=reason.get("remedy"))


def _shown(document: str | None) -> dict[str, Any] | None:
    """Return as much of a document as a page shows, None of one that is too large to be read."""
    if document is None:
        return None
    if hiding.hides_anything():
        document = hiding.cover(document)
    return {"text": document[:LONGEST_SHOWN], "is_cut": len(document) > LONGEST_SHOWN}


def _compare(
    conn: psycopg.Connection, job: dict[str, Any], wanted: int | None
) -> dict[str, Any] | None:
    """Return how the payload differs from another job's.

    Of what failed, without being asked, from that of the last job of its task that completed, if
    it is found at once.
    """
    is_default = wanted is None or wanted == 0
    if is_default:
        if wanted is None and job["state"] != "FAILED":
            return None
        seconds = 0.1 if wanted is None else 1.0
        found = find_ended(conn, {"task": job["task"]}, ["COMPLETED"], 1, seconds)
        others = [other["id"] for other in found.jobs if other["id"] != job["id"]]
        if not others:
            return {"id": None, "stopped_at": found.stopped_at, "is_default": True}
        wanted = others[0]
    elif not rows(conn, "select from rota.jobs where id = %(id)s", id=wanted):
        return {"id": None, "unknown": wanted, "is_default": False}
    keys = rows(conn, DIFFERENCE, this=job["id"], that=wanted, rows=MOST_KEYS + 1)
    is_cut = len(keys) > MOST_KEYS
    del keys[MOST_KEYS:]
    different = [key for key in keys if key["difference"] != "same"]
    for row in different:
        for side in ("this", "that"):
            if hiding.is_hidden(row["key"]) and row["difference"] in (
                "changed",
                {"this": "added", "that": "removed"}[side],
            ):
                row[side] = hiding.COVER
            elif hiding.hides_anything() and row[side] is not None:
                row[side] = hiding.cover(row[side], indent=None)
    return {
        "id": wanted,
        "is_default": is_default,
        "different": different,
        "same": len(keys) - len(different),
        "is_cut": is_cut,
    }


def _timeline(job: dict[str, Any], attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the job did in its latest run, one span after the other.

    Args:
        job: the job.
        attempts: its attempts, the newest first.
    """
    ran = [attempt for attempt in attempts if attempt["run"] == job["run"]]
    if not ran and attempts and job["finished_at"] is not None:
        ran = [attempt for attempt in attempts if attempt["run"] == attempts[0]["run"]]
    ran = list(reversed(ran[:IN_TIMELINE]))
    spans: list[dict[str, Any]] = []
    before = job["scheduled_for"]
    if job["run"] == 1 and job["schedule_type"] == "ONE_TIME":
        if ran and ran[0]["attempt"] > 1:
            before = None  # what was before these is not told
        else:
            first = ran[0]["scheduled_for"] if ran else job["scheduled_for"]
            _add(spans, "later", "for later", job["created_at"], first)
            before = first
    elif ran:
        before = ran[0]["scheduled_for"] if ran[0]["attempt"] <= 1 else None
    for attempt in ran:
        _add(spans, "waited", "waited", before, attempt["started_at"])
        spans.append(
            {
                "kind": "ran",
                "outcome": attempt["outcome"],
                "attempt": attempt["attempt"],
                "seconds": attempt["took"],
                "since": attempt["started_at"],
                "width": _width(attempt["took"]),
            }
        )
        before = attempt["finished_at"]
        due = attempt["next_run_at"]
        if due is not None and attempt is not ran[-1]:
            was_released = attempt["outcome"] == "RELEASED"
            _add(spans, "backoff", "put off" if was_released else "backoff", before, due)
            before = max(before, due)
    if job["state"] == "SCHEDULED":
        spans.append({"kind": "next", "at": job["run_at"], "width": 1})
    elif job["finished_at"] is not None:
        spans.append({"kind": "ended", "outcome": job["state"], "at": job["finished_at"]})
    return spans


def _add(
    spans: list[dict[str, Any]], kind: str, word: str, since: str | None, until: str | None
) -> None:
    seconds = _seconds_between(since, until)
    if seconds is not None and seconds >= 0.001:
        spans.append({"kind": kind, "word": word, "seconds": seconds, "width": _width(seconds)})


def _seconds_between(since: str | None, until: str | None) -> float | None:
    try:
        return (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()
    except (TypeError, ValueError):  # one of them is not known, or never
        return None


def _width(seconds: float | None) -> int:
    """Return how broad a span is drawn: one step more for each fourfold time."""
    width = 1
    while seconds is not None and seconds > 0.1 and width < 10:
        seconds /= 4
        width += 1
    return width


def _job_to_copy(conn: psycopg.Connection, job_id: int) -> dict[str, Any]:
    found = rows(conn, TO_COPY, id=job_id, longest=LONGEST_COPIED)
    if not found:
        raise _unknown(job_id, _reasons(conn, job_id))
    if found[0]["payload"] is None:
        raise RequestError(
            422,
            f"the payload of job {job_id} is too long for a form",
            hint=f"GET /jobs/{job_id} has it, and POST /jobs takes it.",
        )
    return found[0]


def _other_job(value: str) -> int:
    """Take another job's id, or `last`: 0, for that of its task which completed last."""
    if value == "last":
        return 0
    if not value.isdecimal() or len(value) > 19 or int(value) > MAX_ID:
        raise ValueError("must be the id of a job, or last")
    return int(value)


def _written_integer(value: str) -> int:
    try:
        return integer(int(value))
    except ValueError:
        raise ValueError("must be a whole number") from None
