"""The API's log, on standard error: one line a request."""

import logging
import sys
import time

from flask import Flask, Response, g, request

from rota.app.waiting import WAITS_FOR
from rota.logs import JsonLines

log = logging.getLogger("rota.api")


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
        if WAITS_FOR in request.environ:  # it will be asked again
            return response
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
