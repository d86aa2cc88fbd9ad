"""How long a person waits for each page of a large house: ``python -m bench.pages FOLDER``.

FOLDER is what ``bench.large`` built. Pages are asked for over HTTP, upkeep goes on beside them, and
one that was answered less than two seconds ago is not asked for again. First as whoever needs no
token, then as an operator and as a tenant of one queue, then by a hundred tabs of each of these.
"""

import argparse
import http.client
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import Connection

from bench.contestants import Process
from bench.large import ALIVE, SETTINGS
from bench.waiting import until
from rota.app.tokens import COOKIE
from rota.db.deploy import deploy
from rota.db.embedded import Cluster

PROMISED = 250  # milliseconds at p95
ROUNDS = 20
SHARED = 2.1  # seconds after which a page is made anew
TABS, TAB_SECONDS = 100, 15.0
PAGES = [
    *("/ui/", "/ui/?range=24h", "/ui/?range=7d", "/ui/?range=8w"),
    *("/ui/queues", "/ui/queues/q1", "/ui/queues/q1?range=24h", "/ui/queues/q1?range=7d"),
    *("/ui/queues/q1?range=8w", "/ui/jobs"),
    *(f"/ui/jobs?state={state}" for state in ("LIVE", "SCHEDULED", "RUNNING", "ENDED")),
    *(f"/ui/jobs?state={state}" for state in ("COMPLETED", "FAILED", "CANCELLED")),
    *(f"/ui/jobs?state={state}&within=all" for state in ("COMPLETED", "FAILED", "CANCELLED")),
    *("/ui/jobs?queue=q1", "/ui/jobs?queue=none", "/ui/jobs?task=t1", "/ui/jobs?task=none"),
    *("/ui/jobs?state=RUNNING&queue=q1", "/ui/jobs?state=RUNNING&task=none"),
    *("/ui/jobs?state=SCHEDULED&queue=q1&task=t11", "/ui/jobs?state=SCHEDULED&queue=q1&task=t2"),
    *("/ui/jobs?error=connection", "/ui/jobs?error=none", "/ui/jobs?state=FAILED&error=none"),
    *("/ui/jobs?state=FAILED&queue=none", "/ui/jobs?state=FAILED&queue=q7&within=all"),
    *("/ui/jobs?state=FAILED&queue=none&within=all", "/ui/jobs?state=COMPLETED&task=none"),
    *("/ui/jobs?payload=%7B%22user%22:5500001%7D", "/ui/jobs?payload=%7B%22user%22:-1%7D"),
    *("/ui/jobs?payload=%7B%22user%22:-1%7D&within=all", "/ui/jobs?key=none", "/ui/jobs?name=none"),
    *("/ui/jobs?name=schedule-1", "/ui/jobs/retry?state=FAILED", "/ui/jobs/cancel?queue=q1"),
    *("/ui/jobs/5600007", "/ui/jobs/6100001", "/ui/jobs/5599999", "/ui/jobs/4400000"),
    *("/ui/jobs/6700000", "/ui/jobs/9000000", "/ui/jobs/5599999/copy"),
    *("/ui/schedules", "/ui/schedules/schedule-0", "/ui/schedules/schedule-0?view=months"),
    *("/ui/schedules/schedule-1", "/ui/schedules/schedule-1?view=months"),
    *("/ui/workers", "/ui/workers?queue=q1", "/ui/workers/worker-1", "/ui/doctor", "/ui/log"),
    *("/ui/log?queue=none", "/ui/login", "/ui/nothing"),
]
OF_TABS = ("/ui/", "/ui/queues", "/ui/jobs?state=RUNNING", "/ui/jobs?payload=%7B%22user%22:-1%7D")
TENANT, OPERATOR = "bench_tenant", "bench_operator"
WHO = (None, OPERATOR, TENANT)
LEAVE = """
    select rota.unwall(principal, queue_pattern) from rota.walls where principal = 'bench_tenant';
    delete from rota.api_tokens where principal in ('bench_tenant', 'bench_operator');
    drop role if exists bench_tenant;
    drop role if exists bench_operator;
"""


