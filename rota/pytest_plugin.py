"""Fixtures for the tests of those who use Rota: ``pytest_plugins = ["rota.pytest_plugin"]``."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from rota.db.deploy import deploy
from rota.testing import Clock, Ran, run_due_jobs

END_OTHERS = """
    select pg_catalog.pg_terminate_backend(a.pid, 5000)
    from pg_catalog.pg_stat_activity as a
    where a.datname = current_database() and a.usename = current_user
        and a.pid <> pg_catalog.pg_backend_pid()
"""
# All but what deploy has put there.
EMPTY = """
    do $$
    begin
        execute (
            select 'truncate ' || string_agg(c.oid::regclass::text, ', ') || ' restart identity'
            from pg_catalog.pg_class as c
            where c.relnamespace = 'rota'::regnamespace
                and c.relkind in ('r', 'p')
                and not c.relispartition
                and c.relname !~ '^(_?yoyo.*|settings|chores)$'
        );
        update rota.settings as s
        set retention = default,
            keep_completed = default,
            keep_failed = default,
            kept_since = default,
            completed_since = default,
            failed_since = default;
    end;
    $$
"""


class RotaDatabase:
    """A database of its own for one test, with a clock that can be moved.

    Attributes:
        url: where the code under test connects.
        conn: a connection of ours, in autocommit mode.
        clock: moves Rota's time.
    """

    def __init__(self, url: str, conn: psycopg.Connection) -> None:
        self.url = url
        self.conn = conn
        self.clock = Clock(conn)

    def run_due_jobs(self, **options: object) -> list[Ran]:
        """Run what is due, as ``rota.testing.run_due_jobs`` does."""
        return run_due_jobs(self.conn, **options)


@pytest.fixture(scope="session")
def rota_url() -> Iterator[str]:
    """Bring the URL of a database for tests, which ROTA_TEST_URL names; else of a server for it.

    What is in Rota's schema there is deleted after each test, so its name must have "test" in it.
    Without ROTA_TEST_URL the extra ``rota[server]`` is needed.
    """
    if url := os.environ.get("ROTA_TEST_URL"):
        if "test" not in (name := conninfo_to_dict(url).get("dbname", "")):
            pytest.fail(f"ROTA_TEST_URL: database {name!r} is not named as one for tests")
        deploy(url, report=lambda line: None)
        yield url
        return
    from rota.db.embedded import Cluster

    with (
        tempfile.TemporaryDirectory(prefix="rota-") as folder,
        Cluster(Path(folder) / "pg") as cluster,
    ):
        with psycopg.connect(cluster.url(), autocommit=True) as conn:
            conn.execute("create database rota_test")
        deploy(cluster.url("rota_test"), report=lambda line: None)
        yield cluster.url("rota_test")


@pytest.fixture
def rota_db(rota_url: str) -> Iterator[RotaDatabase]:
    """Bring a database with Rota and without jobs; what the test leaves is deleted."""
    with psycopg.connect(rota_url, autocommit=True) as conn:
        database = RotaDatabase(rota_url, conn)
        yield database
        database.clock.reset()
        conn.execute(END_OTHERS)  # what a failed test has left open would keep us waiting
        conn.execute(EMPTY)
