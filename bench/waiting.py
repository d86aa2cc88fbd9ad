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
    """Wait until these new workers have finished so many jobs, from the first handler on.

    The workers count handlers that began; that the database knows of the end of the last one is
    asked of it, if these are all jobs. A drain that takes longer than the patience is measured up
    to there.
    """

    def done_so_far() -> int:
        return sum(worker.count for worker in workers)

    until(lambda: done_so_far() > 0, "the first job")
    deadline = time.monotonic() + patience
    while (done := done_so_far()) < jobs and time.monotonic() < deadline:
        time.sleep(LOOK)
    if done >= jobs and to_the_end:
        until(lambda: arena.left() == 0, "the last jobs to be finished")
        done = jobs
    ended = time.monotonic_ns()
    # A worker speaks twenty times a second: what the first line tells of is not counted.
    began, early = min(
        next(entry for entry in worker.series if entry[1] > 0)
        for worker in workers
        if worker.count > 0
    )
    return Drained(done - early, (ended - began) / 1e9)
