"""A house with a past and a trouble, for the pictures of the pages in the docs."""

from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.waiting import wait_until

HOURS = 5

# As they would have been written by finish_jobs in the last hours.
ENDED = """
    insert into rota.finished_jobs (
        id, task, state, schedule_type, queue, priority, run_at, attempt, max_retries, payload,
        result, created_at, started_at, finished_at, run, token, worker, scheduled_for
    )
    select
        1000 + n, task, 'COMPLETED', 'ONE_TIME', queue, 0, ended_at - ran - waited,
        1 + (n %% 30 = 0)::integer, 3,
        jsonb_build_object('customer', 1000 + n %% 97, 'to', format('user%%s@example.com', n)),
        '{"sent": true}', ended_at - ran - waited, ended_at - ran, ended_at, 1, gen_random_uuid(),
        format('web-%%s:4711', 1 + n %% 3), ended_at - ran - waited
    from (
        select
            n,
            (array['send_email', 'resize_image', 'charge_card', 'sync_crm'])[1 + n * 7 %% 4]
                as task,
            (array['mail', 'media', 'billing', 'crm'])[1 + n * 7 %% 4] as queue,
            statement_timestamp() - %(hours)s * interval '1 hour' * (1 - n / 9000.0)
                + interval '1 second' * (200 * cos(n / 300.0)) as ended_at,
            interval '1 millisecond' * (5 + abs(sin(n / 700.0)) * 900 + n %% 37 * 8) as waited,
            interval '1 millisecond' * (20 + n %% 53 * 40) as ran
        from generate_series(1, 9000) as n
    ) as e
    where ended_at < statement_timestamp() - interval '1 second'
"""
FAILED = """
    insert into rota.attempts (
        job_id, run, attempt, token, worker, started_at, finished_at, outcome, error,
        scheduled_for, job_state
    )
    select
        1000 + 30 * n, 1, 1, gen_random_uuid(), 'web-2:99', at - interval '0.4 seconds', at,
        'FAILED',
        (array[
            'ConnectionError: refused by smtp.example.com:25',
            'Timeout: the provider did not answer within 30 s',
            'CardDeclined: insufficient funds'
        ])[1 + n %% 3],
        at, 'SCHEDULED'
    from (
        select n, statement_timestamp() - %(hours)s * interval '1 hour' * (1 - n / 300.0) as at
        from generate_series(1, 299) as n
    ) as f
    where at < statement_timestamp() - interval '1 second'
"""
DEPTHS = """
    insert into rota.depths (minute, seconds, queue, scheduled, due, running, oldest_due_seconds)
    select
        date_trunc('minute', statement_timestamp(), 'UTC') - n * interval '1 minute', 60, queue,
        150 + 50 * sin(n / 20.0 + length(queue)), 60 + 50 * sin(n / 20.0 + length(queue)),
        6 + 5 * sin(n / 7.0), 20
    from generate_series(1, 60 * %(hours)s) as n
    cross join unnest(array['mail', 'media', 'billing']) as queue
    on conflict do nothing
"""
# Of the schedule sync, each of this week.
RUNS = """
    with job as (
        update rota.live_jobs
        set created_at = date_trunc('week', created_at), run_at = created_at + interval '7 minutes'
        where name = 'sync'
        returning id
    ), schedule as (
        update rota.schedules as s
        set starts_at = date_trunc('week', s.starts_at)
        from job
        where s.job_id = job.id
    )
    insert into rota.attempts (
        job_id, run, attempt, token, worker, started_at, finished_at, outcome, error,
        scheduled_for, job_state
    )
    select
        job.id, row_number() over (order by at), 1,
        case when not is_skipped then gen_random_uuid() end, 'web-2:4711',
        case when not is_skipped then at end, at + interval '2 seconds',
        case when is_skipped then 'SKIPPED' when is_failed then 'FAILED' else 'SUCCEEDED' end,
        case when is_failed then 'CRM: 502 Bad Gateway' end, at, 'SCHEDULED'
    from job
    cross join generate_series(
        date_trunc('week', statement_timestamp()), statement_timestamp(), interval '20 minutes'
    ) as at
    cross join lateral (
        select
            extract(epoch from at)::bigint / 1200 % 41 = 0 as is_failed,
            extract(epoch from at)::bigint / 1200 % 67 between 1 and 2 as is_skipped
    ) as o
"""
SINCE = """
    update rota.chores
    set since = date_trunc('hour', statement_timestamp(), 'UTC') - %(hours)s * interval '1 hour',
        until = date_trunc('hour', statement_timestamp(), 'UTC') - %(hours)s * interval '1 hour'
    where chore = 'roll_up'
"""


