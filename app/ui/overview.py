"""The overview: is anything wrong, what is done, what waits, what fails."""

from typing import Any

import psycopg
from flask import Blueprint, Response
from psycopg import sql

from rota.app.ui import charts, figures
from rota.app.ui.frame import page, rows

blueprint = Blueprint("overview", __name__)

QUEUES = sql.SQL(
    """
    select c.queue, sum(c.scheduled)::bigint as scheduled, sum(c.due)::bigint as due,
        sum(c.running)::bigint as running,
        extract(epoch from %(at)s::timestamptz - min(c.oldest_due_at))::float8 as oldest_due,
        coalesce(m.succeeded, 0)::float8 as succeeded, coalesce(m.failed, 0)::float8 as failed
    from rota.queue_census as c
    left join ({rates}) as m on m.queue = c.queue
    group by c.queue, m.succeeded, m.failed
    order by sum(c.due) desc, c.queue
    limit 12
    """
).format(rates=figures.RATES)
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
        count(*) filter (where not is_alive and version is not null) as silent,
        coalesce(sum(concurrency) filter (where is_alive), 0) as places
    from (
        select concurrency, version,
            last_seen_at > statement_timestamp() - interval '90 seconds' as is_alive
        from rota.worker_status
        where stopped_at is null and last_seen_at > statement_timestamp() - interval '1 hour'
    ) as w
"""


@blueprint.get("/")
def show() -> Response:
    """Show the overview."""
    chosen = charts.chosen_range()
    return page("overview.html", lambda conn: _read(conn, chosen))


def _read(conn: psycopg.Connection, chosen: str) -> dict[str, Any]:
    read = figures.read(conn)
    at, until = read["age"]["census_at"], read["age"]["counted_until"]
    [workers] = rows(conn, WORKERS)
    return {
        **read,
        **charts.read(conn, chosen, until),
        "workers": workers,
        "queues": rows(conn, QUEUES, at=at, until=until),
        "failures": rows(conn, FAILURES),
    }
