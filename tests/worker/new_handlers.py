"""A handler that a newer release brings, and others do not have."""

from tests.worker.handlers import trace
from worker import Job, task


@task("new")
def new(job: Job) -> None:
    trace(job, "start")
