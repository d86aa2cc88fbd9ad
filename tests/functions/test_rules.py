"""What no live job can be is refused whoever writes it: here the owner, by hand."""

import psycopg
import pytest

from rota.db.gateway import call

BROKEN = {
    "running_iff_leased": [
        "state = 'RUNNING', attempt = 1",
        "token = gen_random_uuid()",
        "worker = 'w'",
        "lease_until = now()",
        "started_at = now()",
        "state = 'RUNNING', attempt = 1, token = gen_random_uuid(), worker = 'w'",
    ],
    "only_a_running_job_waits_for_its_cancel": ["cancel_requested_at = now()"],
    "attempt_within_max_retries": ["attempt = 5", "attempt = -1", "max_retries = 0, attempt = 2"],
    "running_attempt_is_charged": [
        "state = 'RUNNING', token = gen_random_uuid(), worker = 'w', lease_until = now(),"
        " started_at = now()"
    ],
    "only_a_schedule_waits_for_ever": ["run_at = 'infinity'"],
    "only_a_schedule_is_named": ["name = 'n'"],
}
CASES = [(rule, change) for rule, changes in BROKEN.items() for change in changes]
POSSIBLE = [
    "state = 'RUNNING', attempt = 4, token = gen_random_uuid(), worker = 'w',"
    " lease_until = now(), started_at = now(), cancel_requested_at = now()",
    "schedule_type = 'CRON', run_at = 'infinity', name = 'n'",
    "attempt = 4",
]


@pytest.fixture
def job(conn):
    return call(conn, "enqueue_job", task="t")[0]["job_id"]


def insert(conn, change):
    """Insert a copy of the job with a change made to it, which no update has seen."""
    columns, values = zip(*(part.split(" = ", 1) for part in split(change)), strict=True)
    names = [
        name
        for (name,) in conn.execute(
            "select attname from pg_attribute"
            " where attrelid = 'rota.live_jobs'::regclass and attnum > 0 and not attisdropped"
        )
    ]
    chosen = {name: name for name in names} | dict(zip(columns, values, strict=True))
    chosen["id"] = "id + 1000"
    conn.execute(
        f"insert into rota.live_jobs ({', '.join(chosen)})"  # noqa: S608
        f" select {', '.join(chosen.values())} from rota.live_jobs"
    )


def split(change):
    return [part.strip() for part in change.replace(",", ",\n").split(",\n")]


@pytest.mark.parametrize(("rule", "change"), CASES)
def test_an_update_to_what_no_job_can_be_is_refused_by_the_name_of_the_rule(
    conn, job, rule, change
):
    with pytest.raises(psycopg.Error, match=f"job {job} would break the rule {rule}") as refused:
        conn.execute(f"update rota.live_jobs set {change}")  # noqa: S608

    assert refused.value.sqlstate == "RTI01"


@pytest.mark.parametrize(("rule", "change"), CASES)
def test_a_new_row_that_no_job_can_be_is_refused_by_the_name_of_the_rule(conn, job, rule, change):
    with pytest.raises(psycopg.Error, match=f"would break the rule {rule}") as refused:
        insert(conn, change)

    assert refused.value.sqlstate == "RTI01"


@pytest.mark.parametrize("change", POSSIBLE)
def test_what_a_job_can_be_is_taken(conn, job, change):
    conn.execute("begin")
    insert(conn, change)
    change = change.replace("'n'", "null")
    conn.execute(f"update rota.live_jobs set {change}")  # noqa: S608
    conn.execute("rollback")


def test_of_a_thousand_rows_one_that_is_wrong_undoes_the_statement(conn, job):
    conn.execute("select count(*) from generate_series(1, 999), rota.enqueue_job('t')")

    with pytest.raises(psycopg.Error, match=f"job {job} would break"):
        conn.execute("update rota.live_jobs set attempt = case id when %s then 9 else 1 end", [job])

    assert conn.execute("select sum(attempt) from rota.live_jobs").fetchone() == (0,)


def test_the_table_has_no_check_of_its_own_and_both_triggers(conn):
    """A CHECK would be read anew by every statement; see db/triggers.sql."""
    checks = conn.execute(
        "select conname from pg_constraint"
        " where conrelid = 'rota.live_jobs'::regclass and contype = 'c'"
    ).fetchall()
    triggers = conn.execute(
        "select tgname, tgenabled from pg_trigger"
        " where tgrelid = 'rota.live_jobs'::regclass and not tgisinternal order by 1"
    ).fetchall()

    assert checks == []
    assert triggers == [("impossible_changes", "O"), ("impossible_jobs", "O")]
