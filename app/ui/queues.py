"""Queues: what waits and runs in each, who serves it, and its settings."""

import re
from datetime import timedelta
from typing import Any

import psycopg
from flask import Blueprint, Response, request, url_for
from psycopg import sql

from rota.app.errors import RequestError, invalid
from rota.app.inputs import MAX_INTEGER, Field, read_query, text
from rota.app.ui import charts, figures
from rota.app.ui.frame import act, page, rows, say

blueprint = Blueprint("queues", __name__)

ON_A_PAGE = 100
MOST_TASKS = 100
MOST_KEYS = 100
FULLEST_KEYS = 10
# A worker is alive that spoke within three of its announcements, as the doctor has it.
QUEUES = sql.SQL(
    """
    with counted as (
        select queue, sum(scheduled)::bigint as scheduled, sum(due)::bigint as due,
            sum(running)::bigint as running, sum(lost)::bigint as lost,
            sum(waiting)::bigint as waiting,
            extract(epoch from %(at)s::timestamptz - min(oldest_due_at))::float8 as oldest_due
        from rota.queue_census
        group by queue
    ), ended as ({rates}), served as (
        select s.queue, count(distinct w.worker) as workers
        from rota.worker_status as w
        cross join lateral unnest(w.queues) as s(queue)
        where w.stopped_at is null
            and w.last_seen_at > statement_timestamp() - interval '90 seconds'
        group by s.queue
    )
    select q.queue, q.paused_at, coalesce(c.scheduled, 0) as scheduled, coalesce(c.due, 0) as due,
        coalesce(c.running, 0) as running, coalesce(c.lost, 0) as lost,
        coalesce(c.waiting, 0) as waiting, c.oldest_due,
        coalesce(e.succeeded, 0)::float8 as succeeded, coalesce(e.failed, 0)::float8 as failed,
        coalesce(s.workers, 0) as workers, count(*) over () as matching
    from rota.queue_status as q
    left join counted as c on c.queue = q.queue
    left join ended as e on e.queue = q.queue
    left join served as s on s.queue = q.queue
    where %(named)s::text is null or strpos(lower(q.queue), lower(%(named)s)) > 0
    order by due desc, running desc, q.queue
    limit %(limit)s offset %(offset)s
    """
).format(rates=figures.RATES)
# All are read, for asked for one by name the view counts its jobs, though nobody wants to know.
QUEUE = """
    with known as materialized (
        select queue, paused_at, max_retries, backoff_base, backoff_cap, timeout, max_running,
            max_starts, starts_period, key_max_running, key_max_starts, key_starts_period,
            key_in_order, keep_completed, keep_failed
        from rota.queue_status
    )
    select k.queue, k.paused_at, k.max_retries,
        extract(epoch from k.backoff_base)::float8 as backoff_base,
        extract(epoch from k.backoff_cap)::float8 as backoff_cap,
        extract(epoch from k.timeout)::float8 as timeout,
        k.max_running, k.max_starts, extract(epoch from k.starts_period)::float8 as starts_period,
        k.key_max_running, k.key_max_starts,
        extract(epoch from k.key_starts_period)::float8 as key_starts_period,
        k.key_in_order,
        extract(epoch from k.keep_completed)::float8 / 3600 as keep_completed,
        extract(epoch from k.keep_failed)::float8 / 3600 as keep_failed
    from known as k
    where k.queue = %(queue)s
"""
TASKS = """
    with counted as (
        select task, sum(scheduled)::bigint as scheduled, sum(due)::bigint as due,
            sum(retrying)::bigint as retrying, sum(running)::bigint as running,
            sum(waiting)::bigint as waiting,
            extract(epoch from %(at)s::timestamptz - min(oldest_due_at))::float8 as oldest_due
        from rota.queue_census
        where queue = %(queue)s
        group by task
    ), ended as (
        select task,
            sum(ended) filter (where outcome = 'SUCCEEDED') as succeeded,
            sum(ended) filter (where outcome not in ('SUCCEEDED', 'RELEASED')) as failed,
            sum(gave_up) as gave_up,
            sum(ran_seconds) filter (where outcome = 'SUCCEEDED')
                / nullif(sum(ended) filter (where outcome = 'SUCCEEDED'), 0) as took
        from rota.attempt_minutes
        where minute >= %(until)s::timestamptz - interval '1 hour' and queue = %(queue)s
        group by task
    )
    select task, coalesce(c.scheduled, 0) as scheduled, coalesce(c.due, 0) as due,
        coalesce(c.retrying, 0) as retrying, coalesce(c.running, 0) as running,
        coalesce(c.waiting, 0) as waiting, c.oldest_due,
        coalesce(e.succeeded, 0)::bigint as succeeded, coalesce(e.failed, 0)::bigint as failed,
        coalesce(e.gave_up, 0)::bigint as gave_up, e.took::float8 as took,
        count(*) over () as all_tasks
    from counted as c
    full join ended as e using (task)
    order by due desc, scheduled desc, succeeded desc, task
    limit %(limit)s
"""
SERVED = """
    select count(*) as workers, coalesce(sum(concurrency), 0)::bigint as places
    from rota.worker_status
    where stopped_at is null
        and last_seen_at > statement_timestamp() - interval '90 seconds'
        and %(queue)s = any(queues)
"""
# Keys with limits of their own.
KEYS = """
    select key, max_running, max_starts,
        extract(epoch from starts_period)::float8 as starts_period, count(*) over () as all_keys
    from rota.key_limits
    where queue = %(queue)s
    order by key collate "C"
    limit %(limit)s
"""
# Which keys run most: of those jobs that the census knows by their ids, which is all that run where
# no worker has more than twenty in a queue.
FULLEST = """
    select r.key, r.running, coalesce(
            (
                select l.max_running from rota.key_limits as l
                where l.queue = %(queue)s and l.key = r.key
            ),
            %(may)s::integer
        ) as may
    from (
        select j.key, count(*) as running
        from rota.jobs as j
        where j.id = any(array(
                select l.id
                from rota.worker_census as c
                cross join lateral unnest(c.longest_running) as l(id)
                where c.queue = %(queue)s
                limit 1000
            ))
            and j.finished_at is null
            and j.state = 'RUNNING'
            and j.key is not null
        group by j.key
        order by running desc, j.key collate "C"
        limit %(limit)s
    ) as r
    order by r.running desc, r.key collate "C"
"""

NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?", re.ASCII)


def page_number(value: Any) -> int:
    """Take the number of a page, in a query."""
    if not value.isdecimal() or not value.isascii() or not 1 <= int(value[:9]) <= 10_000:
        raise ValueError("must be a whole number from 1 to 10000")
    return int(value)


def whole(value: str) -> int:
    """Take a whole number, written out."""
    if not value.isdecimal() or not value.isascii() or int(value[:11]) > MAX_INTEGER:
        raise ValueError("must be a whole number")
    return int(value)


def seconds(value: str) -> timedelta:
    """Take a number of seconds, written out."""
    if not NUMBER.fullmatch(value):
        raise ValueError("must be a number of seconds, such as 90 or 2.5")
    return timedelta(seconds=float(value))


def hours(value: str) -> timedelta:
    """Take a number of hours, written out."""
    if not NUMBER.fullmatch(value):
        raise ValueError("must be a number of hours, such as 48 or 0")
    return timedelta(hours=float(value))


def yes(value: str) -> bool:
    """Take a yes, chosen from a list."""
    if value != "yes":
        raise ValueError("must be yes, or left empty")
    return True


# What a queue can be set to: how it is read, what it is called, what holds where it is not set.
SETTINGS = {
    "max_retries": (whole, "Max retries", "3", "How often a job that fails is tried again."),
    "timeout": (seconds, "Timeout, s", "none", "After it an attempt is over."),
    "backoff_base": (seconds, "Backoff base, s", "5", "The longest wait before the first retry."),
    "backoff_cap": (seconds, "Backoff cap, s", "3600", "Until then it doubles with each retry."),
    "keep_completed": (hours, "Keep completed, h", "as all", "0 keeps nothing of what completes."),
    "keep_failed": (hours, "Keep others, h", "as all", "Those that failed or were cancelled."),
}
# How much of it may run and start, and of each of its keys.
LIMITS = {
    "max_running": (whole, "Running at once", "no limit", "So many of its jobs at a time."),
    "key_max_running": (whole, "Each key: running at once", "no limit", "Of jobs with one key."),
    "max_starts": (whole, "Starts", "no limit", "So many, in any span of this length:"),
    "starts_period": (seconds, "in, s", "none", "A sliding window."),
    "key_max_starts": (whole, "Each key: starts", "no limit", "So many, in any span of:"),
    "key_starts_period": (seconds, "Each key: in, s", "none", "A sliding window."),
    "key_in_order": (yes, "Each key: in order", "no", "One by one, through retries and backoff."),
}
KEY_LIMITS = {name: LIMITS[name] for name in ("max_running", "max_starts", "starts_period")}


