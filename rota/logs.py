"""Structured logs of API and worker: one JSON object a line, never with a payload."""

import json
import logging
import traceback
from datetime import UTC, datetime

LONGEST_TEXT = 4000  # characters


class JsonLines(logging.Formatter):
    """Writes a record as a line of ASCII, so that no text can forge a line or drive a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with what was passed as ``extra={"fields": …}``."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:LONGEST_TEXT],
            "pid": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            exception = "".join(traceback.format_exception(*record.exc_info))
            line["exception"] = exception[-LONGEST_TEXT:]
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")
