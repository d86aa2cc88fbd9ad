"""Run a worker: ``python -m worker --queues default,mail:2 --tasks myapp.tasks``."""

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import psycopg

from db.deploy import checkout_version
from worker.link import Connection, GaveUp, Link
from worker.log import configure
from worker.loop import Options, Worker

SHORTEST_LEASE = 1.0  # seconds

log = logging.getLogger("rota.worker")


class CannotStart(Exception):  # noqa: N818
    """The worker cannot start; the message says what to do."""


def queues(text: str) -> dict[str, int | None]:
    """Read ``default,mail:2``: queues, some with a limit of their own."""
    limits: dict[str, int | None] = {}
    for item in text.split(","):
        name, colon, limit = item.strip().rpartition(":")
        if not colon:
            name, limit = limit, ""
        if not name or name in limits or (colon and (not limit.isdecimal() or int(limit) < 1)):
            raise argparse.ArgumentTypeError(f"{item!r}: expected a queue, or queue:limit, once")
        limits[name] = int(limit) if colon else None
    return limits


def at_least(least: float) -> Callable[[str], float]:
    """Return a reader of numbers of seconds."""

    def seconds(text: str) -> float:
        value = float(text)
        if not least <= value <= 86_400:
            raise argparse.ArgumentTypeError(f"expected {least:g} to 86400 seconds, not {text}")
        return value

    return seconds


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description="Run jobs from the database that DATABASE_URL names.",
        epilog="SIGTERM or Ctrl-C stops gently, a second one at once.",
    )
    parser.add_argument(
        "--queues",
        type=queues,
        default={"default": None},
        help="queues to serve, separated by commas; mail:2 runs at most 2 of mail at one time in"
        " this process (default: default)",
    )
    parser.add_argument("--concurrency", type=int, default=8, help="handler threads (default: 8)")
    parser.add_argument(
        "--tasks",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module with handlers, besides worker.tasks; may be repeated",
    )
    parser.add_argument(
        "--lease",
        type=at_least(SHORTEST_LEASE),
        default=30.0,
        help="seconds after which the jobs of a dead worker are taken back (default: 30)",
    )
    parser.add_argument(
        "--grace",
        type=at_least(0.0),
        default=30.0,
        help="seconds that running handlers get at a stop (default: 30)",
    )
    parser.add_argument(
        "--poll",
        type=at_least(0.05),
        default=1.0,
        help="seconds between two looks for work in an idle system (default: 1)",
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.concurrency <= 1000:
        parser.error("--concurrency: expected 1 to 1000 threads")
    return options


def check_version(url: str, give_up: threading.Event) -> str:
    """Return the version of the deployed functions, which must be that of this checkout."""
    link = Link(url, "version", give_up, 10.0, 10.0)
    advice = "run python -m db.deploy, and start the worker from the same checkout"

    def version(conn: Connection) -> str:
        row = conn.execute("select rota.version()").fetchone()
        return row[0] if row else ""

    try:
        found = link.run(version)
    except psycopg.Error as error:
        raise CannotStart(f"{error}\n{advice}") from error
    finally:
        link.close()
    if found != checkout_version():
        raise CannotStart(f"the database holds other functions than this checkout: {advice}")
    return found


def main() -> int:
    """Run until stopped; return the exit code."""
    options = parse(sys.argv[1:])
    configure(options.log_level)
    sys.setswitchinterval(0.001)  # a busy handler gives way to the heartbeat this soon
    url = os.environ.get("DATABASE_URL")
    told_to_stop = threading.Event()
    worker: Worker | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        if told_to_stop.is_set():
            os._exit(128 + number)
        told_to_stop.set()
        if worker is not None:
            worker.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        if not url:
            raise CannotStart("set DATABASE_URL, such as postgresql://user@host/database")
        for module in ["worker.tasks", *options.tasks]:
            try:
                importlib.import_module(module)
            except Exception as error:
                raise CannotStart(f"module {module}: {type(error).__name__}: {error}") from error
        version = check_version(url, told_to_stop)
    except GaveUp:
        return 0
    except CannotStart as error:
        log.critical("cannot start", extra={"fields": {"error": str(error).strip()}})
        return 2
    worker = Worker(
        Options(
            url,
            options.queues,
            options.concurrency,
            options.lease,
            options.grace,
            options.poll,
        ),
        version,
    )
    if told_to_stop.is_set():
        return 0
    code = worker.run()
    if threading.active_count() > 1:  # a handler that does not end must not keep the process
        logging.shutdown()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
