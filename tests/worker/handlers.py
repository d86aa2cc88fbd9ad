"""Handlers that do what handlers should not, and leave a trace of each start and end."""

import asyncio
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from time import monotonic
from time import sleep as time_passes
from typing import Any

import psycopg

from rota.worker import Fail, Job, LeaseLost, Retry, task


def trace(job: Job, what: str) -> None:
    """Append a line to the file that the payload names; short appends are atomic."""
    with Path(job.payload["trace"]).open("a") as file:
        file.write(f"{job.id} {what} {os.getpid()} {monotonic()}\n")


@task("hold")
def hold(job: Job) -> str:
    """Run until the file ``until`` exists, or the job is cancelled where it minds that."""
    trace(job, "start")
    while not Path(job.payload["until"]).exists():
        if job.cancelled and job.payload.get("minds", True):
            trace(job, "cancelled")
            raise RuntimeError("stopped")
        time_passes(0.01)
    trace(job, "end")
    return "held"


@task("mark")
def mark(job: Job) -> None:
    trace(job, "start")


@task("large")
def large(job: Job) -> str:
    return "x" * 900_000


@task("noop")
def noop(job: Job) -> None:
    pass


@task("nap")
def nap(job: Job) -> None:
    trace(job, "start")
    time.sleep(job.payload["seconds"])
    trace(job, "end")


@task("spin")
def spin(job: Job) -> None:
    """Keep the interpreter busy."""
    trace(job, "start")
    gate = Path(job.payload["until"])
    number = 0
    while number % 100_000 or not gate.exists():
        number += 1
    trace(job, "end")


@task("later")
def later(job: Job) -> None:
    raise Retry("not yet", in_=timedelta(hours=5))


@task("much_later")
def much_later(job: Job) -> None:
    raise Retry("in a million years", in_=timedelta.max)


@task("never")
def never(job: Job) -> None:
    raise Fail("no such customer\0\ud800")


@task("counting")
def counting(job: Job) -> None:
    job.progress({"done": 7})
    while not Path(job.payload["until"]).exists():
        time.sleep(0.01)


@task("chatter")
def chatter(job: Job) -> None:
    """Report progress without end."""
    trace(job, "start")
    number = 0
    while not Path(job.payload["until"]).exists():
        number += 1
        job.progress({"number": number})
        time.sleep(0.01)


@task("counting_later")
def counting_later(job: Job) -> None:
    """Report progress once, when the file ``until`` exists, and go on."""
    trace(job, "start")
    while not Path(job.payload["until"]).exists():
        time.sleep(0.01)
    job.progress({"done": 7})
    trace(job, "reported")
    while not job.cancelled:
        time.sleep(0.01)


class UnreadableError(Exception):
    """Cannot even be shown."""

    def __str__(self) -> str:
        raise MemoryError


class UnreadableFail(Fail):
    """Is meant to end the job, and cannot say why."""

    def __str__(self) -> str:
        raise MemoryError


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


RESULTS = {
    "nan": lambda: float("nan"),
    "infinity": lambda: {"x": [float("inf")]},
    "nul": lambda: "a\0b",
    "nul in a key": lambda: {"\0": 1},
    "surrogate": lambda: "\ud800",
    "set": lambda: {1, 2},
    "object": object,
    "deep": deep,
    "large": lambda: "x" * 2_000_000,
    "huge number": lambda: 10**5000,
    "key": lambda: {(1, 2): 3},
}

ERRORS = {
    "exit": lambda: sys.exit(3),
    "interrupt": lambda: exec("raise KeyboardInterrupt"),
    "unreadable": lambda: exec("raise UnreadableError", globals()),
    "nul": lambda: exec("raise ValueError('a\\0b\\ud800')"),
    "long": lambda: exec("raise ValueError('x' * 50_000_000)"),
    "recursion": lambda: (lambda f: f(f))(lambda f: f(f)),
}