def roll_up_all(conn: Connection) -> None:
    """Have all minutes counted that are over; it takes several looks, and waits for others."""
    until = "select counted_until > now() - interval '2 minutes' from rota.statistics_age()"
    wait_until(lambda: call(conn, "roll_up") and conn.execute(until).fetchone()[0])


# A report from three sources: one of its parts has failed, with what depends on it.
REPORT = {
    "orders": ("extract", []),
    "customers": ("extract", []),
    "prices": ("extract", []),
    "clean orders": ("clean", ["orders"]),
    "clean customers": ("clean", ["customers"]),
    "joined": ("join", ["clean orders", "clean customers", "prices"]),
    "by region": ("aggregate", ["joined"]),
    "by product": ("aggregate", ["joined"]),
    "by day": ("aggregate", ["joined"]),
    "report": ("render", ["by region", "by product"]),
    "charts": ("render", ["by day"]),
    "warehouse": ("publish", ["by region", "by product"]),
    "tell us": ("send_email", "all"),
}


def report(conn: Connection) -> int:
    """Begin the report; return its workflow."""
    jobs = [
        {"task": task, "node": node, "queue": "crm", "depends_on": above,
         "if_parent_fails": "run" if above == "all" else "cancel"}
        for node, (task, above) in REPORT.items()
    ]  # fmt: skip
    made = call(conn, "enqueue_workflow", jobs=Jsonb(jobs), name="monthly report")
    node_of = {row["job_id"]: row["node"] for row in made}
    while claimed := call(conn, "claim_next_job", queues=["crm"], worker="web-2:4711", max_jobs=9):
        for job in claimed:
            node = node_of.get(job["id"])
            if node not in ("by product", None):
                error = "ValueError: the day has no prices" if node == "by day" else None
                call(conn, "finish_job", job_id=job["id"], token=job["token"], error=error,
                     retry=False)  # fmt: skip
    return made[0]["workflow_id"]


def tell(conn: Connection) -> dict[str, int]:
    """Write the story; return the job and the workflow whose pages are to be looked at."""
    hours = {"hours": HOURS}
    for statement in (ENDED, FAILED, DEPTHS, SINCE):
        conn.execute(statement, hours)
    conn.execute("select setval('rota.job_ids', 20000)")
    for number in range(140):
        enqueue(conn, "send_email", "mail", number * 20 - 200)
    for queue, task, times in (("sms", "send_sms", 400), ("media", "resize_image", 23)):
        for _ in range(times):
            enqueue(conn, task, queue, -18 * 60 if queue == "sms" else 0)
    call(conn, "schedule_job", task="nightly_report", name="nightly", queue="reports",
         cron="30 2 * * *", time_zone="Europe/Berlin")  # fmt: skip
    call(conn, "schedule_job", task="sync_crm", name="sync", every="20 minutes", queue="crm")
    conn.execute(RUNS)
    call(conn, "configure_queue", queue="media", max_retries=5)
    for number, queues in enumerate((["mail", "media"], ["mail", "crm"], ["billing"]), 1):
        call(conn, "announce_worker", worker=f"web-{number}:4711", host=f"web-{number}", pid=4711,
             queues=queues, concurrency=8, version=call(conn, "version")[0]["version"])  # fmt: skip
    call(conn, "claim_next_job", queues=["mail"], worker="web-1:4711", lease="1 hour", max_jobs=6)
    watched = enqueue(conn, "charge_card", "billing", 0, max_retries=2)
    for error in ("Timeout: the provider did not answer within 30 s", "CardDeclined: try later"):
        [job] = call(conn, "claim_next_job", queues=["billing"], worker="web-3:4711")
        call(conn, "finish_job", job_id=job["id"], token=job["token"], error=error)
        conn.execute("update rota.live_jobs set run_at = now() where id = %s", [watched])
    [job] = call(conn, "claim_next_job", queues=["billing"], worker="web-3:4711")
    failed = "Traceback (most recent call last):\n  …\nCardDeclined: insufficient funds"
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error=failed)
    workflow = report(conn)
    call(conn, "take_census", older_than="0 seconds", force=True)
    roll_up_all(conn)
    return {"job": watched, "workflow": workflow}


def enqueue(conn: Connection, task: str, queue: str, seconds: int, **more: int) -> int:
    """Add a job, due in so many seconds, or since."""
    [job] = call(conn, "enqueue_job", task=task, queue=queue,
                 payload=Jsonb({"customer": 1017, "amount": 4900}), **more)  # fmt: skip
    at = "update rota.live_jobs set run_at = now() + %s * interval '1 second' where id = %s"
    conn.execute(at, [seconds, job["job_id"]])
    return job["job_id"]
