"""One worker, several databases: places are shared by need, and an outage is one database's own."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.deploy import deploy, number
from rota.db.embedded import Cluster
from rota.db.gateway import call
from rota.worker.desk import Desk
from rota.worker.floor import Floor
from tests.frozen import frozen
from tests.waiting import wait_until
from tests.worker.conftest import Trace, WorkerProcess

StartWorker = Callable[..., WorkerProcess]


def enqueue(conn: Connection, task: str, payload: Any = None, **arguments: Any) -> int:
    return call(conn, "enqueue_job", task=task, payload=Jsonb(payload), **arguments)[0]["job_id"]


def states(conn: Connection) -> dict[str, int]:
    return dict(conn.execute("select state, count(*) from rota.jobs group by state").fetchall())


@pytest.fixture
def zero(two_shards: list[str]) -> Iterator[Connection]:
    with psycopg.connect(two_shards[0], autocommit=True) as conn:
        yield conn


@pytest.fixture
def one(two_shards: list[str]) -> Iterator[Connection]:
    with psycopg.connect(two_shards[1], autocommit=True) as conn:
        yield conn


class Outside:
    """A second server, whose only database is shard 1; it can be killed."""

    def __init__(self, folder: Path, first: str) -> None:
        self.cluster = Cluster(folder / "pg", settings={"fsync": "off"})
        self.cluster.start()
        self.url = self.cluster.url()
        deploy(self.url, report=lambda line: None)
        number([first, self.url], report=lambda line: None)

    def ask(self, what: Callable[[Connection], Any]) -> Any:
        with closing(psycopg.connect(self.cluster.url(), autocommit=True)) as conn:
            return what(conn)


@pytest.fixture
def outside(db: str, server_folder: Path) -> Iterator[Outside]:
    found = Outside(server_folder, db)
    yield found
    found.cluster.stop("immediate")


def test_all_databases_are_served_by_one_process(
    two_shards: list[str], zero: Connection, one: Connection, start_worker: StartWorker
) -> None:
    worker = start_worker(url=" ".join(two_shards))
    for conn in (zero, one):
        conn.execute("select rota.enqueue_job('noop') from generate_series(1, 3000)")

    for conn in (zero, one):
        wait_until(lambda conn=conn: states(conn) == {"COMPLETED": 3000})

    announced = [
        conn.execute("select worker from rota.worker_status").fetchall() for conn in (zero, one)
    ]
    assert announced[0] == announced[1] == [(worker.logged("started")[0]["worker"],)]
    assert worker.stop() == 0


def test_databases_can_be_named_by_the_command(
    two_shards: list[str], zero: Connection, one: Connection, start_worker: StartWorker
) -> None:
    for conn in (zero, one):
        enqueue(conn, "noop")

    worker = start_worker("--database", two_shards[0], "--database", two_shards[1], url="")

    for conn in (zero, one):
        wait_until(lambda conn=conn: states(conn) == {"COMPLETED": 1})
    assert worker.stop() == 0


def test_one_that_is_killed_costs_its_own_jobs_only_and_comes_back(
    db: str, conn: Connection, outside: Outside, start_worker: StartWorker, trace: Trace
) -> None:
    worker = start_worker("--lease", "20", url=f"{db} {outside.url}")
    outside.ask(lambda there: enqueue(there, "hold", trace.payload))
    wait_until(lambda: trace.count()["start"] == 1)
    outside.ask(lambda there: enqueue(there, "noop", queue="unserved"))  # a durable commit

    outside.cluster.kill()
    trace.open_gate()
    for _ in range(20):
        enqueue(conn, "noop")
        began = time.monotonic()
        wait_until(lambda: set(states(conn)) == {"COMPLETED"})
        assert time.monotonic() - began < 1
    assert not worker.ended

    outside.cluster.start()
    outside.ask(lambda there: enqueue(there, "noop"))
    wait_until(lambda: outside.ask(states).get("COMPLETED") == 2)
    assert trace.count() == {"start": 1, "end": 1}
    assert worker.stop() == 0


def test_one_that_says_nothing_any_more_costs_no_other(
    db: str, conn: Connection, outside: Outside, start_worker: StartWorker
) -> None:
    worker = start_worker("--lease", "5", "--concurrency", "2", url=f"{db} {outside.url}")
    outside.ask(
        lambda there: there.execute(
            "select rota.enqueue_job('sleep', '{\"seconds\": 0.01}') from generate_series(1, 300)"
        )
    )
    wait_until(lambda: outside.ask(states).get("COMPLETED", 0) > 10)
    processes = psutil.Process(outside.cluster.pid).children(recursive=True)

    with frozen(processes):
        time.sleep(1.5)
        began = time.monotonic()
        conn.execute("select rota.enqueue_job('noop') from generate_series(1, 500)")
        wait_until(lambda: states(conn) == {"COMPLETED": 500})
        assert time.monotonic() - began < 3

    wait_until(lambda: set(outside.ask(states)) == {"COMPLETED"})
    assert worker.stop() == 0


def test_one_that_is_away_at_the_start_joins_later(
    db: str, conn: Connection, outside: Outside, start_worker: StartWorker
) -> None:
    url = outside.url
    outside.cluster.stop()
    enqueue(conn, "noop")

    worker = start_worker(url=f"{url} {db}")
    wait_until(lambda: states(conn) == {"COMPLETED": 1})
    outside.cluster.start()
    outside.ask(lambda there: enqueue(there, "noop"))

    wait_until(lambda: outside.ask(states) == {"COMPLETED": 1})
    assert worker.logged("a database has come")
    assert worker.stop() == 0


def test_one_that_lost_its_functions_ends_no_worker(
    two_shards: list[str], zero: Connection, one: Connection, start_worker: StartWorker
) -> None:
    worker = start_worker(url=" ".join(two_shards))
    one.execute("alter schema rota rename to gone")
    wait_until(lambda: worker.logged("a database cannot be worked with"))

    enqueue(zero, "noop")
    wait_until(lambda: states(zero) == {"COMPLETED": 1})
    one.execute("alter schema gone rename to rota")
    enqueue(one, "noop")

    wait_until(lambda: states(one) == {"COMPLETED": 1}, 40)
    assert worker.stop() == 0


def test_who_has_nothing_may_always_ask() -> None:
    """However many jobs of quick handlers have waited here before."""
    floor = Floor({}, 2)
    desks = [Desk({}, floor) for _ in range(2)]
    for desk in desks:
        desk.prefetch, desk.needs_until = 2000, inf

    for desk in desks:
        room, may_wait = floor.room(desk)
        assert room >= max(1, may_wait // 2)


def test_what_one_needs_is_kept_for_it_and_no_more() -> None:
    floor = Floor({}, 4)
    busy, other = desks = [Desk({}, floor) for _ in range(2)]
    busy.in_hand.update(range(3))  # type: ignore[arg-type]
    busy.needs_until = inf
    alone = floor.room(busy)
    other.needs_until = inf
    kept, free = floor.room(busy), floor.room(other)
    other.needs_until = 0.0  # it does not answer, say
    again = floor.room(busy)

    assert [desk.prefetch for desk in desks] == [0, 0]
    assert (alone, kept, free, again) == ((1, 0), (-1, 0), (1, 0), (1, 0))


def test_the_only_place_is_kept_for_who_has_waited_for_it_the_longest() -> None:
    floor = Floor({}, 1)
    early, late = desks = [Desk({}, floor) for _ in range(2)]
    for since, desk in enumerate(desks):
        desk.prefetch, desk.needs_until, desk.waits_since = 10, inf, float(since)

    assert (floor.room(early), floor.room(late)) == ((11, 10), (0, 0))


def test_places_are_shared_by_need(
    two_shards: list[str],
    zero: Connection,
    one: Connection,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """Four places: all are one database's while the other has nothing, and half once it has."""
    folders = [tmp_path / name for name in ("first", "second", "late")]
    traces = []
    for folder in folders:
        folder.mkdir()
        traces.append(Trace(folder))
    first, second, late = traces
    worker = start_worker("--concurrency", "4", url=" ".join(two_shards))
    for _ in range(2):
        enqueue(zero, "hold", first.payload)
    for _ in range(20):
        enqueue(zero, "hold", second.payload)
    wait_until(lambda: first.count()["start"] + second.count()["start"] == 4)
    for _ in range(20):
        enqueue(one, "hold", late.payload)
    time.sleep(0.5)
    assert late.count()["start"] == 0  # there is no place, and nothing is taken from anybody

    first.open_gate()
    wait_until(lambda: late.count()["start"] == 2)  # what is left by jobs of the other

    assert second.count()["start"] == 2
    wait_until(lambda: states(zero)["RUNNING"] <= 3)  # the first ones may not be told of yet
    for trace in traces:
        trace.open_gate()
    for conn in (zero, one):
        wait_until(lambda conn=conn: set(states(conn)) == {"COMPLETED"})
    assert worker.stop() == 0


