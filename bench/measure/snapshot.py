"""What becomes of a queue while some session holds an old snapshot."""

import threading
import time
from typing import Any

import psycopg

from bench.contestants import ROTA, Contestant, Process
from bench.server import Arena, Server
from bench.sizes import Sizes
from bench.waiting import until

AHEAD = 20_000  # jobs that wait, at most
BATCH = 5000
PAUSE = 0.01  # seconds between two single claims
SESSIONS = 20  # that make one claim each
CALM = 10.0  # seconds in which single claims are made beside little other work
CLAIM = "select id, token from rota.claim_next_job(max_jobs => 1)"
FINISH = "select from rota.finish_job(job_id => %s, token => %s)"


def snapshot(server: Server, contestant: Contestant, sizes: Sizes, jobs: int) -> dict[str, Any]:
    """Return rates in the first and the last tenth of the jobs, which all come after the snapshot.

    For Rota also the times of single claims, beside the busy worker before and under the snapshot,
    and beside little else, of the first claims of new sessions, and the size of the hot table. Then
    the snapshot is released, and as many jobs come again once autovacuum has been there by itself.
    """
    options = contestant.workers["best"]
    limit = jobs / 2000  # seconds
    with (
        server.arena(contestant, options) as arena,
        arena.worker(options) as worker,
        arena.producer() as producer,
    ):
        _push(arena, worker, producer, AHEAD, limit)
        ours = contestant is ROTA
        healthy = _healthy_claims(arena, worker, producer, jobs, limit) if ours else None
        before = arena.size()
        probe = Probe(arena.url) if ours else None
        with arena.old_snapshot():
            passed = _push(arena, worker, producer, jobs, limit)
            claims = probe.stop() if probe else None
            calm = _calm_claims(arena, producer) if probe else None
            firsts = _first_claims(arena, producer) if probe else None
            held = arena.size()
        done = passed[-1][1]
        result = {
            "jobs": done,
            **_tenths(passed),
            "series": [[round(at, 2), count] for at, count in passed],
            "growth": (held - before) / done,
        }
        if claims is None:
            return result
        result |= {"claims": claims, "healthy claims": healthy, "calm claims": calm}
        result["first claims"] = firsts
        if not sizes.after_snapshot:
            return result
        hot = _hot_table(arena)
        vacuumed_after = _wait_for_autovacuum(arena)
        again = _push(arena, worker, producer, jobs, limit)
        return result | {
            "hot table": hot,
            "autovacuum after": vacuumed_after,
            "hot table after as many again": _hot_table(arena),
            "released": _tenths(again),
        }


def _push(
    arena: Arena, worker: Process, producer: Process, jobs: int, limit: float
) -> list[tuple[float, int]]:
    """Have jobs pass through, never many waiting; return when how many had been handled."""
    began, first = time.monotonic(), worker.count
    pushed, passed = 0, [(0.0, 0)]
    while pushed < jobs and time.monotonic() - began < limit:
        producer.ask("many", jobs=BATCH, batch=BATCH, extra={})
        pushed += BATCH
        while worker.count - first < pushed - AHEAD and time.monotonic() - began < limit:
            time.sleep(0.01)
        passed.append((time.monotonic() - began, worker.count - first))
    until(lambda: arena.left() == 0, "the rest to be finished", patience=300)
    return passed


