"""Run a worker: ``python -m worker --queues default,mail:2 --tasks myapp.tasks``."""

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import psycopg

from db.deploy import checkout_version
from worker import surroundings
from worker.desk import Bell
from worker.job import registry, text_of
from worker.link import (
    MEND,
    MISSING_RIGHT,
    NO_SCHEMA,
    SHIFTING,
    Connection,
    GaveUp,
    Link,
    advice,
)
from worker.log import configure, flush, log
from worker.loop import Options, Worker
from worker.processes import CANNOT_START, Processes

SHORTEST_LEASE = 1.0  # seconds
GARBAGE = 10_000  # objects more than before, when the collector looks for cycles
LOOK_PERIOD = 1.0  # seconds between two looks of the main thread, which takes the signals

# What a worker cannot do without; for the rest it logs, and goes on.
NEEDED = (
    "claim_next_job",
    "finish_job",
    "finish_jobs",
    "heartbeat_job",
    "heartbeat_jobs",
    "release_job",
)

LACKING = """
    select p.proname
    from pg_catalog.pg_proc as p
    where p.pronamespace = 'rota'::pg_catalog.regnamespace
        and p.proname = any(%s)
        and not pg_catalog.has_function_privilege(p.oid, 'execute')
    order by p.proname
"""


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
        help="a module with handlers; may be repeated (worker.tasks has some to try Rota with)",
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


def load(modules: list[str]) -> None:
    """Import the modules with handlers, and put back what they change that is not theirs.

    Raises:
        CannotStart: one cannot be imported, or tried to end the process; or none has a handler.
    """
    us = os.getpid()
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:
            if os.getpid() != us:
                os._exit(1)
            what = "tried to end the process: " if isinstance(error, SystemExit) else ""
            raise CannotStart(f"module {module}: {what}{text_of(error)}") from error
        if os.getpid() != us:
            os._exit(0)  # the module forked, and this is the child
        if changed := surroundings.restore_all():
            log.warning(
                "a module changed what the worker relies on, it was put back",
                extra={"fields": {"module": module, "changed": changed}},
            )
    if not registry:
        raise CannotStart(
            "there is no handler: name a module that has some with --tasks"
            " (--tasks worker.tasks to try Rota)"
        )


def check(url: str, give_up: threading.Event) -> str:
    """Return the version of the deployed functions, once it is sure that we can work with them.

    Raises:
        CannotStart: they are not there, of another checkout, or not ours to call.
        GaveUp: the worker stops.
    """
    try:
        link = Link(url, "version", give_up, 10.0, 10.0)
    except psycopg.ProgrammingError:
        raise CannotStart("DATABASE_URL is not a PostgreSQL connection string") from None

    def version(conn: Connection) -> str:
        row = conn.execute("select rota.version()").fetchone()
        return row[0] if row else ""

    def lacking(conn: Connection) -> list[str]:
        return [name for (name,) in conn.execute(LACKING, [list(NEEDED)]).fetchall()]

    try:
        found = link.run(version, unless=(*SHIFTING, NO_SCHEMA, MISSING_RIGHT))
        names = link.run(lacking) if found == checkout_version() else []
    except psycopg.Error as error:
        raise CannotStart(advice(error, link.user)) from error
    finally:
        link.close()
    if found != checkout_version():
        raise CannotStart(f"the database holds other functions than this checkout: {MEND}")
    if names:
        raise CannotStart(
            f"permission denied for function rota.{', rota.'.join(names)}: the login {link.user}"
            f" lacks the rights of a worker; grant rota_worker to {link.user}"
        )
    return found


def main() -> int:
    """Run until stopped; return the exit code."""
    options = parse(sys.argv[1:])
    configure(options.log_level)
    try:
        return supervise(options.processes) if options.processes > 1 else work(options)
    except Exception:  # a thread that cannot be started, say
        log.critical("the worker has failed", exc_info=True)
        flush()
        os._exit(1)  # whatever threads are left


def supervise(count: int) -> int:
    """Run several workers by the same command line; return the exit code."""
    processes = Processes([sys.executable, *sys.orig_argv[1:], "--processes", "1"], count)

    def stop(number: int, frame: FrameType | None) -> None:
        if processes.stopping:
            processes.kill()
            flush()
            os._exit(128 + number)
        processes.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return processes.run()


def work(options: argparse.Namespace) -> int:
    """Run one worker in this process; return the exit code."""
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
            flush()
            os._exit(128 + number)
        signalled = True
        stop_gently()

    def wait_for_supervisor() -> None:
        os.read(options.lifeline, 1)  # which ends when the other end is closed
        stop_gently()

    threads_before = set(threading.enumerate())
    if options.lifeline is not None:
        lifeline = threading.Thread(target=wait_for_supervisor, daemon=True)
        lifeline.start()
        threads_before.add(lifeline)
    surroundings.hold(stop)
    try:
        url = os.environ.get("DATABASE_URL")
        if not url:
            raise CannotStart("set DATABASE_URL, such as postgresql://user@host/database")
        load(options.tasks)
        version = check(url, told_to_stop)
    except GaveUp:
        return 0
    except CannotStart as error:
        log.critical("cannot start", extra={"fields": {"error": str(error).strip()}})
        return end(CANNOT_START, threads_before)
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
    return end(run_apart(worker), threads_before)


def run_apart(worker: Worker) -> int:
    """Run a worker in a thread, and return its exit code.

    Python runs the actions on signals in the main thread, in the midst of whatever it does. It does
    nothing else here, so an action that some module has set, and that raises, interrupts nothing.
    """
    code = 1

    def run() -> None:
        nonlocal code
        try:
            code = worker.run()
        except BaseException:
            log.critical("the worker has failed", exc_info=True)
        finally:
            ended.append(True)
            bell.ring()

    def wait() -> None:
        try:
            bell.wait(LOOK_PERIOD)
        except BaseException as error:
            log.warning(
                "an action on a signal has failed", extra={"fields": {"error": text_of(error)}}
            )

    bell = Bell()  # not Thread.join: an exception in it makes Python take the thread for ended
    ended: list[bool] = []
    threading.Thread(target=run, name="worker", daemon=True).start()
    while not ended:
        with contextlib.suppress(BaseException):  # another one, while the first is logged
            wait()
    return code


def end(code: int, threads_before: set[threading.Thread]) -> int:
    """Return the exit code, or end at once if a thread is left that might keep the process."""
    flush()
    if set(threading.enumerate()) - threads_before:
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
