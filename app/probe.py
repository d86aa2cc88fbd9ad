"""A write that must commit in time: what ``/health/ready?write=1`` asks for.

A server may answer every question and commit nothing: its synchronous standby has stopped, say, or
it is a primary that was left behind. No timeout of the server's ends that wait. So a message is
written to its log, which changes no table and needs no right of ours, on a connection that does
nothing else, and if it does not commit in time the server is asked to end the wait: or else each
probe would leave a session behind.
"""

import contextlib
import threading
import time
from concurrent.futures import Future

import psycopg

from rota.app.database import Database, Session
from rota.db.session import hang_up

PATIENCE = 2.0  # seconds until it must have committed
KEPT = 0.5  # seconds for which one that did is an answer to others, too
LONGEST_CANCEL = 1.0  # seconds

# A transaction that only reads, as each on a standby, could write a message all the same.
WRITE = """
    select pg_catalog.pg_logical_emit_message(true, 'rota', 'ready?')
    where current_setting('transaction_read_only') = 'off'
"""


class WriteProbe:
    """Writes when it is asked to, one write at a time, whoever asks.

    Args:
        database: where to write.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._attempt: Future[None] | None = None
        self._began = 0.0
        self._conn: Session | None = None

    def write(self) -> None:
        """Return when a write has committed.

        Raises:
            TimeoutError: it did not in time, which for one that began earlier may be at once.
            psycopg.Error: the database cannot be reached, or refuses it.
        """
        with self._lock:
            now = time.monotonic()
            if self._attempt is None or (self._attempt.done() and now > self._began + KEPT):
                self._attempt, self._began = Future(), now
                threading.Thread(target=self._try, args=[self._attempt], daemon=True).start()
            attempt, left = self._attempt, self._began + PATIENCE - now
        attempt.result(max(0.0, left))

    def _try(self, attempt: "Future[None]") -> None:
        began = time.monotonic()
        try:
            self._write()
            if time.monotonic() > began + PATIENCE:  # it was given up, or took as long to connect
                raise TimeoutError
        except BaseException as error:
            attempt.set_exception(error)
        else:
            attempt.set_result(None)

    def _write(self) -> None:
        began = time.monotonic()
        conn, self._conn = self._conn, None
        if conn is not None:
            try:
                self._conn = _written(conn)
                return
            except psycopg.OperationalError:
                if time.monotonic() > began + PATIENCE:
                    raise
                # Else the server was started anew, or is elsewhere now.
        self._conn = _written(self._database.connect())


def _written(conn: Session) -> Session:
    """Write, and return the connection if it can be used again.

    Raises:
        psycopg.Error: it is closed then.
    """
    alarm = threading.Timer(PATIENCE, _give_up, [conn])
    alarm.daemon = True
    alarm.start()
    try:
        if not conn.execute(WRITE).rowcount:
            raise psycopg.errors.ReadOnlySqlTransaction("the server only reads")
    except BaseException:
        conn.close()
        raise
    finally:
        alarm.cancel()
    return conn


def _give_up(conn: Session) -> None:
    """Have the server end its wait, and ours end if it does not."""
    with contextlib.suppress(psycopg.Error):
        conn.cancel_safe(timeout=LONGEST_CANCEL)
    with contextlib.suppress(OSError, psycopg.Error):
        hang_up(conn)
