"""A connection that comes back: what to do about each error, and how long to wait."""

import contextlib
import logging
import math
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.adapt import Transformer
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGresult

from worker.job import clock

log = logging.getLogger("rota.worker")

Row = tuple[Any, ...]
Connection = psycopg.Connection[Row]
Result = TypeVar("Result")

FIRST_PAUSE = 0.1  # seconds, doubled with each failure
LONGEST_PAUSE = 5.0
SILENCE = 2.0  # seconds that an answer may be on its way, beyond what its statement may take

# The same call may be made again: the connection broke, the server is starting, stopping, full or
# read-only, or somebody else's lock or transaction was in the way.
PASSING = ("08", "25006", "25P03", "40", "53", "55P03", "57", "58")

LOCKED = "55P03"
OUT_OF_TIME = "57014"

# The session is of no use any more, even where the connection is still open.
SESSION_LOST = ("08", "25006", "57P")


class GaveUp(Exception):  # noqa: N818 (it is no error of ours)
    """The worker stops, and the database did not answer in time."""


def passes(error: psycopg.Error) -> bool:
    """Tell whether the same call with the same arguments may succeed later."""
    if error.sqlstate is None:  # libpq's own errors: the server did not answer, or not us
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(PASSING)


class Pause:
    """Pauses with full jitter that grow up to a cap, so that a fleet does not return at once."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self) -> float:
        """Return how long to wait after one more failure, in seconds."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self.failures, 10))
        self.failures += 1
        return random.uniform(longest / 10, longest)


class Statement:
    """A statement that each session prepares once, and that takes no cursor.

    In a process that has just been woken a cursor takes 0.1 ms for each statement, and an idle
    system should start a job within one.

    Args:
        name: the statement's, which no other has.
        query: with $1 and so on, each cast to its type.
    """

    def __init__(self, name: str, query: str) -> None:
        self._name = name.encode()
        self._query = query.encode()
        self._prepared_on: Connection | None = None

    def rows(self, conn: Connection, arguments: Sequence[str]) -> list[Row]:
        """Return the rows of its answer; where nothing may be prepared it goes as it is.

        Raises:
            psycopg.Error: the server refused it, or did not answer.
        """
        encoding = conn.info.encoding
        encoded = [argument.encode(encoding) for argument in arguments]
        if conn.prepare_threshold is None:
            result = conn.pgconn.exec_params(self._query, encoded, result_format=Format.BINARY)
        else:
            if conn is not self._prepared_on:
                _check(conn.pgconn.prepare(self._name, self._query), encoding)
                self._prepared_on = conn
            result = conn.pgconn.exec_prepared(self._name, encoded, result_format=Format.BINARY)
        _check(result, encoding)
        reader = Transformer(conn)
        reader.set_pgresult(result)
        return reader.load_rows(0, result.ntuples, tuple)


def _check(result: PGresult, encoding: str) -> None:
    if result.status in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        return
    if result.error_field(DiagnosticField.SQLSTATE) is None:  # it is libpq that complains
        raise psycopg.OperationalError(result.get_error_message(encoding))
    raise error_from_result(result, encoding)


