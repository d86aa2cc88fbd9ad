"""A server that may be crashed, and a house on it for each test."""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.version import checkout_version
from tests.conftest import SERVER_VERSION, roomy_memory
from tests.faults.harness import House
from tests.faults.proxy import Proxy
from tests.history.record import Appender

SETTINGS = {"max_connections": "100", "log_lock_waits": "on", "shared_buffers": "64MB"}
TEMPLATE = "rota_template"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Put the test's outcome on record, for the page about faults, when ROTA_RECORD says where."""
    record = os.environ.get("ROTA_RECORD")
    if record and (report.when == "call" or report.skipped):
        Appender(Path(record)).write(
            test=report.nodeid,
            outcome=report.outcome,
            seconds=report.duration,
            functions=checkout_version(),
        )


@pytest.fixture(scope="session")
def seed() -> int:
    """What decides everything random here: ROTA_SEED, or a new one, which a failure shows."""
    return int(os.environ.get("ROTA_SEED", random.randrange(10**6)))


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Where the servers of these tests keep their data."""
    folder = Path(tempfile.mkdtemp(prefix="rota-faults-", dir=roomy_memory()))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def crashing_cluster(server_folder: Path) -> Iterator[Cluster]:
    """A server of our own, as durable as any, with a database to copy."""
    with Cluster(server_folder / "pg", SERVER_VERSION, SETTINGS) as cluster:
        with psycopg.connect(cluster.url(), autocommit=True) as conn:
            conn.execute(f"create database {TEMPLATE}")
        deploy(cluster.url(TEMPLATE))
        yield cluster


@pytest.fixture(scope="session")
def house_numbers() -> Iterator[int]:
    return count(1)


@pytest.fixture
def build_house(
    crashing_cluster: Cluster, tmp_path: Path, seed: int, house_numbers: Iterator[int]
) -> Iterator[Callable[[], House]]:
    """Build houses; what they leave running is ended."""
    houses: list[House] = []

    def build() -> House:
        dbname = f"house_{next(house_numbers)}"
        with psycopg.connect(crashing_cluster.url(), autocommit=True) as conn:
            conn.execute(f"create database {dbname} template {TEMPLATE}")
        houses.append(House(crashing_cluster, dbname, tmp_path, seed))
        return houses[-1]

    yield build
    for house in houses:
        house.close()


@pytest.fixture
def house(build_house: Callable[[], House]) -> House:
    """A house on the server that may be crashed."""
    return build_house()


@pytest.fixture
def proxy(crashing_cluster: Cluster) -> Iterator[Proxy]:
    """A network on the way to that server."""
    with Proxy(crashing_cluster.data_dir / ".s.PGSQL.5432") as proxy:
        yield proxy