@task("bad_result")
def bad_result(job: Job) -> Any:
    return RESULTS[job.payload]()


@task("bad_error")
def bad_error(job: Job) -> Any:
    return ERRORS[job.payload]()


@task("fork")
def fork(job: Job) -> str:
    """Return twice: in this process, and in a child that must not act as a worker."""
    child = os.fork()
    trace(job, "child" if child == 0 else "parent")
    if child:
        os.waitpid(child, 0)
    return "once"


@task("ledger")
def ledger(job: Job) -> None:
    """Write to the database and finish, in one transaction that holds the lease."""
    with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
        conn.execute("select rota.hold_lease(%s, %s)", [job.id, job.token])
        trace(job, "start")
        while not Path(job.payload["until"]).exists():
            time.sleep(0.01)
        conn.execute("insert into ledger values (%s)", [job.id])
        conn.execute("select rota.finish_job(%s, %s)", [job.id, job.token])
    trace(job, "end")


@task("async_hold")
async def async_hold(job: Job) -> str:
    """Run until the file ``until`` exists; while that is looked for, others go on."""
    trace(job, "start")
    try:
        while not Path(job.payload["until"]).exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        trace(job, "cancelled")
        raise
    trace(job, "end")
    return "held"


@task("async_stubborn")
async def async_stubborn(job: Job) -> str:
    """Take no notice of being cancelled until the file ``until`` exists."""
    trace(job, "start")
    while not Path(job.payload["until"]).exists():
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            trace(job, "cancelled")
    trace(job, "end")
    return "held"


@task("async_block")
async def async_block(job: Job) -> None:
    """Do what no coroutine should: keep the whole event loop waiting."""
    trace(job, "start")
    while not Path(job.payload["until"]).exists():
        time.sleep(0.01)
    trace(job, "end")


@task("async_bad")
async def async_bad(job: Job) -> Any:
    """Return what cannot be stored, or raise."""
    await asyncio.sleep(0)
    return {**RESULTS, **ERRORS, **ASYNC_ERRORS}[job.payload]()


async def leave() -> None:
    sys.exit(3)


def give_up() -> None:
    raise asyncio.CancelledError("of its own accord")


ASYNC_ERRORS = {
    "gives up": give_up,
    "coroutine": lambda: asyncio.sleep(0),
    "task that exits": lambda: asyncio.get_running_loop().create_task(leave()),
    "unreadable reason": lambda: exec("raise UnreadableFail", globals()),
    "fail": lambda: exec("raise Fail('no such customer')", globals()),
    "retry": lambda: exec("raise Retry('not yet', in_=timedelta(hours=5))", globals()),
}


@task("async_leftover")
async def async_leftover(job: Job) -> None:
    """End, and leave a task running."""

    async def go_on() -> None:
        trace(job, "start")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            trace(job, "cancelled")
            raise

    LEFT_OVER.add(asyncio.create_task(go_on()))
    await asyncio.sleep(0)


LEFT_OVER: set[asyncio.Task[None]] = set()


@task("nap_a_little")
def nap_a_little(job: Job) -> Any:
    """Take long enough for others to start meanwhile, also when clocks were replaced."""
    time_passes(0.2)
    return job.payload


@task("async_nap_a_little")
async def async_nap_a_little(job: Job) -> Any:
    await asyncio.sleep(0.2)
    return job.payload


@task("slot")
def slot(job: Job) -> list[Any]:
    """Return what the job says about its time and its retries."""
    return [job.scheduled_for.isoformat(), job.max_retries]


@task("counting_on")
def counting_on(job: Job) -> None:
    """Report one number after the other, at once."""
    for number in range(job.payload["numbers"]):
        job.progress(number)
        time.sleep(job.payload["pause"])
    trace(job, "start")
    while not Path(job.payload["until"]).exists():
        time.sleep(0.01)


