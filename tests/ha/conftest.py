"""One trio for all of these tests, and a house on it for each."""

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
from tests.conftest import roomy_memory
from tests.faults.conftest import TEMPLATE, pytest_runtest_logreport, seed
from tests.faults.harness import House
from tests.ha.trio import MissingError, Trio

__all__ = ["pytest_runtest_logreport", "seed"]


@pytest.fixture(scope="session")
def trio() -> Iterator[Trio]:
    """Three nodes, with a database to copy; left out where they cannot be had."""
    folder = Path(tempfile.mkdtemp(prefix="rota-ha-", dir=roomy_memory()))
    folder.chmod(0o755)
    try:
        trio = Trio(folder)
    except MissingError as error:
        shutil.rmtree(folder)
        pytest.skip(str(error))
    try:
        trio.start()
        with psycopg.connect(trio.url(), autocommit=True) as conn:
            conn.execute(f"create database {TEMPLATE}")
        deploy(trio.url(TEMPLATE), report=lambda line: None)
        yield trio
    finally:
        trio.stop()
        if "ROTA_KEEP" not in os.environ:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return count(random.randrange(10**6))


@pytest.fixture
def settle(
    trio: Trio, tmp_path: Path, seed: int, numbers: Iterator[int]
) -> Iterator[Callable[[], House]]:
    """Build houses; what they leave running is ended."""
    houses: list[House] = []

    def build() -> House:
        dbname = f"house_{next(numbers)}"
        with psycopg.connect(trio.url(), autocommit=True) as conn:
            conn.execute(f"create database {dbname} template {TEMPLATE}")
        houses.append(House(trio, dbname, tmp_path, seed))
        return houses[-1]

    yield build
    for house in houses:
        house.close()