@blueprint.get("/queues")
def index() -> Response:
    """List the queues, those with most to do first."""
    asked = read_query({"named": Field(text), "page": Field(page_number)})
    number = asked.get("page", 1)
    named = asked.get("named", "").strip() or None

    def read(conn: psycopg.Connection) -> dict[str, Any]:
        [age] = rows(conn, figures.AGE)
        queues = rows(
            conn,
            QUEUES,
            at=age["census_at"],
            until=age["counted_until"],
            named=named,
            limit=ON_A_PAGE,
            offset=(number - 1) * ON_A_PAGE,
        )
        last = -(-queues[0]["matching"] // ON_A_PAGE) if queues else number
        return {"age": age, "queues": queues, "named": named, "page": number, "last": last}

    return page("queues.html", read)


@blueprint.post("/queues")
def create() -> Response:
    """Make a queue before its first job, so that it can be set or paused."""
    queue = request.form.get("queue", "").strip()
    act("configure_queue", queue=queue)
    return say(f"There is a queue {queue} now.", url_for("ui.queues.show", queue=queue))


@blueprint.get("/queues/<name:queue>")
def show(queue: str) -> Response:
    """Show a queue."""
    chosen = charts.chosen_range()
    return page("queue.html", lambda conn: _read(conn, queue, chosen))


def _read(conn: psycopg.Connection, queue: str, chosen: str) -> dict[str, Any]:
    found = rows(conn, QUEUE, queue=queue)
    if not found:
        raise RequestError(
            404,
            f"there is no queue {queue}",
            code="RTN03",
            hint="A queue begins with its first job, or with its first settings.",
        )
    read = figures.read(conn, queue)
    asked = {"at": read["age"]["census_at"], "until": read["age"]["counted_until"]}
    [served] = rows(conn, SERVED, queue=queue)
    return {
        **read,
        **charts.read(conn, chosen, asked["until"], queue),
        "queue": found[0],
        "served": served,
        "tasks": rows(conn, TASKS, **asked, queue=queue, limit=MOST_TASKS),
        "settings": _fields(SETTINGS, found[0]),
        "limits": _fields(LIMITS, found[0]),
        "keys": rows(conn, KEYS, queue=queue, limit=MOST_KEYS),
        "fullest": rows(
            conn, FULLEST, queue=queue, may=found[0]["key_max_running"], limit=FULLEST_KEYS
        ),
    }


def _fields(settings: dict[str, Any], row: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "label": label,
            "default": default,
            "help": help_,
            "value": _written(row[name]),
            "is_choice": parse is yes,
        }
        for name, (parse, label, default, help_) in settings.items()
    ]


def _written(value: float | None) -> str:
    """Write a setting as its field is filled in; nothing for one that is not set."""
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else f"{value:.6f}".rstrip("0").rstrip(".")


@blueprint.post("/queues/<name:queue>/pause")
def pause(queue: str) -> Response:
    """Pause a queue."""
    act("pause_queue", queue=queue)
    return say(
        f"Queue {queue} is paused: none of its jobs is started, those that run go on.",
        _back(queue),
    )


@blueprint.post("/queues/<name:queue>/resume")
def resume(queue: str) -> Response:
    """Resume a queue."""
    act("resume_queue", queue=queue)
    return say(f"Queue {queue} goes on.", _back(queue))


@blueprint.post("/queues/<name:queue>/settings")
def configure(queue: str) -> Response:
    """Set what was filled in, unset what was emptied, and leave what somebody else has changed."""
    given: dict[str, Any] = {}
    unset = []
    possible = SETTINGS | LIMITS
    for name, (parse, *_) in possible.items():
        value = request.form.get(name, "").strip()
        if value == request.form.get(f"was_{name}", ""):
            continue
        if not value:
            unset.append(name)
            continue
        try:
            given[name] = parse(value)
        except ValueError as error:
            raise invalid(name, str(error)) from None
    if not given and not unset:
        return say("Nothing was changed.", url_for("ui.queues.show", queue=queue))
    act("configure_queue", queue=queue, **given, unset=unset)
    changed = ", ".join(possible[name][1].partition(",")[0].lower() for name in [*given, *unset])
    return say(f"Queue {queue}: {changed} changed.", url_for("ui.queues.show", queue=queue))


@blueprint.post("/queues/<name:queue>/key")
def configure_key(queue: str) -> Response:
    """Give a key limits of its own, those that were filled in; none, and its queue's hold."""
    key = request.form.get("key", "").strip()
    given: dict[str, Any] = {}
    for name, (parse, *_) in KEY_LIMITS.items():
        if value := request.form.get(name, "").strip():
            try:
                given[name] = parse(value)
            except ValueError as error:
                raise invalid(name, str(error)) from None
    unset = [name for name in KEY_LIMITS if name not in given]
    act("configure_key", queue=queue, key=key, **given, unset=unset)
    has = "has limits of its own" if given else "has no limits of its own any more"
    return say(f"Key {key} of queue {queue} {has}.", url_for("ui.queues.show", queue=queue))


@blueprint.post("/queues/<name:queue>/delete")
def delete(queue: str) -> Response:
    """Forget a queue without live jobs."""
    act("delete_queue", queue=queue)
    return say(f"Queue {queue} is deleted.", url_for("ui.queues.index"))


def _back(queue: str) -> str:
    """Return where the form was: the list, or the page of the queue."""
    is_list = request.args.get("back") == "list"
    return url_for("ui.queues.index") if is_list else url_for("ui.queues.show", queue=queue)
