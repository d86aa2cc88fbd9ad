"""Connections to the database, one transaction a request."""

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from flask import current_app
from psycopg.adapt import Buffer, Loader
from psycopg.conninfo import conninfo_to_dict

# What the URL may overrule. A server that stopped answering is noticed within seconds.
CONNECTION_DEFAULTS = {
    "application_name": "rota api",
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

# Set for each transaction, and so through a pooler too, where a session is not ours to change.
# No request may hold a thread, or a place in a queue of locks, for longer. To compile a query
# costs more than to run any of ours.
TRANSACTION_SETTINGS = """
    set local statement_timeout = '10s';
    set local lock_timeout = '3s';
    set local timezone = 'UTC';
    set local intervalstyle = 'iso_8601';
    set local jit = off
"""


class IsoTimestampLoader(Loader):
    """Pass an instant on as ISO 8601 text, whatever its year; sessions are in UTC."""

    def load(self, data: Buffer) -> str:
        """Return ``2030-01-31T09:00:00+00:00`` for ``2030-01-31 09:00:00+00``."""
        return bytes(data).decode().replace(" ", "T", 1) + ":00"


class Database:
    """The connections of this process: lent to one request at a time, kept open in between.

    The server has a fixed number of threads, so no more connections than that ever exist, and
    none needs to be waited for. A connection that died while it lay idle (the database was
    restarted) is noticed by the first statement of the next transaction and replaced; when the
    database cannot be reached, the request fails at once, and the next one tries again.
    """

    def __init__(self, url: str) -> None:
        """Check the connection string without connecting.

        Raises:
            ValueError: it is empty or cannot be read; the message does not repeat it.
        """
        if not url:
            raise ValueError("DATABASE_URL is not set")
        try:
            self._parameters = CONNECTION_DEFAULTS | conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise ValueError("DATABASE_URL is not a PostgreSQL connection string") from None
        self._idle: deque[psycopg.Connection] = deque()

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """Lend a connection for one transaction, committed unless the block raises.

        Raises:
            psycopg.OperationalError: the database cannot be reached, or went away.
        """
        conn = self._begin()
        try:
            yield conn
            conn.commit()
        except (psycopg.OperationalError, psycopg.InternalError):
            conn.close()  # the server is going down, or only reads now: do not come back to it
            raise
        except BaseException:
            conn.rollback()
            raise
        finally:
            if not conn.closed:
                self._idle.append(conn)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _begin(self) -> psycopg.Connection:
        if self._idle:
            conn = self._idle.pop()
            try:
                conn.execute(TRANSACTION_SETTINGS)
                return conn
            except psycopg.OperationalError:
                conn.close()
                self.close()  # the others are likely to be as dead
        conn = self._connect()
        conn.execute(TRANSACTION_SETTINGS)
        return conn

    def _connect(self) -> psycopg.Connection:
        # No prepared statements: a pooler may give each transaction another server connection.
        conn = psycopg.connect(**self._parameters, prepare_threshold=None)
        conn.adapters.register_loader("timestamptz", IsoTimestampLoader)
        return conn


def database() -> Database:
    """Return the connections of the current application."""
    return current_app.extensions["database"]


def transaction() -> AbstractContextManager[psycopg.Connection[Any]]:
    """Lend a connection of the current application for one transaction."""
    return database().transaction()
