"""Run a worker: ``python -m worker --queues default,mail:2 --tasks myapp.tasks``."""

import argparse
import gc
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
from worker.processes import CANNOT_START, Processes

SHORTEST_LEASE = 1.0  # seconds
GARBAGE = 10_000  # objects more than before, when the collector looks for cycles

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


def number_to(most: int) -> Callable[[str], int]:
    """Return a reader of numbers from 1."""

    def number(text: str) -> int:
        value = int(text)
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"expected 1 to {most}, not {text}")
        return value

    return number


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
    parser.add_argument(
        "--concurrency",
        type=number_to(1000),
        default=8,
        help="jobs that may run at one time, in threads or as coroutines; a coroutine costs little,"
        " so for async handlers hundreds are in order (default: 8)",
    )
    parser.add_argument(
        "--processes",
        type=number_to(256),
        default=1,
        help="processes, each with the concurrency and the limits of this command line: Python runs"
        " on one core a process, so handlers that burn CPU need one for each core (default: 1)",
    )
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
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)  # see worker.processes
    return parser.parse_args(arguments)


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
    return supervise(options.processes) if options.processes > 1 else work(options)


def supervise(count: int) -> int:
    """Run several workers by the same command line; return the exit code."""
    processes = Processes([sys.executable, *sys.orig_argv[1:], "--processes", "1"], count)

    def stop(number: int, frame: FrameType | None) -> None:
        if processes.stopping:
            processes.kill()
            os._exit(128 + number)
        processes.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return processes.run()


def work(options: argparse.Namespace) -> int:
    """Run one worker in this process; return the exit code."""
    sys.setswitchinterval(0.001)  # a busy handler gives way to the heartbeat this soon
    url = os.environ.get("DATABASE_URL")
    told_to_stop = threading.Event()
    signalled = False
    worker: Worker | None = None

    def stop_gently() -> None:
        told_to_stop.set()
        if worker is not None:
            worker.stop()

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal signalled
        if signalled:
            os._exit(128 + number)
        signalled = True
        stop_gently()

    def wait_for_supervisor() -> None:
        os.read(options.lifeline, 1)  # which ends when the other end is closed
        stop_gently()

    if options.lifeline is not None:
        threading.Thread(target=wait_for_supervisor, daemon=True).start()
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
        return CANNOT_START
    # What was imported stays, so the garbage collector need not visit it; and with thousands of
    # jobs in hand at one time it would be called in the midst of each batch, for nothing.
    gc.collect()
    gc.freeze()
    gc.set_threshold(max(GARBAGE, gc.get_threshold()[0]))
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