class Client:
    """One connection to the API, as a browser has it, with this token."""

    def __init__(self, port: int, token: str | None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Cookie": f"{COOKIE}={token}"} if token else {}
        self._etags: dict[str, str] = {}

    def get(self, path: str, again: bool = False) -> tuple[int, float]:
        """Return the status, and how long it took in milliseconds."""
        headers = dict(self._headers)
        if again and path in self._etags:
            headers["If-None-Match"] = self._etags[path]
        began = time.monotonic()
        self._connection.request("GET", path, headers=headers)
        answer = self._connection.getresponse()
        answer.read()
        took = 1000 * (time.monotonic() - began)
        self._etags[path] = answer.headers.get("ETag", "")
        return answer.status, took


def main() -> None:
    """Start what is there, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument("folder", type=Path, help="what bench.large built")
    parser.add_argument("--url", help="where it runs already")
    parser.add_argument("--only", default="", help="pages that hold this")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tabs", type=int, default=TABS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.url:
        _measure(options.url, options)
    else:
        with Cluster(options.folder / "data", 18, SETTINGS) as server:
            deploy(server.url())
            _measure(server.url(), options)


def _measure(url: str, options: argparse.Namespace) -> None:
    pages = [page for page in PAGES if options.only in page]
    with psycopg.connect(url, autocommit=True) as conn, _upkeep(url):
        for who in WHO:
            with _token(conn, who) as token, _api(url) as port:
                name = who or "nobody"
                for page, times in _times(Client(port, token), pages, options.rounds):
                    p95 = _percentile(times, 95)
                    mark = " *" if p95 > PROMISED else ""
                    print(f"{name} {page}: {_percentile(times, 50):.0f} / {p95:.0f} ms{mark}")
                for page in OF_TABS if options.tabs else ():
                    print(f"{name} {options.tabs} tabs {page}: {_tabs(conn, port, token, page)}")
                load = os.getloadavg()[0]
                print(f"load {load:.1f}", flush=True)


def _times(client: Client, pages: list[str], rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Yield each page, the slowest first, and how long it took each time."""
    times: dict[str, list[float]] = {page: [] for page in pages}
    for number in range(rounds + 1):
        began = time.monotonic()
        for page in pages:
            status, took = client.get(page)
            if status >= 500:
                print(page, status)
            if number:  # the first one opens connections
                times[page].append(took)
        time.sleep(max(began + SHARED - time.monotonic(), 0))
    yield from sorted(times.items(), key=lambda item: -_percentile(item[1], 95))


def _tabs(conn: Connection, port: int, token: str | None, page: str) -> str:
    """Return what it is for so many tabs to have the same page open, each asking every 2 s."""
    times: list[float] = []
    before = _transactions(conn)
    ends = time.monotonic() + TAB_SECONDS

    def tab(number: int) -> None:
        client = Client(port, token)
        time.sleep(2 * number / TABS)
        while time.monotonic() < ends:
            began = time.monotonic()
            times.append(client.get(page, again=True)[1])
            time.sleep(max(began + 2 - time.monotonic(), 0))

    threads = [threading.Thread(target=tab, args=[number]) for number in range(TABS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = " / ".join(f"{_percentile(times, percent):.0f}" for percent in (50, 95, 99))
    return (
        f"{found} ms of {len(times)} requests, {_transactions(conn) - before} transactions"
        f" in {TAB_SECONDS:.0f} s, upkeep's too"
    )


def _transactions(conn: Connection) -> int:
    time.sleep(1.1)  # the others tell what they did once a second
    row = conn.execute(
        "select xact_commit + xact_rollback from pg_stat_database"
        " where datname = current_database()"
    ).fetchone()
    assert row
    return row[0]


def _percentile(times: list[float], percent: int) -> float:
    return sorted(times)[min(len(times) * percent // 100, len(times) - 1)]


@contextmanager
def _upkeep(url: str) -> Iterator[None]:
    """Do what workers do, whose last word is a moment ago."""
    over = threading.Event()

    def work() -> None:
        with psycopg.connect(url, autocommit=True) as conn:
            while not over.wait(5):
                conn.execute(ALIVE)
                conn.execute("select from rota.do_chores()")

    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(ALIVE)
        conn.execute("select rota.take_census('0', true)")
        while conn.execute("select rota.roll_up()").fetchone() != (0,):
            pass
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _token(conn: Connection, who: str | None) -> Iterator[str | None]:
    conn.execute(LEAVE)
    if who is None:
        yield None
        return
    try:
        conn.execute(f"create role {who} nologin in role rota_operator".encode())
        if who == TENANT:
            conn.execute("select rota.wall('bench_tenant', 'q1')")
        row = conn.execute("select token from rota.create_token(%s)", [who]).fetchone()
        assert row
        yield row[0]
    finally:
        conn.execute(LEAVE)


@contextmanager
def _api(url: str) -> Iterator[int]:
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = {"DATABASE_URL": url, "HOST": "127.0.0.1", "PORT": str(port)}
        api = Process([sys.executable, "-m", "rota.app"], Path(folder) / "api.log", settings)
        try:
            until(lambda: _is_live(port), "the API")
            yield port
        finally:
            api.stop()


def _is_live(port: int) -> bool:
    try:
        return Client(port, None).get("/health/live")[0] == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
