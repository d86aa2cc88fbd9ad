"""Random histories: every function is a rule, and after each step model and database agree."""

from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.model import graph
from tests.model.database import Database, in_order
from tests.model.world import (
    Between,
    Execution,
    Job,
    Key,
    Queue,
    Transaction,
    World,
    differences,
    key_of,
)

SESSIONS = 3
START = datetime(2026, 6, 1, 12, tzinfo=UTC)
FARTHEST = timedelta(days=20)  # from the start; retention never comes into it
NEVER_ISSUED = uuid4()

NOTHING = timedelta(0)
MOMENT = timedelta(microseconds=1)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)

session_numbers = st.integers(0, SESSIONS - 1)
queue_names = st.sampled_from(["a", "b"])
keys = st.sampled_from([None, None, "k", "l"])
names = st.sampled_from(["m", "n"])
# Pairs of job and token are chosen from all that were ever issued, mostly from the latest.
whiches = st.one_of(st.integers(0, 3), st.integers(0, 3), st.integers(0, 30))
errors = st.sampled_from([None, "boom", "", "long"])
LONG = {"long": "x" * 10_001}  # of which the database keeps 10,000 characters
results = st.sampled_from([None, 1, 2])
leases = st.sampled_from([MOMENT, SECOND, timedelta(minutes=1), HOUR, timedelta(days=30)])
delays = st.sampled_from([None, NOTHING, MOMENT, HOUR, 365 * DAY])
limits = st.sampled_from([1, 1, 2, 3, 10_000])

# Calls that are refused before they look at anything.
nonsense = st.sampled_from(
    [
        *[
            (function, {"lease": lease})
            for function in ("claim_next_job", "heartbeat_job", "heartbeat_jobs")
            for lease in (None, NOTHING, -SECOND, 30 * DAY + MOMENT, timedelta(days=10**6))
        ],
        *[("claim_next_job", {"max_jobs": limit}) for limit in (None, 0, -1, 10_001)],
        ("claim_next_job", {"queues": None}),
        *[("recover_jobs", {"max_jobs": limit}) for limit in (None, 0, -1, 100_001)],
        *[
            (function, {parameter: delay})
            for function, parameter in (("finish_job", "retry_in"), ("release_job", "delay"))
            for delay in (-MOMENT, 367 * DAY)
        ],
        ("cancel_job", {"reason": "r" * 1001}),
        ("finish_jobs", {"tokens": []}),
        ("finish_jobs", {"errors": ["boom", "boom"]}),
        ("heartbeat_jobs", {"tokens": []}),
        ("enqueue_jobs", {"jobs": None}),
        *[
            ("enqueue_jobs", {"jobs": Jsonb(value)})
            for value in (1, {}, [1], [{"task": "t", "x": 1}])
        ],
        *[("configure_queue", {"queue": "a", "max_retries": value}) for value in (-1, 1001)],
        *[
            ("configure_queue", {"queue": "a", name: value})
            for name in ("backoff_base", "backoff_cap", "timeout")
            for value in (NOTHING, -SECOND, 367 * DAY)
        ],
        *[("pause_queue", {"queue": name}) for name in (None, "", "q" * 101)],
    ]
)

good_options: dict[str, list[Any]] = {
    "task": ["t", "t" * 200],
    "queue": ["a", "b"],
    "run_at": [None, -HOUR, NOTHING, MOMENT, HOUR],  # from now
    "priority": [0, 1, -100, 100],
    "max_retries": [None, 0, 1, 1000],
    "timeout": [None, MOMENT, HOUR, 365 * DAY],
    "unique_key": [None, None, "k", "l", "k" * 500],
}
bad_options: dict[str, list[Any]] = {
    "task": [None, "", "t" * 201, "a\nb"],
    "queue": [None, "", "q" * 101, "a\tb"],
    "run_at": ["infinity", "-infinity", "4713-01-01 BC", "9999-12-31"],
    "priority": [None, -101, 101, 2**31 - 1],
    "max_retries": [-1, 1001],
    "timeout": [NOTHING, -SECOND, 367 * DAY, timedelta(days=10**6)],
    "unique_key": ["", "k" * 501],
}
good_jobs = st.fixed_dictionaries({k: st.sampled_from(v) for k, v in good_options.items()})
bad_jobs = st.sampled_from(
    [{"task": "t", name: value} for name, values in bad_options.items() for value in values]
)


