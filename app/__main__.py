"""Serve the API: ``python -m app``, on HOST (127.0.0.1) and PORT (5000).

The server is waitress: pure Python, one process, threads. It reads a request to its end before a
thread sees it, so slow clients hold no thread and no database connection, and nothing needs to
stand in front of it. For more than one core's worth, run several processes.
"""

import logging
import os
import signal
import sys
import threading
import time
from typing import Any

import psycopg
from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server

from app import create_app, logs
from app.health import look
from app.inputs import MAX_BODY_BYTES

THREADS = 8
LARGEST_UPLOAD = 16 * MAX_BODY_BYTES  # what is let in to be refused in JSON
GRACE_SECONDS = 15  # longer than a request's statements may take
TICK_SECONDS = 0.2

log = logging.getLogger("rota.api")


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    logs.configure()
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "5000")
    try:
        app = create_app()
        difference, _ = look(app.extensions["database"])
    except ValueError as error:
        difference = str(error)
    except psycopg.OperationalError:
        difference = None
        log.warning("the database cannot be reached; requests get 503 until it can")
    if difference is not None:
        log.critical(difference)
        return 1
    try:
        serve(app, host, port)
    except (OSError, ValueError) as error:
        log.critical("cannot listen on %s port %s: %s", host, port, error)
        return 1
    return 0


def serve(app: Flask, host: str, port: str) -> None:
    """Serve until a signal comes, then answer the requests that have arrived.

    Raises:
        OSError: the port is taken.
        ValueError: it is not a port.
    """
    sockets: dict[int, Any] = {}
    create_server(
        app,
        map=sockets,
        host=host,
        port=port,
        threads=THREADS,
        connection_limit=500,
        channel_timeout=60,
        max_request_body_size=LARGEST_UPLOAD,
        ident=None,
    )
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    log.info("serving http://%s:%s/", host, port)

    while not stopping.is_set():
        wasyncore.loop(TICK_SECONDS, use_poll=True, map=sockets, count=1)

    for listener in [item for item in sockets.values() if item.accepting]:
        wasyncore.dispatcher.close(listener)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(
        isinstance(item, HTTPChannel) and (item.requests or item.total_outbufs_len)
        for item in sockets.values()
    ):
        wasyncore.loop(TICK_SECONDS, use_poll=True, map=sockets, count=1)
    app.extensions["database"].close()
    log.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