def _healthy_claims(
    arena: Arena, worker: Process, producer: Process, jobs: int, limit: float
) -> dict[str, float]:
    """Return the times of single claims under the same load without an old snapshot."""
    probe = Probe(arena.url)
    _push(arena, worker, producer, jobs // 20, limit)
    return probe.stop()


def _calm_claims(arena: Arena, producer: Process) -> dict[str, float]:
    """Return the times of single claims by a new session while little else goes on.

    The jobs come one by one, so the probe and the worker compete for each.
    """
    probe = Probe(arena.url)
    ended = time.monotonic() + CALM
    while time.monotonic() < ended:
        producer.ask("many", jobs=5, batch=1, extra={})
        time.sleep(0.01)
    until(lambda: arena.left() == 0, "the rest to be finished")
    return probe.stop()


def _first_claims(arena: Arena, producer: Process) -> dict[str, float]:
    """Return the times of claims each of which is the first of its session, in milliseconds."""
    times = []
    for _ in range(SESSIONS):
        producer.ask("many", jobs=5, batch=1, extra={})
        with arena.connect() as conn:
            conn.execute("select 1")
            began = time.monotonic()
            rows = conn.execute(CLAIM).fetchall()
            times.append((time.monotonic() - began) * 1000)
            for row in rows:
                conn.execute(FINISH, row)
    until(lambda: arena.left() == 0, "the rest to be finished")
    return {"count": SESSIONS, "p50": sorted(times)[SESSIONS // 2], "worst": max(times)}


def _wait_for_autovacuum(arena: Arena) -> float:
    """Return after how many seconds autovacuum had cleaned the hot table, the snapshot being gone.

    It comes once a minute, by default.
    """
    began = time.monotonic()
    with arena.connect() as conn:
        since = conn.execute("select now()").fetchone()

        def cleaned() -> bool:
            return conn.execute(
                """
                select last_autovacuum > %s and n_dead_tup < 10000 from pg_stat_user_tables
                where schemaname = 'rota' and relname = 'live_jobs'
                """,
                since,
            ).fetchone()[0]

        until(cleaned, "autovacuum", patience=400)
    return time.monotonic() - began


def _tenths(passed: list[tuple[float, int]]) -> dict[str, float]:
    tenth = len(passed) // 10 or 1
    return {
        "first tenth": _rate(passed[: tenth + 1]),
        "last tenth": _rate(passed[-tenth - 1 :]),
    }


def _rate(passed: list[tuple[float, int]]) -> float:
    (began, first), (ended, last) = passed[0], passed[-1]
    return (last - first) / (ended - began)


def _hot_table(arena: Arena) -> int:
    with arena.connect() as conn:
        return conn.execute("select pg_total_relation_size('rota.live_jobs')").fetchone()[0]


class Probe:
    """A second worker, which claims one job at a time, a hundred times a second at most.

    Beside each claim it times ``select 1``: what any statement of this client takes here and now.
    """

    def __init__(self, url: str) -> None:
        # As in a worker, claims need not be durable, and what follows them must be.
        self._claims = psycopg.connect(url, autocommit=True, options="-c synchronous_commit=off")
        self._finishes = psycopg.connect(url, autocommit=True)
        self._times: list[tuple[float, float]] = []  # (when, seconds)
        self._ones: list[float] = []  # seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(PAUSE):
            began = time.monotonic()
            self._claims.execute("select 1", prepare=True).fetchall()
            self._ones.append(time.monotonic() - began)
            began = time.monotonic()
            rows = self._claims.execute(CLAIM, prepare=True).fetchall()
            self._times.append((began, time.monotonic() - began))
            for row in rows:
                self._finishes.execute(FINISH, row, prepare=True)

    def stop(self) -> dict[str, float]:
        """End; return percentiles in milliseconds, over all and in the first and last tenth."""
        self._over.set()
        self._thread.join()
        self._claims.close()
        self._finishes.close()
        began, ended = self._times[0][0], self._times[-1][0]
        first = self._times[0][1] * 1000
        result: dict[str, float] = {"count": len(self._times), "first": first}
        for name, low, high in (("all", 0, 1), ("first tenth", 0, 0.1), ("last tenth", 0.9, 1)):
            times = sorted(
                seconds
                for at, seconds in self._times
                if low <= (at - began) / (ended - began) <= high
            )
            for percent in (50, 99):
                result[f"{name} p{percent}"] = times[len(times) * percent // 100] * 1000
        ones = sorted(self._ones)
        for percent in (50, 99):
            result[f"select 1 p{percent}"] = ones[len(ones) * percent // 100] * 1000
        return result
