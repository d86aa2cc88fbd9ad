"""Connections to the database, one transaction a request."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import psycopg
from flask import current_app, g
from psycopg import sql
from psycopg.adapt import Buffer, Loader
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus

from rota.db.session import WRITABLE, for_transaction, hang_up, read_url, settle

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
BECOME = "select pg_catalog.set_config('role', rota.principal_of({}), true);"

# A login whose memberships are not inherited has no right of its own; it becomes what it needs, for
# a transaction or for the session. No row where there is no need.
BECOMES_API = """
    select
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
BEGIN = b"begin isolation level read committed;"
PREPARED_AFTER = 2  # times that a connection has run a statement
LONGEST_TRANSACTION = 20.0  # seconds, after which a server that says nothing is given up
LONGEST_SET_UP = 5.0  # the same for a new connection

# After these a connection is not used again. A deploy may have changed what a statement that this
# session has prepared would return (0A000).
CLOSING_ERRORS = (
    psycopg.OperationalError,
    psycopg.InternalError,
    psycopg.InterfaceError,
    psycopg.errors.FeatureNotSupported,
)


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


class Session(psycopg.Connection[Any]):
    """A connection to the database."""

    pooled = False  # whether a pooler may give us another session with each transaction
    becomes_api = False  # whether its login has to set that role, to look up a token
    kept_until = float("inf")  # after that, by the monotonic clock, it is not lent again


