"""The worker: claims jobs from the database, runs their handlers, and reports how they ended.

A handler is a function in any importable module::

    from worker import Job, task

    @task("send_email")
    def send_email(job: Job) -> dict:
        ...
        return {"sent": True}

``python -m worker --tasks that.module`` runs it.
"""

from worker.job import Fail, Job, Retry, task

__all__ = ["Fail", "Job", "Retry", "task"]
