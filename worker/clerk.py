"""Asks the database for handlers, on one connection: steps, sleeps, events, parents."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue

import psycopg

from rota.client import Call
from rota.worker import steps
from rota.worker.attempt import Attempt
from rota.worker.clock import clock
from rota.worker.desk import Desk
from rota.worker.job import LeaseLost
from rota.worker.link import (
    LOCKED,
    OUT_OF_TIME,
    SHIFTS,
    Connection,
    GaveUp,
    Link,
    Pause,
    passes,
    shifts,
)

LONGEST_LOCK = 10.0  # seconds that a row may be locked by others
LOOK_PERIOD = 0.5  # seconds after which a thread that waits looks whether that is in vain
LOST = "RTC02"
OVER = "the lease of job {} was lost, or its worker stopped, before the database had answered"


class Question:
    """A call for an attempt, and where its answer goes."""

    def __init__(self, job: Attempt, call: Call) -> None:
        self.job = job
        self.call = call
        self.answer: Future[steps.Rows] = Future()
        self.asked_at = clock()
        self.due = 0.0
        self.pause = Pause()

    @property
    def is_vain(self) -> bool:
        """Tell whether the attempt no longer counts."""
        return self.job.lost or clock() >= self.job.trusted_until


class Clerk:
    """The thread that asks for handlers; it starts with the first question, as its connection does.

    A question is repeated until it is answered, for the functions give the same answer again, or
    until its attempt no longer counts. Rows that others have locked are asked for again later, so
    that none of these keeps the others waiting for longer than one wait for a lock: a handler that
    holds its own lease (``hold_lease``) would wait for itself.
    """

    def __init__(
        self, desk: Desk, link: Link, start_thread: Callable[[str, Callable[[], None]], object]
    ) -> None:
        self._desk = desk
        self._link = link
        self._start_thread = start_thread
        self._questions: SimpleQueue[Question] = SimpleQueue()
        self._apart: list[Question] = []  # to be asked again
        self._starting = threading.Lock()
        self._is_started = False
        self._pause = Pause()  # while the database is away

    def ask(self, job: Attempt, call: Call) -> steps.Rows:
        """Return the rows of a call, in a handler's thread.

        Raises:
            LeaseLost: the attempt no longer counts.
            RuntimeError: a coroutine would block its event loop by this.
            psycopg.Error: the database refused it.
        """
        if _in_a_coroutine():
            raise RuntimeError(
                "a coroutine awaits step_async() and its kin, for these block others"
            )
        question = self._put(job, call)
        while True:
            try:
                return question.answer.result(LOOK_PERIOD)
            except TimeoutError:
                if question.is_vain or self._desk.closing.is_set():
                    raise LeaseLost(OVER.format(job.id)) from None

    async def ask_async(self, job: Attempt, call: Call) -> steps.Rows:
        """Return the rows of a call, in a coroutine, which is cancelled if that is in vain."""
        return await asyncio.wrap_future(self._put(job, call).answer)

    def run(self) -> None:
        """Answer until the worker has stopped."""
        while not self._desk.closing.is_set():
            question = self._next()
            if question is not None:
                self._answer(question)
        self._refuse_all()

    def _put(self, job: Attempt, call: Call) -> Question:
        question = Question(job, call)
        self._questions.put(question)
        with self._starting:
            if not self._is_started:
                self._start_thread("steps", self.run)
                self._is_started = True
        return question

    def _next(self) -> Question | None:
        """Return the next question, after waiting for it."""
        due = [question for question in self._apart if question.due <= clock()]
        if due:
            first = min(due, key=lambda question: question.due)
            self._apart.remove(first)
            return first
        patience = min([LOOK_PERIOD, *(question.due - clock() for question in self._apart)])
        with suppress(Empty):
            question = self._questions.get(timeout=max(0.0, patience))
            if question.answer.set_running_or_notify_cancel():
                return question
        return None

    def _answer(self, question: Question) -> None:
        job, call = question.job, question.call
        if question.is_vain:
            job.leaving = False
            question.answer.set_exception(LeaseLost(OVER.format(job.id)))
            return
        job.leaving = steps.may_leave(call)
        try:
            rows = self._link.once(lambda conn: _fetch(conn, call))
        except psycopg.Error as error:
            self._answer_later(question, error)
        except Exception as error:  # a value that the driver cannot send
            job.leaving = False
            question.answer.set_exception(error)
        else:
            self._pause = Pause()
            outcome = steps.away(call, rows)
            if outcome is not None:
                self._desk.part(job, outcome)
            job.leaving = False
            question.answer.set_result(rows)

    def _answer_later(self, question: Question, error: psycopg.Error) -> None:
        """Ask again where that may help, or pass on why not."""
        locked = error.sqlstate in (LOCKED, OUT_OF_TIME)
        if locked and clock() < question.asked_at + LONGEST_LOCK:
            self._put_apart(question)
        elif passes(error) and not locked:
            self._apart.append(question)
            try:
                self._link.wait_after(error, self._pause)
            except GaveUp:
                self._refuse_all()
                raise
        elif shifts(error) and question.pause.failures < SHIFTS:
            self._put_apart(question)
        else:
            question.job.leaving = False
            if error.sqlstate == LOST:
                self._desk.lose(question.job)
                lost = LeaseLost(f"job {question.job.id} is not held by this attempt any more")
                lost.__cause__ = error
                question.answer.set_exception(lost)
            else:
                question.answer.set_exception(error)

    def _put_apart(self, question: Question) -> None:
        question.due = clock() + question.pause.next()
        self._apart.append(question)

    def _refuse_all(self) -> None:
        """Leave nobody waiting."""
        with suppress(Empty):
            while True:
                question = self._questions.get_nowait()
                if question.answer.set_running_or_notify_cancel():
                    self._apart.append(question)
        for question in self._apart:
            with suppress(Exception):
                question.answer.set_exception(LeaseLost(OVER.format(question.job.id)))
        self._apart.clear()


def _in_a_coroutine() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _fetch(conn: Connection, call: Call) -> steps.Rows:
    return conn.execute(call.statement(lambda *_: "%s").encode(), call.texts).fetchall()
