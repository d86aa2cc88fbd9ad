"""Connections to the database, one transaction a request."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import psycopg
from flask import current_app, g
from psycopg import IsolationLevel
from psycopg.adapt import Buffer, Loader
from psycopg.conninfo import conninfo_to_dict

from rota.db.session import for_transaction, hang_up

log = logging.getLogger("rota.api")

# What the URL may overrule. A server that stopped answering is noticed within seconds.
CONNECTION_DEFAULTS = {
    "application_name": "rota api",
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

# On top of what all sessions of ours set. No request may hold a thread, or a place in a queue of
# locks, for longer; and if this process stands still in the midst of one, its locks do not. To
# compile a query costs more than to run any of ours.
SETTINGS = {
    "statement_timeout": "10s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "15s",
    "intervalstyle": "iso_8601",
    "jit": "off",
}
BECOME = ", pg_catalog.set_config('role', %s, true)"

# A login whose memberships are not inherited has no right of its own; it becomes what it needs.
BECOME_API = """
    select pg_catalog.set_config('role', r.rolname, true)
    from pg_catalog.pg_roles as r
    join pg_catalog.pg_roles as l on l.rolname = session_user
    where r.rolname = 'rota_api'
        and not l.rolsuper
        and pg_has_role(l.oid, r.oid, 'MEMBER')
        and not exists (
            select
            from pg_catalog.pg_proc as p
            where p.pronamespace = to_regnamespace('rota')
                and p.proname = 'authenticate_token'
                and has_function_privilege(p.oid, 'EXECUTE')
        )
"""
LONGEST_TRANSACTION = 20.0  # seconds, after which a server that says nothing is given up


class ForeignRoleError(Exception):
    """The login may not become the role that it is to act as."""


class IsoTimestampLoader(Loader):
    """Pass a moment on as ISO 8601 text with six digits, whatever its year; sessions are in UTC."""

    def load(self, data: Buffer) -> str:
        """Return ``2030-01-31T09:00:00.500000+00:00`` for ``2030-01-31 09:00:00.5+00``."""
        text = bytes(data).decode()
        if not text.endswith("+00"):
            return text  # infinity
        moment, _, fraction = text.removesuffix("+00").replace(" ", "T", 1).partition(".")
        return f"{moment}.{fraction:0<6}+00:00"


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
        self._parameters["client_encoding"] = "UTF8"
        self._idle: deque[psycopg.Connection] = deque()
        self._lent: dict[psycopg.Connection, float] = {}  # since when

    @contextmanager
    def transaction(self, role: str | None = None) -> Iterator[psycopg.Connection]:
        """Lend a connection for one transaction, committed unless the block raises.

        Args:
            role: under which everything in it is done, and nothing after it; the login itself if
                left out. What is run here is never written by a caller, so nobody gets out of it.

        Raises:
            psycopg.OperationalError: the database cannot be reached, or went away.
            ForeignRoleError: the role is gone, or not granted to the login.
        """
        conn = self._begin(role)
        try:
            yield conn
            conn.commit()
        except (psycopg.OperationalError, psycopg.InternalError, psycopg.InterfaceError):
            conn.close()  # the server is going down, or only reads now: do not come back to it
            raise
        except BaseException:
            conn.rollback()
            raise
        finally:
            self._lent.pop(conn, None)
            if not conn.closed:
                self._idle.append(conn)

    @contextmanager
    def own_transaction(self) -> Iterator[psycopg.Connection]:
        """Lend a connection for what the API itself has to know, whoever asks."""
        with self.transaction() as conn:
            conn.execute(BECOME_API)
            yield conn

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def cut_overdue(self) -> None:
        """Cut connections whose transaction should have ended, from another thread.

        The server ends each statement in time, and the kernel notices a machine that is gone.
        Neither notices a server that was frozen, or something on the way that says nothing more.
        """
        now = time.monotonic()
        for conn, since in list(self._lent.items()):
            if now - since > LONGEST_TRANSACTION and not conn.closed:
                with contextlib.suppress(OSError, psycopg.Error):
                    hang_up(conn)
                    log.warning("no answer from the database for too long, a connection is cut")

    def _begin(self, role: str | None) -> psycopg.Connection:
        if self._idle:
            conn = self._idle.pop()
            try:
                return self._set_up(conn, role)
            except psycopg.OperationalError:
                self.close()  # the others are likely to be as dead
        return self._set_up(self._connect(), role)

    def _set_up(self, conn: psycopg.Connection, role: str | None) -> psycopg.Connection:
        """Begin a transaction with settings of its own, one of which is the role.

        They are set for each, and so through a pooler too, where a session is not ours to change.
        They end with it, so a connection comes back as the login's.
        """
        self._lent[conn] = time.monotonic()
        settings = _transaction_settings(conn.info.server_version)
        try:
            if role is None:
                conn.execute(settings)
            else:
                conn.execute(settings + BECOME, [role])
        except (
            psycopg.errors.InsufficientPrivilege,
            psycopg.errors.InvalidParameterValue,
        ) as error:
            del self._lent[conn]
            conn.close()
            raise ForeignRoleError(error.diag.message_primary) from error
        except BaseException:
            del self._lent[conn]
            conn.close()
            raise
        return conn

    def _connect(self) -> psycopg.Connection:
        # No prepared statements: a pooler may give each transaction another server connection.
        conn = psycopg.connect(**self._parameters, prepare_threshold=None)
        conn.isolation_level = IsolationLevel.READ_COMMITTED
        conn.adapters.register_loader("timestamptz", IsoTimestampLoader)
        return conn


@cache
def _transaction_settings(server_version: int) -> str:
    """Return the statement that sets for one transaction what its statements rely on."""
    return for_transaction(server_version, **SETTINGS)


def database() -> Database:
    """Return the connections of the current application."""
    return current_app.extensions["database"]


def transaction() -> AbstractContextManager[psycopg.Connection[Any]]:
    """Lend a connection of the current application for one transaction of the request."""
    return database().transaction(g.get("principal"))
