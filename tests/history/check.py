"""Deciding from a saved history whether Rota kept its promises: ``python -m tests.history.check``.

A folder holds one run: ``history.jsonl`` (what processes asked, see ``tests.history.record``, and
the faults that were injected), ``effects.jsonl`` (what handlers did), ``jobs.jsonl`` and
``executions.jsonl`` (the tables, read when all was healed and drained), ``demands.json``. The
rules are E1 (enqueued once, no id given out for two keys), L1 (one live lease), L2 (fenced), L7
(nothing taken back early, but from the dead), S4 (ended once), S5 (attempts count), S10 (attempts
recorded), C3 (order), V1 (drained), W1 (no child starts before its parents' end), W2 (each child
settled once, as its policy says), W3 (no event lost), W4 (no recorded step done again);
``duplicate`` is a second run of a handler that nothing on record explains, ``vacuous`` a run that
proved nothing.
"""

import argparse
import heapq
import itertools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]
Pair = tuple[int, str]

ENDED = ("COMPLETED", "FAILED", "CANCELLED")
GOES_ON = ("RUNNING", "ARRIVED", "TIMED_OUT")  # told to who need not sleep, or wait, any more
STEP = "in "  # an effect's phase in a step
BY_ITS_WORKER = ("SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED")
SETTLED = 3.0  # seconds; a job that came so long before a claim began must have been seen by it
UNKNOWN_CLAIM = 15.0  # seconds for which a claim without an answer may hide jobs
GRACE = 1.5  # seconds, at least, from the death of a worker until its leases are taken back
ROUNDING = 0.001  # seconds by which times of one event, read by two processes, may differ


@dataclass(frozen=True)
class Demands:
    """What a run must have seen to prove something, and what it may not be held to.

    Attributes:
        jobs: enqueues that were acknowledged, at least.
        faults: faults injected, at least.
        late: finishes that were refused because the lease was lost, at least.
        naps: sleeps and waits for events that handed a job back, at least.
        events: events that were waited for and came, at least.
        lossy: the run failed over to an asynchronous standby, so what was acknowledged just
            before may be gone; it is counted all the same.
        left_behind: a primary went on answering after it had been replaced. Claims and heartbeats
            do not wait for a standby, so there they may have been acknowledged for nothing.
    """

    jobs: int = 10
    faults: int = 1
    late: int = 0
    naps: int = 0
    events: int = 0
    lossy: bool = False
    left_behind: bool = False


@dataclass(frozen=True)
class Verdict:
    """A promise that was broken."""

    rule: str
    job: int | None
    detail: str


@dataclass
class Figures:
    """What a run amounts to."""

    jobs: int = 0
    unknown_enqueues: int = 0
    attempts: int = 0
    late_finishes_refused: int = 0
    duplicates_explained: int = 0
    without_fault: int = 0  # of these, by a lease that ran out while no fault was on record
    lost: int = 0
    unexplained: int = 0
    naps: int = 0  # jobs that were handed back to sleep, or to wait for an event
    events: int = 0  # that were waited for, and came
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Figures") -> None:
        """Add the figures of another run."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + type(getattr(self, name))(value))

    def line(self) -> str:
        """Return the figures as one line."""
        faults = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        return (
            f"jobs {self.jobs}, attempts {self.attempts}, faults {self.faults.total()} ({faults}), "
            f"late finishes refused {self.late_finishes_refused}, "
            f"duplicates explained {self.duplicates_explained} "
            f"({self.without_fault} of them by a lease that ran out without a fault), "
            f"lost {self.lost}, unexplained {self.unexplained}, "
            f"sleeps and waits {self.naps}, events heard {self.events}"
        )


@dataclass
class Call:
    """One call: its invocation, and its answer if one came."""

    op: str
    process: int
    asked: Line
    began: float
    wall: float
    kind: str = "unknown"
    ended: float | None = None
    answer: Line = field(default_factory=dict)


@dataclass
class Saved:
    """One run, as it was saved."""

    history: list[Line]
    effects: list[Line]
    jobs: list[Line]
    executions: list[Line]

    @classmethod
    def load(cls, folder: Path) -> "Saved":
        """Read a run's folder."""

        def lines(name: str) -> list[Line]:
            path = folder / f"{name}.jsonl"
            text = path.read_text() if path.exists() else ""
            return [json.loads(line) for line in text.splitlines()]

        return cls(lines("history"), lines("effects"), lines("jobs"), lines("executions"))


