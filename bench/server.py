"""The server that all are measured on, its databases, and its counters."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.contestants import Contestant, Options, Process
from rota.db.embedded import Cluster

DATABASE = "bench"


@dataclass
class Counters:
    """What the server has done, in one database since some moment."""

    wal: int  # bytes
    commits: int
    dead_rows: int  # rows that updates and deletes left behind


class Arena:
    """One contestant on an empty database of its own."""

    def __init__(self, cluster: Cluster, contestant: Contestant, log: Path) -> None:
        self.contestant = contestant
        self.url = cluster.url(DATABASE)
        self._admin = psycopg.connect(cluster.url(), autocommit=True)
        self._log = log

    def producer(self, options: Options | None = None) -> Process:
        """Start a process that enqueues."""
        return self.contestant.producer(self.url, options or {}, self._log)

    def worker(self, options: Options) -> Process:
        """Start a worker."""
        return self.contestant.worker(self.url, options, self._log)

    def connect(self) -> psycopg.Connection:
        """Connect to the database."""
        return psycopg.connect(self.url, autocommit=True)

    def left(self) -> int:
        """Return how many jobs are not finished."""
        with self.connect() as conn:
            return conn.execute(self.contestant.left.encode()).fetchone()[0]

    def vacuum(self) -> None:
        """Leave the database as autovacuum would after a while, and nothing of it to write."""
        with self.connect() as conn:
            conn.execute("vacuum analyze")
        self._admin.execute("checkpoint")

    def size(self) -> int:
        """Return the bytes that the database's tables and indexes take."""
        return self._admin.execute("select pg_database_size(%s)", [DATABASE]).fetchone()[0]

    def wal(self) -> int:
        """Return the position of the WAL, in bytes; the server writes for nobody else."""
        position = self._admin.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
        return int(position[0])

    def counters(self) -> Counters:
        """Return the counters; processes report theirs within a second, or when they end."""
        with self.connect() as conn:
            dead = conn.execute(
                "select coalesce(sum(n_tup_upd + n_tup_del), 0) from pg_stat_user_tables"
            ).fetchone()[0]
        commits = self._admin.execute(
            "select xact_commit from pg_stat_database where datname = %s", [DATABASE]
        ).fetchone()[0]
        return Counters(self.wal(), commits, int(dead))

    @contextmanager
    def old_snapshot(self) -> Iterator[None]:
        """Hold a snapshot, as a long report does, so that vacuum can remove nothing."""
        with psycopg.connect(self.url) as conn:
            conn.execute("set transaction isolation level repeatable read")
            conn.execute("select 1")
            yield
            conn.rollback()

    def close(self) -> None:
        """Drop the database."""
        self._admin.execute(f"drop database if exists {DATABASE} with (force)".encode())
        self._admin.close()


class Server:
    """An embedded PostgreSQL with full durability and default settings."""

    def __init__(self, folder: Path, version: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.cluster = Cluster(folder / "data", version)

    @contextmanager
    def arena(self, contestant: Contestant, options: Options | None = None) -> Iterator[Arena]:
        """Give a contestant an empty database, and drop it afterwards."""
        with psycopg.connect(self.cluster.url(), autocommit=True) as conn:
            conn.execute(f"drop database if exists {DATABASE} with (force)".encode())
            conn.execute(f"create database {DATABASE}".encode())
        arena = Arena(self.cluster, contestant, self.folder / f"{contestant.name}.log")
        try:
            contestant.install(arena.url, options or {}, self.folder / f"{contestant.name}.log")
            arena.vacuum()
            yield arena
        finally:
            arena.close()

    def version(self) -> str:
        """Return the server's version."""
        with psycopg.connect(self.cluster.url()) as conn:
            return conn.info.parameter_status("server_version") or ""
