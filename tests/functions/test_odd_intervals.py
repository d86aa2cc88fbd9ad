"""Intervals whose months and days are of opposite signs: as long as they look, wherever they fall.

PostgreSQL compares intervals by months of 30 days, and adds them by the calendar. '1 month -29
days' is a day by comparison; added to a day in February it leads back to January.
"""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from db.gateway import call

FEBRUARY = datetime(2027, 2, 10, 12, tzinfo=UTC)
DECEITFUL = "1 month -29 days -23:59:59"  # a second by comparison, 1 day 23:59:59 back in February


@pytest.fixture
def february(clock):
    clock.set(FEBRUARY)


def test_a_lease_is_never_born_expired(conn, february):
    call(conn, "enqueue_job", task="t")

    try:
        claimed = call(conn, "claim_next_job", lease=DECEITFUL)
    except psycopg.Error as error:
        assert error.sqlstate == "RTV01"
    else:
        assert claimed[0]["lease_until"] > FEBRUARY


@pytest.mark.parametrize("delay", [DECEITFUL, "1 month -30 days"])
@pytest.mark.parametrize(
    ("function", "argument"), [("finish_job", "retry_in"), ("release_job", "delay")]
)
def test_a_delay_never_leads_back(conn, february, function, argument, delay):
    call(conn, "enqueue_job", task="t")
    (claimed,) = call(conn, "claim_next_job")
    arguments = {"job_id": claimed["id"], "token": claimed["token"], argument: delay}
    if function == "finish_job":
        arguments["error"] = "boom"

    try:
        (told,) = call(conn, function, **arguments)
    except psycopg.Error as error:
        assert error.sqlstate == "RTV01"
    else:
        assert told["run_at"] > FEBRUARY


def test_a_timeout_has_not_passed_when_the_attempt_begins(conn, february):
    try:
        call(conn, "enqueue_job", task="t", timeout=DECEITFUL)
    except psycopg.Error as error:
        assert error.sqlstate == "RTV01"
    else:
        (claimed,) = call(conn, "claim_next_job")
        assert FEBRUARY + claimed["timeout"] > FEBRUARY
        call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"], error="boom")
        ((outcome,),) = conn.execute("select outcome from rota.executions").fetchall()
        assert outcome == "FAILED"


def test_a_month_is_a_lease_like_any_other(conn):
    call(conn, "enqueue_job", task="t")

    (claimed,) = call(conn, "claim_next_job", lease="1 month")

    assert claimed["lease_until"] > datetime.now(UTC) + timedelta(days=27)
