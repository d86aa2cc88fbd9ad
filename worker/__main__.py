"""Run a worker: ``rota worker --queues default,mail:2 --tasks myapp.tasks``."""

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from rota import tracing
from rota.db.session import split_urls
from rota.db.version import checkout_version
from rota.worker import surroundings
from rota.worker.desk import Bell
from rota.worker.entrance import CannotStart, Entrance
from rota.worker.link import GaveUp
from rota.worker.log import configure, flush, log
from rota.worker.options import Options, parse
from rota.worker.process import Worker
from rota.worker.supervisor import CANNOT_START, Supervisor
from rota.worker.tasks import registry
from rota.worker.values import text_of

if TYPE_CHECKING:
    from rota.worker.metrics import Port

GARBAGE = 10_000  # objects more than before, when the collector looks for cycles
LOOK_PERIOD = 1.0  # seconds between two looks of the main thread, which takes the signals


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
            " (--tasks rota.demo.tasks to try Rota)"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run until stopped; return the exit code."""
    options = parse(arguments)
    configure(options.log_level)
    try:
        return supervise(options) if options.processes > 1 else work(options)
    except Exception:  # a thread that cannot be started, say
        log.critical("the worker has failed", exc_info=True)
        flush()
        os._exit(1)  # whatever threads are left


def supervise(options: argparse.Namespace) -> int:
    """Run several workers by the same command line; return the exit code."""
    command = [sys.executable, *sys.orig_argv[1:], "--processes", "1"]
    supervisor = Supervisor(
        [[*command, *metrics_of(options.metrics, n)] for n in range(options.processes)]
    )

    def stop(number: int, frame: FrameType | None) -> None:
        if supervisor.stopping:
            supervisor.kill()
            flush()
            os._exit(128 + number)
        supervisor.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return supervisor.run()


def metrics_of(first: tuple[str, int] | None, number: int) -> list[str]:
    """Return the arguments by which a process has its own port for metrics, if there are any."""
    return [] if first is None else ["--metrics", f"[{first[0]}]:{first[1] + number}"]


def open_port(address: tuple[str, int] | None) -> "Port | None":
    """Listen for who asks for metrics, if they are wanted.

    Raises:
        CannotStart: somebody else does, or the address is none of ours.
    """
    if address is None:
        return None
    from rota.worker.metrics import Metrics, Port  # who has no metrics does not load them

    try:
        return Port(Metrics(), address)
    except OSError as error:
        host, port = address
        raise CannotStart(f"cannot listen for metrics on {host} port {port}: {error}") from error


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
        urls = [url for text in _named(options) for url in split_urls(text) if url]
        if not urls:
            raise CannotStart("set DATABASE_URL, such as postgresql://user@host/database")
        load(options.tasks)
        port = open_port(options.metrics)
        entrance = Entrance(urls, told_to_stop)
        first = entrance.first()
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
            tuple(urls),
            options.queues,
            options.concurrency,
            options.lease,
            options.grace,
            options.poll,
        ),
        checkout_version(),
        entrance,
        port,
    )
    if told_to_stop.is_set():
        return 0
    return end(run_apart(partial(worker.run, first)), threads_before)


def _named(options: argparse.Namespace) -> list[str]:
    return options.database or [os.environ.get("DATABASE_URL", "")]


def run_apart(worker: Callable[[], int]) -> int:
    """Run a worker in a thread, and return its exit code.

    Python runs the actions on signals in the main thread, in the midst of whatever it does. It does
    nothing else here, so an action that some module has set, and that raises, interrupts nothing.
    """
    code = 1

    def run() -> None:
        nonlocal code
        try:
            code = worker()
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
    tracing.flush()
    flush()
    if set(threading.enumerate()) - threads_before:
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
