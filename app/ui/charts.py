"""What charts show: attempts that ended, how long jobs waited, how deep queues were."""

from typing import Any

import psycopg
from flask import current_app, request
from psycopg import sql

from rota.app.errors import invalid
from rota.app.shared import Shared
from rota.app.ui.frame import rows, visitor
from rota.app.ui.words import quantile

# How far back, of how long a time each point tells, and for how many seconds they are kept: to
# count the minutes of eight days takes up to a second.
RANGES = {
    "3h": ("3 hours", "3 minutes", "3 h", 0),
    "24h": ("24 hours", "20 minutes", "24 h", 20),
    "7d": ("7 days", "2 hours", "7 days", 300),
    "8w": ("56 days", "1 day", "8 weeks", 900),
}
WINDOW = """
    select u.until, u.until - %(length)s::interval as since
    from (
        select coalesce(%(until)s::timestamptz, statement_timestamp()) as until
    ) as u
"""
# The histograms place by place: to unnest those of each row takes ten times as long.
ENDED = sql.SQL(
    """
    with points as (
        select date_bin(%(step)s::interval, minute, timestamptz '2000-01-01') as at,
            coalesce(sum(ended) filter (where outcome = 'SUCCEEDED'), 0)::bigint as succeeded,
            coalesce(sum(ended) filter (
                where outcome not in ('SUCCEEDED', 'RELEASED')), 0)::bigint as failed,
            coalesce(sum(gave_up), 0)::bigint as gave_up,
            array[{waited}]::bigint[] as waited
        from rota.attempt_minutes
        where minute >= %(since)s and (%(queue)s::text is null or queue = %(queue)s)
        group by 1
    )
    select p.at, coalesce(n.succeeded, 0) as succeeded, coalesce(n.failed, 0) as failed,
        coalesce(n.gave_up, 0) as gave_up, n.waited
    from generate_series(
        date_bin(%(step)s::interval, %(since)s::timestamptz, timestamptz '2000-01-01'),
        %(until)s::timestamptz - %(step)s::interval,  -- what is whole
        %(step)s::interval
    ) as p(at)
    left join points as n on n.at = p.at
    order by p.at
    """
).format(
    waited=sql.SQL(", ").join(
        sql.SQL("sum(waited_histogram[{}])").format(place) for place in range(1, 15)
    )
)
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
# A queue without live jobs has no row. It was empty, if others were counted then.
DEPTHS_OF_ONE = """
    with counted as (
        select date_bin(%(step)s::interval, minute, timestamptz '2000-01-01') as at,
            max(scheduled) as scheduled, max(due) as due, max(running) as running
        from rota.queue_depths
        where minute >= %(since)s and minute <= %(until)s and queue = %(queue)s
        group by 1
    )
    select p.at, coalesce(c.scheduled, n.none) as scheduled, coalesce(c.due, n.none) as due,
        coalesce(c.running, n.none) as running
    from generate_series(
        date_bin(%(step)s::interval, %(since)s::timestamptz, timestamptz '2000-01-01'),
        %(until)s::timestamptz,
        %(step)s::interval
    ) as p(at)
    left join counted as c on c.at = p.at
    cross join lateral (
        select case when exists (
            select
            from rota.queue_depths as d
            where d.minute >= p.at and d.minute < p.at + %(step)s::interval
        ) then 0 end as none
    ) as n
    order by p.at
"""


def chosen_range() -> str:
    """Return how far back whoever asks wants to look.

    Raises:
        RequestError: 422, that is none of those that there are.
    """
    chosen = request.args.get("range", "3h")
    if chosen not in RANGES:
        raise invalid("range", f"must be one of {', '.join(RANGES)}")
    return chosen


def read(
    conn: psycopg.Connection, chosen: str, until: str | None, queue: str | None = None
) -> dict[str, Any]:
    """Read what the charts of a page show.

    Args:
        conn: an open connection.
        chosen: one of RANGES.
        until: until when attempts are counted; None where they never were.
        queue: the one that is to be shown; None for all of them together.
    """
    length, step, _, seconds = RANGES[chosen]

    def count() -> tuple[dict[str, Any], float]:
        [window] = rows(conn, WINDOW, until=until, length=length)
        window |= {"step": step, "queue": queue}
        ended = rows(conn, ENDED, **window)
        for row in ended:
            row["p50"], row["p95"] = quantile(row["waited"], 0.5), quantile(row["waited"], 0.95)
        depths = rows(conn, DEPTHS if queue is None else DEPTHS_OF_ONE, **window)
        return {"ended": ended, "depths": depths}, seconds

    kept: Shared[dict[str, Any]] = current_app.extensions["charts"]
    key = (*visitor(), chosen, queue)
    return {
        "ranges": {name: words for name, (_, _, words, _) in RANGES.items()},
        "range": chosen,
        "step": step,
        **(kept.get(key, count) if seconds and until else count()[0]),
    }