@task("about")
def about(job: Job) -> dict[str, Any]:
    """Return all that a handler can see of its job."""
    names = ("id", "task", "payload", "queue", "attempt", "max_retries", "timeout", "token")
    return {name: getattr(job, name) for name in names} | {
        "scheduled_for": job.scheduled_for.isoformat(),
        "cancelled": job.cancelled,
        "shown": repr(job),
    }


@task("euro")
def euro(job: Job) -> str:
    return "€"


@task("euro_error")
def euro_error(job: Job) -> None:
    raise ValueError("€")


@task("euro_fail")
def euro_fail(job: Job) -> None:
    raise Fail("€")


@task("euro_progress")
def euro_progress(job: Job) -> None:
    job.progress("€")
    time.sleep(0.5)


@task("in_steps")
def in_steps(job: Job) -> Any:
    """Do two steps with a sleep and a wait for an event between them, and tell of each."""
    trace(job, "start")
    first = job.step("first", trace, job, "first")
    job.sleep("nap", job.payload["seconds"])
    said = job.wait_for(job.payload["event"], timeout=timedelta(hours=1))
    return [first, said, job.step("last", lambda: trace(job, "last") or (1, 2))]


@task("async_in_steps")
async def async_in_steps(job: Job) -> Any:
    async def write(what: str) -> None:
        await asyncio.sleep(0)
        trace(job, what)

    trace(job, "start")
    first = await job.step_async("first", write, "first")
    await job.sleep_async("nap", job.payload["seconds"])
    said = await job.wait_for_async(job.payload["event"], timeout=3600)
    return [first, said, await job.step_async("last", lambda: trace(job, "last") or (1, 2))]


@task("late_step")
def late_step(job: Job) -> None:
    """Ask for a step when the file ``until`` exists, by when the lease may be another's."""
    trace(job, "start")
    while not Path(job.payload["until"]).exists():
        time_passes(0.01)
    try:
        job.step("late", trace, job, "late")
    except LeaseLost:
        trace(job, "lost")
        raise


@task("sleeps_on")
def sleeps_on(job: Job) -> str:
    """Go on after it was handed back, which no handler should."""
    trace(job, "start")
    try:
        job.sleep("nap", 0.5)
    except BaseException as error:
        trace(job, type(error).__name__)
        time_passes(0.2)
        return "in vain"
    return "awake"


@task("nods_off")
def nods_off(job: Job) -> str:
    """Sleep when the file ``until`` exists."""
    trace(job, "start")
    while not Path(job.payload["until"]).exists():
        time_passes(0.01)
    job.sleep("nap", job.payload["seconds"])
    return "awake"


@task("many_steps")
def many_steps(job: Job) -> Any:
    """Do one step after the other until the file ``until`` exists; return how many."""
    number = 0
    while not Path(job.payload["until"]).exists():
        number = job.step(f"step {number}", lambda before: before + 1, number)
    return number


@task("blocks_the_loop")
async def blocks_the_loop(job: Job) -> None:
    job.step("first", lambda: 1)


@task("followed")
def followed(job: Job) -> Any:
    """Have other jobs follow: those of the payload."""
    for task_name, options in job.payload:
        job.next.add(task_name, **options)
    return {"has": len(job.next)}


@task("parents")
def parents(job: Job) -> Any:
    return [parent.result for parent in job.parents()]


@task("async_parents")
async def async_parents(job: Job) -> Any:
    return [parent.result for parent in await job.parents_async()]


@task("side_by_side")
async def side_by_side(job: Job) -> Any:
    """Do steps at the same time, and sleep in a group, which has what ends it in one of its own."""
    trace(job, "start")

    async def write(what: str) -> str:
        trace(job, what)
        return what

    async with asyncio.TaskGroup() as group:
        parts = [group.create_task(job.step_async(name, write, name)) for name in ("a", "b", "c")]
    async with asyncio.TaskGroup() as group:
        group.create_task(job.sleep_async("nap", 0.3))
    return [part.result() for part in parts] + [await job.step_async("a", write, "a")]
