"""Handlers that do to their worker what none should, short of killing its process."""

import asyncio
import datetime
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rota.worker import Fail, Job, Retry, task
from rota.worker.clock import clock
from tests.worker.handlers import trace


class ExitingFail(Fail):
    def __str__(self) -> str:
        sys.exit(3)


class ExitingError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class ExitingRetry(Retry):
    def __init__(self) -> None:
        super().__init__(in_=datetime.timedelta(hours=1))

    def __str__(self) -> str:
        raise GeneratorExit


class TimelessRetry(Retry):
    def __init__(self) -> None:
        self.delay = "soon"


class DelayThatExits(Retry):
    def __init__(self) -> None:
        pass

    @property
    def delay(self) -> Any:
        sys.exit(3)


class Nameless(type):
    @property
    def __name__(cls) -> str:
        sys.exit(3)


class LyingError(Exception, metaclass=Nameless):
    @property
    def __class__(self) -> Any:
        sys.exit(3)

    @property
    def __traceback__(self) -> Any:
        sys.exit(3)

    @property
    def __cause__(self) -> Any:
        sys.exit(3)

    @property
    def __notes__(self) -> Any:
        sys.exit(3)


class Text(str):
    def __len__(self) -> int:
        sys.exit(3)

    def __getitem__(self, index: Any) -> str:
        sys.exit(3)

    def encode(self, *arguments: Any, **options: Any) -> bytes:
        sys.exit(3)

    def replace(self, *arguments: Any, **options: Any) -> str:
        sys.exit(3)


class TextError(Exception):
    def __str__(self) -> str:
        return Text("x" * 100_000)


class Mapping(dict):
    def items(self) -> Any:
        sys.exit(3)


class BadValueError(ValueError):
    def __str__(self) -> str:
        sys.exit(3)


class MappingThatRaises(dict):
    def items(self) -> Any:
        raise BadValueError


def a_cycle() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    raise one


def a_chain() -> None:
    error = None
    for number in range(10_000):
        link = ValueError(number)
        link.__cause__ = error
        error = link
    raise error


def a_changing_result() -> Any:
    result: dict[str, Any] = {}

    class Growing(dict):
        def items(self) -> Any:
            result["more"] = len(result)
            return dict.items(result)

    result |= {str(number): Growing(x=number) for number in range(100)}
    return result


def a_generator() -> Any:
    yield 1


async def a_coroutine() -> int:
    return 1


async def an_async_generator() -> Any:
    yield 1


def throw(error: BaseException | type[BaseException]) -> Callable[[], Any]:
    def do() -> None:
        raise error

    return do


# By name: what a handler does, and what its attempt's error must then say.
DEEDS: dict[str, tuple[Callable[[], Any], str]] = {
    "a Fail that exits when read": (throw(ExitingFail("no")), "ExitingFail|SystemExit"),
    "an error that interrupts when read": (throw(ExitingError("no")), "ExitingError"),
    "a Retry that ends generators when read": (lambda: throw(ExitingRetry())(), "GeneratorExit"),
    "a Retry after no time": (lambda: throw(TimelessRetry())(), "timedelta"),
    "a Retry whose delay exits": (lambda: throw(DelayThatExits())(), "SystemExit"),
    "an error that lies about itself": (throw(LyingError("no")), "LyingError"),
    "an error whose text is no text": (throw(TextError()), "characters left out"),
    "a circle of causes": (a_cycle, "ValueError: one"),
    "a chain of causes": (a_chain, "ValueError: 9999"),
    "a generator's exit": (throw(GeneratorExit), "GeneratorExit"),
    "no memory": (throw(MemoryError), "MemoryError"),
    "a group": (throw(BaseExceptionGroup("g", [SystemExit(1), KeyboardInterrupt()])), "SystemExit"),
    "a result that exits": (lambda: Mapping(a=1), "the result cannot be stored: SystemExit"),
    "a result that raises the unreadable": (
        lambda: MappingThatRaises(a=1),
        "the result cannot be stored: BadValueError",
    ),
    "a result that changes": (a_changing_result, "the result cannot be stored: "),
    "a generator": (a_generator, "the result cannot be stored: .*generator"),
    "a coroutine": (a_coroutine, "the result cannot be stored: .*coroutine"),
    "an async generator": (an_async_generator, "the result cannot be stored: .*async_generator"),
    "a low recursion limit": (lambda: lower_recursion_limit(), "RecursionError"),
}


