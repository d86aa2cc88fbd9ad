"""Metrics for Prometheus.

All that is told lies in the database, so each API answers the same, and one of them is scraped. The
figures are those that take_census and roll_up have left, so a scrape costs next to nothing however
many jobs there are; it never takes a census. What is asked besides may take a hundredth of the
time, or a few seconds of half a minute: where it would take more it is kept for longer.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg
from flask import Blueprint, Response, current_app, g, request
from prometheus_client import CollectorRegistry

from rota.app.database import transaction
from rota.app.doctor import diagnosis
from rota.app.families import House
from rota.app.shared import Shared
from rota.exposition import writer

blueprint = Blueprint("metrics", __name__)

KEPT = 2.0  # seconds that an answer is given to others, too
LONGEST_LOOK = "set local statement_timeout = '5s'"  # a scrape may take ten, by default
LONGEST_PROBE = "set local statement_timeout = '1s'"
SHARE = 100  # times what a look took, before it is done again
HEADS_KEPT = 30.0  # seconds, at most

TOO_LONG = psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable

AGES = """
    select
        extract(epoch from clock_timestamp() - s.census_at)::float8,
        extract(epoch from clock_timestamp() - s.counted_until)::float8,
        rota.visible_queues()
    from rota.statistics_age() as s
"""
CENSUS = """
    select
        c.queue,
        sum(c.scheduled)::float8,
        sum(c.due)::float8,
        sum(c.retrying)::float8,
        sum(c.running)::float8,
        sum(c.lost)::float8,
        sum(c.waiting)::float8,
        greatest(0, extract(epoch from clock_timestamp() - min(c.oldest_due_at)))::float8
    from rota.queue_census as c
    group by c.queue
    order by c.queue
"""
HEADS = """
    select
        h.queue,
        h.paused_at is not null,
        greatest(0, extract(epoch from clock_timestamp() - h.oldest_due_at))::float8
    from rota.queue_heads as h
    order by h.queue
"""
# The pairs that were counted first come first: which of them have a name of their own must not
# change, or a counter would go down.
TOTALS = """
    select
        t.queue, t.task, t.outcome, t.ended, t.gave_up, t.ran_seconds, t.waited_seconds,
        t.ran_histogram, t.waited_histogram
    from rota.attempt_totals as t
    order by
        min(t.first_counted_at) over (partition by t.queue, t.task),
        t.queue collate "C",
        t.task collate "C",
        t.outcome collate "C"
"""
WORKERS = """
    select
        w.queues,
        coalesce(w.concurrency, 0),
        w.last_seen_at > statement_timestamp() - interval '90 seconds',
        w.version is not null,
        w.version <> rota.version()
    from rota.worker_status as w
    where w.stopped_at is null
"""
DEAD_ROWS = """
    select s.relname::text, s.n_dead_tup::float8
    from pg_catalog.pg_stat_all_tables as s
    where s.schemaname = 'rota'
        and s.relname in (
            'live_jobs', 'turns', 'flows', 'flow_locks', 'workers', 'lanes', 'lane_cursors',
            'schedules'
        )
    order by 1
"""
Rows = list[tuple[Any, ...]]


@dataclass
class Scrapes:
    """What was read for scrapes, by principal: its walls are its own."""

    texts: Shared[bytes] = field(default_factory=Shared)
    heads: Shared[Rows | None] = field(default_factory=Shared)


@blueprint.get("/metrics")
def scrape() -> Response:
    """Tell Prometheus how the queues, tasks and workers are.

    Each API tells the same, so one of them is to be scraped. What waits and what has ended was
    counted aside (`rota_census_age_seconds`, `rota_rollup_age_seconds`), how long the first job of
    a queue has waited is looked up. Above 1,000 pairs of a queue and a task, the task of those
    that were counted last is `other`. A token behind a wall sees its own queues, and nothing of the
    server. The names are listed in docs/operations.md.
    ---
    tags: [metrics]
    operationId: getMetrics
    security: [operator, reader]
    responses:
      200:
        description: Metrics, as text or, if that is what is accepted, as OpenMetrics.
        content:
          text/plain:
            schema: {type: string}
            example: 'rota_jobs{queue="default",state="due"} 3.0'
          application/openmetrics-text:
            schema: {type: string}
            example: 'rota_jobs{queue="default",state="due"} 3.0'
    """
    with transaction():
        pass  # a token that was revoked is refused, whatever is kept
    write, content_type = writer(request.headers.get("Accept", ""))
    scrapes: Scrapes = current_app.extensions["scrapes"]

    def render() -> tuple[bytes, float]:
        registry = CollectorRegistry()
        registry.register(_house(scrapes))
        return write(registry), KEPT

    text = scrapes.texts.get((g.get("principal"), content_type), render)
    response = Response(text, content_type=content_type)
    response.vary.add("Accept")
    return response


def _house(scrapes: Scrapes) -> House:
    """Read all figures."""
    principal = g.get("principal")
    with transaction() as conn:
        conn.execute(LONGEST_LOOK)
        census_age, rollup_age, visible = _rows(conn, AGES)[0]
        sees_all = visible is None
        house = House(
            census=_rows(conn, CENSUS),
            totals=_rows(conn, TOTALS),
            workers=_rows(conn, WORKERS),
            dead_rows=_rows(conn, DEAD_ROWS) if sees_all else None,
            census_age=census_age,
            rollup_age=rollup_age,
        )
    walls = None if sees_all else tuple(visible)
    house.heads = scrapes.heads.get((principal, walls), _heads)
    if sees_all:
        looked = diagnosis()
        house.findings = _count(looked.findings)
        house.findings_age = time.monotonic() - looked.asked_at
    return house


def _rows(conn: psycopg.Connection[Any], query: str) -> Rows:
    # Not prepared: a plan that was made while the tables were empty must not outlive their growth.
    return conn.execute(query, prepare=False).fetchall()


def _heads() -> tuple[Rows | None, float]:
    """Probe each lane; where old snapshots make that slow there is the census."""
    began = time.monotonic()
    try:
        with transaction() as conn:
            conn.execute(LONGEST_PROBE)
            heads = _rows(conn, HEADS)
    except TOO_LONG:
        heads = None
    return heads, min(SHARE * (time.monotonic() - began), HEADS_KEPT)


def _count(findings: list[dict[str, Any]] | None) -> Rows | None:
    """Return how many there are of each severity and check, and the age of the oldest snapshot."""
    if findings is None:
        return None
    counted = Counter((finding["severity"], finding["check"]) for finding in findings)
    ages = [f["age"] for f in findings if f["check"] == "old snapshot" and f["age"] is not None]
    return [
        (*kind, float(number), max(ages) if ages and kind[1] == "old snapshot" else None)
        for kind, number in sorted(counted.items())
    ]