def test_a_limit_of_a_process_is_for_all_its_databases(
    two_shards: list[str],
    zero: Connection,
    one: Connection,
    start_worker: StartWorker,
    trace: Trace,
) -> None:
    for conn in (zero, one):
        for _ in range(10):
            enqueue(conn, "hold", trace.payload, queue="mail")
    worker = start_worker("--queues", "mail:3,default", url=" ".join(two_shards))
    wait_until(lambda: trace.count()["start"] == 3)
    for conn in (zero, one):
        enqueue(conn, "noop")
        wait_until(lambda conn=conn: states(conn).get("COMPLETED") == 1)

    time.sleep(1.2)  # a poll
    assert trace.count()["start"] == 3
    assert sum(states(conn).get("RUNNING", 0) for conn in (zero, one)) == 3
    trace.open_gate()
    for conn in (zero, one):
        wait_until(lambda conn=conn: set(states(conn)) == {"COMPLETED"})
    assert worker.stop() == 0


def test_a_database_is_not_named_twice(two_shards: list[str], start_worker: StartWorker) -> None:
    first = two_shards[0]
    worker = start_worker(url=f"{first} {first}", ready=False)
    alias = start_worker(url=f"{first} {first}&application_name=alias&port=5432", ready=False)

    assert (worker.wait(), alias.wait()) == (2, 2)
    assert worker.lines[-1]["error"] == "a database is named twice"
    assert "say that they are shard 0: they are one database" in alias.lines[-1]["error"]


def test_databases_without_numbers_are_refused(
    db: str, two_shards: list[str], start_worker: StartWorker
) -> None:
    worker = start_worker(url=f"{two_shards[0]} {db}", ready=False)

    assert worker.wait() == 2
    assert (
        "has no number as a shard: name all databases to rota deploy" in worker.lines[-1]["error"]
    )


def test_a_handler_works_with_the_database_of_its_job(
    two_shards: list[str],
    zero: Connection,
    one: Connection,
    start_worker: StartWorker,
    trace: Trace,
) -> None:
    """Steps, sleeps and events are of the database where the job is."""
    worker = start_worker("--poll", "0.2", url=" ".join(two_shards))
    for conn in (zero, one):
        enqueue(conn, "in_steps", trace.payload | {"seconds": 0.1, "event": "paid:7"})
        call(conn, "emit_event", event="paid:7")

    for conn in (zero, one):
        wait_until(lambda conn=conn: states(conn) == {"COMPLETED": 1})
    assert trace.count()["first"] == trace.count()["last"] == 2
    assert worker.stop() == 0
