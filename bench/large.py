"""What a person waits for in a large house: ``python -m bench.large FOLDER``.

Builds a house of 1,000,000 live and 5,600,000 ended jobs in FOLDER, which takes some minutes and
8 GB, unless it is there; then measures how long the questions about it take, and leaves it there.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg import Connection

from rota.db.deploy import deploy
from rota.db.embedded import Cluster

SETTINGS = {"fsync": "off", "max_wal_size": "4GB", "shared_buffers": "512MB"}
ROUNDS = 7
ALIVE = "update rota.workers set last_seen_at = rota._now(), clock = rota._now()"
EIGHT_WEEKS = """
    update rota.chores
    set since = s.at, until = s.at, ready_until = null, xid = null, readers = null
    from (select date_trunc('hour', now() - interval '56 days', 'UTC') as at) as s
    where chore = 'roll_up'
"""
BEHIND = (
    "select 1 from rota.chores where chore = 'roll_up' and until < now() - interval '2 minutes'"
)
TO_BE_THINNED = """
    select 1 from rota.minutes where seconds = 60 and minute < now() - interval '9 days' limit 1
"""
BUSY_MINUTES = """
    update rota.chores
    set until = m.first, ready_until = m.last + interval '1 minute', xid = '3', readers = '{}'
    from (
        select min(b.minute) as first, max(b.minute) as last
        from (
            select minute from rota.minutes where seconds = 60
            group by minute having sum(ended) > 10000
        ) as b
    ) as m
    where chore = 'roll_up'
"""
JOBS = {
    "waits, first of its lane": 5_600_000 + 2501,
    "waits, 40,000th of its lane": 5_600_000 + 401_992,
    "waits, of priority 5": 5_600_000 + 4000,
    "of later": 5_600_000 + 900_001,
    "of a paused queue": 5_600_000 + 300_009,
    "of a queue that nobody serves": 5_600_000 + 300_008,
    "runs": 5_600_000 + 7,
    "a schedule": 6_700_000,
    "ended a week ago": 4_400_000,
    "ended lately": 5_599_999,
    "never was": 9_000_000,
}
VIEWS = {
    "queue_census": "select * from rota.queue_census",
    "worker_census": "select * from rota.worker_census",
    "queue_depths, 3 hours": "select * from rota.queue_depths"
    " where minute > now() - interval '3 hours'",
    "attempt_minutes, 3 hours": "select minute, outcome, sum(ended) from rota.attempt_minutes"
    " where minute > now() - interval '3 hours' group by 1, 2",
    "attempt_minutes, 8 weeks by hour": "select date_trunc('hour', minute), sum(ended)"
    " from rota.attempt_minutes group by 1",
    "attempt_totals": "select * from rota.attempt_totals",
    "statistics_age": "select * from rota.statistics_age()",
}


def main() -> None:
    """Build, measure, print."""
    folder = Path(sys.argv[1])
    is_new = not (folder / "data").exists()
    with Cluster(folder / "data", 18, SETTINGS) as server:
        deploy(server.url())
        with psycopg.connect(server.url(), autocommit=True) as conn:
            if is_new:
                _build(conn)
            for name, seconds in _measured(conn):
                print(f"{name}: {1000 * seconds:.1f} ms", flush=True)


def _build(conn: Connection) -> None:
    for number, statement in enumerate(Path(__file__).with_suffix(".sql").read_text().split(";\n")):
        print(f"statement {number}: {_seconds(conn, statement):.0f} s", flush=True)
    conn.execute("vacuum (freeze, analyze)")
    conn.execute(EIGHT_WEEKS)


def _measured(conn: Connection) -> Iterator[tuple[str, float]]:
    """Yield what is measured and the seconds that it took, the median of some where not said."""
    conn.execute(ALIVE)
    calls, counting = 0, 0.0
    while conn.execute(BEHIND).fetchone():
        counting += _seconds(conn, "select rota.roll_up()")
        calls += 1
    if calls > 3:
        yield f"roll_up of eight weeks, in {calls} calls", counting
        while conn.execute(TO_BE_THINNED).fetchone():
            conn.execute("select rota.maintain()")
        conn.execute("vacuum (analyze) rota.minutes, rota.totals")
    conn.execute(BUSY_MINUTES)
    yield "roll_up of ten minutes with 60,000 ends each", _seconds(conn, "select rota.roll_up()")
    yield "maintain", _seconds(conn, "select rota.maintain()")
    yield (
        "take_census",
        _median(conn, "select rota.take_census('0', true) from pg_sleep(0)", census=True),
    )
    yield "doctor, by the census", _median(conn, "select * from rota.doctor('1 day')")
    yield "doctor, counting", _median(conn, "select * from rota.doctor('0')")
    for old in (False, True):
        conn.execute(
            "update rota.chores set ran_at = rota._now() - make_interval(mins => %s)"
            " where chore = 'take_census'",
            [int(old)],
        )
        for name, job_id in JOBS.items():
            conn.execute(ALIVE)
            (codes,) = conn.execute(
                "select string_agg(code, ', ') from rota.explain_job(%s)", [job_id]
            ).fetchone() or ("",)
            seconds = _median(conn, "select * from rota.explain_job(%s)", job_id)
            yield f"explain_job, {name}{', no census' * old} ({codes})", seconds
    for name, query in VIEWS.items():
        yield name, _median(conn, query)


def _median(conn: Connection, query: str, *arguments: Any, census: bool = False) -> float:
    found = []
    for _ in range(ROUNDS):
        if census:
            conn.execute("update rota.chores set took = '0' where chore = 'take_census'")
        found.append(_seconds(conn, query, *arguments))
    return median(found)


def _seconds(conn: Connection, query: str, *arguments: Any) -> float:
    began = time.monotonic()
    conn.execute(query.encode(), arguments or None)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