@dataclass
class Report:
    """What the checker decided."""

    verdicts: list[Verdict]
    figures: Figures


def check(saved: Saved, demands: Demands) -> Report:
    """Decide every rule on one run."""
    return _Check(saved, demands).report()


class _Check:
    def __init__(self, saved: Saved, demands: Demands) -> None:
        self.demands = demands
        self.jobs = {job["id"]: job for job in saved.jobs}
        self.effects = sorted(saved.effects, key=lambda line: line["mono"])
        self.calls, self.faults = _calls(saved.history)
        self.clock_moved = any(fault.asked.get("clock") for fault in self.faults)
        self.held = {effect["job"] for effect in saved.effects if effect["phase"] == "held"}
        self.last_seen: dict[int, tuple[float, float]] = {}  # when a process last said anything
        for line in sorted(saved.history, key=lambda line: line["mono"]):
            self.last_seen[line["process"]] = line["mono"], line["wall"]
        self.figures = Figures(
            faults=Counter(fault.asked["kind"] for fault in self.faults),
            attempts=len(saved.executions),
        )

        self.endings: dict[Pair, Line] = {}
        self.runs: dict[tuple[int, int], list[Line]] = defaultdict(list)
        for row in sorted(saved.executions, key=_place):
            self.runs[row["job_id"], row["run"]].append(row)
            if row["token"] is not None:
                self.endings[row["job_id"], row["token"]] = row

        self.claims: dict[Pair, tuple[Call, Line]] = {}
        self.claims_of: dict[int, list[tuple[Call, Line]]] = defaultdict(list)
        self.claimed_twice: list[Pair] = []
        for call in self.of("claim", "ok"):
            for item in call.answer["jobs"]:
                pair = item["job"], item["token"]
                if pair in self.claims:
                    self.claimed_twice.append(pair)
                self.claims[pair] = call, item
                self.claims_of[item["job"]].append((call, item))

        self.process_of = {
            call.asked["worker"]: call.process
            for call in self.calls
            if call.op == "claim" and "worker" in call.asked
        }

    def of(self, op: str, *kinds: str) -> Iterator[Call]:
        """Yield the calls of one function, in the order of their invocation."""
        return (call for call in self.calls if call.op == op and (not kinds or call.kind in kinds))

    def report(self) -> Report:
        verdicts = [
            *self.enqueued_once(),
            *self.one_live_lease(),
            *self.fenced(),
            *self.handed_back(),
            *self.ended_by_holder(),
            *self.one_end(),
            *self.attempts_count(),
            *self.attempts_recorded(),
            *self.leases_ran_out(),
            *self.runs_explained(),
            *self.in_order(),
            *self.drained(),
            *self.after_parents(),
            *self.settled_once(),
            *self.events_arrived(),
            *self.steps_once(),
        ]
        return Report([*verdicts, *self.proved_nothing()], self.figures)

    # -- the rules -----------------------------------------------------------------------------

    def enqueued_once(self) -> Iterator[Verdict]:
        """E1: acknowledged: exactly one job; refused: none; unknown: none or one."""
        by_key = defaultdict(list)
        for job in self.jobs.values():
            if job["key"] is not None:
                by_key[job["key"]].append(job["id"])
        kinds: dict[str, set[str]] = defaultdict(set)
        promised: dict[str, int] = {}
        for call in self.of("enqueue"):
            kinds[call.asked["key"]].add(call.kind)
            if call.kind == "ok":
                promised[call.asked["key"]] = call.answer["value"]
        for key, seen in kinds.items():
            found = by_key.pop(key, [])
            if "ok" in seen:
                self.figures.jobs += 1
            elif "unknown" in seen:
                self.figures.unknown_enqueues += 1
            if len(found) > 1:
                yield Verdict("E1", found[0], f"key {key} has {len(found)} jobs: {found}")
            elif "ok" in seen and not found:
                self.figures.lost += 1
                if not self.demands.lossy:
                    yield Verdict("E1", promised[key], f"key {key} was acknowledged and is gone")
            elif "ok" in seen and found and found[0] != promised[key]:
                yield Verdict("E1", promised[key], f"key {key} was answered, but is {found[0]}")
            elif seen == {"fail"} and found:
                yield Verdict("E1", found[0], f"key {key} was refused and is there")
        for key, found in by_key.items():
            yield Verdict("E1", found[0], f"key {key} is there and nobody enqueued it")
        keys_of: dict[int, list[str]] = defaultdict(list)
        for key, job in promised.items():
            keys_of[job].append(key)
        for job, keys in keys_of.items():
            if len(keys) > 1:
                yield Verdict("E1", job, f"its id was given out for {keys}")

    def one_live_lease(self) -> Iterator[Verdict]:
        """L1: while one lease surely lived, no other was handed out."""
        may_end = self.earliest_ends()
        for job, claims in self.claims_of.items():
            claims.sort(key=lambda claim: claim[0].began)
            for number, (call, item) in enumerate(claims):
                end = may_end[job, item["token"]]
                for later, other in claims[number + 1 :]:
                    if call.ended < later.began and later.ended < end:
                        yield Verdict(
                            "L1", job, f"{other['token']} was leased while {item['token']} lived"
                        )
        if self.clock_moved:
            return
        for (job, run), rows in self.runs.items():
            for row, following in itertools.pairwise(rows):
                # A job handed back without delay keeps its run_at, so the next claim may have
                # read the clock before the release did.
                if row["outcome"] not in ("RELEASED", "SKIPPED") and (
                    following["started_at"] is not None
                    and following["started_at"] < row["finished_at"] - ROUNDING
                ):
                    yield Verdict(
                        "L1", job, f"run {run}: attempts {row['attempt']} and next overlap"
                    )

    def earliest_ends(self) -> dict[Pair, float]:
        """Return for each lease the first moment at which it may have ended."""
        ends: dict[Pair, float] = defaultdict(lambda: float("inf"))
        for call in self.calls:
            if self.may_end(call) and call.kind != "fail":
                for job, token in call.asked["pairs"]:
                    ends[job, token] = min(ends[job, token], call.began)
        for effect in self.effects:
            if effect["phase"] == "finishing":  # in a transaction of the handler's own
                pair = effect["job"], effect["token"]
                ends[pair] = min(ends[pair], effect["mono"])
        for pair, (call, _) in self.claims.items():
            later = self.crashes_since(call)
            expiry = self.expiries.get(pair)
            if expiry is not None:
                later.append(expiry[0])
            if self.of_the_dead(pair):
                later.append(self.last_seen[self.claims[pair][0].process][0])
            if self.clock_moved:
                later.append(call.began)
            ends[pair] = min([ends[pair], *later])
        return ends

    @staticmethod
    def may_end(call: Call) -> bool:
        """Whether a lease ended by this call, if the call was made."""
        if call.op in ("sleep", "await_event"):
            return call.answer.get("state") not in GOES_ON
        return call.op in ("finish", "release")

    def crashes_since(self, call: Call) -> list[float]:
        """Return the first moments at which a crash may have lost what this call changed.

        A server that is told to die goes on for a moment, and may answer and lose a call of then.
        """
        return [
            max(fault.began, call.began)
            for fault in self.faults
            if fault.asked["target"] == "server"
            and (fault.ended is None or fault.ended > call.began)
        ]

    @property
    def expiries(self) -> dict[Pair, tuple[float, float]]:
        """For each lease the earliest moment, by both clocks, at which it may have run out.

        A lease lasts from the call that got or extended it, so not less long than this.
        """
        if not hasattr(self, "_expiries"):
            self._expiries: dict[Pair, tuple[float, float]] = {}
            for call in self.calls:
                if call.kind != "ok" or "lease" not in call.asked:
                    continue
                lease = call.asked["lease"]
                if call.op == "claim":
                    left = {(item["job"], item["token"]): lease for item in call.answer["jobs"]}
                else:  # less is left than was asked for when another session held the row
                    left = {
                        (job, token): min(lease, call.answer["left"][str(job)])
                        for job, token in call.asked["pairs"]
                        if str(job) in call.answer["left"]
                    }
                for pair, seconds in left.items():
                    mono, wall = self._expiries.get(pair, (0.0, 0.0))
                    self._expiries[pair] = (
                        max(mono, call.began + seconds),
                        max(wall, call.wall + seconds),
                    )
        return self._expiries

    def fenced(self) -> Iterator[Verdict]:
        """L2: a finish was accepted if, and only if, it ended that attempt."""
        for call in self.of("finish"):
            if call.kind == "ok":
                answers = call.answer["outcomes"]
            elif call.answer.get("sqlstate") == "RTC02":
                answers = ["LEASE_LOST"]
            elif call.answer.get("sqlstate") == "RTC03":
                answers = ["CONFLICT"]
            else:
                continue
            for (job, token), answer in zip(call.asked["pairs"], answers, strict=True):
                ending = self.endings.get((job, token))
                by_worker = ending is not None and ending["outcome"] in BY_ITS_WORKER
                if answer == "CONFLICT" and job in self.held:
                    continue  # the handler's own finish committed, and it never heard of that
                if answer == "CONFLICT":
                    yield Verdict("L2", job, f"{token} was finished with two outcomes")
                elif answer == "LEASE_LOST":
                    self.figures.late_finishes_refused += 1
                    if by_worker:
                        yield Verdict("L2", job, f"{token} was refused, but ended its attempt")
                elif self.may_be_forgotten(call, ending):
                    continue
                elif not by_worker:
                    how = ending["outcome"] if ending else "nothing"
                    yield Verdict("L2", job, f"{token} was accepted, on record is {how}")
                elif ending["job_state"] != answer:
                    yield Verdict("L2", job, f"{token} was told {answer}, not what is on record")

    def may_be_forgotten(self, finish: Call, ending: Line | None) -> bool:
        """Tell whether a finish that was accepted may be gone with the server that accepted it."""
        if not self.demands.lossy or ending is None:
            return self.demands.lossy
        return ending["outcome"] == "LOST" and any(
            fault.asked["target"] == "server"
            and fault.began - SETTLED < finish.ended
            and (fault.ended is None or finish.began < fault.ended)
            for fault in self.faults
        )

    def handed_back(self) -> Iterator[Verdict]:
        """L2: a sleep, or a wait for an event, that was told so has handed its job back."""
        for call in self.calls:
            if call.op not in ("sleep", "await_event") or call.kind != "ok":
                continue
            if not self.may_end(call):
                continue
            self.figures.naps += 1
            [(job, token)] = call.asked["pairs"]
            ending = self.endings.get((job, token))
            if ending is None and self.demands.lossy:
                continue
            if ending is None or ending["outcome"] not in ("RELEASED", "CANCELLED"):
                how = ending["outcome"] if ending else "nothing"
                yield Verdict("L2", job, f"{token} was handed back, on record is {how}")

    def ended_by_holder(self) -> Iterator[Verdict]:
        """L2: no attempt was ended before its own holder asked for that."""
        if self.clock_moved:
            return
        asked: dict[Pair, float] = defaultdict(lambda: float("inf"))
        for call in self.calls:
            if self.may_end(call):
                for job, token in call.asked["pairs"]:
                    asked[job, token] = min(asked[job, token], call.wall)
        for effect in self.effects:
            if effect["phase"] == "finishing":  # in a transaction of the handler's own
                pair = effect["job"], effect["token"]
                asked[pair] = min(asked[pair], effect["wall"])
        for pair in self.claims:
            ending = self.endings.get(pair)
            if ending is None or ending["outcome"] == "LOST":
                continue
            if ending["finished_at"] < asked[pair] - ROUNDING:
                yield Verdict("L2", pair[0], f"{pair[1]} was ended, but not by its holder")

    def one_end(self) -> Iterator[Verdict]:
        """S4: a job ends once in each of its lifetimes, and as its last attempt says."""
        last_run: dict[int, int] = {}
        for job, run in self.runs:
            last_run[job] = max(run, last_run.get(job, 0))
        for (job, run), rows in self.runs.items():
            ends = [row for row in rows if row["job_state"] in ENDED]
            if len(ends) > 1:
                yield Verdict("S4", job, f"run {run} ended {len(ends)} times")
            if ends and ends[-1] is not rows[-1]:
                yield Verdict("S4", job, f"run {run} went on after its end")
            state = self.jobs[job]["state"] if job in self.jobs else None
            if (
                run == last_run[job]
                and state in ("COMPLETED", "FAILED")
                and (not ends or ends[-1]["job_state"] != state)
            ):
                yield Verdict("S4", job, f"it is {state}, which no attempt says")

    def attempts_count(self) -> Iterator[Verdict]:
        """S5: each claim charges one attempt, and nothing else does."""
        for pair in self.claimed_twice:
            yield Verdict("S5", pair[0], f"{pair[1]} was handed out twice")
        for (job, run), rows in self.runs.items():
            charged = [row for row in rows if row["outcome"] not in ("RELEASED", "SKIPPED")]
            numbers = [row["attempt"] for row in charged]
            if sorted(numbers) != list(range(1, len(numbers) + 1)):
                yield Verdict("S5", job, f"run {run} has the attempts {numbers}")
            known = self.jobs.get(job)
            if known and known["state"] == "FAILED" and known["run"] == run:
                refused = charged and charged[-1]["outcome"] == "FAILED" and known["gave_up"]
                if len(charged) != known["max_retries"] + 1 and not refused:
                    yield Verdict("S5", job, f"FAILED after {len(charged)} attempts")
        for (job, token), (_, item) in self.claims.items():
            ending = self.endings.get((job, token))
            if ending is not None and ending["attempt"] != item["attempt"]:
                yield Verdict(
                    "S5", job, f"{token} was attempt {item['attempt']}, on record another"
                )

    def attempts_recorded(self) -> Iterator[Verdict]:
        """S10: each claim that was answered left an execution, or was lost in a crash."""
        for (job, token), (call, _) in self.claims.items():
            known = self.jobs.get(job)
            running = known is not None and known["token"] == token
            if (job, token) not in self.endings and not running:
                if self.crashes_since(call):
                    continue  # a claim is not durable at once, and its token never returns
                yield Verdict("S10", job, f"{token} was claimed and left no execution")

    def of_the_dead(self, pair: Pair) -> bool:
        """Tell whether this lease was taken back from a process that was not heard of any more."""
        row = self.endings.get(pair)
        if row is None or row["outcome"] != "LOST" or pair not in self.claims:
            return False
        return self.last_seen[self.claims[pair][0].process][1] < row["finished_at"] - GRACE

    def leases_ran_out(self) -> Iterator[Verdict]:
        """L7: nothing was taken back whose lease had not run out, but from the dead."""
        if self.clock_moved:
            return
        for pair, row in self.endings.items():
            if row["outcome"] != "LOST" or pair not in self.expiries or self.of_the_dead(pair):
                continue
            if not (self.demands.left_behind and self.crashes_since(self.claims[pair][0])):
                early = self.expiries[pair][1] - row["finished_at"]
                if early > ROUNDING:
                    self.figures.unexplained += 1
                    yield Verdict("L7", pair[0], f"{pair[1]} was taken back {early:.3f} s early")

    def runs_explained(self) -> Iterator[Verdict]:
        """Each run of a handler is one claim's; a second one has a reason that is on record."""
        begun: dict[int, list[Line]] = defaultdict(list)
        started: set[Pair] = set()
        done: set[Pair] = set()
        for effect in self.effects:
            pair = effect["job"], effect["token"]
            if effect["phase"] == "done":
                done.add(pair)
            if effect["phase"] != "start":
                continue
            if pair in started:
                self.figures.unexplained += 1
                yield Verdict("duplicate", pair[0], f"{pair[1]} ran twice")
            if pair not in self.claims:
                self.figures.unexplained += 1
                yield Verdict("duplicate", pair[0], f"{pair[1]} ran and was never claimed")
            started.add(pair)
            begun[pair[0]].append(effect)
        for job, effects in begun.items():
            effects.sort(key=lambda effect: self.leased_at((job, effect["token"])))
            for earlier, later in itertools.pairwise(effects):
                pair = job, earlier["token"]
                following = self.endings.get((job, later["token"]))
                ending = self.endings.get(pair)
                if ending and following and ending["run"] != following["run"]:
                    continue  # another occurrence of a schedule, or an operator's retry
                outcome = ending["outcome"] if ending else None
                if outcome in ("FAILED", "TIMED_OUT", "RELEASED"):
                    continue  # the retry that was asked for
                if following is None and self.was_left_behind((job, later["token"])):
                    self.figures.duplicates_explained += 1
                    continue  # who asked there could not know of the earlier one
                if outcome in ("SUCCEEDED", "CANCELLED"):
                    self.figures.unexplained += 1
                    yield Verdict("duplicate", job, f"it ran again after {pair[1]} ended it")
                    continue
                fault = self.fault_of(pair, earlier["process"], later["mono"])
                if outcome is None and fault is None:
                    self.figures.unexplained += 1
                    yield Verdict("duplicate", job, f"it ran again, and no fault took {pair[1]}")
                elif pair in done:
                    self.figures.duplicates_explained += 1
                    self.figures.without_fault += fault is None

    def was_left_behind(self, pair: Pair) -> bool:
        """Tell whether a lease may be of a server that had been replaced, so is not on record."""
        if not self.demands.left_behind or pair not in self.claims:
            return False
        return bool(self.crashes_since(self.claims[pair][0]))

    def leased_at(self, pair: Pair) -> float:
        """Return when this lease began, as nearly as anybody knows, by civil time."""
        if pair in self.endings and not self.clock_moved:
            return self.endings[pair]["started_at"]
        return self.claims[pair][0].wall if pair in self.claims else 0.0

    def claimed_at(self, pair: Pair) -> float:
        """Return when this lease was asked for, as far as its worker knows."""
        return self.claims[pair][0].began if pair in self.claims else 0.0

    def fault_of(self, pair: Pair, process: int, until: float) -> Call | None:
        """Return a fault that befell this lease's worker, the network or the server in time."""
        since = self.claimed_at(pair)
        return next(
            (
                fault
                for fault in self.faults
                if fault.asked["target"] in ("server", "network", process)
                and fault.began <= until
                and (fault.ended is None or fault.ended >= since)
            ),
            None,
        )

    def in_order(self) -> Iterator[Verdict]:
        """C3: a claim takes no first attempt while one that precedes it was free all along.

        A claim without an answer may have locked anything, so what overlaps with one is left out.
        """
        if self.clock_moved:
            return
        doubtful = [
            (call.began, (call.ended or call.began) + UNKNOWN_CLAIM)
            for call in self.of("claim")
            if call.kind != "ok"
        ]
        waiting = [
            (max(call.ended, call.ended + job["scheduled_for"] - call.wall) + SETTLED, job)
            for call in self.of("enqueue", "ok")
            if (job := self.jobs.get(call.answer["value"]))
        ]
        heapq.heapify(queue := [(since, job["id"]) for since, job in waiting])
        touched = self.first_touches()
        free: dict[str, list[tuple[Any, int]]] = defaultdict(list)
        for call in self.of("claim", "ok"):
            while queue and queue[0][0] < call.began:
                _, job = heapq.heappop(queue)
                heapq.heappush(free[self.jobs[job]["queue"]], (self.rank(job), job))
            if any(began <= call.ended and call.began <= ended for began, ended in doubtful):
                continue
            taken: dict[str, list[Any]] = defaultdict(list)
            for item in call.answer["jobs"]:
                first = self.claims_of[item["job"]][0][0] is call
                known = self.jobs.get(item["job"])
                if (
                    item["attempt"] == 1
                    and first
                    and known
                    and known["schedule_type"] == "ONE_TIME"
                ):
                    taken[item["queue"]].append(self.rank(item["job"]))
            for name, ranks in taken.items():
                passed = self.passed_by(free[name], touched, call)
                if passed is not None and passed[0] < max(ranks):
                    yield Verdict("C3", passed[1], f"a claim of {call.process} passed it by")

    @staticmethod
    def passed_by(
        free: list[tuple[Any, int]], touched: dict[int, float], call: Call
    ) -> tuple[Any, int] | None:
        """Return the first job that was free before, during and after the claim."""
        aside = []
        found = None
        while free and found is None:
            rank, job = heapq.heappop(free)
            if touched[job] > call.ended:
                found = rank, job
            if touched[job] > call.began:
                aside.append((rank, job))
        for item in aside:
            heapq.heappush(free, item)
        return found

    def first_touches(self) -> dict[int, float]:
        """Return for each job the first moment at which a claim may have had it."""
        touched: dict[int, float] = defaultdict(lambda: float("inf"))
        for (job, _), (call, _) in self.claims.items():
            touched[job] = min(touched[job], call.began)
        if self.calls:
            shift = self.calls[0].began - self.calls[0].wall
            for (job, _), row in self.endings.items():
                touched[job] = min(touched[job], row["started_at"] + shift - ROUNDING)
        return touched

    def rank(self, job: int) -> tuple[int, float, int]:
        """Return the place of a job that waits for its first attempt."""
        row = self.jobs[job]
        return -row["priority"], row["scheduled_for"], job

    def drained(self) -> Iterator[Verdict]:
        """V1: when all is healed, every ordinary job comes to its end."""
        for job in self.jobs.values():
            if job["schedule_type"] == "ONE_TIME" and job["state"] not in ENDED:
                yield Verdict("V1", job["id"], f"it is {job['state']} still")

    def children(self) -> Iterator[tuple[Line, list[Line]]]:
        """Yield each job that depends on others, with those of them that are on record."""
        for job in self.jobs.values():
            parents = [self.jobs[p] for p in job.get("depends_on") or () if p in self.jobs]
            if parents:
                yield job, parents

    def attempts_of(self, job: int) -> list[Line]:
        """Return the attempts of a job that began, in all of its runs."""
        return [
            row
            for run in range(1, self.jobs[job]["run"] + 1)
            for row in self.runs.get((job, run), ())
            if row["started_at"] is not None
        ]

    def after_parents(self) -> Iterator[Verdict]:
        """W1: no child starts before each of its parents has ended, and completed if it must.

        When a parent ended that was cancelled before it began is not on record.
        """
        if self.clock_moved:
            return
        for job, parents in self.children():
            started = [row["started_at"] for row in self.attempts_of(job["id"])]
            for parent in parents:
                ends = [
                    row["finished_at"]
                    for row in self.attempts_of(parent["id"])
                    if row["job_state"] in ENDED
                    and (row["job_state"] == "COMPLETED" or job["if_parent_fails"] == "run")
                ]
                if started and ends and min(started) < min(ends) - ROUNDING:
                    yield Verdict("W1", job["id"], f"it started before {parent['id']} ended")

    def settled_once(self) -> Iterator[Verdict]:
        """W2: a child has run if its policy says so, and has gone down with a parent else."""
        for job, parents in self.children():
            bad = [parent["id"] for parent in parents if parent["state"] in ("FAILED", "CANCELLED")]
            live = any(parent["state"] not in ENDED for parent in parents)
            began = bool(self.attempts_of(job["id"]))
            if job["if_parent_fails"] == "cancel" and bad:
                if began or job["state"] != "CANCELLED":
                    yield Verdict("W2", job["id"], f"{bad[0]} failed, and it is {job['state']}")
                elif job["ended_by"] not in (None, *bad):
                    yield Verdict("W2", job["id"], f"{job['ended_by']} has not taken it down")
            elif job["ended_by"] is not None:
                yield Verdict("W2", job["id"], f"{job['ended_by']} took it down, and must not")
            elif began and live:
                yield Verdict("W2", job["id"], "it started, and a parent lives")

    def events_arrived(self) -> Iterator[Verdict]:
        """W3: whoever waits for an event gets the first that was emitted in his time."""
        emitted: dict[str, list[Call]] = defaultdict(list)
        heard: dict[str, Any] = {}
        for call in self.of("emit_event"):
            if call.kind != "fail":
                emitted[call.asked["event"]].append(call)
        for job in self.jobs.values():
            for answer in job.get("awaited") or ():
                event = answer["event"]
                sure = [call for call in emitted[event] if call.kind == "ok"]
                if answer["state"] != "ARRIVED":
                    in_time = [call for call in sure if call.wall < answer["at"] - SETTLED]
                    if in_time and not self.clock_moved:
                        yield Verdict("W3", job["id"], f"{event} came, and was not heard of")
                    continue
                self.figures.events += 1
                first = min((call.ended for call in sure), default=float("inf"))
                if self.demands.lossy:
                    first = float("inf")
                may_be = [call.asked["payload"] for call in emitted[event] if call.began <= first]
                if answer["payload"] not in may_be:
                    yield Verdict("W3", job["id"], f"{event} came from nobody, or not as the first")
                elif heard.setdefault(event, answer["payload"]) != answer["payload"]:
                    yield Verdict("W3", job["id"], f"{event} came, and another one for others")

    def steps_once(self) -> Iterator[Verdict]:
        """W4: an attempt that began when a step was recorded does not do that step again."""
        if self.demands.lossy:
            return
        recorded: dict[tuple[int, str], float] = {}
        for call in self.of("record_step", "ok"):
            [(job, _)] = call.asked["pairs"]
            step = job, call.asked["step"]
            recorded[step] = min(call.ended, recorded.get(step, float("inf")))
        for effect in self.effects:
            if effect["phase"].startswith(STEP):
                step = effect["job"], effect["phase"].removeprefix(STEP)
                claimed = self.claimed_at((effect["job"], effect["token"]))
                if claimed > recorded.get(step, float("inf")):
                    yield Verdict("W4", effect["job"], f"step {step[1]} was done again")

    def proved_nothing(self) -> Iterator[Verdict]:
        """Refuse a run in which too little happened to prove anything."""
        for name, seen, least in (
            ("jobs", self.figures.jobs, self.demands.jobs),
            ("faults", self.figures.faults.total(), self.demands.faults),
            ("late finishes", self.figures.late_finishes_refused, self.demands.late),
            ("sleeps and waits", self.figures.naps, self.demands.naps),
            ("events heard", self.figures.events, self.demands.events),
        ):
            if seen < least:
                yield Verdict("vacuous", None, f"{seen} {name}, at least {least} are needed")
        if self.figures.jobs and not any(row["outcome"] == "SUCCEEDED" for row in self.rows()):
            yield Verdict("vacuous", None, "no attempt succeeded")

    def rows(self) -> Iterable[Line]:
        return self.endings.values()


def _place(row: Line) -> tuple[int, bool, float]:
    """Return an execution's place among those of its run, also where the clock was moved."""
    return row["attempt"], row["outcome"] != "RELEASED", row["finished_at"]


def _calls(history: list[Line]) -> tuple[list[Call], list[Call]]:
    """Match invocations and answers; return the calls, and the faults, in order."""
    calls: dict[str, Call] = {}
    for line in sorted(history, key=lambda line: line["mono"]):
        if line["type"] == "invoke":
            calls[line["call"]] = Call(
                line["op"], line["process"], line, line["mono"], line["wall"]
            )
        else:
            call = calls[line["call"]]
            call.kind, call.ended, call.answer = line["type"], line["mono"], line
    ordered = list(calls.values())
    return (
        [call for call in ordered if call.op != "fault"],
        [call for call in ordered if call.op == "fault"],
    )


def main() -> int:
    """Decide a saved run again; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description="Decide a saved run again.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    demands = json.loads((folder / "demands.json").read_text())
    report = check(Saved.load(folder), Demands(**demands))
    for verdict in report.verdicts:
        print(json.dumps(asdict(verdict)))
    print(report.figures.line())
    return 1 if report.verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
