"""A connection that comes back: what to do about each error, and how long to wait."""

import contextlib
import math
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGresult

from rota.db.session import WRITABLE, for_transaction, hang_up, read_url, settle
from rota.worker.clock import clock
from rota.worker.descriptor import Descriptor
from rota.worker.log import log

Row = tuple[Any, ...]
Connection = psycopg.Connection[Row]
Result = TypeVar("Result")

FIRST_PAUSE = 0.1  # seconds, doubled with each failure
LONGEST_PAUSE = 5.0
LONGEST_SHUT = 0.7  # seconds between two tries of a process to connect
SILENCE = 2.0  # seconds that an answer may be on its way, beyond what its statement may take

# The same call may be made again: the connection broke, the server is starting, stopping, full or
# read-only, or somebody else's lock, transaction or limit of time was in the way.
PASSING = ("08", "25006", "25P03", "25P04", "40", "53", "55006", "55P03", "57", "58")

# A deploy is in the midst of replacing what we call, or the session's prepared statements are of
# before: the next try finds what is new. Or it never will be there, so there are not many tries.
SHIFTING = ("0A000", "26000", "42703", "42804", "42883", "42P01", "42P05", "XX000")
SHIFTS = 10

MISSING_RIGHT = "42501"
NO_SCHEMA = "3F000"

LOCKED = "55P03"
OUT_OF_TIME = "57014"

# The session is of no use any more, even where the connection is still open.
SESSION_LOST = ("08", "25006", "25P03", "25P04", "57P")

MEND = "run rota deploy, and start the worker from the same version"


BEGIN = "begin isolation level read committed read write; "

_abandoned: list[Connection] = []  # kept, for to let go of a connection is to close it


class GaveUp(Exception):  # noqa: N818 (it is no error of ours)
    """The worker stops, and the database did not answer in time."""


def passes(error: psycopg.Error) -> bool:
    """Tell whether the same call with the same arguments may succeed later."""
    if error.sqlstate is None:  # libpq's own errors: the server did not answer, or not us
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(PASSING)


def shifts(error: psycopg.Error) -> bool:
    """Tell whether a deploy that is under way may be the reason."""
    return error.sqlstate in SHIFTING


def is_hopeless(error: BaseException) -> bool:
    """Tell whether the call will meet this until somebody does something about it."""
    return isinstance(error, psycopg.Error) and (
        shifts(error) or error.sqlstate in (MISSING_RIGHT, NO_SCHEMA)
    )


def advice(error: BaseException, user: str) -> str:
    """Return what an error says and, where that is known, what to do about it.

    Args:
        error: which the database raised.
        user: the login that met it.
    """
    text = str(error).strip().partition("\n")[0]
    if not is_hopeless(error):
        return text
    if error.sqlstate == MISSING_RIGHT:
        return f"{text}: the login {user} lacks the rights of a worker; grant rota_worker to {user}"
    if error.sqlstate == NO_SCHEMA:
        return f"{text}: Rota is not in this database; {MEND}"
    return f"{text}: the database holds other functions than this checkout; {MEND}"


class Pause:
    """Pauses with full jitter that grow up to a cap, so that a fleet does not return at once."""

    def __init__(self, longest: float = LONGEST_PAUSE) -> None:
        self.failures = 0
        self._longest = longest

    def next(self) -> float:
        """Return how long to wait after one more failure, in seconds."""
        longest = min(self._longest, FIRST_PAUSE * 2 ** min(self.failures, 20))
        self.failures += 1
        return random.uniform(longest / 10, longest)


class Door:
    """Where all links of a process come in.

    While the server lets nobody in only one of them knocks at a time, after a pause drawn anew that
    stays short, and the others follow it in: so a process is back soon after its server, while a
    fleet knocks about twice a second for each of its processes, and at no common moment.
    """

    def __init__(self, longest: float = LONGEST_SHUT) -> None:
        """Take the longest pause, in seconds."""
        self._turn = threading.Lock()
        self._longest = longest
        self._pause = Pause(longest)
        self._shut_until = 0.0

    @property
    def shut(self) -> float:
        """Seconds until the next link may knock."""
        return max(0.0, self._shut_until - clock())

    def enter(self, connect: Callable[[], Connection], give_up: threading.Event) -> Connection:
        """Connect, when it is our turn.

        Raises:
            psycopg.Error: the server cannot be reached now.
        """
        with self._turn:
            if self._pause.failures:
                if self.shut:
                    give_up.wait(self.shut)
                return self._knock(connect)
        return self._knock(connect)  # side by side: to be let in may take its time

    def _knock(self, connect: Callable[[], Connection]) -> Connection:
        try:
            conn = connect()
        except psycopg.Error:
            self._shut_until = clock() + self._pause.next()
            raise
        self._pause = Pause(self._longest)
        self._shut_until = 0.0
        return conn


