"""Serve the API: ``rota api``, on HOST (127.0.0.1) and PORT (5000).

The server is waitress: pure Python, one process, threads. It reads a request to its end before a
thread sees it, so slow clients hold no thread and no database connection; and app/server.py ends
their connections in time, so nothing needs to stand in front of it. For more than one core's worth,
run several processes.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time

import psycopg
from flask import Flask

from rota.app import create_app, logs, tokens
from rota.app.health import look
from rota.app.server import Server

GRACE_SECONDS = 15  # longer than a request's statements may take

log = logging.getLogger("rota.api")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    argparse.ArgumentParser(
        prog="rota api",
        description="Serve the REST interface of the database that DATABASE_URL names, on HOST"
        " (127.0.0.1) and PORT (5000).",
        epilog="SIGTERM or Ctrl-C stops gently.",
    ).parse_args(arguments)
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
        refusal = tokens.refusal_to_listen(app, host)
        if refusal is not None:
            log.critical(refusal)
            return 1
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
    server = Server(app, host, port)
    database = app.extensions["database"]
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    log.info("serving http://%s:%s/", host, port)

    server.run(stopping.is_set, each_second=database.cut_overdue)
    server.stop_listening()
    deadline = time.monotonic() + GRACE_SECONDS
    server.run(
        lambda: time.monotonic() > deadline or not server.is_busy(),
        each_second=database.cut_overdue,
    )
    database.close()
    log.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
