"""The limit: what PostgreSQL itself can do with the same rows in a table without rules or history.

Rota and the bare table take turns, several rounds in one run; a figure is the median of its rounds.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import psycopg
from psycopg import Connection

from bench.contestants import ROTA
from bench.server import Arena, Server
from bench.sizes import Sizes

BARE = """
    create table public.bare (
        id bigint generated always as identity primary key,
        task text not null,
        queue text not null,
        payload jsonb not null,
        run_at timestamptz not null
    );
    create table public.bare_jobs (like public.bare, ended_at timestamptz not null);
    create table public.bare_attempts (job_id bigint not null, ended_at timestamptz not null);
"""
PAYLOAD = '{"to": "ada@example.com", "subject": "Welcome"}'
ONE = {
    "bare": "insert into public.bare (task, queue, payload, run_at)"
    " values ('send_email', 'default', :payload, clock_timestamp()) returning id;",
    "Rota": "select * from rota.enqueue_job('send_email', :payload);",
}
COPY = "copy public.bare (task, queue, payload, run_at) from stdin"
BULKS = {  # statement, jobs a call
    "enqueue_many, 10,000 a call": ("select from rota.enqueue_many('send_email', %s)", 10_000),
    "enqueue_many, 1,000 a call": ("select from rota.enqueue_many('send_email', %s)", 1000),
    "enqueue_jobs, 1,000 a call": ("select from rota.enqueue_jobs(%s)", 1000),
}
END = {  # of 1,000 jobs, in one transaction
    "bare": """
        with taken as (
            delete from public.bare
            where id = any(array(
                select b.id from public.bare as b order by b.id limit 1000
                for update skip locked
            ))
            returning *
        ), attempts as (
            insert into public.bare_attempts select t.id, clock_timestamp() from taken as t
        )
        insert into public.bare_jobs select t.*, clock_timestamp() from taken as t
    """,
    "Rota": """
        do $$
        declare
            v_ids bigint[];
            v_tokens uuid[];
        begin
            select array_agg(c.id), array_agg(c.token) into v_ids, v_tokens
            from rota.claim_next_job(max_jobs => 1000) as c;
            perform rota.finish_jobs(v_ids, v_tokens);
        end;
        $$
    """,
}


def limit(server: Server, sizes: Sizes) -> dict[str, Any]:
    """Return jobs a second of the bare table and of Rota, and the bytes of WAL that a job takes."""
    with server.arena(ROTA) as arena, arena.connect() as conn:
        conn.execute(BARE)
        found: dict[str, Any] = {}
        for clients in sizes.limit_clients:
            rates = in_turns(
                sizes.limit_rounds,
                {
                    who: lambda text=text: pgbench(server, arena, text, clients, sizes)  # noqa: B023
                    for who, text in ONE.items()
                },
                lambda: _empty(arena, conn),
            )
            found[f"enqueue one by one, {clients} client{'s' * (clients > 1)}"] = rates
        bulks = in_turns(
            sizes.limit_rounds,
            {"bare": lambda: _copy(conn, sizes.limit_jobs)}
            | {
                name: lambda text=text, size=size: _bulk(conn, text, size, sizes.limit_jobs)
                for name, (text, size) in BULKS.items()
            },
            lambda: _empty(arena, conn),
        )
        found |= {name: {"bare": bulks["bare"], "Rota": bulks[name]} for name in BULKS}
        found["claim + finish of 1,000"] = in_turns(
            sizes.limit_rounds,
            {who: lambda who=who: ended(conn, END[who], sizes.limit_jobs) for who in END},
            lambda: _fill(arena, conn, sizes.limit_jobs),
        )
        found["WAL of claim + finish"] = _wal(arena, conn, sizes.limit_jobs)
    return found


def in_turns(
    rounds: int, measures: dict[str, Callable[[], float]], prepare: Callable[[], None]
) -> dict[str, float]:
    """Return the median of each measure; the first round, which nobody counts, warms all up."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds + 1):
        for name, measure in measures.items():
            prepare()
            figures[name].append(measure())
    return {name: median(values[1:]) for name, values in figures.items()}


def _empty(arena: Arena, conn: Connection) -> None:
    conn.execute("truncate public.bare, public.bare_jobs, public.bare_attempts, rota.live_jobs")
    arena.vacuum()


def pgbench(server: Server, arena: Arena, text: str, clients: int, sizes: Sizes) -> float:
    """Return how often a second so many clients run a script."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(text)
        script.flush()
        output = subprocess.run(
            [
                *(server.cluster.bin / "pgbench", "--no-vacuum", "--protocol=prepared"),
                *(f"--client={clients}", f"--jobs={min(clients, os.cpu_count() or 1)}"),
                *(f"--time={sizes.limit_seconds}", f"--define=payload={PAYLOAD}"),
                *(f"--file={script.name}", arena.url),
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    (line,) = [line for line in output.splitlines() if line.startswith("tps = ")]
    return float(line.split()[2])


def _copy(conn: Connection, jobs: int) -> float:
    line = "\t".join(["send_email", "default", PAYLOAD, "2026-01-01 00:00:00+00"]) + "\n"
    data = line * jobs
    began = time.monotonic()
    with conn.cursor().copy(COPY) as copy:
        copy.write(data)
    return jobs / (time.monotonic() - began)


def _bulk(conn: Connection, text: str, size: int, jobs: int) -> float:
    item = PAYLOAD if "enqueue_many" in text else f'{{"task": "send_email", "payload": {PAYLOAD}}}'
    document = f"[{','.join([item] * size)}]"
    calls = max(1, jobs // size)
    began = time.monotonic()
    for _ in range(calls):
        conn.execute(text, [document], prepare=True)
    return calls * size / (time.monotonic() - began)


def _fill(arena: Arena, conn: Connection, jobs: int) -> None:
    _empty(arena, conn)
    _copy(conn, jobs)
    _bulk(conn, BULKS["enqueue_many, 1,000 a call"][0], 1000, jobs)
    arena.vacuum()


def ended(conn: Connection, text: str, jobs: int) -> float:
    """Return how many jobs a second are ended by a statement that ends 1,000."""
    began = time.monotonic()
    for _ in range(jobs // 1000):
        conn.execute(text)
    return jobs / (time.monotonic() - began)


def _wal(arena: Arena, conn: Connection, jobs: int) -> dict[str, float]:
    """Return bytes a job, without the images of whole pages that follow a checkpoint."""
    found = {}
    with psycopg.connect(arena.url, autocommit=True) as other:
        other.execute("alter system set full_page_writes = off")
        other.execute("select pg_reload_conf()")
        try:
            for who in END:
                _fill(arena, conn, jobs)
                before = arena.wal()
                ended(conn, END[who], jobs)
                found[who] = (arena.wal() - before) / jobs
        finally:
            other.execute("alter system reset full_page_writes")
            other.execute("select pg_reload_conf()")
    return found
