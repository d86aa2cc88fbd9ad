"""The overview: is anything wrong, what is done, what waits, what fails."""

from typing import Any

import psycopg
from flask import Blueprint, Response, request

from rota.app.errors import invalid
from rota.app.ui.frame import page, rows
from rota.app.ui.words import quantile

blueprint = Blueprint("overview", __name__)

# How far back, and of how long a time each point tells.
RANGES = {
    "3h": ("3 hours", "3 minutes", "3 h"),
    "24h": ("24 hours", "20 minutes", "24 h"),
    "7d": ("7 days", "2 hours", "7 days"),
    "8w": ("56 days", "1 day", "8 weeks"),
}
AGE = """
    select census_at, counted_until, counted_since,
        extract(epoch from statement_timestamp() - census_at)::float8 as census_age
    from rota.statistics_age()
"""
TOTALS = """
    select coalesce(sum(scheduled), 0)::bigint as scheduled, coalesce(sum(due), 0)::bigint as due,
        coalesce(sum(running), 0)::bigint as running, coalesce(sum(lost), 0)::bigint as lost,
        coalesce(sum(retrying), 0)::bigint as retrying,
        extract(epoch from %(at)s::timestamptz - min(oldest_due_at))::float8 as oldest_due
    from rota.queue_census
"""
QUEUES = """
    select c.queue, sum(c.scheduled)::bigint as scheduled, sum(c.due)::bigint as due,
        sum(c.running)::bigint as running,
        extract(epoch from %(at)s::timestamptz - min(c.oldest_due_at))::float8 as oldest_due,
        coalesce(m.succeeded, 0)::float8 as succeeded, coalesce(m.failed, 0)::float8 as failed
    from rota.queue_census as c
    left join (
        select queue,
            sum(ended) filter (where outcome = 'SUCCEEDED') / 15.0 as succeeded,
            sum(ended) filter (where outcome not in ('SUCCEEDED', 'RELEASED')) / 15.0 as failed
        from rota.attempt_minutes
        where minute >= %(until)s::timestamptz - interval '15 minutes'
        group by queue
    ) as m on m.queue = c.queue
    group by c.queue, m.succeeded, m.failed
    order by sum(c.due) desc, c.queue
    limit 12
"""
ENDED = """
    with points as (
        select date_bin(%(step)s::interval, minute, timestamptz '2000-01-01') as at,
            coalesce(sum(ended) filter (where outcome = 'SUCCEEDED'), 0)::bigint as succeeded,
            coalesce(sum(ended) filter (
                where outcome not in ('SUCCEEDED', 'RELEASED')), 0)::bigint as failed,
            coalesce(sum(gave_up), 0)::bigint as gave_up
        from rota.attempt_minutes
        where minute >= %(since)s
        group by 1
    )
    select p.at, coalesce(n.succeeded, 0) as succeeded, coalesce(n.failed, 0) as failed,
        coalesce(n.gave_up, 0) as gave_up
    from generate_series(
        date_bin(%(step)s::interval, %(since)s::timestamptz, timestamptz '2000-01-01'),
        %(until)s::timestamptz - %(step)s::interval,  -- what is whole
        %(step)s::interval
    ) as p(at)
    left join points as n on n.at = p.at
    order by p.at
"""
WAITED = """
    select date_bin(%(step)s::interval, minute, timestamptz '2000-01-01') as at,
        h.place, sum(h.count)::bigint as count
    from rota.attempt_minutes
    cross join lateral unnest(waited_histogram) with ordinality as h(count, place)
    where minute >= %(since)s and firsts > 0
    group by 1, 2
"""
DEPTHS = """
    select at, sum(scheduled)::bigint as scheduled, sum(due)::bigint as due,
        sum(running)::bigint as running
    from (
        select date_bin(%(step)s::interval, minute, timestamptz '2000-01-01') as at, queue,
            max(scheduled) as scheduled, max(due) as due, max(running) as running
        from rota.queue_depths
        where minute >= %(since)s and minute <= %(until)s
        group by 1, 2
    ) as q
    group by at
    order by at
"""
HOUR = """
    select coalesce(sum(ended) filter (where outcome = 'SUCCEEDED'), 0)::bigint as succeeded,
        coalesce(sum(ended) filter (
            where outcome not in ('SUCCEEDED', 'RELEASED')), 0)::bigint as failed,
        coalesce(sum(gave_up), 0)::bigint as gave_up
    from rota.attempt_minutes
    where minute >= %(until)s::timestamptz - interval '1 hour'
"""
FAILURES = """
    select j.task, right(e.error, 200) as error, count(*) as times, max(e.finished_at) as last
    from (
        select job_id, error, finished_at
        from rota.executions
        where outcome in ('FAILED', 'LOST', 'TIMED_OUT')
            and finished_at >= statement_timestamp() - interval '1 hour'
        order by finished_at desc
        limit 2000
    ) as e
    join rota.jobs as j on j.id = e.job_id
    group by 1, 2
    order by times desc, last desc
    limit 6
"""
WORKERS = """
    select count(*) filter (where is_alive) as alive,
        count(*) filter (where not is_alive) as silent,
        coalesce(sum(concurrency) filter (where is_alive), 0) as places
    from (
        select concurrency, last_seen_at > statement_timestamp() - interval '90 s' as is_alive
        from rota.worker_status
        where stopped_at is null and last_seen_at > statement_timestamp() - interval '1 hour'
    ) as w
"""


@blueprint.get("/")
def show() -> Response:
    """Show the overview."""
    chosen = request.args.get("range", "3h")
    if chosen not in RANGES:
        raise invalid("range", f"must be one of {', '.join(RANGES)}")
    return page("overview.html", lambda conn: _read(conn, chosen))


def _read(conn: psycopg.Connection, chosen: str) -> dict[str, Any]:
    length, step, _ = RANGES[chosen]
    [age] = rows(conn, AGE)
    at = age["census_at"]
    until = age["counted_until"]
    [window] = rows(
        conn,
        "select coalesce(%(until)s::timestamptz, statement_timestamp()) as until,"
        " coalesce(%(until)s::timestamptz, statement_timestamp()) - %(length)s::interval as since",
        until=until,
        length=length,
    )
    window |= {"step": step}
    waited: dict[str, list[int]] = {}
    for row in rows(conn, WAITED, **window):
        waited.setdefault(row["at"], [0] * 14)[row["place"] - 1] += row["count"]
    ended = rows(conn, ENDED, **window)
    for row in ended:
        histogram = waited.get(row["at"])
        row["p50"], row["p95"] = quantile(histogram, 0.5), quantile(histogram, 0.95)
    [totals] = rows(conn, TOTALS, at=at)
    [hour] = rows(conn, HOUR, until=window["until"])
    [workers] = rows(conn, WORKERS)
    return {
        "ranges": {name: words for name, (_, _, words) in RANGES.items()},
        "range": chosen,
        "step": step,
        "age": age,
        "totals": totals,
        "hour": hour,
        "workers": workers,
        "queues": rows(conn, QUEUES, at=at, until=window["until"]),
        "ended": ended,
        "depths": rows(conn, DEPTHS, **window),
        "failures": rows(conn, FAILURES),
    }
