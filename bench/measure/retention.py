"""What it costs to keep history: jobs that complete with all of it, and where nothing is kept.

Both take turns on one database, several rounds in one run; a rate is the median of its rounds. What
is written is counted once, without the images of whole pages that follow a checkpoint. Then the
time that a look by id takes where history is of 90 days, the way to the server included.
"""

import time
from statistics import median
from typing import Any

from psycopg import Connection

from bench.contestants import ROTA
from bench.measure.limit import END, PAYLOAD, ended, in_turns, pgbench
from bench.measure.statistics import ONE_BY_ONE
from bench.server import Arena, Server
from bench.sizes import Sizes

KEEP = {"kept": "unset => '{keep_completed}'", "nothing kept": "keep_completed => '0'"}
HISTORY = ("finished_jobs", "attempts", "receipts")
SIZE = """
    select sum(pg_total_relation_size(i.inhrelid))::float8
    from pg_inherits as i
    where i.inhparent = any(%s::regclass[])
"""
DAYS = 90
MADE = """
    select
        rota._make_partition('finished_jobs', now() - d * interval '1 day', 'day'),
        rota._make_partition('attempts', now() - d * interval '1 day', 'day')
    from generate_series(1, %s) as d
"""
SPREAD = """
    insert into rota.finished_jobs (
        id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
        attempt, max_retries, worker, token, created_at, started_at, finished_at
    )
    select
        nextval('rota.job_ids'), 'nothing', '{}', 'default', 0, 'COMPLETED', 'ONE_TIME', t.at,
        t.at, 1, 1, 3, 'w', gen_random_uuid(), t.at, t.at, t.at
    from generate_series(1, %s) as n
    cross join lateral (select now() - (n %% %s) * interval '1 day') as t(at)
"""
LOOKS = {
    "jobs": "select * from rota.jobs where id = {}",
    "executions": "select * from rota.executions where job_id = {}",
}


def retention(server: Server, sizes: Sizes) -> dict[str, Any]:
    """Return rates, bytes of WAL and of disk a job, and milliseconds of looks by id."""
    with server.arena(ROTA) as arena, arena.connect() as conn:
        conn.execute("select from rota.enqueue_job('nothing')")  # there is a lane
        found: dict[str, Any] = {
            name: in_turns(
                sizes.limit_rounds,
                {how: lambda how=how, rate=rate: _kept(conn, how) or rate() for how in KEEP},
                lambda: _fill(arena, conn, sizes.limit_jobs),
            )
            for name, rate in (
                (
                    "claim + finish of 1,000",
                    lambda: ended(conn, END["Rota"], sizes.limit_jobs),
                ),
                (
                    "claim, then finish one by one",
                    lambda: pgbench(server, arena, ONE_BY_ONE, 1, sizes),
                ),
            )
        }
        conn.execute("alter system set full_page_writes = off")
        conn.execute("select pg_reload_conf()")
        try:
            for how in KEEP:
                _kept(conn, how)
                _fill(arena, conn, sizes.limit_jobs)
                wal, disk = arena.wal(), _size(conn)
                ended(conn, END["Rota"], sizes.limit_jobs)
                wal, disk = arena.wal() - wal, _size(conn) - disk
                found.setdefault("WAL of claim + finish, bytes", {})[how] = wal / sizes.limit_jobs
                found.setdefault("disk, bytes", {})[how] = disk / sizes.limit_jobs
        finally:
            conn.execute("alter system reset full_page_writes")
            conn.execute("select pg_reload_conf()")
    with server.arena(ROTA) as arena, arena.connect() as conn:
        found["looks"] = _looks(arena, conn)
    return found


def _kept(conn: Connection, how: str) -> None:
    conn.execute(f"select from rota.configure_queue('default', {KEEP[how]})".encode())
    conn.execute("select from rota.maintain()")


def _fill(arena: Arena, conn: Connection, jobs: int) -> None:
    conn.execute("truncate rota.live_jobs, rota.finished_jobs, rota.attempts, rota.receipts")
    document = f"[{','.join([PAYLOAD] * 1000)}]"
    for _ in range(jobs // 1000):
        conn.execute("select from rota.enqueue_many('send_email', %s)", [document], prepare=True)
    arena.vacuum()


def _size(conn: Connection) -> float:
    row = conn.execute(SIZE, [[f"rota.{table}" for table in HISTORY]]).fetchone()
    assert row
    return row[0]


def _looks(arena: Arena, conn: Connection) -> dict[str, float]:
    """Return the milliseconds of a look, planned then, planned before, and first of its session."""
    conn.execute(MADE, [DAYS])
    conn.execute(SPREAD, [DAYS * 1000, DAYS])
    arena.vacuum()
    (last,) = conn.execute("select max(id) from rota.finished_jobs").fetchone() or (0,)
    found = {}
    for view, text in LOOKS.items():
        firsts = []
        for number in range(20):
            with arena.connect() as fresh:
                fresh.execute("select 1")
                firsts.append(_timed(fresh, text.format(last - number * 997)))
        found[f"{view}, first of a session"] = median(firsts)
        found[f"{view}, planned then"] = median(
            _timed(conn, text.format(last - number * 997)) for number in range(50)
        )
        conn.execute(f"prepare look_{view} (bigint) as {text.format('$1')}".encode())
        for _ in range(8):
            conn.execute(f"execute look_{view} ({last})".encode())
        found[f"{view}, planned before"] = median(
            _timed(conn, f"execute look_{view} ({last - number * 997})") for number in range(50)
        )
    return found


def _timed(conn: Connection, statement: str) -> float:
    began = time.perf_counter()
    conn.execute(statement.encode()).fetchall()
    return (time.perf_counter() - began) * 1000
