"""What a deploy is at, for the person who waits for it: the step, how far an index is, who blocks.

It looks from a session of its own, and only once a deploy takes longer than a moment. What it sees
are all deploys of this database by this user: one that waits for its turn shows that of the other.
"""

import time
from typing import Any

import psycopg
from psycopg import Connection

from rota.db.session import settle

# Sorting and loading count tuples, all other phases of a build count blocks.
WORK = """
select
    p.relid::regclass::text,
    p.phase,
    case
        when p.phase like '%tuples%' then p.tuples_done / nullif(p.tuples_total, 0)::float8
        when p.phase not like 'waiting%' then p.blocks_done / nullif(p.blocks_total, 0)::float8
    end,
    (
        select string_agg(
            format('pid %s (user %s, application %L)', b.pid, b.usename, b.application_name), '; '
            order by b.pid
        )
        from pg_stat_activity as b
        where b.pid = any(pg_blocking_pids(a.pid))
            and b.application_name <> 'rota deploy'
    )
from pg_stat_activity as a
left join pg_stat_progress_create_index as p on p.pid = a.pid
where a.datname = current_database()
    and a.usename = current_user
    and a.application_name = 'rota deploy'
    and a.pid <> pg_backend_pid()
    and (p.pid is not null or a.wait_event_type = 'Lock')
order by p.pid
limit 1
"""


class Watch:
    """Tells what a deploy is at; it never fails one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._step = "looking what there is"
        self._began = time.monotonic()
        self._conn: Connection | None = None
        self._is_blind = False

    def close(self) -> None:
        """Look no more."""
        if self._conn is not None:
            self._conn.close()

    def at(self, step: str) -> None:
        """Take note of the step that begins."""
        self._step, self._began = step, time.monotonic()

    def tell(self) -> str:
        """Return how long the step has taken, and what holds it."""
        text = f"{self._step}, {time.monotonic() - self._began:.0f} s"
        for table, phase, share, blockers in self._look():
            text += f": index on {table}: {phase}" if table else ""
            text += "" if share is None else f", {share:.0%}"
            text += f", held up by {blockers}" if blockers else ""
        return text

    def _look(self) -> list[tuple[Any, ...]]:
        if self._is_blind:
            return []
        try:
            if self._conn is None:
                self._conn = psycopg.connect(
                    self._url, autocommit=True, connect_timeout=5, application_name="rota deploy"
                )
                settle(self._conn, statement_timeout="5s")
            return self._conn.execute(WORK).fetchall()
        except psycopg.Error:
            self._is_blind = True
            return []