class Portion:
    """How much to ask for in one call: half of it after one that took long, or was not answered.

    A call that ran out of time has done nothing, and at the same size it would do nothing again.
    """

    def __init__(self, most: int, long: float = math.inf) -> None:
        """Take the most to ask for at one time, and the seconds from which on a call is long."""
        self.size = self._most = most
        self._long = long

    @contextlib.contextmanager
    def tried(self) -> Iterator[None]:
        """Learn from the call of this block."""
        began = clock()
        try:
            yield
        except psycopg.Error as error:
            if error.sqlstate == OUT_OF_TIME:
                self.size = max(1, self.size // 2)
            raise
        if clock() - began > self._long:
            self.size = max(1, self.size // 2)
        else:
            self.size = min(2 * self.size, self._most)


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

    Its session has the settings of ``rota.db.session``, whatever the database or the login say. A
    pooler in transaction mode lends sessions that others use too: there nothing may be set for a
    session, so each piece of work runs in a transaction of its own that begins with these settings.

    Args:
        url: a libpq connection string. What it says goes before our own defaults.
        purpose: shown as part of ``application_name``.
        give_up: once set, a failure is not followed by another try.
        patience: seconds that one statement may take.
        lock_patience: seconds that it may wait for one lock.
        most_patience: seconds up to which patience doubles each time a statement needed more, for
            it might never be done otherwise (a claim while an old snapshot pins millions of
            finished jobs).
        longest_pause: seconds, at most, between two tries.
        durable: whether an answer is to wait until its commit is on disk, and on a synchronous
            standby. Not for claims: one that a crash of the server takes back is a job still
            SCHEDULED, and its token never returns. Nor for heartbeats, which come again: a standby
            that stands still must not cost leases.
        door: which the links of a process to one database share.
        database: what to call it in the log, where there are several.
    """

    def __init__(
        self,
        url: str,
        purpose: str,
        give_up: threading.Event,
        patience: float,
        lock_patience: float,
        most_patience: float = 0.0,
        longest_pause: float = LONGEST_PAUSE,
        durable: bool = True,
        door: Door | None = None,
        database: str = "",
    ) -> None:
        self.purpose = f"{purpose}, {database}" if database else purpose
        self._give_up = give_up
        self._patience = patience
        self._lock_patience = lock_patience
        self._most_patience = most_patience
        self._longest_pause = longest_pause
        self._durable = durable
        self._door = door or Door()
        self._pid = os.getpid()
        self.opened = 0  # connections, one after another
        self._conn: Connection | None = None
        self._descriptor: Descriptor | None = None
        self._asked_at: float | None = None  # while an answer is waited for
        self.pooled = False  # whether a pooler may give us another session with each transaction
        self.user = ""  # whom the server takes us for
        self._parameters = {
            "application_name": f"rota worker: {purpose}",
            "connect_timeout": "5",
            "keepalives_idle": "5",
            "keepalives_interval": "2",
            "keepalives_count": "3",
            "tcp_user_timeout": "10000",
            **WRITABLE,
            **read_url(url),
            "client_encoding": "UTF8",
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
        if self._conn is not None and not self._is_ours():
            _abandoned.append(self._conn)  # to close it would be to close what is somebody else's
            self._conn = None
        if self._conn is None or self._conn.closed:
            self._open()
        return self._conn

    def has(self, conn: Connection) -> bool:
        """Tell whether this is the connection still, and open."""
        return conn is self._conn and not conn.closed and self._is_ours()

    def fileno(self) -> int | None:
        """Return what becomes readable when the server closes the connection, if there is one."""
        return self._conn.fileno() if self._conn is not None and self.has(self._conn) else None

    def take_in(self) -> None:
        """Read what came unasked: nothing of interest, or that the server closes the connection."""
        try:
            if self._conn is not None:
                self._conn.pgconn.consume_input()
        except psycopg.Error:
            self.close()

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        conn, self._conn = self._conn, None
        if conn is None:
            return
        if self._is_ours():
            conn.close()
        else:
            _abandoned.append(conn)

    def run(self, work: Callable[[Connection], Result], unless: Sequence[str] = ()) -> Result:
        """Do the work on the connection, as often as it takes until the database takes it.

        It must be safe to repeat: a reply that was lost may have been a success. An error whose
        SQLSTATE is in ``unless`` is raised, where the caller has something better to do than wait.

        Raises:
            psycopg.Error: an error that the same call would meet again.
            GaveUp: the worker stops.
        """
        pause = Pause(self._longest_pause)
        shifted = 0
        while True:
            try:
                return self.once(work)
            except psycopg.Error as error:
                if error.sqlstate in unless:
                    raise
                shifted += shifts(error)
                if not passes(error) and not (shifts(error) and shifted < SHIFTS):
                    raise
                self.wait_after(error, pause)

    def once(self, work: Callable[[Connection], Result]) -> Result:
        """Do the work on the connection, once.

        Raises:
            psycopg.Error: the database did not take it.
        """
        asked_at = math.inf
        try:
            with self.watched():
                conn = self.connection()
                asked_at = clock()
                return self._in_a_transaction(conn, work) if self.pooled else work(conn)
        except psycopg.Error as error:
            if (error.sqlstate or "08").startswith(SESSION_LOST) or shifts(error):
                self.close()
            if error.sqlstate == OUT_OF_TIME and clock() >= asked_at + self._patience:
                self._be_more_patient()
            raise
        except BaseException:
            self.close()  # in the midst of who knows what
            raise

    def wait_after(self, error: psycopg.Error, pause: Pause) -> None:
        """Wait before another try, which the error may well not meet again.

        Raises:
            GaveUp: the worker stops.
        """
        if self._give_up.is_set():
            raise GaveUp(self.purpose) from error
        seconds = self._door.shut or pause.next()
        log.warning(
            "the database is not available, trying again",
            extra={
                "fields": {
                    "purpose": self.purpose,
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
        if conn is not None and self._is_ours():
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
        self.cut("no answer for too long, the connection is cut")

    def cut(self, reason: str) -> None:
        """Cut the connection, from another thread."""
        conn = self._conn
        if conn is None or not self._is_ours():
            return
        with contextlib.suppress(OSError, psycopg.Error):
            hang_up(conn)
            log.warning(reason, extra={"fields": {"purpose": self.purpose}})

    def _be_more_patient(self) -> None:
        """Give the next session's statements more time, if they may have more."""
        if self._patience < self._most_patience:
            self._patience = min(2 * self._patience, self._most_patience)
            self.close()

    def leave_to_parent(self) -> None:
        """Let go of the connection in a forked child, without a word to the server.

        A child that kept it open would keep the session alive after the worker is gone.
        """
        if self._descriptor is not None:
            self._descriptor.close()

    def _is_ours(self) -> bool:
        """Tell whether the connection's descriptor leads to its socket still.

        A handler that closes descriptors at random may have closed it, and the number may be
        another connection's by now.
        """
        return self._descriptor is not None and self._descriptor.intact

    def _open(self) -> None:
        self._conn = conn = self._door.enter(
            lambda: psycopg.connect(autocommit=True, **self._parameters), self._give_up
        )
        self._descriptor = Descriptor(conn.fileno())
        self.opened += 1
        self.user = conn.info.user
        if self._asked_at is not None:
            self._asked_at = clock()  # connecting has a limit of its own
        try:
            # A pooler in transaction mode passes on a process id of its own making. Settings
            # would stick to sessions that we share with others, prepared statements get lost.
            row = conn.execute("select pg_catalog.pg_backend_pid()").fetchone()
            self.pooled = row != (conn.info.backend_pid,)
            if self.pooled:
                conn.prepare_threshold = None
            else:
                settle(conn, **self._limits())
        except BaseException:
            self.close()
            raise

    def _limits(self) -> dict[str, str]:
        """Return what we set on top of db.session's settings."""
        limits = {
            "statement_timeout": str(int(self._patience * 1000)),
            "lock_timeout": str(int(self._lock_patience * 1000)),
        }
        if not self._durable:
            limits["synchronous_commit"] = "off"
        return limits

    def _in_a_transaction(self, conn: Connection, work: Callable[[Connection], Result]) -> Result:
        """Do the work in a session that is ours until its transaction ends."""
        try:
            # In one message: between two, a limit on idle transactions might end the session.
            conn.execute(BEGIN + for_transaction(conn.info.server_version, **self._limits()))
            result = work(conn)
            conn.execute("commit")
        except BaseException:
            try:
                conn.execute("rollback")
            except psycopg.Error:
                self.close()
            raise
        return result
