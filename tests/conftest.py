"""What every test can ask for: a server, a fresh database with Rota on it, connections, a clock.

``ROTA_PG`` chooses the PostgreSQL version (18 unless told otherwise), ``TEST_DATABASE_URL`` a
server that runs already; its role must be allowed to create databases. ``ROTA_HOSTILE=1`` gives our
own server the worst of defaults (tests/hostile.py). ``ROTA_FEW=1`` runs one of a test's cases.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import Connection, sql

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.testing import Clock
from tests import hostile
from tests.shards import shards
from tests.waiting import wait_until

NEWEST = 18
SERVER_VERSION = int(os.environ.get("ROTA_PG", NEWEST))
HOSTILE = bool(os.environ.get("ROTA_HOSTILE"))
FEW = bool(os.environ.get("ROTA_FEW"))
EVERYTHING = bool(os.environ.get("ROTA_EVERYTHING"))
IS_CHOSEN = pytest.StashKey[bool]()  # as one case of each test is
TEST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "max_prepared_transactions": "10",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "log_lock_waits": "on",
}


class Server(Protocol):
    """Where the databases of the tests are made."""

    def url(self, dbname: str = "postgres") -> str:
        """Return the connection string of one of its databases."""


class RunningServer:
    """A server that somebody else runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, dbname: str = "postgres") -> str:
        return urlsplit(self._url)._replace(path=f"/{quote(dbname)}").geturl()


def new_connection(url: str, **options: Any) -> Connection:
    """Connect as the tests do, also where the server's defaults are hostile."""
    return (hostile.connect if HOSTILE else psycopg.connect)(url, **options)


def roomy_memory() -> str | None:
    """Return a folder in memory, where a copy of the template takes a quarter of the time."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30:
        return str(memory)
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Let a polite kill stop the servers, too, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "leaves_nothing: commits nothing, and shares a database with others of the kind"
    )
    config.addinivalue_line(
        "markers", "on_every_server: all cases depend on the version, or on what a server has set"
    )
    config.addinivalue_line(
        "markers",
        "on_first_server: long, and no version differs in it; on_every_server has its way",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose one case of each test; with ROTA_FEW, on another server, leave out all others.

    A checksum of the names chooses it, so that no value of any parameter is chosen for its place.
    """
    cases = defaultdict(list)
    for item in items:
        cases[item.nodeid.split("[")[0]].append(item)
    left_out = set()
    for of_one_test in cases.values():
        of_one_test.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        chosen, *others = of_one_test
        chosen.stash[IS_CHOSEN] = True
        if not chosen.get_closest_marker("on_every_server"):
            left_out |= set(of_one_test if chosen.get_closest_marker("on_first_server") else others)
    if FEW:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder for a server of the test's own; pytest's ``tmp_path`` shuts out all other users."""
    with tempfile.TemporaryDirectory(prefix="rota-test-", dir=roomy_memory()) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Server]:
    """The server: one of our own, without durability, or the one of TEST_DATABASE_URL."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield RunningServer(url)
        return
    settings = TEST_SETTINGS | (hostile.SETTINGS if HOSTILE else {})
    with (
        tempfile.TemporaryDirectory(prefix="rota-test-", dir=roomy_memory()) as folder,
        Cluster(Path(folder) / "pg", SERVER_VERSION, settings) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def maintenance(cluster: Server) -> Iterator[Connection]:
    """A connection outside the databases under test."""
    url = os.environ.get("TEST_DATABASE_URL") or cluster.url()
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn


@pytest.fixture(scope="session")
def administrate(maintenance: Connection) -> Callable[..., Any]:
    """Run a statement, with identifiers in its braces, outside the databases under test."""
    return lambda statement, *names: maintenance.execute(
        sql.SQL(statement).format(*map(sql.Identifier, names))
    )


@pytest.fixture(scope="session")
def new_name() -> Callable[[], str]:
    """Give names of databases that nobody else uses."""
    numbers = count(1)
    return lambda: f"rota_test_{os.getpid()}_{next(numbers)}"


@pytest.fixture(scope="session")
def template(
    cluster: Server, administrate: Callable[..., Any], new_name: Callable[[], str]
) -> Iterator[str]:
    """The name of a database that is deployed, with the test clock; every test gets a copy.

    ROTA_TEST_TEMPLATE names one that is there already, as tests.mutants makes it.
    """
    if name := os.environ.get("ROTA_TEST_TEMPLATE"):
        yield name
        return
    name = new_name()
    if HOSTILE:
        with psycopg.connect(cluster.url(), autocommit=True) as conn:
            hostile.create_database(conn, name)
    else:
        administrate("create database {}", name)
    deploy(cluster.url(name))
    with psycopg.connect(cluster.url(name)) as conn:
        Clock(conn)
    yield name
    administrate("drop database {} with (force)", name)


@pytest.fixture(scope="session")
def drop(maintenance: Connection, administrate: Callable[..., Any]) -> Callable[[str], None]:
    """Drop a database, when the last session has left it.

    One that is just about to leave would cost us a tenth of a second, for so long the server waits
    before it looks again; one that stays is ended.
    """

    def when_all_have_left(name: str) -> None:
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not is_used(name), 0.1, every=0.001)
        administrate("drop database {} with (force)", name)

    def is_used(name: str) -> bool:
        sessions = "select from pg_stat_activity where datname = %s limit 1"
        return bool(maintenance.execute(sessions, [name]).rowcount)

    return when_all_have_left


