"""The worker: claims jobs from the database, runs their handlers, and reports how they ended."""

from rota.worker.job import Fail, Job, Retry
from rota.worker.tasks import task

__all__ = ["Fail", "Job", "Retry", "task"]
