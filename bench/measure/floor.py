"""The floor: the least that claiming and finishing can cost, without history, retry or lease."""

import time

from bench.contestants import ROTA
from bench.server import Server
from bench.sizes import Sizes
from bench.waiting import Drained

TABLE = """
    create table public.floor (id bigint generated always as identity primary key, payload jsonb)
"""
FILL = """
    insert into public.floor (payload) select '{"i": -1}' from generate_series(1, %s)
"""
TAKE = """
    delete from public.floor
    where id = any(array(
        select f.id from public.floor as f order by f.id limit %s for update skip locked
    ))
    returning id, payload
"""


def floor(server: Server, sizes: Sizes) -> dict[str, float]:
    """Return jobs a second, by batch, of one connection that takes and deletes in one statement."""
    rates = {}
    for batch in (1, 100, 1000):
        jobs = min(sizes.drain_jobs, batch * 5000)
        with server.arena(ROTA) as arena, arena.connect() as conn:
            conn.execute(TABLE)
            conn.execute(FILL, [jobs])
            arena.vacuum()
            began = time.monotonic()
            while conn.execute(TAKE, [batch], prepare=True, binary=True).fetchall():
                pass
            rates[str(batch)] = Drained(jobs, time.monotonic() - began).rate
    return rates
