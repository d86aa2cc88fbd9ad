"""What statistics cost: the same claims and finishes with all of them on, and with none.

Both take turns on one database, several rounds in one run; a figure is the median of its rounds.
On are the indexes of history by time, and counting as upkeep does it, but five times as often. Off
there are no such indexes, and upkeep recovers only.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import Connection

from bench.contestants import ROTA
from bench.measure.limit import END, PAYLOAD, ended, in_turns, pgbench
from bench.server import Arena, Server
from bench.sizes import Sizes

OFTEN = 1.0  # seconds between two turns of upkeep; a worker waits for five
BY_TIME = {"finished_jobs_times": "finished_jobs", "times_of_attempts": "attempts"}
COUNTING = ("take_census", "roll_up")
NOTHING = {
    "take_census": "create or replace function rota.take_census("
    "older_than interval default '5 seconds', force boolean default false)"
    " returns boolean language sql as 'select false'",
    "roll_up": "create or replace function rota.roll_up(max_minutes integer default 10080)"
    " returns integer language sql as 'select 0'",
}
ONE_BY_ONE = """
    select id, token from rota.claim_next_job() \\gset
    select from rota.finish_job(:id, :token);
"""


def statistics(server: Server, sizes: Sizes) -> dict[str, Any]:
    """Return the jobs that are claimed and finished a second, with statistics and without."""
    with server.arena(ROTA) as arena, arena.connect() as conn:
        definitions = {name: _definition(conn, name) for name in COUNTING}

        def of_1000(how: str) -> float:
            with _statistics(arena, conn, definitions if how == "on" else None):
                return ended(conn, END["Rota"], sizes.limit_jobs)

        def one_by_one(how: str) -> float:
            with _statistics(arena, conn, definitions if how == "on" else None):
                return pgbench(server, arena, ONE_BY_ONE, 1, sizes)

        return {
            name: in_turns(
                sizes.limit_rounds,
                {how: lambda how=how, rate=rate: rate(how) for how in ("on", "off")},
                lambda: _fill(arena, conn, sizes.limit_jobs),
            )
            for name, rate in (
                ("claim + finish of 1,000", of_1000),
                ("claim, then finish one by one", one_by_one),
            )
        }


def _definition(conn: Connection, function: str) -> str:
    row = conn.execute("select pg_get_functiondef(('rota.' || %s)::regproc)", [function]).fetchone()
    assert row
    return row[0]


def _fill(arena: Arena, conn: Connection, jobs: int) -> None:
    # History, too: what others ended is not to be counted while this one is measured.
    conn.execute("truncate rota.live_jobs, rota.finished_jobs, rota.attempts")
    document = f"[{','.join([PAYLOAD] * 1000)}]"
    for _ in range(jobs // 1000):
        conn.execute("select from rota.enqueue_many('send_email', %s)", [document], prepare=True)
    arena.vacuum()


@contextmanager
def _statistics(
    arena: Arena, conn: Connection, definitions: dict[str, str] | None
) -> Iterator[None]:
    """Have statistics, if there are definitions, and upkeep beside what is measured."""
    for index, table in BY_TIME.items():
        conn.execute(f"drop index if exists rota.{index}".encode())
        if definitions:
            conn.execute(
                f"create index {index} on rota.{table} using brin (finished_at)"
                " with (pages_per_range = 32, autosummarize = on)".encode()
            )
    for name in COUNTING:
        conn.execute((definitions or NOTHING)[name].encode())
    over = threading.Event()

    def upkeep() -> None:
        with arena.connect() as other:
            while not over.wait(OFTEN):
                other.execute("select from rota.do_chores()")

    thread = threading.Thread(target=upkeep)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
