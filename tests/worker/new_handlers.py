"""A handler that a newer release brings, and others do not have."""

from rota.worker import Job, task
from tests.worker.handlers import trace


@task("new")
def new(job: Job) -> None:
    trace(job, "start")