def lower_recursion_limit() -> None:
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    sys.setrecursionlimit(depth + 5)

    def fall() -> None:
        fall()

    fall()


@task("do")
def do(job: Job) -> Any:
    return DEEDS[job.payload][0]()


@task("async_do")
async def async_do(job: Job) -> Any:
    await asyncio.sleep(0)
    return DEEDS[job.payload][0]()


@task("exhaust_threads")
def exhaust_threads(job: Job) -> None:
    """Have no more threads started: none has room for such a stack."""
    threading.stack_size(1 << 46)


@task("close_descriptors")
def close_descriptors(job: Job) -> None:
    """Close everything that is open here, and put other things in its place."""
    os.closerange(3, 200)
    LEFT_OPEN.extend(socket.socketpair()[0] for _ in range(job.payload.get("sockets", 0)))


LEFT_OPEN: list[socket.socket] = []


@task("close_loop")
async def close_loop(job: Job) -> None:
    """Break the event loop that this runs on."""
    os.closerange(3, 200)
    await asyncio.sleep(3600)


@task("fork_and_wait")
def fork_and_wait(job: Job) -> int:
    """Fork a child that waits to be told to end; return how it ended."""
    trace(job, "start")
    child = os.fork()
    if child == 0:
        trace(job, "child")
        time.sleep(3600)
    while f"{job.id} child" not in Path(job.payload["trace"]).read_text():
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@task("fork_and_exit")
def fork_and_exit(job: Job) -> int:
    """Fork a child that exits as programs do; return its exit code."""
    child = os.fork()
    if child == 0:
        sys.exit(job.payload["code"])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@task("fork_and_stay")
def fork_and_stay(job: Job) -> list[str]:
    """Fork a child that outlives us; return the sockets that it has open."""
    child = os.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(3600)"])
    other = os.fork()
    if other == 0:
        time.sleep(3600)
    folder = Path(f"/proc/{other}/fd")
    ends_at = clock() + 2
    found: list[str] = []
    while not found or (len(found) > 2 and clock() < ends_at):  # it may not have got to it yet
        with suppress(FileNotFoundError):  # closed while we look
            found = [str(entry.readlink()) for entry in folder.iterdir()]
            found = [name for name in found if name.startswith("socket")]
    for pid in (child, other):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return found


@task("multiprocess")
def multiprocess(job: Job) -> int:
    """Compute in a forked process, as many a library does."""
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(abs, range(-10, 0)))


@task("terminate")
def terminate(job: Job) -> None:
    """Ask the process to stop, as an operator would."""
    os.kill(os.getpid(), signal.SIGTERM)


@task("exit_thread")
def exit_thread(job: Job) -> None:
    """Leave threads: one that exits, one that raises, one that stays."""
    threading.excepthook = lambda *_: sys.exit(3)
    for target in (sys.exit, lambda: 1 / 0):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    threading.Thread(target=time.sleep, args=[3600]).start()


@task("silence")
def silence(job: Job) -> None:
    """Configure logging as a careless program does."""
    import logging.config

    logging.config.dictConfig({"version": 1, "root": {"level": "CRITICAL", "handlers": []}})
    logging.disable(logging.CRITICAL)


@task("stop_clocks")
def stop_clocks(job: Job) -> None:
    """Replace the clocks, as tests do, and never put them back."""

    def broken(*_: Any) -> float:
        raise RuntimeError("no time")

    time.time = time.monotonic = time.sleep = time.clock_gettime = broken


@task("spawn")
def spawn(job: Job) -> int:
    return subprocess.run(["true"], check=True).returncode
