"""Where handlers run: plain functions in threads, coroutines on one event loop.

Whatever a handler does, its attempt ends, and the worker goes on.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import NoReturn

from rota.logs import current_job
from rota.tracing import Processing, processing
from rota.worker.attempt import Attempt
from rota.worker.clock import clock
from rota.worker.desk import Desk
from rota.worker.job import lets_go
from rota.worker.log import log
from rota.worker.surroundings import restore
from rota.worker.tasks import registry
from rota.worker.values import Failure, describe, failure_of, next_of, result_of, text_of

NOT_STARTED = "it was cancelled, or its lease ran out, before it was started"
STOPPED = "its worker stopped before it was started"
BROKEN_LOOP = "the event loop broke while it ran"
NEVER_BEGAN = "its coroutine was cancelled before it began"

BREATH = 0.1  # seconds
TICK = 1.0  # seconds
COMPLAINT_PERIOD = 30.0  # seconds between two lines about threads that cannot be had

StartThread = Callable[[str, Callable[[], None]], threading.Thread]


class Crew:
    """The places where handlers run, as many as ``concurrency``.

    Both kinds share one limit. A claim cannot know which kind of job it gets: with a limit for
    each, a worker whose threads are all busy would claim for its free coroutines, get jobs for
    threads, and keep them from other workers.

    A thread holds a place while it runs a handler or waits for a job. When the job is for the
    event loop it leaves its place to it, and needs another. Threads are started when there is
    nobody left to wait for the next job, so that coroutines cost none.
    """

    def __init__(self, desk: Desk, concurrency: int, start_thread: StartThread) -> None:
        self._desk = desk
        self._concurrency = concurrency
        self._start_thread = start_thread
        self._places = Places(concurrency)
        self._coroutines = Coroutines(desk, self._places)
        self._loop_thread: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self._spare: set[int] = set()  # threads that run no handler
        self._hiring = threading.Lock()
        self._complains_at = 0.0
        self._pid = os.getpid()

    def start(self) -> None:
        """Be ready for jobs.

        Raises:
            RuntimeError: there is no thread to be had.
        """
        self._loop_thread = self._start_thread("coroutines", self._coroutines.run)
        self._threads.append(self._start_thread("handler-1", self._work))

    def stop(self, grace: float) -> None:
        """Start no more jobs, and give running handlers so many seconds to end."""
        ends_at = clock() + grace
        self._desk.floor.hand_back_ready(STOPPED)
        self._coroutines.hand_back_waiting(STOPPED)
        self._desk.ready.put(None)
        for thread in self._threads:
            thread.join(max(0.0, ends_at - clock()))
        self._coroutines.hand_back_waiting(STOPPED)  # what a thread had in its hands before
        self._coroutines.close()
        self.let_coroutines_end(max(0.0, ends_at - clock()))

    def let_coroutines_end(self, seconds: float) -> None:
        """Wait until the last coroutine has ended, or for so long."""
        if self._loop_thread is not None:
            self._loop_thread.join(seconds)

    def _hire(self) -> None:
        """Start one more thread, if there may be more; without it, those there are go on."""
        with self._hiring:
            if len(self._threads) == self._concurrency:
                return
            name = f"handler-{len(self._threads) + 1}"
            try:
                self._threads.append(self._start_thread(name, self._work))
            except RuntimeError as error:  # the system, or a handler, has none left
                if clock() >= self._complains_at:
                    self._complains_at = clock() + COMPLAINT_PERIOD
                    log.warning(
                        "no more threads for handlers, going on with those there are",
                        extra={"fields": {"threads": len(self._threads), "error": str(error)}},
                    )

    def _work(self) -> None:
        """Run jobs until a None comes: what each thread does."""
        ready, me = self._desk.ready, threading.get_ident()
        self._spare.add(me)
        self._places.acquire()
        try:
            while (job := ready.get()) is not None:
                desk = job.desk or self._desk
                if desk.results_wait:
                    desk.wait_for_results(job)
                if registry[job.task].is_coroutine:
                    self._coroutines.begin(job)
                    self._places.acquire()
                    continue
                self._spare.discard(me)
                if not self._spare:
                    self._hire()
                self._handle(desk, job)
                self._spare.add(me)
                desk.give_up(job)
        finally:
            self._spare.discard(me)
            self._places.release()
        ready.put(None)  # for the next thread

    def _handle(self, desk: Desk, job: Attempt) -> None:
        if job.cancelled:  # its lease may belong to another by now
            desk.hand_back(job, NOT_STARTED)
            return
        desk.start(job)
        current_job.set(job)
        span = _begin_span(job)
        raised = None
        try:
            value = registry[job.task].run(job)
        except BaseException as error:
            if os.getpid() != self._pid:
                _end_child(error)
            _fail(desk, job, error)
            raised = type(error)
        else:
            if os.getpid() != self._pid:
                _end_child(None)
            _succeed(desk, job, value)
        if span is not None:
            _end_span(span, job, raised)
        current_job.set(None)


class Places:
    """A semaphore of which nothing is written in Python: a coroutine takes and leaves one a job."""

    def __init__(self, number: int) -> None:
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(number):
            self._free.put(None)
        self.acquire = self._free.get

    def release(self) -> None:
        """Leave a place to others."""
        self._free.put(None)


class Coroutines:
    """The event loop on which coroutine handlers run, in a thread of its own.

    Heartbeats come from another thread, so a handler that blocks the loop loses no lease. The loop
    is woken once for all jobs that wait for it, and has one timer for all that run.
    """

    def __init__(self, desk: Desk, places: Places) -> None:
        self._desk = desk
        self._places = places
        self._waiting: SimpleQueue[Attempt] = SimpleQueue()  # for the loop to be free
        self._loop = _new_loop()
        self._broken: list[asyncio.AbstractEventLoop] = []
        self._called = False  # the loop will look at what waits
        self._running: dict[Attempt, _Running] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = inf  # when the time of some of them may be over, by clock()
        self._closing = False
        self._closed = False
        self._pid = os.getpid()

    def run(self) -> None:
        """Run coroutines until closed and the last one has ended."""
        self._tick()
        while not self._closed or self._running:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # asyncio passes these on from a task
                log.exception("a handler's own task tried to end the process")
            except Exception:  # such as a selector whose descriptor was closed
                log.exception("the event loop is broken, coroutines go on with another")
                threading.Event().wait(BREATH)  # for one that cannot be used at all
                self._replace_loop()
        with suppress(Exception):
            if left := asyncio.all_tasks(self._loop):  # which handlers started, not waited for
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(left))

    def _replace_loop(self) -> None:
        """Fail what the old event loop was running, and start what waits on a new one."""
        self._broken.append(self._loop)  # kept: what it would close may be somebody else's by now
        self._loop = _new_loop()
        self._looks_at = inf
        for job in list(self._running):
            self._of(job).settle(job, error=BROKEN_LOOP)
            with suppress(Exception):
                self._end(job)
        self._loop.call_soon(self._begin_waiting)
        if self._closing:
            self._loop.call_soon(self._close)
        self._tick()

    def _tick(self) -> None:
        """Have the loop wake now and then: one whose descriptors were closed notices it then.

        A task that was cancelled before its first step ran nothing of ours, so it is ended here.
        """
        self._loop.call_later(TICK, self._tick)
        for running in list(self._running.values()):
            self._end_if_done(running)

    def close(self) -> None:
        """End when nothing runs any more; called from another thread."""
        self._closing = True
        self._call(self._close)

    def begin(self, job: Attempt) -> None:
        """Start a job's handler in the place that the caller had; called from another thread."""
        self._waiting.put(job)
        if not self._called:
            self._called = True
            self._call(self._begin_waiting)

    def hand_back_waiting(self, reason: str) -> None:
        """Release the jobs that the loop has not come to; called from another thread."""
        with suppress(Empty):
            while True:
                job = self._waiting.get_nowait()
                self._of(job).hand_back(job, reason)
                self._places.release()

    def _call(self, what: Callable[[], None]) -> None:
        """Have the loop call something; one that is replaced, or has ended, does so by itself."""
        with suppress(RuntimeError, OSError):
            self._loop.call_soon_threadsafe(what)

    def _close(self) -> None:
        self._closed = True
        if not self._running:
            self._loop.stop()

    def _begin_waiting(self) -> None:
        self._called = False  # first: what is put from now on calls again
        with suppress(Empty):
            while True:
                self._begin(self._waiting.get_nowait())

    def _of(self, job: Attempt) -> Desk:
        return job.desk or self._desk

    def _begin(self, job: Attempt) -> None:
        desk = self._of(job)
        if job.cancelled:
            desk.hand_back(job, NOT_STARTED)
            self._places.release()
            return
        desk.start(job)
        handler = self._handle(job)
        try:
            task = self._loop.create_task(handler, name=f"job {job.id}")
        except BaseException as error:  # a handler has put something odd into the loop
            handler.close()
            desk.settle(job, error=describe(error))
            self._places.release()
            desk.give_up(job)
            return
        running = self._running[job] = _Running(job, task)
        if self._end_if_done(running):  # a handler has made the loop an eager one
            return
        job.look = partial(self._look_soon, running)
        if job.cancel_requested or job.lost:  # meanwhile, and nobody to be told
            self._look(running)
        self._look_by(running)

    def _look_soon(self, running: "_Running") -> None:
        self._call(partial(self._look, running))

    def _look(self, running: "_Running") -> None:
        """Cancel a job's coroutine if it should stop, once for each reason."""
        job, reason = running.job, running.job.stop_reason
        if reason is None or reason == running.reason or running.task.done():
            return
        running.reason = reason
        if job.deadline is not None and clock() >= job.deadline:
            self._of(job).time_out(job)
        running.task.cancel(reason)

    def _look_by(self, running: "_Running") -> None:
        """Look at all that run when the time of this one may be over, if that is sooner."""
        job, now = running.job, clock()
        seen = -inf if running.reason is None else now  # what is over was a reason already
        ends_at = job.trusted_until if job.trusted_until > seen else inf
        if job.deadline is not None and seen < job.deadline < ends_at:
            ends_at = job.deadline
        if ends_at < self._looks_at:
            if self._timer is not None:
                self._timer.cancel()
            self._looks_at = ends_at
            self._timer = self._loop.call_later(max(0.0, ends_at - now), self._look_at_all)

    def _look_at_all(self) -> None:
        self._looks_at = inf
        for running in list(self._running.values()):
            self._look(running)
            self._look_by(running)

    async def _handle(self, job: Attempt) -> None:
        desk = self._of(job)
        current_job.set(job)
        span = _begin_span(job)
        raised = None
        try:
            value = registry[job.task].run(job)
            if isawaitable(value):  # a plain wrapper may have awaited it already
                value = await value
        except BaseException as error:
            if os.getpid() != self._pid:
                _end_child(error)
            reason = job.stop_reason
            if issubclass(type(error), asyncio.CancelledError) and reason:
                desk.settle(job, error=reason)
            else:
                _fail(desk, job, error)
            raised = type(error)
        else:
            if os.getpid() != self._pid:
                _end_child(None)
            _succeed(desk, job, value)
        if span is not None:
            _end_span(span, job, raised)
        self._end(job)

    def _end_if_done(self, running: "_Running") -> bool:
        """End a job whose task is done and did not say so; return whether it is."""
        if not running.task.done():
            return False
        self._of(running.job).settle(running.job, error=running.reason or NEVER_BEGAN)
        self._end(running.job)
        return True

    def _end(self, job: Attempt) -> None:
        """Leave a job's place to another; a callback of its task would cost as much as the task."""
        if self._running.pop(job, None) is None:
            return
        job.look = None
        self._places.release()
        self._of(job).give_up(job)
        if self._closed and not self._running:
            self._loop.stop()


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose time goes on, whatever a module makes of Python's clocks."""
    loop = asyncio.new_event_loop()
    loop.time = monotonic  # type: ignore[method-assign]
    return loop


