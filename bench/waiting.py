"""Waiting for what a worker does, never longer than a deadline."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.contestants import Failed, Process
from bench.server import Arena

LOOK = 0.02  # seconds between two looks
PATIENCE = 60.0


def until(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + patience
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"waited {patience:g} s for {what}")
        time.sleep(LOOK)


@dataclass
class Drained:
    """How far a drain got, and how fast."""

    jobs: int
    seconds: float

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds


def drained(
    arena: Arena, workers: Sequence[Process], jobs: int, patience: float, to_the_end: bool = True
) -> Drained:
    """Wait until so many jobs are finished, from now or the first handler on, whichever is later.

    The workers count handlers that began; that the database knows of the end of the last one is
    asked of it, if these are all jobs. A drain that takes longer than the patience is measured up
    to there.
    """
    before = [worker.count for worker in workers]
    asked_at = time.monotonic_ns()
    deadline = time.monotonic() + patience
    done = 0
    while done < jobs and time.monotonic() < deadline:
        time.sleep(LOOK)
        done = sum(worker.count for worker in workers) - sum(before)
    if done >= jobs and to_the_end:
        until(lambda: arena.left() == 0, "the last jobs to be finished")
        done = jobs
    ended = time.monotonic_ns()
    began = min(
        (series[0][0] for worker in workers if (series := [s for s in worker.series if s[1] > 0])),
        default=asked_at,
    )
    return Drained(done, (ended - max(began, asked_at)) / 1e9)
