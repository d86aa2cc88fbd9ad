"""What tests read back: the views that people read, and what no view shows."""

from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

# What rota.job_executions has, and the tokens: of a one-time job that completed, its last attempt
# is its row in finished_jobs.
ATTEMPTS = """
    select
        f.id as job_id, f.run, f.attempt, 'SUCCEEDED' as outcome, f.worker, f.token,
        f.scheduled_for, f.started_at, f.finished_at, null as error, f.result,
        'COMPLETED' as job_state, null::timestamptz as next_run_at
    from rota.finished_jobs as f
    where f.token is not null
    union all
    select
        a.job_id, a.run, a.attempt, a.outcome, a.worker, a.token,
        a.scheduled_for, a.started_at, a.finished_at, a.error, a.result,
        a.job_state, a.next_run_at
    from rota.attempts as a
"""


def job(conn: Connection, job_id: int) -> dict[str, Any] | None:
    """Return one row of ``rota.jobs``, or None."""
    cursor = conn.cursor(row_factory=dict_row)
    return cursor.execute("select * from rota.jobs where id = %s", [job_id]).fetchone()


def attempts(conn: Connection, job_id: int) -> list[dict[str, Any]]:
    """Return what is on record of each attempt of a job that ended, its token too."""
    cursor = conn.cursor(row_factory=dict_row)
    return cursor.execute(
        f"select * from ({ATTEMPTS}) as a where job_id = %s order by finished_at",  # noqa: S608
        [job_id],
    ).fetchall()


def as_before(conn: Connection, job_id: int) -> None:
    """Record a job's success as was done before 0075: by a row of its own in attempts."""
    with conn.transaction():
        conn.execute(
            f"""
            insert into rota.attempts (
                job_id, run, attempt, outcome, worker, token, scheduled_for, started_at,
                finished_at, error, result, job_state, next_run_at
            )
            select * from ({ATTEMPTS}) as a where a.job_id = %s
            """,  # noqa: S608
            [job_id],
        )
        conn.execute("update rota.finished_jobs set token = null where id = %s", [job_id])
