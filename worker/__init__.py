"""The worker: claims jobs from the database, runs their handlers, and reports how they ended."""

from rota.worker.job import EventTimeout, Fail, Job, LeaseLost, Parent, Retry
from rota.worker.tasks import task

__all__ = ["EventTimeout", "Fail", "Job", "LeaseLost", "Parent", "Retry", "task"]
