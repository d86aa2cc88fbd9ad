"""Where handlers run: plain functions in threads, coroutines on one event loop.

Whatever a handler does, its attempt ends, and the worker goes on.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from worker.desk import Desk
from worker.job import (
    Fail,
    Job,
    Retry,
    clock,
    coroutines,
    describe,
    encode,
    registry,
    storable,
)

log = logging.getLogger("rota.worker")

NOT_STARTED = "it was cancelled, or its lease ran out, before it was started"
STOPPED = "its worker stopped before it was started"

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
        self._places = threading.Semaphore(concurrency)
        self._coroutines = Coroutines(desk, self._places)
        self._loop_thread: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self._spare: set[int] = set()  # threads that run no handler
        self._hiring = threading.Lock()
        self._pid = os.getpid()

    def start(self) -> None:
        """Be ready for jobs."""
        self._loop_thread = self._start_thread("coroutines", self._coroutines.run)
        self._hire()

    def stop(self, grace: float) -> None:
        """Start no more jobs, and give running handlers so many seconds to end."""
        ends_at = clock() + grace
        self._desk.hand_back_ready(STOPPED)
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
        with self._hiring:
            if len(self._threads) < self._concurrency:
                name = f"handler-{len(self._threads) + 1}"
                self._threads.append(self._start_thread(name, self._work))

    def _work(self) -> None:
        """Run jobs until a None comes: what each thread does."""
        desk, me = self._desk, threading.get_ident()
        self._spare.add(me)
        self._places.acquire()
        while (job := desk.ready.get()) is not None:
            if desk.results_wait:
                desk.wait_for_results()
            if job.task in coroutines:
                self._coroutines.begin(job)
                self._places.acquire()
                continue
            self._spare.discard(me)
            if not self._spare:
                self._hire()
            self._handle(job)
            self._spare.add(me)
            desk.give_up(job)
        self._places.release()
        desk.ready.put(None)  # for the next thread

    def _handle(self, job: Job) -> None:
        desk = self._desk
        if job.cancelled:  # its lease may belong to another by now
            desk.hand_back(job, NOT_STARTED)
            return
        desk.start(job)
        try:
            value = registry[job.task](job)
        except BaseException as error:
            _fail(desk, job, error)
        else:
            _succeed(desk, job, value)
        if os.getpid() != self._pid:
            os._exit(0)  # the handler forked and let its child return: this is the child


class Coroutines:
    """The event loop on which coroutine handlers run, in a thread of its own.

    Heartbeats come from another thread, so a handler that blocks the loop loses no lease.
    """

    def __init__(self, desk: Desk, places: threading.Semaphore) -> None:
        self._desk = desk
        self._places = places
        self._waiting: SimpleQueue[Job] = SimpleQueue()  # for the loop to be free
        self._loop = asyncio.new_event_loop()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        self._pid = os.getpid()

    def run(self) -> None:
        """Run coroutines until closed and the last one has ended."""
        while not self._closed or self._running:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # asyncio passes these on from a task
                log.exception("a handler's own task tried to end the process")
        if left := asyncio.all_tasks(self._loop):  # which handlers started and did not wait for
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(left))

    def close(self) -> None:
        """End when nothing runs any more; called from another thread."""
        self._loop.call_soon_threadsafe(self._close)

    def begin(self, job: Job) -> None:
        """Start a job's handler in the place that the caller had; called from another thread."""
        self._waiting.put(job)
        self._loop.call_soon_threadsafe(self._begin_next)

    def hand_back_waiting(self, reason: str) -> None:
        """Release the jobs that the loop has not come to; called from another thread."""
        with suppress(Empty):
            while True:
                self._desk.hand_back(self._waiting.get_nowait(), reason)

    def _close(self) -> None:
        self._closed = True
        if not self._running:
            self._loop.stop()

    def _begin_next(self) -> None:
        try:
            job = self._waiting.get_nowait()
        except Empty:  # it was handed back
            self._places.release()
            return
        if job.cancelled:
            self._desk.hand_back(job, NOT_STARTED)
            self._places.release()
            return
        self._desk.start(job)
        task = self._loop.create_task(self._handle(job), name=f"job {job.id}")
        watch = _Watch(self._desk, self._loop, job, task)
        self._running.add(task)
        task.add_done_callback(partial(self._end, watch))
        job.look = partial(self._loop.call_soon_threadsafe, watch.look)
        watch.look()

    async def _handle(self, job: Job) -> None:
        desk = self._desk
        try:
            value = await registry[job.task](job)
        except asyncio.CancelledError as error:
            if reason := job.stop_reason:
                desk.settle(job, error=reason)
            else:
                _fail(desk, job, error)
        except BaseException as error:
            _fail(desk, job, error)
        else:
            _succeed(desk, job, value)
        if os.getpid() != self._pid:
            os._exit(0)

    def _end(self, watch: "_Watch", task: asyncio.Task[None]) -> None:
        watch.end()
        self._running.discard(task)
        self._places.release()
        self._desk.give_up(watch.job)
        if self._closed and not self._running:
            self._loop.stop()


class _Watch:
    """Cancels a job's coroutine when there is a reason to: once for each reason."""

    def __init__(
        self, desk: Desk, loop: asyncio.AbstractEventLoop, job: Job, task: asyncio.Task[None]
    ) -> None:
        self.job = job
        self._desk = desk
        self._loop = loop
        self._task = task
        self._reason: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Cancel the coroutine if it should stop; look again when its time may be over."""
        if self._task.done():
            return
        job, now = self.job, clock()
        reason = job.stop_reason
        if reason is not None and reason != self._reason:
            self._reason = reason
            if job.deadline is not None and now >= job.deadline:
                self._desk.time_out(job)
            self._task.cancel(reason)
        if self._timer is not None:
            self._timer.cancel()
        ends = [end for end in (job.deadline, job.trusted_until) if end is not None and end > now]
        if ends:
            self._timer = self._loop.call_later(min(ends) - now, self.look)

    def end(self) -> None:
        """Let go of the coroutine, which has ended."""
        self.job.look = None
        if self._timer is not None:
            self._timer.cancel()


def _fail(desk: Desk, job: Job, error: BaseException) -> None:
    try:
        if isinstance(error, Retry):
            desk.settle(job, error=storable(str(error)), retry_in=error.delay)
        elif isinstance(error, Fail):
            desk.settle(job, error=storable(str(error)) or "failed", retry=False)
        else:
            desk.settle(job, error=describe(error))
    except Exception as broken:  # a handler's exception class may do anything when it is read
        desk.settle(job, error=describe(broken))


def _succeed(desk: Desk, job: Job, value: object) -> None:
    try:
        result = None if value is None else encode(value)
    except Exception as error:
        desk.settle(job, error=storable(f"the result cannot be stored: {error}"))
    else:
        desk.settle(job, result=result)
