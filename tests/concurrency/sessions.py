"""Sessions that can be left waiting: a call runs on, and whether it waits for a lock is looked up.

Nothing here waits "long enough". ``pg_blocking_pids`` says that a call waits for another session's
lock; the end of its future says that it does not.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection

from rota.db.gateway import call

PATIENCE = 30.0  # seconds, after which a call that should have ended has failed the test


def forget_cursors(conn: Connection) -> None:
    """Let the next claim look everywhere.

    On a busy machine any scan may be slow, and a claim whose scan was slow looks for jobs only
    behind the first one for a short while. That has tests of its own.
    """
    conn.execute("reset all; set jit = off; set array_nulls = on")
    conn.execute("set default_transaction_isolation = 'read committed'")
    conn.execute("update rota.lanes set cursor_since = null where cursor_since is not null")


class Call:
    """One call under way in a session of its own."""

    def __init__(self, future: Future, pid: int, observer: Connection) -> None:
        self._future = future
        self._pid = pid
        self._observer = observer

    def waits(self) -> bool:
        """Say, as soon as it is certain, whether the call waits for a lock or has ended."""
        deadline = time.monotonic() + PATIENCE
        while not self._future.done():
            blocked = self._observer.execute(
                "select cardinality(pg_blocking_pids(%s)) > 0", [self._pid]
            ).fetchone()
            if blocked and blocked[0]:
                return True
            assert time.monotonic() < deadline, "neither ended nor waiting for a lock"
            time.sleep(0.0005)
        return False

    def answer(self) -> list[dict[str, Any]]:
        """Return the rows of the call, or raise what it raised."""
        return self._future.result(PATIENCE)


class Session:
    """A connection whose calls run in a thread of its own."""

    def __init__(self, conn: Connection, observer: Connection) -> None:
        self.conn = conn
        self._observer = observer
        self._thread = ThreadPoolExecutor(1)

    def start(self, function: str, /, **arguments: Any) -> Call:
        """Begin a call and return at once."""
        if function == "claim_next_job" and self.conn.autocommit:
            forget_cursors(self.conn)
        future = self._thread.submit(call, self.conn, function, **arguments)
        return Call(future, self.conn.info.backend_pid, self._observer)

    def call(self, function: str, /, **arguments: Any) -> list[dict[str, Any]]:
        """Make a call that is expected not to wait for anybody."""
        return self.start(function, **arguments).answer()

    def begin(self, isolation: psycopg.IsolationLevel | None = None) -> None:
        """Open a transaction that lasts until commit or rollback."""
        self.conn.isolation_level = isolation
        self.conn.autocommit = False

    def commit(self) -> None:
        self.conn.commit()
        self._end()

    def rollback(self) -> None:
        self.conn.rollback()
        self._end()

    def _end(self) -> None:
        self.conn.autocommit = True
        self.conn.isolation_level = None

    def close(self) -> None:
        # The thread may hang in a call whose test failed; the fixture closes its connection.
        self._thread.shutdown(wait=False, cancel_futures=True)


@contextmanager
def sqlstate(code: str) -> Iterator[None]:
    """Expect an error with this SQLSTATE."""
    try:
        yield
    except psycopg.Error as error:
        assert error.sqlstate == code, f"{error.sqlstate}: {error}"
    else:
        raise AssertionError(f"no error, {code} was expected")