class Link:
    """One connection, for one thread of one process.

    Args:
        url: a libpq connection string. What it says goes before our own defaults.
        purpose: shown as part of ``application_name``.
        give_up: once set, a failure is not followed by another try.
        patience: seconds that one statement may take.
        lock_patience: seconds that it may wait for one lock.
        most_patience: seconds up to which patience doubles each time a statement needed more, for
            it might never be done otherwise (a claim while an old snapshot pins millions of
            finished jobs).
        durable: whether an answer is to wait until its commit is on disk. Not for claims: one that
            a crash of the server takes back is a job still SCHEDULED, and its token never returns.
            Through a pooler in transaction mode all are, for sessions are shared there.
    """

    def __init__(
        self,
        url: str,
        purpose: str,
        give_up: threading.Event,
        patience: float,
        lock_patience: float,
        most_patience: float = 0.0,
        durable: bool = True,
    ) -> None:
        self._purpose = purpose
        self._give_up = give_up
        self._patience = patience
        self._lock_patience = lock_patience
        self._most_patience = most_patience
        self._durable = durable
        self._pid = os.getpid()
        self._conn: Connection | None = None
        self._asked_at: float | None = None  # while an answer is waited for
        self.pooled = False  # whether a pooler may give us another session with each transaction
        self._parameters = {
            "application_name": f"rota worker: {purpose}",
            "connect_timeout": "5",
            "keepalives_idle": "5",
            "keepalives_interval": "2",
            "keepalives_count": "3",
            "tcp_user_timeout": "10000",
            "target_session_attrs": "read-write",
            **conninfo_to_dict(url),
        }

    @property
    def patience(self) -> float:
        """Seconds that one statement may take."""
        return self._patience

    def connection(self) -> Connection:
        """Return the connection, opened if need be.

        Raises:
            psycopg.Error: the server cannot be reached now.
            RuntimeError: this is a forked child, which must not use its parent's connection.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("a forked process must not use its parent's connection")
        if self._conn is None or self._conn.closed:
            self._open()
        return self._conn

    def has(self, conn: Connection) -> bool:
        """Tell whether this is the connection still, and open."""
        return conn is self._conn and not conn.closed

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def run(self, work: Callable[[Connection], Result], unless: str | None = None) -> Result:
        """Do the work on the connection, as often as it takes until the database takes it.

        It must be safe to repeat: a reply that was lost may have been a success. An error whose
        SQLSTATE is ``unless`` is raised, where the caller has something better to do than wait.

        Raises:
            psycopg.Error: an error that the same call would meet again.
            GaveUp: the worker stops.
        """
        pause = Pause()
        while True:
            asked_at = math.inf
            try:
                with self.watched():
                    conn = self.connection()
                    asked_at = clock()
                    return work(conn)
            except psycopg.Error as error:
                if (error.sqlstate or "08").startswith(SESSION_LOST):
                    self.close()
                if clock() >= asked_at + self._patience and (
                    error.sqlstate == OUT_OF_TIME or self.pooled  # where it is we who cut
                ):
                    self._be_more_patient()
                if not passes(error) or (unless and error.sqlstate == unless):
                    raise
                if self._give_up.is_set():
                    raise GaveUp(self._purpose) from error
                seconds = pause.next()
                log.warning(
                    "the database is not available, trying again",
                    extra={
                        "fields": {
                            "purpose": self._purpose,
                            "failures": pause.failures,
                            "seconds": round(seconds, 3),
                            "sqlstate": error.sqlstate,
                            "error": str(error).strip(),
                        }
                    },
                )
                self._give_up.wait(seconds)

    def cancel(self) -> None:
        """Have the server end the statement that is under way, from another thread."""
        conn = self._conn
        if conn is not None:
            with contextlib.suppress(psycopg.Error):
                conn.cancel_safe(timeout=SILENCE)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Have ``cut_if_silent`` bound the time that the calls of this block may take."""
        self._asked_at = clock()
        try:
            yield
        finally:
            self._asked_at = None

    def cut_if_silent(self) -> None:
        """Cut the connection, from another thread, when an answer is long overdue.

        The server ends each statement in time, and the kernel notices a machine that is gone. It
        does not notice a connection that something on the way keeps open and says nothing more on.
        """
        asked_at, conn = self._asked_at, self._conn
        if conn is None or asked_at is None or clock() < asked_at + self._patience + SILENCE:
            return
        with contextlib.suppress(OSError, psycopg.Error):
            with socket.socket(fileno=os.dup(conn.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)
            log.warning(
                "no answer for too long, the connection is cut",
                extra={"fields": {"purpose": self._purpose}},
            )

    def _be_more_patient(self) -> None:
        """Give the next session's statements more time, if they may have more."""
        if self._patience < self._most_patience:
            self._patience = min(2 * self._patience, self._most_patience)
            self.close()

    def _open(self) -> None:
        self._conn = conn = psycopg.connect(autocommit=True, **self._parameters)
        if self._asked_at is not None:
            self._asked_at = clock()  # connecting has a limit of its own
        try:
            # A pooler in transaction mode passes on a process id of its own making. Settings
            # would stick to sessions that we share with others, prepared statements get lost.
            row = conn.execute("select pg_backend_pid()").fetchone()
            self.pooled = row != (conn.info.backend_pid,)
            if self.pooled:
                conn.prepare_threshold = None
            else:
                settings = {
                    "statement_timeout": str(int(self._patience * 1000)),
                    "lock_timeout": str(int(self._lock_patience * 1000)),
                    **({} if self._durable else {"synchronous_commit": "off"}),
                }
                conn.execute(
                    """
                    select set_config(s.name, s.value, false)
                    from unnest(%s::text[], %s::text[]) as s(name, value)
                    """,
                    [list(settings), list(settings.values())],
                )
        except BaseException:
            self.close()
            raise