class Database:
    """The connections of this process: lent to one request at a time, kept open in between.

    The server has a fixed number of threads, so no more connections than that ever exist, and
    none needs to be waited for. A connection that died while it lay idle (the database was
    restarted) is noticed by the first statement of the next transaction and replaced; when the
    database cannot be reached, the request fails at once, and the next one tries again.
    """

    def __init__(
        self, url: str, server: Mapping[str, str] = WRITABLE, variable: str = "DATABASE_URL"
    ) -> None:
        """Check the connection string without connecting.

        Args:
            url: the connection string.
            server: which of several servers is wanted, unless the URL says otherwise.
            variable: where the URL was found.

        Raises:
            ValueError: it is empty or cannot be read; the message does not repeat it.
        """
        if not url:
            raise ValueError(f"{variable} is not set")
        self._parameters = CONNECTION_DEFAULTS | server | read_url(url, variable)
        self._parameters["client_encoding"] = "UTF8"
        self._idle: deque[Session] = deque()
        self._lent: dict[Session, float] = {}  # until when

    @contextmanager
    def transaction(
        self, token_hash: bytes | None = None, durable: bool = True, own: bool = False
    ) -> Iterator[Session]:
        """Lend a connection for one transaction, committed unless the block raises.

        Args:
            token_hash: of the token under whose role everything in it is done, and nothing after
                it; without one, where none is needed, the login itself. What is run here is never
                written by a caller, so nobody gets out of it.
            durable: whether its commit waits for the disk. A claim need not: lost in a crash of
                the server, it is one that was never made.
            own: whether it is for what the API itself has to know, whoever asks.

        Raises:
            psycopg.OperationalError: the database cannot be reached, or went away.
            ForeignRoleError: the role is gone, or not granted to the login.
            psycopg.Error: RTP02, the token is not valid any more, or one is needed now.
        """
        conn = self._begin(token_hash, durable, own)
        try:
            yield conn
            _send(conn, b"commit")
        except CLOSING_ERRORS:
            conn.close()  # the server is going down, or only reads now: do not come back to it
            raise
        except BaseException:
            conn.rollback()
            raise
        finally:
            self._lent.pop(conn, None)
            if time.monotonic() > conn.kept_until:
                conn.close()
            elif not conn.closed:
                self._idle.append(conn)

    def own_transaction(self) -> AbstractContextManager[Session]:
        """Lend a connection for what the API itself has to know, whoever asks."""
        return self.transaction(own=True)

    @contextmanager
    def bounded(self, conn: Session, seconds: float) -> Iterator[None]:
        """Have a connection that is lent to nobody cut, too, if this block takes longer."""
        self._lent[conn] = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._lent[conn]

    def close(self) -> None:
        """Close the idle connections."""
        while (conn := self._take_idle()) is not None:
            conn.close()

    def cut_overdue(self) -> None:
        """Cut connections whose transaction should have ended, from another thread.

        The server ends each statement in time, and the kernel notices a machine that is gone.
        Neither notices a server that was frozen, or something on the way that says nothing more.
        """
        now = time.monotonic()
        for conn, until in list(self._lent.items()):
            if now > until and not conn.closed:
                with contextlib.suppress(OSError, psycopg.Error):
                    hang_up(conn)
                    log.warning("no answer from the database for too long, a connection is cut")

    def connect(self) -> Session:
        """Open a connection with settings of its own.

        Behind a pooler in transaction mode, which passes on a process id of its own making, the
        session is not ours to change: there each transaction sets them, and no statement is
        prepared, for the next one may come to another session.

        Raises:
            psycopg.OperationalError: the database cannot be reached.
        """
        conn = Session.connect(**self._parameters, autocommit=True, prepare_threshold=None)
        try:
            conn.adapters.register_loader("timestamptz", IsoTimestampLoader)
            with self.bounded(conn, LONGEST_SET_UP):
                row = conn.execute("select pg_catalog.pg_backend_pid()").fetchone()
                conn.pooled = row != (conn.info.backend_pid,)
                if not conn.pooled:
                    settle(conn, **SETTINGS)
                    conn.prepare_threshold = PREPARED_AFTER
                conn.becomes_api = conn.execute(BECOMES_API).rowcount > 0
        except BaseException:
            conn.close()
            raise
        return conn

    def _begin(self, token_hash: bytes | None, durable: bool, own: bool) -> Session:
        conn = self._take_idle()
        if conn is not None:
            try:
                return self._set_up(conn, token_hash, durable, own)
            except psycopg.OperationalError:
                self.close()  # the others are likely to be as dead
        return self._set_up(self.connect(), token_hash, durable, own)

    def _take_idle(self) -> Session | None:
        """Take a connection that lies idle; another thread may take the last one meanwhile."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _set_up(self, conn: Session, token_hash: bytes | None, durable: bool, own: bool) -> Session:
        """Begin a transaction, in one message with whatever is to be set for it alone."""
        self._lent[conn] = time.monotonic() + LONGEST_TRANSACTION
        beginning = BEGIN
        if not durable:
            beginning += b"set local synchronous_commit = off;"
        if conn.pooled:
            beginning += _transaction_settings(conn.info.server_version).encode() + b";"
        if conn.becomes_api:
            beginning += b"set local role rota_api;"
        if not own:  # last: a principal may not set what the login may
            beginning += sql.SQL(BECOME).format(token_hash).as_bytes(conn)
        try:
            _send(conn, beginning)
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


def _send(conn: Session, statements: bytes) -> None:
    """Have statements executed that have no parameters and no rows of interest, in one message.

    Raises:
        psycopg.Error: as the server, or the way to it, answers.
    """
    result = conn.pgconn.exec_(statements)
    if conn.pgconn.status == ConnStatus.BAD:
        raise psycopg.OperationalError("the connection to the database is lost")
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        raise error_from_result(result)


@cache
def _transaction_settings(server_version: int) -> str:
    """Return the statement that sets for one transaction what its statements rely on."""
    return for_transaction(server_version, **SETTINGS)


def database() -> Database:
    """Return the connections of the current application."""
    return current_app.extensions["database"]


def transaction(durable: bool = True) -> AbstractContextManager[psycopg.Connection[Any]]:
    """Lend a connection of the current application for one transaction of the request.

    Of a standby, if that is where the request is to be answered (app/standby.py).
    """
    if standby := g.get("standby"):
        return standby.transaction(g.get("token_hash"))
    return database().transaction(g.get("token_hash"), durable)
