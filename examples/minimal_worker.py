"""The whole idea of a worker: claim a job, run its handler, say how it ended; meanwhile, heartbeat.

    DATABASE_URL=postgresql://… python examples/minimal_worker.py default

Two threads with a connection each. Everything that two workers could disagree about is decided by
the functions in the database, so that this file may be killed on any line: a job that it held runs
again when its lease has run out, and what it says too late changes nothing. The worker of
the package does the same in batches, with many handlers at a time: docs/inside.md.
"""

import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

HANDLERS = {
    "echo": lambda payload: payload,
    "sleep": lambda payload: time.sleep(payload["seconds"]),
    "add": lambda payload: payload["a"] + payload["b"],
}
LEASE = "15 seconds"  # after which others may take over from a worker that has died
BEAT = 5.0  # seconds between two heartbeats: a third of the lease
CLAIM = "select id, token, task, payload from rota.claim_next_job(%s, %s, %s)"
EXTEND = "select from rota.heartbeat_jobs(%s, %s, %s)"
FINISH = "select state from rota.finish_job(%s, %s, error => %s, result => %s)"


class Database:
    """A connection that comes back."""

    _conn: psycopg.Connection | None = None

    def call(self, query: str, arguments: list[Any]) -> list[tuple[Any, ...]]:
        """Return the rows. Every call of Rota may be repeated, so it is, until it is answered."""
        while True:
            try:
                if self._conn is None or self._conn.closed:
                    self._conn = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
                return self._conn.execute(query, arguments).fetchall()
            except psycopg.OperationalError as error:
                print(f"trying again: {error}", file=sys.stderr)
                self._conn = None
                time.sleep(1.0)


class MinimalWorker:
    """One job at a time."""

    def __init__(self, queues: list[str]) -> None:
        self.name = f"minimal, {socket.gethostname()}, pid {os.getpid()}"
        self.queues = queues
        self.stopping = threading.Event()
        self.held: list[tuple[int, Any]] = []  # the job, and the token that proves our lease

    def run(self) -> None:
        """Work until told to stop."""
        threading.Thread(target=self.beat, daemon=True).start()
        database = Database()
        while not self.stopping.is_set():
            jobs = database.call(CLAIM, [self.queues, self.name, LEASE])
            for job_id, token, task, payload in jobs:
                self.held = [(job_id, token)]
                error, result = self.handle(task, payload)
                try:
                    database.call(FINISH, [job_id, token, error, result])
                except psycopg.Error as late:  # RTC02: the lease was lost, and nothing has changed
                    print(f"job {job_id}: {late}", file=sys.stderr)
                self.held = []
            if not jobs:
                self.stopping.wait(1.0)

    def handle(self, task: str, payload: Any) -> tuple[str | None, Jsonb | None]:
        """Run the handler; return its error, or its result."""
        try:
            return None, Jsonb(HANDLERS[task](payload))
        except Exception as error:
            return f"{type(error).__name__}: {error}", None

    def beat(self) -> None:
        """Extend the lease of what runs here, and take back what dead workers held."""
        database = Database()
        while True:
            for job_id, token in self.held:
                database.call(EXTEND, [[job_id], [token], LEASE])
            database.call("select rota.recover_jobs()", [])
            time.sleep(BEAT)


if __name__ == "__main__":
    worker = MinimalWorker(sys.argv[1:] or ["default"])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stopping.set())
    worker.run()
