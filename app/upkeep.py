"""What workers do for all, done for those over HTTP: take back lost jobs, keep history in order.

A worker in Python looks now and then for jobs whose leases ran out (docs/inside.md, "Who is dead").
One over HTTP claims and finishes, and nothing else: were there no others, a job that one of them
died with would never run again. So for as long as somebody claims here, a thread does it in the
name of whoever claimed last. That needs no right that a claim does not, and holds no claim up.
"""

import logging
import threading
import time
from collections.abc import Callable

import psycopg

from rota.app.database import Database, ForeignRoleError
from rota.db.gateway import call

MAINTAIN_PERIOD = 3600.0  # seconds
AGAIN = 10.0  # seconds after one that failed
FIRST_BATCH = 1000  # jobs; half as many after each time that failed

log = logging.getLogger("rota.api")


class Upkeep:
    """The thread that does it; it begins with the first claim."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._token_hash: bytes | None = None
        self._claimed = threading.Event()
        self._begin = threading.Lock()
        self._thread: threading.Thread | None = None
        self._batch = FIRST_BATCH

    def claimed_by(self, token_hash: bytes | None) -> None:
        """Note whose token claims; called with each claim, and waits for nothing."""
        self._token_hash = token_hash
        if self._claimed.is_set():
            return
        self._claimed.set()
        with self._begin:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        due = dict.fromkeys((self._do_chores, self._maintain), 0.0)
        while True:
            self._claimed.wait()
            self._claimed.clear()
            for chore, moment in due.items():
                if time.monotonic() >= moment:
                    due[chore] = time.monotonic() + self._tried(chore)
            time.sleep(max(0.0, min(due.values()) - time.monotonic()))

    def _tried(self, chore: Callable[[], float]) -> float:
        """Do a chore; return after how many seconds to do it again."""
        try:
            return chore()
        except (psycopg.Error, ForeignRoleError) as error:
            fields = {
                "chore": chore.__name__.strip("_"),
                "sqlstate": getattr(error, "sqlstate", None),
                "error": type(error).__name__,
            }
            log.warning("a chore failed, it is tried again later", extra={"fields": fields})
            return AGAIN

    def _do_chores(self) -> float:
        batch, self._batch = self._batch, max(1, self._batch // 2)
        with self._database.transaction(self._token_hash) as conn:
            (done,) = call(conn, "do_chores", max_jobs=batch)
        self._batch = batch if done["recovered"] else FIRST_BATCH
        if done["recovered"]:
            fields = {"jobs": done["recovered"]}
            log.warning("took back jobs whose leases ran out", extra={"fields": fields})
        return done["again_in_seconds"]

    def _maintain(self) -> float:
        with self._database.transaction(self._token_hash) as conn:
            call(conn, "maintain")
        return MAINTAIN_PERIOD