class RotaMachine(RuleBasedStateMachine):
    """Sessions that call anything, at any time, in transactions or without."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.world = World(START, SESSIONS)
        self.issued: list[tuple[int, UUID]] = []  # every (job, token) pair that a claim returned
        self.seen: list[int] = []  # every job id that an enqueue returned
        self.adopted: dict[int, Any] = {}  # recurring jobs that the last step changed

    @initialize(bulk=st.lists(good_jobs, min_size=2, max_size=4), max_jobs=limits, lease=leases)
    def start(self, bulk: list[dict[str, Any]], max_jobs: int, lease: timedelta) -> None:
        """Begin with a few jobs, some of which run."""
        self.database.empty()
        self.database.set_clock(START)
        self.enqueue_bulk(0, bulk, None)
        self.claim(0, ["a", "b"], lease, max_jobs)

    def teardown(self) -> None:
        for number, transaction in enumerate(self.world.open):
            if transaction:
                self.database.sessions[number].execute("rollback")

    # -- the sessions

    @rule(session=session_numbers)
    def begin(self, session: int) -> None:
        if self.world.open[session] is None:
            self.database.sessions[session].execute("begin")
            self.world.open[session] = Transaction()

    @precondition(lambda self: any(self.world.open))
    @rule(session=session_numbers, ending=st.sampled_from(["commit", "commit", "rollback"]))
    def end_transaction(self, session: int, ending: str) -> None:
        if self.world.open[session]:
            self.database.sessions[session].execute(ending)
            getattr(self.world, ending)(session)
            self.agree(session)

    @precondition(lambda self: any(self.world.open))
    @rule(session=session_numbers)
    def savepoint(self, session: int) -> None:
        if transaction := self.world.open[session]:
            self.database.sessions[session].execute(f"savepoint s{len(transaction.savepoints)}")
            transaction.savepoints.append(transaction.layer.copy())

    @precondition(lambda self: any(self.world.open))
    @rule(session=session_numbers, back=st.integers(0, 2))
    def rollback_to_savepoint(self, session: int, back: int) -> None:
        transaction = self.world.open[session]
        if transaction and transaction.savepoints:
            number = max(0, len(transaction.savepoints) - 1 - back)
            self.database.sessions[session].execute(f"rollback to savepoint s{number}")
            del transaction.savepoints[number + 1 :]
            transaction.layer = transaction.savepoints[number].copy()
            self.agree(session)

    @rule(
        step=st.sampled_from(
            [
                MOMENT,
                SECOND,
                timedelta(seconds=61),
                HOUR,
                3 * DAY,
                -MOMENT,
                -SECOND,
                -HOUR,
                -3 * DAY,
            ]
        )
    )
    def clock_jumps(self, step: timedelta) -> None:
        if abs(self.world.now + step - START) < FARTHEST:
            self.world.now += step
            self.database.set_clock(self.world.now)
            # Every worker looks each few seconds, and so sees each clock. Statistics rely on that.
            self.database.count()

    # -- producers

    @rule(session=session_numbers, options=good_jobs)
    def enqueue(self, session: int, options: dict[str, Any]) -> None:
        waits = self.world.key_is_in_the_balance(session, "key_of_queue", wanted_key(options))
        rows = self.call(session, waits, None, "enqueue_job", **self.arguments(options))
        if rows is not None:
            self.was_enqueued(session, options, rows[0])
        self.agree(session)

    @rule(session=session_numbers, options=bad_jobs)
    def enqueue_nonsense(self, session: int, options: dict[str, Any]) -> None:
        self.call(session, False, "RTV01", "enqueue_job", **self.arguments(options))
        self.agree(session)

    @rule(session=session_numbers, which=whiches, said=nonsense)
    def talk_nonsense(self, session: int, which: int, said: tuple[str, dict[str, Any]]) -> None:
        function, arguments = said
        job_id, token = self.pair(which, session)
        if function in ("finish_job", "heartbeat_job", "release_job"):
            arguments = {"job_id": job_id, "token": token, **arguments}
        if function in ("finish_jobs", "heartbeat_jobs"):
            arguments = {"job_ids": [job_id], "tokens": [token], **arguments}
        if function == "cancel_job":
            arguments = {"job_id": job_id, **arguments}
        self.call(session, False, "RTV01", function, **arguments)
        self.agree(session)

    @rule(
        session=session_numbers,
        bulk=st.lists(good_jobs, max_size=4),
        bad=st.one_of(st.none(), st.none(), bad_jobs),
    )
    def enqueue_bulk(self, session: int, bulk: list[dict], bad: dict | None) -> None:
        # Here a null says "left out", which only a task cannot be.
        refused = None
        if bad and (bad["task"] is None or None not in bad.values()):
            refused = "RTV01"
            bulk = [*bulk, bad]
        waits = refused is None and any(
            self.world.key_is_in_the_balance(session, "key_of_queue", wanted_key(options))
            for options in bulk
        )
        jobs = [self.arguments(options, as_json=True) for options in bulk]
        rows = self.call(session, waits, refused, "enqueue_jobs", jobs=Jsonb(jobs))
        if rows is not None:
            assert len(rows) == len(bulk)
            by_key = sorted(
                zip(bulk, rows, strict=True),
                key=lambda pair: (pair[0]["unique_key"] or "", not pair[1]["created"]),
            )
            for options, row in by_key:
                self.was_enqueued(session, options, row)
        self.agree(session)

    def arguments(self, options: dict[str, Any], as_json: bool = False) -> dict[str, Any]:
        arguments = dict(options)
        if isinstance(options.get("run_at"), timedelta):
            arguments["run_at"] = self.world.now + options["run_at"]
        if not as_json:
            return arguments
        return {
            name: f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
            if isinstance(value, timedelta)
            else value.isoformat()
            if isinstance(value, datetime)
            else value
            for name, value in arguments.items()
        }

    def was_enqueued(self, session: int, options: dict[str, Any], row: dict[str, Any]) -> None:
        holder = self.world.holder(session, "key_of_queue", wanted_key(options))
        assert row["created"] is (holder is None)
        if holder:
            assert row["job_id"] == holder.id
            return
        assert row["job_id"] not in self.seen
        self.seen.append(row["job_id"])
        self.world.write(session, self.new_job(row["job_id"], options))

    def new_job(self, job_id: int, options: dict[str, Any]) -> Job:
        queue = self.world.queues.get(options["queue"], Queue())
        after = options["run_at"]
        run_at = self.world.now if after is None else self.world.now + after
        retries = [options["max_retries"], queue.max_retries, 3]
        return Job(
            id=job_id,
            task=options["task"],
            queue=options["queue"],
            priority=options["priority"],
            state="SCHEDULED",
            schedule_type="ONE_TIME",
            run_at=run_at,
            scheduled_for=run_at,
            run=1,
            attempt=0,
            max_retries=next(value for value in retries if value is not None),
            timeout=options["timeout"] or queue.timeout,
            unique_key=options["unique_key"],
            name=None,
            token=None,
            worker=None,
            lease_until=None,
            started_at=None,
            progress=None,
            cancel_requested_at=None,
            cancel_reason=None,
            last_error=None,
            created_at=self.world.now,
            result=None,
            finished_at=None,
        )

    @rule(
        session=session_numbers,
        name=names,
        every=st.sampled_from([SECOND, timedelta(minutes=1), HOUR, DAY]),
        queue=queue_names,
        max_retries=st.sampled_from([0, 1, 5]),
    )
    def schedule(
        self, session: int, name: str, every: timedelta, queue: str, max_retries: int
    ) -> None:
        holder = self.world.holder(session, "name", name)
        waits = (
            self.world.is_held(session, holder.id)
            if holder
            else self.world.key_is_in_the_balance(session, "name", name)
        )
        rows = self.call(
            session,
            waits,
            None,
            "schedule_job",
            task="t",
            every=every,
            name=name,
            queue=queue,
            max_retries=max_retries,
        )
        if rows is not None:
            assert rows[0]["created"] is (holder is None)
            assert holder is None or rows[0]["job_id"] == holder.id
            self.seen.append(rows[0]["job_id"])
            self.adopted[rows[0]["job_id"]] = (
                partial(was_updated, holder) if holder else was_scheduled
            )
        self.agree(session)

    # -- workers

    @rule(session=session_numbers, lease=leases)
    def claim_one(self, session: int, lease: timedelta) -> None:
        self.claim(session, ["a", "b"], lease, 1)

    @rule(
        session=session_numbers,
        queues=st.sampled_from([["a", "b"], ["a"], ["b"], ["b", "a", "a"], [], ["none"]]),
        lease=leases,
        max_jobs=limits,
    )
    def claim(self, session: int, queues: list[str], lease: timedelta, max_jobs: int) -> None:
        # A slow scan leaves a cursor, which may delay a job; the model knows no slowness.
        self.database.sessions[session].execute("reset all")
        rows = self.call(
            session,
            False,
            None,
            "claim_next_job",
            queues=queues,
            worker=f"worker {session}",
            lease=lease,
            max_jobs=max_jobs,
        )
        if rows is not None:
            view = self.world.view(session)
            self.check_order(session, view, queues, [row["id"] for row in rows], max_jobs)
            assert len({row["token"] for row in rows}) <= 1
            assert not any(row["token"] in {token for _, token in self.issued} for row in rows)
            for row in rows:
                before = view[row["id"]]
                job = self.world.claim(before, row["token"], f"worker {session}", lease)
                self.issued.append((row["id"], row["token"]))
                for name in ("task", "queue", "priority", "max_retries", "timeout", "lease_until"):
                    assert row[name] == getattr(job, name)
                if job.recurring:
                    self.adopted[job.id] = partial(was_claimed, job, row, self.world.now)
                else:
                    assert row["attempt"] == job.attempt
                    assert row["scheduled_for"] == job.scheduled_for
                    self.world.write(session, job)
        self.agree(session)

    def check_order(
        self, session: int, view: dict[int, Job], queues: list[str], got: list[int], limit: int
    ) -> None:
        """What could be had was had, in the order of priority and, in a lane, of time."""
        lanes: dict[tuple[str, int], list[int]] = {}
        scheduled = [job for job in view.values() if job.state == "SCHEDULED"]
        for job in sorted(scheduled, key=lambda job: (job.run_at, job.id)):
            queue = self.world.queues.get(job.queue, Queue())
            if (
                job.queue in queues
                and not queue.paused
                and job.run_at <= self.world.now
                and not self.world.is_held(session, job.id)
            ):
                lanes.setdefault((job.queue, job.priority), []).append(job.id)
        assert len(got) == min(limit, sum(map(len, lanes.values())))
        assert [view[i].priority for i in got] == sorted(view[i].priority for i in got)[::-1]
        for lane, eligible in lanes.items():
            taken = [i for i in got if (view[i].queue, view[i].priority) == lane]
            first = eligible[: len(taken)]
            assert set(taken) == set(first)
            # Of a schedule the last slot that was missed may be the one that runs.
            once = [i for i in taken if not view[i].recurring]
            assert once == [i for i in first if not view[i].recurring]
            left_out = len(taken) < len(eligible)
            assert not (left_out and any(view[i].priority < lane[1] for i in got))

    def pair(self, which: int, session: int, mismatch: bool = False) -> tuple[int, UUID]:
        """Choose from the live leases and all pairs ever issued, or a pair that never was one."""
        if not self.issued:
            return 0, NEVER_ISSUED
        view = self.world.view(session)
        live = [(i, t) for i, t in self.issued if i in view and view[i].token == t]
        pairs = live if live and which % 2 else self.issued
        job_id, token = pairs[-1 - which // 2 % len(pairs)]
        return (self.seen[which % len(self.seen)] if mismatch else job_id), token

    def lease(self, session: int, job_id: int, token: UUID) -> Job | None:
        """The job, if this session sees it run under this token."""
        job = self.world.view(session).get(job_id)
        return job if job and job.live and job.token == token else None

    def waits_for_lease(self, session: int, job_id: int, token: UUID) -> bool:
        return bool(self.lease(session, job_id, token)) and self.world.is_held(session, job_id)

    def past(self, session: int, job_id: int, token: UUID) -> Execution | None:
        job = self.world.view(session).get(job_id)
        return job.ended_under(token) if job else None

    @rule(
        session=session_numbers,
        which=whiches,
        mismatch=st.sampled_from([False, False, False, True]),
        error=errors,
        result=results,
        retry_in=delays,
        retry=st.sampled_from([True, True, False, None]),
    )
    def finish(
        self,
        session: int,
        which: int,
        mismatch: bool,
        error: str | None,
        result: Any,
        retry_in: timedelta | None,
        retry: bool | None,
    ) -> None:
        job_id, token = self.pair(which, session, mismatch)
        job, past = self.lease(session, job_id, token), self.past(session, job_id, token)
        error = LONG.get(error, error)
        kept = error and error[:10_000]
        how = {"error": kept, "result": result, "retry_in": retry_in, "retry": retry is not False}
        refused = self.refuses_finish(job, past, kept, result)
        rows = self.call(
            session,
            refused is None and self.waits_to_end(session, job_id, token, **how),
            refused,
            "finish_job",
            job_id=job_id,
            token=token,
            error=error,
            result=None if result is None else Jsonb(result),
            retry_in=retry_in,
            retry=retry,
        )
        if rows is not None:
            told = (rows[0]["job_id"], rows[0]["state"], rows[0]["run_at"])
            if job:
                self.ends(session, job, told, **how)
            else:
                assert told == (job_id, past.job_state, past.next_run_at)
        self.agree(session)

    @staticmethod
    def refuses_finish(
        job: Job | None, past: Execution | None, error: str | None, result: Any
    ) -> str | None:
        """Why a finish is refused of a lease that is not held: late, or another one before."""
        if job is None and (past is None or past.outcome in ("LOST", "RELEASED")):
            return "RTC02"
        if job is None and (past.error, past.result) != (error, result):
            return "RTC03"
        return None

    def waits_to_end(self, session: int, job_id: int, token: UUID, **how: Any) -> bool:
        """Whether the end of an attempt waits for who holds the job, or what depends on it."""
        job = self.lease(session, job_id, token)
        if job is None:
            return False
        return self.world.is_held(session, job_id) or graph.waits_to_end(
            self.world, session, [self.world.end(job, **how)]
        )

    @rule(
        session=session_numbers,
        batch=st.lists(st.tuples(whiches, st.booleans()), max_size=4),
        fate=st.fixed_dictionaries({"error": errors, "result": results}),
    )
    def finish_batch(
        self, session: int, batch: list[tuple[int, bool]], fate: dict[str, Any]
    ) -> None:
        # The same pair twice in one batch comes to the same end.
        fate["error"] = LONG.get(fate["error"], fate["error"])
        pairs = [self.pair(which, session, which % 5 == 4) for which, _ in batch]
        failed = {pair: fails for pair, (_, fails) in zip(pairs, batch, strict=True)}
        fates = [fate if failed[pair] else {"error": None, "result": None} for pair in pairs]
        matched = self.world.leases_matched(
            session, *(zip(*pairs, strict=True) if pairs else ((), ()))
        )
        ends = {
            job.id: self.world.end(
                job, error=one["error"] and one["error"][:10_000], result=one["result"]
            )
            for (job_id, token), one in zip(pairs, fates, strict=True)
            if (job := self.lease(session, job_id, token)) and not job.recurring
        }
        waits = any(self.world.is_held(session, job_id) for job_id in matched)
        rows = self.call(
            session,
            waits or graph.waits_to_end(self.world, session, ends.values()),
            None,
            "finish_jobs",
            job_ids=[job_id for job_id, _ in pairs],
            tokens=[token for _, token in pairs],
            errors=[one["error"] for one in fates],
            results=[None if one["result"] is None else Jsonb(one["result"]) for one in fates],
        )
        if rows is not None:
            self.world.lock(session, matched)
            assert [row["job_id"] for row in rows] == [job_id for job_id, _ in pairs]
            expected: dict[tuple[int, UUID], str] = {}
            for (job_id, token), one, row in zip(pairs, fates, rows, strict=True):
                kept = one["error"] and one["error"][:10_000]
                job, past = self.lease(session, job_id, token), self.past(session, job_id, token)
                if (job_id, token) in expected:
                    pass
                elif job:
                    state = self.ended(session, job, None, error=kept, result=one["result"])
                    expected[job_id, token] = state
                elif past is None or past.outcome in ("LOST", "RELEASED"):
                    expected[job_id, token] = "LEASE_LOST"
                elif (past.error, past.result) != (kept, one["result"]):
                    expected[job_id, token] = "CONFLICT"
                else:
                    expected[job_id, token] = past.job_state
                assert row["outcome"] == expected[job_id, token]
            graph.end(self.world, session, ends.values())
        self.agree(session)

    @rule(
        session=session_numbers,
        which=whiches,
        mismatch=st.sampled_from([False, False, True]),
        delay=delays,
        reason=st.sampled_from([None, "shutdown"]),
    )
    def release(
        self, session: int, which: int, mismatch: bool, delay: timedelta | None, reason: str | None
    ) -> None:
        job_id, token = self.pair(which, session, mismatch)
        job, past = self.lease(session, job_id, token), self.past(session, job_id, token)
        refused = None
        if job is None and (past is None or past.outcome not in ("RELEASED", "CANCELLED")):
            refused = "RTC02"
        how = {"ending": "RELEASED", "error": reason, "retry_in": delay}
        rows = self.call(
            session,
            refused is None and self.waits_to_end(session, job_id, token, **how),
            refused,
            "release_job",
            job_id=job_id,
            token=token,
            delay=delay,
            reason=reason,
        )
        if rows is not None:
            told = (rows[0]["job_id"], rows[0]["state"], rows[0]["run_at"])
            if job:
                self.ends(session, job, told, **how)
            else:
                assert told == (job_id, past.job_state, past.next_run_at)
        self.agree(session)

    def ends(
        self, session: int, job: Job, told: tuple[int, str, datetime | None] | None, **how: Any
    ) -> str:
        """Let an attempt end in the model, and settle what depends on its job."""
        state = self.ended(session, job, told, **how)
        if not job.recurring:
            graph.end(self.world, session, [self.world.view(session)[job.id]])
        return state

    def ended(
        self, session: int, job: Job, told: tuple[int, str, datetime | None] | None, **how: Any
    ) -> str:
        """Let an attempt end in the model, and compare with what its holder was told."""
        ended = self.world.end(job, **how)
        if job.recurring and ended.state != "CANCELLED" and how.get("ending") != "RELEASED":
            self.adopted[job.id] = partial(went_round, job, ended)
            return "SCHEDULED"
        self.world.write(session, ended)
        if told:
            job_id, state, run_at = told
            assert (job_id, state) == (ended.id, ended.state)
            foretold = ended.run_at if state == "SCHEDULED" else None
            if isinstance(foretold, Between):
                assert foretold.earliest <= run_at <= foretold.latest
            else:
                assert run_at == foretold
        return ended.state

    @rule(
        session=session_numbers,
        which=whiches,
        mismatch=st.sampled_from([False, False, True]),
        lease=leases,
        progress=results,
    )
    def heartbeat(
        self, session: int, which: int, mismatch: bool, lease: timedelta, progress: Any
    ) -> None:
        job_id, token = self.pair(which, session, mismatch)
        job = self.lease(session, job_id, token)
        refused = None if job else "RTC02"
        passes = progress is None and self.world.is_held(session, job_id)
        rows = self.call(
            session,
            refused is None and not passes and self.waits_for_lease(session, job_id, token),
            refused,
            "heartbeat_job",
            job_id=job_id,
            token=token,
            lease=lease,
            progress=None if progress is None else Jsonb(progress),
        )
        if rows is not None:
            longer = job
            if not passes:
                longer = replace(
                    job,
                    lease_until=max(job.lease_until, self.world.now + lease),
                    progress=job.progress if progress is None else progress,
                )
                self.world.write(session, longer)
            assert rows == [
                {
                    "lease_until": longer.lease_until,
                    "cancel_requested": job.cancel_requested_at is not None,
                }
            ]
        self.agree(session)

    @rule(session=session_numbers, batch=st.lists(whiches, max_size=4), lease=leases)
    def heartbeat_batch(self, session: int, batch: list[int], lease: timedelta) -> None:
        pairs = [self.pair(which, session, which % 5 == 4) for which in batch]
        rows = self.call(
            session,
            False,
            None,
            "heartbeat_jobs",
            job_ids=[job_id for job_id, _ in pairs],
            tokens=[token for _, token in pairs],
            lease=lease,
        )
        if rows is not None:
            matched = self.world.leases_matched(
                session, *(zip(*pairs, strict=True) if pairs else ((), ()))
            )
            free = [job_id for job_id in matched if not self.world.is_held(session, job_id)]
            self.world.lock(session, free)
            expected = []
            for job_id, token in set(pairs):
                if job := self.lease(session, job_id, token):
                    if job_id in free:
                        until = max(job.lease_until, self.world.now + lease)
                        job = replace(job, lease_until=until)
                        self.world.write(session, job)
                    asked = job.cancel_requested_at is not None
                    expected.append((job_id, job.lease_until, asked))
            got = [(r["job_id"], r["lease_until"], r["cancel_requested"]) for r in rows]
            assert sorted(got) == sorted(expected)
        self.agree(session)

    @rule(session=session_numbers, which=whiches, mismatch=st.sampled_from([False, False, True]))
    def hold_lease(self, session: int, which: int, mismatch: bool) -> None:
        job_id, token = self.pair(which, session, mismatch)
        job = self.lease(session, job_id, token)
        waits = self.waits_for_lease(session, job_id, token)
        rows = self.call(
            session, waits, None if job else "RTC02", "hold_lease", job_id=job_id, token=token
        )
        if rows is not None:
            self.world.lock(session, [job_id])
        self.agree(session)

    @rule(session=session_numbers, max_jobs=limits)
    def recover(self, session: int, max_jobs: int) -> None:
        seen = [
            job
            for job in sorted(self.world.view(session).values(), key=lambda job: job.id)
            if job.state == "RUNNING" and job.lease_until < self.world.now
        ][:max_jobs]
        lost = [job for job in seen if not self.world.is_held(session, job.id)]
        if any(other.recovers for other in self.world.others(session)):
            lost = []
        ends = [self.world.end(job, ending="LOST") for job in lost if not job.recurring]
        waits = graph.waits_to_end(self.world, session, ends)
        rows = self.call(session, waits, None, "recover_jobs", max_jobs=max_jobs)
        if rows is not None:
            assert rows == [{"recover_jobs": len(lost)}]
            if (layer := self.world.layer(session)) and seen:
                layer.recovers = True
            for job in lost:
                self.ended(session, job, None, ending="LOST")
            graph.end(self.world, session, ends)
        self.agree(session)

    # -- operators

    def any_job(self, session: int, which: int, *states: str) -> int:
        """Choose from the jobs in these states and all jobs ever made."""
        jobs = [job.id for job in self.world.view(session).values() if job.state in states]
        ids = jobs if jobs and which % 2 else self.seen
        return ids[-1 - which // 2 % len(ids)] if ids else 0

    @rule(
        session=session_numbers,
        which=whiches,
        reason=st.sampled_from([None, "", "enough", "r" * 1000]),
    )
    def cancel(self, session: int, which: int, reason: str | None) -> None:
        job_id = self.any_job(session, which, "RUNNING")
        job = self.world.view(session).get(job_id)
        refused = None
        if job is None:
            refused = "RTN01"
        elif job.state in ("COMPLETED", "FAILED"):
            refused = "RTC01"
        touched = graph.touched_by_cancel(self.world, session, [job_id])
        waits = refused is None and graph.is_any_held(self.world, session, touched)
        rows = self.call(session, waits, refused, "cancel_job", job_id=job_id, reason=reason)
        if rows is not None:
            if job.live:
                graph.cancel(self.world, session, [job_id], reason)
                job = self.world.view(session)[job_id]
            assert rows == [{"job_id": job_id, "state": job.state, "run_at": None}]
        self.agree(session)

    @rule(session=session_numbers, which=whiches)
    def retry(self, session: int, which: int) -> None:
        job_id = self.any_job(session, which, "FAILED", "CANCELLED")
        job = self.world.view(session).get(job_id)
        if graph.is_of_workflow(self.world, session, [job_id]):
            self.retry_in_workflow(session, job_id)
            return
        refused, waits = None, False
        if job is None:
            refused = "RTN01"
        elif job.state not in ("FAILED", "CANCELLED"):
            refused = "RTC01"
        else:
            waits = self.world.is_held(session, job_id) or any(
                self.world.key_is_in_the_balance(session, attribute, getattr(job, attribute))
                for attribute in ("key_of_queue", "name")
            )
            if any(
                self.world.holder(session, attribute, getattr(job, attribute))
                for attribute in ("key_of_queue", "name")
            ):
                refused = "RTC03"
        rows = self.call(session, waits, refused, "retry_job", job_id=job_id)
        if rows is not None:
            if job.recurring:
                back = self.world.retry(job)
                self.adopted[job_id] = partial(came_back, back, job)
            else:
                self.world.write(session, self.world.retry(job))
                told = {"job_id": job_id, "state": "SCHEDULED", "run_at": self.world.now}
                assert rows == [told]
        self.agree(session)

    def retry_in_workflow(self, session: int, job_id: int) -> None:
        found = graph.revival(self.world, session, [job_id])
        waits, refused = self.revives(session, found)
        job = self.world.view(session)[job_id]
        if refused is None and job_id not in found.back:
            taken = self.world.holder(session, "key_of_queue", job.key_of_queue)
            refused = "RTC03" if taken and job.state in graph.BAD else "RTC01"
        rows = self.call(session, waits, refused, "retry_job", job_id=job_id)
        if rows is not None:
            graph.revive(self.world, session, found)
            back = self.world.view(session)[job_id]
            assert rows == [{"job_id": job_id, "state": back.state, "run_at": back.run_at}]
        self.agree(session)

    def revives(self, session: int, found: graph.Revival) -> tuple[bool, str | None]:
        """Whether a retry waits for others, and if not, whether a key stands in its way."""
        view = self.world.view(session)
        keys = [view[job_id].key_of_queue for job_id in found.back]
        waits = graph.is_any_held(self.world, session, found.held) or any(
            self.world.key_is_in_the_balance(session, "key_of_queue", key) for key in keys
        )
        known = [key for key in keys if key is not None]
        taken = len(set(known)) < len(known) or any(
            self.world.holder(session, "key_of_queue", key) for key in known
        )
        return waits, "RTC03" if taken else None

    @rule(queue=queue_names, paused=st.booleans())
    def pause_or_resume(self, queue: str, paused: bool) -> None:
        call(self.database.observer, "configure_queue", queue=queue)  # else it might not exist
        call(self.database.observer, "pause_queue" if paused else "resume_queue", queue=queue)
        self.world.queues.setdefault(queue, Queue()).paused = paused

    @rule(
        queue=queue_names,
        settings=st.fixed_dictionaries(
            {
                "max_retries": st.sampled_from([None, 0, 2, 1000]),
                "backoff_base": st.sampled_from([None, MOMENT, SECOND, 365 * DAY]),
                "backoff_cap": st.sampled_from([None, MOMENT, HOUR, 365 * DAY]),
                "timeout": st.sampled_from([None, MOMENT, HOUR]),
            }
        ),
    )
    def configure(self, queue: str, settings: dict[str, Any]) -> None:
        unset = settings["timeout"] is None  # leave or unset what is not given: both, often enough
        names = [name for name, value in settings.items() if value is None] if unset else None
        call(self.database.observer, "configure_queue", queue=queue, **settings, unset=names)
        known = self.world.queues.setdefault(queue, Queue())
        for name, value in settings.items():
            if value is not None or unset:
                setattr(known, name, value)

    @rule()
    def maintain(self) -> None:
        call(self.database.observer, "maintain")
        self.agree(0)

    # -- how a step is made and judged

    def call(
        self, session: int, waits: bool, refused: str | None, function: str, **arguments: Any
    ) -> list[dict[str, Any]] | None:
        """Make a call that must wait for another session, be refused, or succeed.

        Returns:
            Its rows, or None when it waited or was refused.
        """
        conn = self.database.sessions[session]
        in_transaction = self.world.open[session] is not None
        self.adopted.clear()
        try:
            with conn.transaction() if in_transaction or waits else nullcontext():
                if waits:
                    conn.execute("select set_config('lock_timeout', %s, true)", ["1ms"])
                rows = call(conn, function, **arguments)
        except psycopg.errors.LockNotAvailable:
            assert waits, f"{function}{arguments} waited for another session"
            self.database.tally[function, "waited"] += 1
            return None
        except psycopg.Error as error:
            assert error.sqlstate == refused, f"{function}{arguments}: {error.sqlstate}: {error}"
            self.database.tally[function, refused] += 1
            return None
        assert not waits, f"{function}{arguments} did not wait for the session that holds the job"
        assert refused is None, f"{function}{arguments} was not refused with {refused}"
        self.database.tally[function, "answered" if rows else "nothing"] += 1
        return rows

    def agree(self, session: int) -> None:
        """Compare every job with what this session sees, and what is committed with the rules."""
        conn = self.database.sessions[session]
        self.compare(session, self.database.jobs(conn))
        assert self.world.edges(session) == self.database.edges(conn)
        if self.world.open[session] is None:
            assert self.database.broken_invariants() == []

    def compare(self, session: int, actual: dict[int, Job]) -> None:
        for job_id, judge in self.adopted.items():
            judge(actual[job_id])
            self.world.write(session, actual[job_id])
        self.adopted.clear()
        assert self.world.view(session).keys() == actual.keys()
        for job_id, job in self.world.view(session).items():
            if isinstance(job.run_at, Between):
                self.world.settle(session, job, actual[job_id])
        for job_id, job in self.world.view(session).items():
            in_step = replace(job, executions=in_order(list(job.executions)))
            assert differences(in_step, actual[job_id]) == {}


# What is promised of recurring jobs here: the arithmetic of their slots has tests of its own.


def wanted_key(options: dict[str, Any]) -> Key | None:
    return key_of(options["unique_key"], options["queue"])


def was_scheduled(job: Job) -> None:
    assert (job.state, job.run, job.attempt, job.executions) == ("SCHEDULED", 1, 0, ())
    assert job.run_at == job.scheduled_for


def was_claimed(foretold: Job, row: dict[str, Any], now: datetime, after: Job) -> None:
    """It runs, for its slot or for a later one that has come; what was given up is on record."""
    assert row["attempt"] == after.attempt
    assert row["scheduled_for"] == after.scheduled_for
    assert foretold.scheduled_for <= after.scheduled_for <= now
    moved = {name: getattr(after, name) for name in ("run", "attempt", "run_at", "scheduled_for")}
    given_up = replace(foretold, **moved, executions=after.executions)
    assert differences(given_up, after) == {}
    if after.scheduled_for == foretold.scheduled_for or foretold.attempt == 1:
        assert (after.run, after.attempt) == (foretold.run, foretold.attempt)
    else:
        assert (after.run, after.attempt) == (foretold.run + 1, 1)
    news = set(after.executions) - set(foretold.executions)
    assert {e.outcome for e in news} <= {"SKIPPED"}
    assert set(foretold.executions) <= set(after.executions)


def was_updated(before: Job, after: Job) -> None:
    """A new definition takes no lease, no attempt and no history away."""
    for name in (
        "id", "state", "run", "attempt", "token", "worker", "lease_until", "started_at",
        "created_at", "executions",
    ):  # fmt: skip
        assert getattr(before, name) == getattr(after, name), name
    assert after.cancel_requested_at is None, "it was saved after it was cancelled"
    assert after.max_retries >= after.attempt - 1
    if before.state == "RUNNING":
        assert (before.run_at, before.scheduled_for) == (after.run_at, after.scheduled_for)


def went_round(before: Job, one_time: Job, after: Job) -> None:
    """An attempt of a recurring job ended: it is tried again, or the next slot comes."""
    told = {e for e in after.executions if e.outcome != "SKIPPED"}
    (ended,) = told - set(before.executions)
    foretold = one_time.executions[-1]
    assert (ended.run, ended.attempt, ended.outcome) == (
        foretold.run,
        foretold.attempt,
        foretold.outcome,
    )
    assert (ended.error, ended.result, ended.token) == (
        foretold.error,
        foretold.result,
        before.token,
    )
    assert after.state == ended.job_state == "SCHEDULED"
    assert after.run_at == ended.next_run_at
    assert (after.token, after.worker, after.lease_until) == (None, None, None)
    assert after.last_error == one_time.last_error
    if after.run == before.run:
        assert one_time.state == "SCHEDULED", "there was no retry left"
        assert after.attempt == before.attempt
        assert after.scheduled_for == before.scheduled_for
    else:
        assert after.run == before.run + 1
        assert after.attempt == 0
        assert after.scheduled_for > before.scheduled_for
        assert after.progress is None


def came_back(back: Job, before: Job, after: Job) -> None:
    """A cancelled recurring job was retried."""
    assert (
        differences(replace(back, run_at=after.run_at, scheduled_for=after.scheduled_for), after)
        == {}
    )
    assert after.scheduled_for >= before.scheduled_for
