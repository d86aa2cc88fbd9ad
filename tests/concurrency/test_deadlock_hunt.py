"""All functions at once, at random, on a few jobs: nobody deadlocks and nothing breaks.

``ROTA_HUNT_SECONDS`` makes it longer, ``ROTA_SEED`` repeats the choices of a run (though not the
moments at which the sessions meet).
"""

import os
import random
import threading
import time
from datetime import timedelta
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from rota.db.gateway import call

SECONDS = float(os.environ.get("ROTA_HUNT_SECONDS", "5"))
SEED = int(os.environ.get("ROTA_SEED") or random.randrange(2**32))
SESSIONS = 6
KEYS = [f"key {n}" for n in range(6)]
FORMS = [{"unique_for": "30 ms"}, {"replace": True}, {"replace": True, "unique_for": "1 s"}, {}]
NAMES = [f"name {n}" for n in range(3)]
WORKERS = [str(UUID(int=number)) for number in range(4)]
ABOUT = {"host": "h", "pid": 1, "queues": ["default"], "concurrency": 1, "version": "v"}
LEASES = [timedelta(microseconds=1), timedelta(milliseconds=20), timedelta(minutes=1)]


class Hunter(threading.Thread):
    """A session that calls whatever it draws, in transactions of one call."""

    def __init__(self, conn: psycopg.Connection, number: int, held: list, until: float) -> None:
        super().__init__(daemon=True)
        self._conn = conn
        self._random = random.Random(SEED * 1000 + number)
        self._held = held  # (job, token) pairs that anybody ever got, shared by all
        self._until = until
        self.calls = 0
        self.unexpected: list[str] = []

    def run(self) -> None:
        while time.monotonic() < self._until:
            function, arguments = self._draw()
            try:
                rows = call(self._conn, function, **arguments)
                if function == "claim_next_job":
                    self._held.extend((row["id"], row["token"]) for row in rows)
            except psycopg.Error as error:
                if not (error.sqlstate or "").startswith("RT"):
                    self.unexpected.append(f"{function}: {error.sqlstate}: {error}")
            self.calls += 1

    def _draw(self) -> tuple[str, dict]:
        pick = self._random
        jobs = self._some_jobs(pick.randint(1, 8))
        job_id, token = jobs[0]
        held = {"job_id": job_id, "token": token}
        pairs = {"job_ids": [one for one, _ in jobs], "tokens": [one for _, one in jobs]}
        errors = [pick.choice([None, "boom"]) for _ in jobs]
        keys = pick.sample(KEYS, pick.randint(1, len(KEYS)))
        return pick.choice(
            [
                ("claim_next_job", {"max_jobs": pick.randint(1, 5), "lease": pick.choice(LEASES)}),
                ("claim_next_job", {"max_jobs": pick.randint(1, 5), "lease": pick.choice(LEASES)}),
                ("finish_job", held),
                ("finish_job", {**held, "error": "boom", "retry_in": timedelta(0)}),
                ("finish_jobs", pairs),
                ("finish_jobs", {**pairs, "errors": errors}),
                ("heartbeat_job", {**held, "lease": pick.choice(LEASES)}),
                ("heartbeat_jobs", pairs),
                ("release_job", held),
                ("hold_lease", held),
                ("cancel_job", {"job_id": job_id}),
                ("retry_job", {"job_id": job_id}),
                ("recover_jobs", {"max_jobs": pick.randint(1, 10)}),
                ("do_chores", {}),
                ("recover_workers", {}),
                ("announce_worker", {"worker": pick.choice(WORKERS), **ABOUT, "attends": True}),
                ("dismiss_worker", {"worker": pick.choice(WORKERS)}),
                ("maintain", {}),
                ("take_census", {"older_than": timedelta(0), "force": True}),
                ("roll_up", {}),
                ("enqueue_job", {"task": "t", "unique_key": keys[0]}),
                ("enqueue_job", {"task": "t", "queue": "other"}),
                ("enqueue_jobs", {"jobs": Jsonb([{"task": "t", "unique_key": k} for k in keys])}),
                ("enqueue_job", {"task": "t", "unique_key": keys[0], **pick.choice(FORMS)}),
                (
                    "enqueue_jobs",
                    {
                        "jobs": Jsonb(
                            [{"task": "t", "unique_key": k, **pick.choice(FORMS)} for k in keys]
                        )
                    },
                ),
                (
                    "schedule_job",
                    {"task": "t", "every": timedelta(seconds=1), "name": pick.choice(NAMES)},
                ),
                ("pause_queue", {"queue": "other"}),
                ("resume_queue", {"queue": "other"}),
                ("delete_queue", {"queue": pick.choice(["other", "default"])}),
                ("configure_queue", {"queue": "default", "max_retries": pick.randint(0, 5)}),
            ]
        )

    def _some_jobs(self, count: int) -> list[tuple]:
        """Draw pairs that were issued, mostly lately, in any order."""
        recent = self._held[-30:] or [(0, None)]
        return self._random.choices(recent, k=count)


def test_random_calls_of_all_functions_at_once_never_deadlock(connect):
    print(f"seed {SEED}")
    until = time.monotonic() + SECONDS
    held: list = []
    hunters = [
        Hunter(connect(options="-c deadlock_timeout=20ms"), number, held, until)
        for number in range(SESSIONS)
    ]

    for hunter in hunters:
        hunter.start()
    for hunter in hunters:
        hunter.join(SECONDS + 60)

    assert not any(hunter.is_alive() for hunter in hunters)
    assert [text for hunter in hunters for text in hunter.unexpected] == []
    assert min(hunter.calls for hunter in hunters) > 20
    assert held
