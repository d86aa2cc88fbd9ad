"""Serve the API: ``rota api``, on HOST (127.0.0.1) and PORT (5000).

The server, app/server.py, reads a request to its end before a thread sees it, so slow clients hold
no thread and no database connection, and it ends their connections in time: nothing needs to stand
in front of it. One process keeps about one core busy; ``--processes`` starts several, each a
program of its own that shares nothing with the others but the sockets that listen.
"""

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time

import psycopg
from flask import Flask

from rota.app import logs, tokens
from rota.app.front import Front, apps_of, create
from rota.app.health import look
from rota.app.server import Server, listen
from rota.db.session import split_urls
from rota.worker.supervisor import CANNOT_START, Supervisor

GRACE_SECONDS = 15  # longer than a request's statements may take

log = logging.getLogger("rota.api")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="rota api",
        description="Serve the REST interface of the database that DATABASE_URL names, or of"
        " several, on HOST (127.0.0.1) and PORT (5000).",
        epilog="SIGTERM or Ctrl-C stops gently.",
    )
    parser.add_argument(
        "--processes",
        type=_count,
        default=1,
        metavar="N",
        help="processes that serve the address together (1); each uses about one core",
    )
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        metavar="URL",
        help="a database in place of DATABASE_URL's; may be repeated",
    )
    # What the first process tells those that it starts.
    parser.add_argument("--sockets", type=_numbers, help=argparse.SUPPRESS)
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    logs.configure()
    urls = [url for text in options.database for url in split_urls(text)]
    app = _application(urls)
    if app is None:
        return CANNOT_START if options.lifeline is not None else 1
    if options.sockets is not None:
        serve(app, [socket.socket(fileno=number) for number in options.sockets], options.lifeline)
        return 0

    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "5000")
    try:
        for one in apps_of(app):
            refusal = tokens.refusal_to_listen(one, host)
            if refusal is not None:
                log.critical(refusal)
                return 1
        listeners = listen(host, port)
    except (OSError, ValueError) as error:
        log.critical("cannot listen on %s port %s: %s", host, port, error)
        return 1
    log.info("serving http://%s:%s/", host, port)
    if options.processes > 1:
        return supervise(options.processes, listeners, urls)
    serve(app, listeners)
    return 0


def _application(urls: list[str]) -> Flask | Front | None:
    """Return the application, unless a database says that it cannot work."""
    try:
        app = create(urls)
    except ValueError as error:
        log.critical(str(error))
        return None
    for one in apps_of(app):
        try:
            difference, _ = look(one.extensions["database"])
        except psycopg.OperationalError:
            log.warning("the database cannot be reached; requests get 503 until it can")
        else:
            if difference is not None:
                log.critical(difference)
                return None
    return app


def serve(app: Flask | Front, listeners: list[socket.socket], lifeline: int | None = None) -> None:
    """Serve until a signal comes, then answer the requests that have arrived.

    Args:
        app: what answers.
        listeners: sockets that listen.
        lifeline: the reading end of a pipe whose other end is closed when we are to stop.
    """
    server = Server(app, listeners)
    databases = []
    for one in apps_of(app):
        databases.append(one.extensions["database"])
        if standby := one.extensions["standby"]:
            databases.append(standby.database)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    def cut_overdue() -> None:
        for database in databases:
            database.cut_overdue()

    def wait_for_the_end() -> None:
        os.read(lifeline, 1)
        stopping.set()

    if lifeline is not None:
        threading.Thread(target=wait_for_the_end, daemon=True).start()
    server.run(stopping.is_set, each_second=cut_overdue)
    server.stop_listening()
    deadline = time.monotonic() + GRACE_SECONDS
    server.run(lambda: time.monotonic() > deadline or not server.is_busy(), each_second=cut_overdue)
    for database in databases:
        database.close()
    log.info("stopped")


def supervise(processes: int, listeners: list[socket.socket], urls: list[str]) -> int:
    """Keep some processes serving until a signal comes; return the exit status."""
    os.environ.setdefault("ROTA_SECRET_KEY", secrets.token_urlsafe(32))  # one for all of them
    numbers = [listener.fileno() for listener in listeners]
    command = [sys.executable, "-m", "rota.app", "--sockets", ",".join(map(str, numbers))]
    command += [argument for url in urls for argument in ("--database", url)]
    supervisor = Supervisor([command] * processes, numbers)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    code = supervisor.run()
    log.info("stopped")
    return code


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 64:
        raise argparse.ArgumentTypeError("must be from 1 to 64")
    return count


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