class _Running:
    """A job's coroutine, and why it was cancelled last."""

    __slots__ = ("job", "reason", "task")

    def __init__(self, job: Attempt, task: asyncio.Task[None]) -> None:
        self.job = job
        self.task = task
        self.reason: str | None = None


def _fail(desk: Desk, job: Attempt, error: BaseException) -> None:
    """End an attempt as the exception says that its handler raised."""
    restore()  # a recursion limit that is too low for us, say
    if job.away is not None:
        if not lets_go(error):
            _complain(job)
        return
    failure = failure_of(error)
    desk.settle(job, error=failure.error, retry_in=failure.retry_in, retry=failure.retry)


def _succeed(desk: Desk, job: Attempt, value: object) -> None:
    """End an attempt with what its handler returned."""
    if job.away is not None:
        _complain(job)
        return
    result = result_of(value)
    following = next_of(job)
    for failure in (result, following):
        if isinstance(failure, Failure):
            desk.settle(job, error=failure.error)
            return
    desk.settle(job, result=result, following=following)


def _complain(job: Attempt) -> None:
    """Tell of a handler that has not let through what ends it when its job is handed back."""
    log.warning(
        "the handler went on after its job was handed back, what came of it is discarded",
        extra={"fields": {"job_id": job.id, "task": job.task}},
    )


def _begin_span(job: Attempt) -> Processing | None:
    """Begin the span of an attempt, here; what OpenTelemetry was given to do may fail."""
    try:
        return processing(job)
    except BaseException as error:
        log.warning("a span could not be started", extra={"fields": {"error": text_of(error)}})
        return None


def _end_span(span: Processing, job: Attempt, raised: type[BaseException] | None) -> None:
    """End the span of an attempt, with what the database is told of it."""
    try:
        span.end(job.error, raised)
    except BaseException as error:
        log.warning("a span could not be ended", extra={"fields": {"error": text_of(error)}})


def _end_child(error: BaseException | None) -> NoReturn:
    """End a process that a handler forked and that has returned from it: this is no worker.

    It ends at once, so that nothing of ours is tidied up, closed or said good-bye to in it.
    """
    code = 0 if error is None else 1
    if isinstance(error, SystemExit) and (error.code is None or type(error.code) is int):
        code = error.code or 0
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)
