"""What every test can ask for: a server, a fresh database with Rota on it, connections, a clock.

``ROTA_PG`` chooses the PostgreSQL version (18 unless told otherwise), ``TEST_DATABASE_URL`` a
server that runs already; its role must be allowed to create databases. ``ROTA_HOSTILE=1`` gives our
own server the worst of defaults (tests/hostile.py).
"""

import os
import shutil
import signal
import tempfile
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

NEWEST = 18
SERVER_VERSION = int(os.environ.get("ROTA_PG", NEWEST))
HOSTILE = bool(os.environ.get("ROTA_HOSTILE"))
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


def pytest_configure() -> None:
    """Let a polite kill stop the servers, too, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
def administrate(cluster: Server) -> Iterator[Callable[..., Any]]:
    """Run a statement, with identifiers in its braces, outside the databases under test."""
    maintenance = os.environ.get("TEST_DATABASE_URL") or cluster.url()
    with psycopg.connect(maintenance, autocommit=True) as conn:
        yield lambda statement, *names: conn.execute(
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


@pytest.fixture
def empty_db(
    cluster: Server, administrate: Callable[..., Any], new_name: Callable[[], str]
) -> Iterator[str]:
    """The URL of a new database without Rota."""
    name = new_name()
    administrate("create database {}", name)
    yield cluster.url(name)
    administrate("drop database {} with (force)", name)


@pytest.fixture
def db(
    cluster: Server, administrate: Callable[..., Any], new_name: Callable[[], str], template: str
) -> Iterator[str]:
    """The URL of a fresh database with Rota; it must be in order when the test has ended."""
    name = new_name()
    administrate("create database {} template {} strategy file_copy", name, template)
    yield cluster.url(name)
    with psycopg.connect(cluster.url(name)) as conn:
        broken = conn.execute("select * from rota.check_invariants()").fetchall()
    administrate("drop database {} with (force)", name)
    assert broken == []


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