@pytest.fixture
def empty_db(
    cluster: Server,
    administrate: Callable[..., Any],
    new_name: Callable[[], str],
    drop: Callable[[str], None],
) -> Iterator[str]:
    """The URL of a new database without Rota."""
    name = new_name()
    administrate("create database {}", name)
    yield cluster.url(name)
    drop(name)


@pytest.fixture(scope="session")
def new_db(
    cluster: Server, administrate: Callable[..., Any], new_name: Callable[[], str], template: str
) -> Callable[[], str]:
    """Make a fresh database with Rota; give its name."""

    def copy() -> str:
        name = new_name()
        administrate("create database {} template {} strategy file_copy", name, template)
        return name

    return copy


def broken_invariants(url: str) -> list[Any]:
    """Return what is not in order in a database."""
    with psycopg.connect(url) as conn:
        return conn.execute("select * from rota.check_invariants()").fetchall()


COUNT = "select count(*) from {}"


def rows(url: str) -> set[tuple[str, int]]:
    """Return how many rows each table of Rota has."""
    with psycopg.connect(url) as conn:
        tables = conn.execute("select tablename from pg_tables where schemaname = 'rota'")
        return {
            (table, *conn.execute(sql.SQL(COUNT).format(sql.Identifier("rota", table))).fetchone())
            for (table,) in tables.fetchall()
        }


@pytest.fixture(scope="session")
def shared_db(
    cluster: Server, drop: Callable[[str], None], new_db: Callable[[], str]
) -> Iterator[str]:
    """The URL of the database of the tests that leave nothing; at the end it must be as before."""
    name = new_db()
    before = rows(cluster.url(name))
    yield cluster.url(name)
    left = rows(cluster.url(name)) - before
    broken = broken_invariants(cluster.url(name))
    drop(name)
    assert (left, broken) == (set(), [])


@pytest.fixture
def db(
    request: pytest.FixtureRequest,
    cluster: Server,
    new_db: Callable[[], str],
    drop: Callable[[str], None],
) -> Iterator[str]:
    """The URL of a fresh database with Rota; it must be in order when the test has ended.

    Tests with the marker ``leaves_nothing`` share one, which must be as before when all have ended.
    """
    if request.node.get_closest_marker("leaves_nothing"):
        assert "clock" not in request.fixturenames, "to set the clock leaves something"
        yield request.getfixturevalue("shared_db")
        return
    name = new_db()
    yield cluster.url(name)
    # To plan that look takes as long as a short test: one case of each test is looked at, and none
    # of what another server has run.
    looks = EVERYTHING or (not FEW and IS_CHOSEN in request.node.stash)
    broken = broken_invariants(cluster.url(name)) if looks else []
    drop(name)
    assert broken == []


@pytest.fixture
def two_shards(
    cluster: Server, new_db: Callable[[], str], drop: Callable[[str], None]
) -> Iterator[list[str]]:
    """The URLs of two databases, the shards 0 and 1; both must be in order in the end."""
    with shards(2, new_db, cluster.url, drop) as urls:
        yield urls


@pytest.fixture
def connect(db: str) -> Iterator[Callable[..., Connection]]:
    """Open more connections to the test's database; all are closed at its end.

    ``connect(role="rota_worker")`` acts as that role; what else is named goes to psycopg.
    """
    opened: list[Connection] = []

    def open_connection(role: str | None = None, **options: Any) -> Connection:
        conn = new_connection(db, **{"autocommit": True, **options})
        opened.append(conn)
        conn.execute('set search_path = "$user", public, rota')
        if role:
            conn.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        if not conn.autocommit:
            conn.commit()
        return conn

    yield open_connection
    for conn in opened:
        conn.close()


@pytest.fixture
def conn(connect: Callable[..., Connection]) -> Connection:
    """One autocommit connection to the test's database."""
    return connect()


@pytest.fixture
def clock(connect: Callable[..., Connection]) -> Clock:
    """The clock of the test's database."""
    return Clock(connect())
