"""Structured logs of API and worker: one JSON object a line, never with a payload."""

import json
import logging
import os
import re
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from rota.tracing import current_ids

LONGEST_TEXT = 4000  # characters
TOKEN = re.compile(r"rota_[A-Za-z0-9_-]{43}")  # of the API, wherever it was put by mistake
SHORTEST_SECRET = 12  # characters; a shorter one would be found in every other word

# The job whose handler runs, in its thread, or its coroutine and what that starts.
current_job: ContextVar[Any] = ContextVar("rota_job", default=None)


def secrets() -> list[str]:
    """Return the secrets that this process was started with, as they would stand in JSON."""
    found = {
        value
        for name, value in os.environ.items()
        if name in ("ROTA_TOKEN", "PGPASSWORD") or name.startswith("ROTA_HTTP_SECRET_")
    }
    for text in (os.environ.get("DATABASE_URL", ""), *sys.argv):
        for url in text.split():
            try:
                password = urlsplit(url).password or ""
            except ValueError:
                continue
            found |= {password, unquote(password)}
    return [json.dumps(value)[1:-1] for value in found if len(value) >= SHORTEST_SECRET]


def _job_fields() -> dict[str, Any]:
    job = current_job.get()
    if job is None:
        return {}
    return {
        "job_id": job.id,
        "run": job.run,
        "attempt": job.attempt,
        "task": job.task,
        "queue": job.queue,
    }


class JsonLines(logging.Formatter):
    """Writes a record as a line of ASCII, so that no text can forge a line or drive a terminal.

    Tokens, and the secrets that this process was started with, are struck out, whoever logs them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._secrets = secrets()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with what was passed as ``extra={"fields": …}``."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:LONGEST_TEXT],
            "pid": record.process,
            **_job_fields(),
            **current_ids(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            exception = "".join(traceback.format_exception(*record.exc_info))
            line["exception"] = exception[-LONGEST_TEXT:]
        text = json.dumps(line, default=str).replace("\x7f", "\\u007f")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return TOKEN.sub("***", text)
