"""Figures that several pages show: how much waits, runs and has ended, of all queues or of one."""

from typing import Any

import psycopg
from psycopg import sql

from rota.app.ui.frame import rows

AGE = """
    select census_at, counted_until, counted_since,
        extract(epoch from statement_timestamp() - census_at)::float8 as census_age
    from rota.statistics_age()
"""
NOW = """
    select coalesce(sum(scheduled), 0)::bigint as scheduled, coalesce(sum(due), 0)::bigint as due,
        coalesce(sum(retrying), 0)::bigint as retrying,
        coalesce(sum(running), 0)::bigint as running, coalesce(sum(lost), 0)::bigint as lost,
        coalesce(sum(overdue), 0)::bigint as overdue,
        coalesce(sum(waiting), 0)::bigint as waiting,
        extract(epoch from %(at)s::timestamptz - min(oldest_due_at))::float8 as oldest_due
    from rota.queue_census
    where %(queue)s::text is null or queue = %(queue)s
"""
HOUR = """
    select coalesce(sum(ended) filter (where outcome = 'SUCCEEDED'), 0)::bigint as succeeded,
        coalesce(sum(ended) filter (
            where outcome not in ('SUCCEEDED', 'RELEASED')), 0)::bigint as failed,
        coalesce(sum(gave_up), 0)::bigint as gave_up
    from rota.attempt_minutes
    where minute >= %(until)s::timestamptz - interval '1 hour'
        and (%(queue)s::text is null or queue = %(queue)s)
"""
# How many attempts ended a minute, in the last quarter of an hour, by queue.
RATES = sql.SQL(
    """
    select queue,
        sum(ended) filter (where outcome = 'SUCCEEDED') / 15.0 as succeeded,
        sum(ended) filter (where outcome not in ('SUCCEEDED', 'RELEASED')) / 15.0 as failed
    from rota.attempt_minutes
    where minute >= %(until)s::timestamptz - interval '15 minutes'
    group by queue
    """
)


def read(conn: psycopg.Connection, queue: str | None = None) -> dict[str, Any]:
    """Read what is so now and what was in the last hour, and of when that is.

    Args:
        conn: an open connection whose rows are dictionaries.
        queue: the one that is to be shown; None for all of them together.
    """
    [age] = rows(conn, AGE)
    asked = {"queue": queue, "at": age["census_at"], "until": age["counted_until"]}
    [now] = rows(conn, NOW, **asked)
    [hour] = rows(conn, HOUR, **asked)
    return {"age": age, "figures": now, "hour": hour}
