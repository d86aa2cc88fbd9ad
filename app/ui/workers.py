"""Workers: who is there, who fell silent, and what each runs."""

from typing import Any

import psycopg
from flask import Blueprint, Response
from psycopg import sql

from rota.app.errors import RequestError
from rota.app.inputs import Field, one_of, read_query, text
from rota.app.ui.figures import AGE
from rota.app.ui.frame import page, rows
from rota.app.ui.queues import page_number

blueprint = Blueprint("workers", __name__)

ON_A_PAGE = 100
MOST_JOBS = 50
LARGEST_DIFFERENCE = 5  # seconds between two clocks, more of which the doctor minds
# What the states of a worker mean, those that are looked for first at the beginning.
STATES = {
    "SILENT": "has not spoken for more than 90 seconds, and did not say that it stops",
    "ALIVE": "spoke within the last 90 seconds",
    "UNANNOUNCED": "has jobs that run, but has never announced itself",
    "AWAY": "works over HTTP, and asks for no jobs at the moment",
    "STOPPED": "said that it stops",
}
# One that works over HTTP is announced when it asks for jobs, and says neither its version nor that
# it stops: that nothing is heard of it tells nothing. One that works in SQL need not announce
# itself, and shows by what it runs. Materialized: the view counts what runs as soon as its rows are
# asked for by a constant, though nobody wants to know.
WORKERS = sql.SQL(
    """
    with known as materialized (
        select w.worker, w.host, w.pid, w.queues, w.concurrency, w.version, w.started_at,
            w.last_seen_at, w.stopped_at, w.tasks, w.overrun,
            extract(epoch from w.clock_difference)::float8 as clock_difference,
            case
                when w.stopped_at is not null then 'STOPPED'
                when w.last_seen_at > statement_timestamp() - interval '90 seconds' then 'ALIVE'
                when w.version is null then 'AWAY'
                else 'SILENT'
            end as state
        from rota.worker_status as w
    ), running as (
        select c.worker, sum(c.running)::bigint as running, array_agg(c.queue) as queues
        from rota.worker_census as c
        group by c.worker
    ), workers as (
        select worker, k.host, k.pid, coalesce(k.queues, r.queues) as queues, k.concurrency,
            k.version, k.started_at, k.last_seen_at, k.stopped_at, k.tasks, k.overrun,
            k.clock_difference, coalesce(k.state, 'UNANNOUNCED') as state,
            coalesce(r.running, 0) as running
        from known as k
        full join running as r using (worker)
    )
    """
)
LIST = sql.SQL(
    """
    {workers}
    select w.*, count(*) over () as matching
    from workers as w
    where (%(state)s::text is null or w.state = %(state)s)
        and (%(queue)s::text is null or %(queue)s = any(w.queues))
    order by array_position(%(states)s::text[], w.state), w.last_seen_at desc nulls last, w.worker
    limit %(limit)s offset %(offset)s
    """
).format(workers=WORKERS)
COUNTS = sql.SQL(
    """
    {workers}
    select w.state, count(*) as workers, coalesce(sum(w.concurrency), 0)::bigint as places,
        sum(w.running)::bigint as running, coalesce(sum(w.overrun), 0)::bigint as overrun,
        count(*) filter (where w.version <> rota.version()) as other_versions
    from workers as w
    group by w.state
    """
).format(workers=WORKERS)
WORKER = sql.SQL(
    """
    {workers}
    select w.*
    from workers as w
    where w.worker = %(worker)s
    """
).format(workers=WORKERS)
# The census knows those of each queue that have run longest; what has ended since is left out.
JOBS = """
    select j.id, j.task, j.queue, j.attempt, j.max_retries, j.started_at, j.lease_until,
        extract(epoch from j.timeout)::float8 as timeout, j.cancel_requested_at,
        j.started_at + j.timeout < statement_timestamp() as is_overdue
    from rota.jobs as j
    where j.id = any(array(
            select l.id
            from rota.worker_census as c
            cross join lateral unnest(c.longest_running) as l(id)
            where c.worker = %(worker)s
        ))
        and j.finished_at is null
        and j.state = 'RUNNING'
        and j.worker = %(worker)s
    order by j.started_at, j.id
    limit %(limit)s
"""
DEPLOYED = "select rota.version() as version"


@blueprint.get("/workers")
def index() -> Response:
    """List the workers: the silent first, then those that work, then those that stopped."""
    asked = read_query(
        {"state": Field(one_of(*STATES)), "queue": Field(text), "page": Field(page_number)}
    )
    number = asked.get("page", 1)

    def read(conn: psycopg.Connection) -> dict[str, Any]:
        [age] = rows(conn, AGE)
        [deployed] = rows(conn, DEPLOYED)
        workers = rows(
            conn,
            LIST,
            states=list(STATES),
            state=asked.get("state"),
            queue=asked.get("queue"),
            limit=ON_A_PAGE,
            offset=(number - 1) * ON_A_PAGE,
        )
        return {
            "age": age,
            "deployed": deployed["version"],
            "workers": workers,
            "counts": {row["state"]: row for row in rows(conn, COUNTS)},
            "states": STATES,
            "state": asked.get("state"),
            "queue": asked.get("queue"),
            "asked": {name: value for name, value in asked.items() if name != "page"},
            "page": number,
            "last": -(-workers[0]["matching"] // ON_A_PAGE) if workers else number,
            "largest_difference": LARGEST_DIFFERENCE,
        }

    return page("workers.html", read)


@blueprint.get("/workers/<name:worker>")
def show(worker: str) -> Response:
    """Show a worker, and the jobs that it has run for longest."""

    def read(conn: psycopg.Connection) -> dict[str, Any]:
        found = rows(conn, WORKER, worker=worker)
        if not found:
            raise RequestError(
                404,
                f"there is no worker {worker}",
                hint="A worker is forgotten a day after its last word.",
            )
        [age] = rows(conn, AGE)
        [deployed] = rows(conn, DEPLOYED)
        return {
            "age": age,
            "deployed": deployed["version"],
            "worker": found[0],
            "meaning": STATES[found[0]["state"]],
            "jobs": rows(conn, JOBS, worker=worker, limit=MOST_JOBS),
            "largest_difference": LARGEST_DIFFERENCE,
        }

    return page("worker.html", read)
