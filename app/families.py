"""The metrics of the API: their names, and how the figures become them.

The prefix is ``rota_``, units are seconds. A label is never a job, a worker, a token or an error,
for each value of a label is a series that Prometheus keeps.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from rota.exposition import BOUNDS, OTHER, add_histogram

MOST_PAIRS = 1000  # of a queue and a task
MOST_QUEUES = 1000
STATES = ("scheduled", "due", "retrying", "running", "lost", "waiting")

Rows = list[tuple[Any, ...]]


@dataclass(eq=False)
class House:
    """The figures of one scrape, as the queries in metrics.py order them.

    Args:
        census, totals, workers, dead_rows, heads, findings: rows; None where they are not known.
        census_age, rollup_age, findings_age: of when they are, in seconds.
    """

    census: Rows
    totals: Rows
    workers: Rows
    dead_rows: Rows | None
    census_age: float | None
    rollup_age: float | None
    heads: Rows | None = None
    findings: Rows | None = None
    findings_age: float = 0.0
    _queues: dict[str, None] = field(default_factory=dict)  # those with a name of their own
    _pairs: dict[tuple[str, str], None] = field(default_factory=dict)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        self._choose_names()
        yield self._jobs()
        yield from self._waits()
        yield from self._attempts()
        yield from self._workers()
        yield from self._server()
        yield from self._ages()

    def _choose_names(self) -> None:
        """Give names of their own to the first pairs and queues; all others are ``other``."""
        queues, pairs = {}, {}
        for queue, task, *_ in self.totals:
            queues[queue] = pairs[queue, task] = None
        queues |= dict.fromkeys(queue for queue, *_ in (*self.census, *(self.heads or [])))
        queues |= dict.fromkeys(queue for names, *_ in self.workers for queue in names)
        self._queues = dict.fromkeys(list(queues)[:MOST_QUEUES])
        self._pairs = dict.fromkeys(list(pairs)[:MOST_PAIRS])

    def _queue(self, queue: str) -> str:
        return queue if queue in self._queues else OTHER

    def _pair(self, queue: str, task: str) -> tuple[str, str]:
        return self._queue(queue), task if (queue, task) in self._pairs else OTHER

    def _jobs(self) -> Metric:
        jobs: Counter[tuple[str, str]] = Counter()
        for queue, *numbers, _ in self.census:
            for state, number in zip(STATES, numbers, strict=True):
                jobs[self._queue(queue), state] += number
        return _gauge(
            "rota_jobs",
            "Live jobs at the last census; due and retrying ones are among the scheduled, lost ones"
            " among the running. Waiting ones wait for other jobs.",
            ("queue", "state"),
            jobs.items(),
        )

    def _waits(self) -> Iterator[Metric]:
        oldest: dict[tuple[str], float] = {}
        heads = self.heads
        if heads is None:
            heads = [(queue, None, oldest_due) for queue, *_, oldest_due in self.census]
        for queue, _, oldest_due in heads:
            name = (self._queue(queue),)
            oldest[name] = max(oldest.get(name, 0.0), oldest_due or 0.0)
        yield _gauge(
            "rota_queue_oldest_due_seconds",
            "For how long the first of the jobs that are due has been due; 0 if none is.",
            ("queue",),
            oldest.items(),
        )
        yield _gauge(
            "rota_queue_paused",
            "Whether the queue is paused.",
            ("queue",),
            [
                ((queue,), float(is_paused))
                for queue, is_paused, _ in heads
                if is_paused is not None and queue in self._queues
            ],
        )

    def _attempts(self) -> Iterator[Metric]:
        ended: Counter[tuple[str, ...]] = Counter()
        failed: Counter[tuple[str, ...]] = Counter()
        ran: dict[tuple[str, ...], _Sum] = defaultdict(_Sum)
        waited: dict[tuple[str, ...], _Sum] = defaultdict(_Sum)
        for queue, task, outcome, number, gave_up, *spans in self.totals:
            ran_seconds, waited_seconds, ran_histogram, waited_histogram = spans
            pair = self._pair(queue, task)
            ended[*pair, outcome] += number
            failed[pair] += gave_up
            ran[pair].add(ran_histogram, ran_seconds)
            waited[pair[:1]].add(waited_histogram, waited_seconds)
        yield _counter(
            "rota_attempts",
            "Attempts that ended, by how they did.",
            ("queue", "task", "outcome"),
            ended.items(),
        )
        yield _counter(
            "rota_jobs_failed",
            "Jobs that ended FAILED: no further attempt was left.",
            ("queue", "task"),
            failed.items(),
        )
        yield _histogram(
            "rota_run_duration_seconds", "How long attempts ran.", ("queue", "task"), ran
        )
        yield _histogram(
            "rota_wait_duration_seconds",
            "How long jobs had been due when their first attempt started.",
            ("queue",),
            waited,
        )

    def _workers(self) -> Iterator[Metric]:
        number = dict.fromkeys([("alive",), ("silent",)], 0)
        places: Counter[tuple[str]] = Counter()
        mismatched = 0
        for queues, concurrency, is_alive, tells, is_of_another_version in self.workers:
            if is_alive:
                number["alive",] += 1
                mismatched += bool(is_of_another_version)
                for queue in queues:
                    places[(self._queue(queue),)] += concurrency
            elif tells:  # one over HTTP does not say that it stops
                number["silent",] += 1
        yield _gauge(
            "rota_workers",
            "Workers that did not say that they stop; silent ones were not heard of for 90 s.",
            ("state",),
            number.items(),
        )
        yield _gauge(
            "rota_worker_places",
            "Jobs that the live workers of a queue may run at one time, those of others among"
            " them.",
            ("queue",),
            places.items(),
        )
        yield _gauge(
            "rota_version_mismatch_workers",
            "Live workers of another version than the functions of the database.",
            (),
            [((), mismatched)],
        )

    def _server(self) -> Iterator[Metric]:
        """Yield what is not for those behind walls."""
        if self.dead_rows is not None:
            yield _gauge(
                "rota_table_dead_rows",
                "Rows that vacuum has yet to remove, in the tables that change most.",
                ("table",),
                [((table,), number) for table, number in self.dead_rows],
            )
        if self.findings is None:
            return
        yield _gauge(
            "rota_findings",
            "What the doctor found.",
            ("severity", "check"),
            [((severity, check), number) for severity, check, number, _ in self.findings],
        )
        yield _gauge(
            "rota_oldest_snapshot_seconds",
            "For how long a transaction has kept dead rows from being removed; 0 up to 5 minutes.",
            (),
            [((), max([0.0, *(oldest for *_, oldest in self.findings if oldest)]))],
        )
        yield _gauge(
            "rota_findings_age_seconds",
            "For how long the doctor was not asked again.",
            (),
            [((), self.findings_age)],
        )

    def _ages(self) -> Iterator[Metric]:
        """Yield of when the other figures are; nothing where nobody has counted yet."""
        for name, help_text, age in (
            ("rota_census_age_seconds", "How old the last census is.", self.census_age),
            (
                "rota_rollup_age_seconds",
                "How old the last attempts are that can be among those that are counted.",
                self.rollup_age,
            ),
        ):
            if age is not None:
                yield _gauge(name, help_text, (), [((), max(0.0, age))])


class _Sum:
    """Several histograms added up, and the seconds in them."""

    def __init__(self) -> None:
        self.numbers = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, histogram: list[int], seconds: float) -> None:
        self.numbers = [a + b for a, b in zip(self.numbers, histogram, strict=True)]
        self.seconds += seconds


Labelled = Iterable[tuple[tuple[str, ...], float]]


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Labelled) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for names, value in values:
        family.add_metric(names, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], values: Labelled) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for names, value in values:
        family.add_metric(names, value)
    return family


def _histogram(
    name: str, text: str, labels: tuple[str, ...], values: dict[tuple[str, ...], _Sum]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for names, total in values.items():
        add_histogram(family, names, BOUNDS, total.numbers, total.seconds)
    return family
