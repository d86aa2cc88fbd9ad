"""Handlers to try Rota with: ``rota worker --tasks rota.demo.tasks``."""

import os
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rota.worker.clock import clock
from rota.worker.job import Fail, Job
from rota.worker.tasks import task

STEP = 0.05  # seconds between two looks whether to stop
LARGEST_FILE = 50_000_000  # bytes


@task("echo")
def echo(job: Job) -> Any:
    """Return the payload."""
    return job.payload


@task("sleep")
def sleep(job: Job) -> dict[str, float]:
    """Take ``seconds``, reporting progress, and stop early when told to."""
    seconds = float(job.payload["seconds"])
    began = clock()
    while (passed := clock() - began) < seconds:
        if job.cancelled:
            raise RuntimeError(f"stopped after {passed:.1f} of {seconds:g} seconds")
        if seconds > 1:
            job.progress({"percent": int(100 * passed / seconds)})
        time.sleep(min(STEP, seconds - passed))
    return {"slept": round(clock() - began, 3)}


@task("flaky")
def flaky(job: Job) -> dict[str, int]:
    """Fail with ``probability`` (0 to 1), as the real world does."""
    probability = float(job.payload["probability"])
    if random.random() < probability:
        raise ConnectionError(f"failed at random, as {probability:.0%} of these attempts do")
    return {"attempts": job.attempt}


@task("count_words")
def count_words(job: Job) -> dict[str, Any]:
    """Count the words of ``text``, or of the ``file`` of that name under ROTA_FILES.

    Nothing outside of that folder can be read, and without ROTA_FILES no file at all.
    """
    text = job.payload.get("text")
    if text is None:
        if not os.environ.get("ROTA_FILES"):
            raise Fail("this worker reads no files: its ROTA_FILES names no folder")
        folder = Path(os.environ["ROTA_FILES"]).resolve()
        path = (folder / job.payload["file"]).resolve()
        if not path.is_relative_to(folder) or not path.is_file():
            raise Fail(f"there is no file {job.payload['file']!r} to read")
        if path.stat().st_size > LARGEST_FILE:
            raise Fail(f"more than {LARGEST_FILE} bytes")
        text = path.read_text(errors="replace")
    words = Counter(re.findall(r"\w+", text.lower()))
    return {
        "lines": len(text.splitlines()),
        "words": words.total(),
        "different": len(words),
        "most_frequent": words.most_common(3),
    }
