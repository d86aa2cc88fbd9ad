"""The task of the benchmark, for ``rota worker --tasks bench.peers.rota_tasks``."""

import time

from bench.child import Tally, say
from rota.worker import Job, task

tally = Tally()
say({"ready": True})


@task("noop")
def noop(job: Job) -> None:
    """Do nothing, or sleep for as long as the payload says."""
    if seconds := tally.add(job.payload):
        time.sleep(seconds)
