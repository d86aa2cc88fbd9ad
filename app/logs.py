"""Structured logs: one JSON object a line, on standard error, without payloads."""

import json
import logging
import sys
import time
import traceback
from datetime import UTC, datetime

from flask import Flask, Response, g, request

LONGEST_TEXT = 4000

log = logging.getLogger("rota.api")


class JsonLines(logging.Formatter):
    """Write a record as one line of ASCII JSON, so that no text can forge or hide a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with what was passed as ``extra={"fields": …}``."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:LONGEST_TEXT],
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))[
                -LONGEST_TEXT:
            ]
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


def configure() -> None:
    """Send every log line of this process through the formatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)


def init_app(app: Flask) -> None:
    """Log each request when it was answered."""

    @app.before_request
    def start_timing() -> None:
        g.started = time.monotonic()

    @app.after_request
    def log_request(response: Response) -> Response:
        log.info(
            "request",
            extra={
                "fields": {
                    "method": request.method,
                    "path": request.path[:200],
                    "status": response.status_code,
                    "milliseconds": round((time.monotonic() - g.started) * 1000, 1),
                }
            },
        )
        return response
