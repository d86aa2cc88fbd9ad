"""The database under the model: sessions, a clock that stands still, a full look at the jobs."""

from collections import Counter
from datetime import datetime
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import class_row, dict_row

from tests.functions.views import ATTEMPTS
from tests.model.world import Edge, Execution, Job

# Within one step of the model no time passes, so that what it foretells is exact.
FROZEN_CLOCK = """
    create table rota_test.instant (at timestamptz not null);

    insert into rota_test.instant values ('2026-06-01 12:00+00');

    analyze rota_test.instant;

    create or replace function rota._now()
        returns timestamptz
        language sql
        volatile
    as $$
        select i.at from rota_test.instant as i
    $$;
"""

# A fresh start, without the time that it takes to truncate many tables.
EMPTY = """
    delete from rota.live_jobs;
    delete from rota.finished_jobs;
    delete from rota.attempts;
    delete from rota.schedules;
    delete from rota.lanes;
    delete from rota.turns;
    delete from rota.flows;
    delete from rota.flow_locks;
    delete from rota.queues;
    delete from rota.workers;
    delete from rota.workflows;
    delete from rota.workflow_jobs;
    delete from rota.job_dependencies;
    delete from rota.job_waits;
    delete from rota.minutes;
    delete from rota.totals;
    update rota.chores
    set since = null, until = null, ready_until = null, xid = null, readers = null
    where chore = 'roll_up';
"""

JOBS = """
    select
        j.*, w.workflow_id as workflow, coalesce(w.depends_on, '{}') as depends_on,
        w.if_parent_fails, w.ended_by
    from (
        select
            j.id, j.task, j.queue, j.priority, j.state::text, j.schedule_type::text,
            nullif(j.run_at, 'infinity') as run_at, j.scheduled_for, j.run, j.attempt,
            j.max_retries, j.timeout, j.unique_key, j.name, j.token, j.worker, j.lease_until,
            j.started_at, j.progress, j.cancel_requested_at, j.cancel_reason, j.last_error,
            j.created_at, null::jsonb as result, null::timestamptz as finished_at
        from rota.live_jobs as j
        union all
        select
            f.id, f.task, f.queue, f.priority, f.state::text, f.schedule_type::text,
            nullif(f.run_at, 'infinity'), f.scheduled_for, f.run, f.attempt, f.max_retries,
            f.timeout, f.unique_key, f.name, null, f.worker, null, f.started_at, f.progress,
            f.cancel_requested_at, f.cancel_reason, f.last_error, f.created_at, f.result,
            f.finished_at
        from rota.finished_jobs as f
    ) as j
    left join rota.workflow_jobs as w on w.job_id = j.id
"""

EDGES = "select d.parent_id, d.child_id from rota.job_dependencies as d"


def in_order(executions: list[Execution]) -> tuple[Execution, ...]:
    return tuple(sorted(executions, key=lambda e: (e.run, e.attempt, e.outcome, str(e.token))))


class Database:
    """Connections that all examples share."""

    def __init__(self, url: str, sessions: int) -> None:
        self.observer = self._connect(url)
        self.sessions = [self._connect(url) for _ in range(sessions)]
        self.observer.execute(FROZEN_CLOCK)
        self.tally: Counter[tuple[str, str]] = Counter()  # (function, what came of it)

    def _connect(self, url: str) -> Connection:
        # A wait that the model did not foresee fails the test instead of hanging it.
        return psycopg.connect(
            url, autocommit=True, options="-c lock_timeout=10s -c timezone=UTC -c jit=off"
        )

    def empty(self) -> None:
        for conn in self.sessions:
            conn.rollback()
        self.observer.execute(EMPTY)

    def set_clock(self, instant: datetime) -> None:
        self.observer.execute("update rota_test.instant set at = %s", [instant])

    def count(self) -> None:
        self.observer.execute("select rota.roll_up()")

    def close(self) -> None:
        for conn in [self.observer, *self.sessions]:
            conn.close()

    @staticmethod
    def jobs(conn: Connection) -> dict[int, Job]:
        """Every job with its executions, as this connection sees them."""
        with conn.pipeline():
            jobs = conn.cursor(row_factory=class_row(Job)).execute(JOBS)
            executions = conn.cursor(row_factory=dict_row).execute(ATTEMPTS)
        of_job: dict[int, list[Execution]] = {}
        for row in executions.fetchall():
            of_job.setdefault(row.pop("job_id"), []).append(Execution(**_hashable(row)))
        found = {}
        for job in jobs.fetchall():
            object.__setattr__(job, "executions", in_order(of_job.pop(job.id, [])))
            object.__setattr__(job, "depends_on", tuple(job.depends_on))
            found[job.id] = job
        assert not of_job, f"executions of no job: {of_job}"
        return found

    @staticmethod
    def edges(conn: Connection) -> set[Edge]:
        """The edges, as this connection sees them."""
        return set(conn.execute(EDGES).fetchall())

    def broken_invariants(self) -> list[tuple[Any, ...]]:
        return self.observer.execute("select * from rota.check_invariants()").fetchall()


def _hashable(row: dict[str, Any]) -> dict[str, Any]:
    if isinstance(row["result"], dict):
        row["result"] = tuple(sorted(row["result"].items()))
    return row
