"""The handlers of ``test_rolling.py``: for workers of now, and of the releases before."""

import time
from typing import Any

from rota.worker import Job, task


@task("work")
def work(job: Job) -> Any:
    """Take ``seconds``; fail in the first attempts, as many as ``fails``."""
    time.sleep(job.payload.get("seconds", 0.01))
    job.progress({"half": True})
    if job.attempt <= job.payload.get("fails", 0):
        raise ConnectionError("as told")
    return job.payload


@task("in_steps")
def in_steps(job: Job) -> list[Any]:
    """Do a step, sleep, and wait for an event."""
    number = job.step("one", lambda: 1)
    job.sleep("nap", 0.2)
    return [number, job.wait_for(job.payload["event"], timeout=60)]
