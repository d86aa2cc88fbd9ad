"""What callers have set for themselves: zone, styles, language, encoding."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from rota.db.deploy import deploy
from rota.db.gateway import call
from rota.db.version import FOLDER
from tests.conftest import new_connection
from tests.functions.test_cursor import set_cursor
from tests.functions.test_upkeep import finish_one, in_default

DAY = timedelta(days=1)
# The evening before Lord Howe puts its clocks forward by half an hour; the day has 23.5 hours.
EVE = datetime(2027, 10, 2, 6, tzinfo=UTC)
ZONES = ["Australia/Lord_Howe", "UTC"]
STYLES = ["SQL, DMY", "SQL, MDY", "Postgres, DMY", "Postgres, MDY", "German", "ISO, DMY"]


@pytest.fixture
def abroad(connect: Callable, clock, request) -> psycopg.Connection:
    """A session of a zone, on the eve of a change of its clocks."""
    clock.set(EVE)
    conn = connect()
    conn.execute("select set_config('timezone', %s, false)", [request.param])
    return conn


def soon(instant: datetime) -> bool:
    return abs(instant - EVE - DAY) < timedelta(minutes=2)


@pytest.mark.parametrize("abroad", ZONES, indirect=True)
def test_a_day_has_24_hours_in_leases_delays_and_timeouts(abroad, clock):
    call(abroad, "enqueue_job", task="t", timeout="1 day")
    (job,) = call(abroad, "claim_next_job", lease="1 day")
    pair = {"job_id": job["id"], "token": job["token"]}

    assert soon(job["lease_until"])
    assert soon(call(abroad, "heartbeat_job", **pair, lease="1 day")[0]["lease_until"])
    (row,) = call(
        abroad, "heartbeat_jobs", job_ids=[job["id"]], tokens=[job["token"]], lease="1 day"
    )
    assert soon(row["lease_until"])
    assert soon(call(abroad, "release_job", **pair, delay="1 day")[0]["run_at"])

    clock.advance(DAY)
    (job,) = call(abroad, "claim_next_job", lease="2 days")
    pair = {"job_id": job["id"], "token": job["token"]}
    clock.advance(DAY - timedelta(minutes=10))
    call(abroad, "finish_job", **pair, error="not in time?", retry=False)
    assert abroad.execute("select outcome from rota.executions where attempt = 1").fetchall()[
        -1
    ] == ("FAILED",)


@pytest.mark.parametrize("abroad", ZONES, indirect=True)
def test_a_day_has_24_hours_in_retry_in_and_fixed_delay(abroad):
    call(abroad, "enqueue_job", task="t")
    (job,) = call(abroad, "claim_next_job")
    pair = {"job_id": job["id"], "token": job["token"]}
    assert soon(call(abroad, "finish_job", **pair, error="e", retry_in="1 day")[0]["run_at"])

    call(abroad, "schedule_job", task="t", every="1 day", fixed_delay=True)
    (job,) = call(abroad, "claim_next_job")
    assert soon(call(abroad, "finish_job", job_id=job["id"], token=job["token"])[0]["run_at"])


@pytest.mark.parametrize("abroad", ZONES, indirect=True)
def test_a_day_has_24_hours_in_max_lateness(abroad, clock):
    start = EVE + timedelta(minutes=5)
    call(abroad, "schedule_job", task="t", every="10 days", starts_at=start, max_lateness="1 day")
    clock.advance(DAY - timedelta(minutes=10))

    assert len(call(abroad, "claim_next_job")) == 1


def bounds(conn: psycopg.Connection) -> list[str]:
    conn.execute("set timezone = 'UTC'")
    conn.execute("set datestyle = 'ISO'")
    return [
        bound
        for (bound,) in conn.execute(
            """
            select pg_get_expr(relpartbound, oid)
            from pg_class
            where relispartition and relkind = 'r' and relname ~ '_[0-9]{8}$'
            """
        )
    ]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "America/New_York", "Asia/Kolkata"])
def test_weeks_begin_on_monday_in_utc_whoever_maintains(connect, clock, style, zone):
    conn = connect()
    clock.set(datetime(2029, 9, 1, tzinfo=UTC))  # some weeks before both change their clocks
    conn.execute("select set_config('timezone', %s, false)", [zone])
    conn.execute("select set_config('datestyle', %s, false)", [style])

    call(conn, "maintain")
    clock.advance(timedelta(days=28))
    call(conn, "maintain")

    conn = connect()
    found = bounds(conn)
    assert len(found) >= 2 * 9
    assert all(bound.count("00:00:00+00") == 2 for bound in found)


@pytest.mark.parametrize("shift", ["5 hours", "-5 hours"])
def test_a_week_whose_bounds_are_off_stops_no_other(conn, clock, shift):
    """As maintain made them in sessions whose DateStyle writes the name of a zone."""
    wednesday = datetime(2029, 9, 5, tzinfo=UTC)
    clock.set(wednesday)
    call(conn, "maintain")  # up to the week of October 1
    for parent in ("finished_jobs", "attempts"):
        conn.execute(
            f"""
            create table rota.{parent}_20291015 partition of rota.{parent}
                for values from ('2029-10-15 00:00Z'::timestamptz + interval '{shift}')
                to ('2029-10-22 00:00Z'::timestamptz + interval '{shift}')
            """
        )

    clock.advance(timedelta(days=28))
    call(conn, "maintain")

    for weeks in range(1, 9):
        clock.set(wednesday + timedelta(weeks=weeks))
        finish_one(conn)
    assert [in_default(conn, parent) for parent in ("finished_jobs", "attempts")] == [0, 0]


@pytest.mark.parametrize("style", STYLES)
def test_a_backfill_in_one_style_is_known_in_another(connect, clock, style):
    clock.set(datetime(2027, 3, 1, tzinfo=UTC))
    conn = connect()
    call(conn, "schedule_job", task="t", name="s", cron="0 0 * * *", starts_at="2027-01-01 00:00Z")
    span = {"name": "s", "starts_at": "2027-01-01 00:00Z", "ends_at": "2027-02-10 00:00Z"}
    conn.execute("select set_config('datestyle', %s, false)", [style])
    first = call(conn, "backfill_schedule", **span)

    conn.execute("set datestyle = 'ISO, MDY'")
    again = call(conn, "backfill_schedule", **span)
    conn.execute("set datestyle = 'SQL, MDY'")
    once_more = call(conn, "backfill_schedule", **span)

    assert len(first) == 40
    assert all(row["created"] for row in first)
    assert not any(row["created"] for row in again + once_more)
    keys = conn.execute("select unique_key from rota.jobs where unique_key like '%02-01%'")
    assert keys.fetchall()[0][0].endswith(" for 2027-02-01 00:00:00")


def backfill_keys(conn: psycopg.Connection) -> list[str]:
    rows = conn.execute("select unique_key from rota.jobs where unique_key is not null order by id")
    return [key for (key,) in rows]


@pytest.mark.parametrize("style", STYLES)
def test_keys_of_backfills_before_an_upgrade_are_written_anew(db, connect, clock, style):
    clock.set(datetime(2027, 3, 1, tzinfo=UTC))
    conn = connect()
    call(conn, "schedule_job", task="t", name="s", cron="0 0 1-3 * *", starts_at="2027-01-01 0:00Z")
    span = {"name": "s", "starts_at": "2027-01-01 00:00Z", "ends_at": "2027-02-10 00:00Z"}
    call(conn, "backfill_schedule", **span)
    call(conn, "enqueue_job", task="t", unique_key="backfill of job 1 for somebody")
    expected = backfill_keys(conn)
    conn.execute("select set_config('datestyle', %s, false)", [style])
    conn.execute(
        """
        update rota.live_jobs
        set unique_key = format('backfill of job 1 for %s', scheduled_for at time zone 'UTC')
        where unique_key like '%:00'
        """
    )
    migration = Path(FOLDER / "migrations" / "0021_backfill_keys.sql").read_text()

    conn.execute(migration)

    assert backfill_keys(conn) == expected
    assert not any(row["created"] for row in call(conn, "backfill_schedule", **span))


@pytest.mark.parametrize("style", STYLES)
def test_a_cursor_is_read_after_the_session_has_changed_its_styles(connect, style):
    conn = connect()
    conn.execute("select set_config('datestyle', %s, false)", [style])
    conn.execute("set intervalstyle = 'sql_standard'")
    call(conn, "enqueue_job", task="t")
    set_cursor(conn)
    (cursor,) = conn.execute("select current_setting(rota._lane_setting('default', 0))").fetchone()
    assert cursor.startswith("(default,0,")
    conn.execute("set timezone = 'Asia/Kolkata'")
    for other in STYLES:
        conn.execute("select set_config('datestyle', %s, false)", [other])
        conn.execute("set intervalstyle = 'iso_8601'")

        conn.execute("select count(*) from rota.claim_next_job(max_jobs => 2)")


def test_messages_are_the_same_in_every_session(connect):
    def complaints(conn):
        for function, arguments in (
            ("enqueue_job", {"task": "t", "run_at": "9999-02-03 04:05:06.7+00"}),
            ("enqueue_job", {"task": "t", "timeout": "2 years 1 day 02:03:04"}),
            ("claim_next_job", {"lease": "-1 days -02:03:04"}),
            ("schedule_job", {"task": "t", "every": "-1 days"}),
        ):
            with pytest.raises(psycopg.Error) as caught:
                call(conn, function, **arguments)
            yield caught.value.diag.message_primary

    plain, strange = connect(), connect()
    strange.execute("set datestyle = 'SQL, DMY'")
    strange.execute("set intervalstyle = 'sql_standard'")
    strange.execute("set timezone = 'Asia/Kolkata'")

    assert list(complaints(strange)) == list(complaints(plain))
    assert next(complaints(plain)).endswith("not at 9999-02-03 04:05:06.7+00")


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP"])
def test_a_client_of_any_encoding_can_read_what_functions_write(connect, encoding):
    conn = connect(client_encoding=encoding)

    for cron in ("*/1 2-3 * * *", "0,1,2,3,4,5 2 * * *"):  # the second names five skipped times
        rows = call(
            conn, "preview_schedule", cron=cron, time_zone="Europe/Berlin", n=5,
            from_time="2027-03-28 00:59Z",
        )  # fmt: skip
        assert len(rows) == 5


@pytest.fixture
def turkish_db(cluster, administrate, new_name):
    """A database that knows of the dotless i."""
    name = new_name()
    try:
        administrate(
            "create database {} template template0 encoding 'UTF8'"
            " locale_provider icu icu_locale 'tr-TR'",
            name,
        )
    except errors.FeatureNotSupported:
        pytest.skip("this server does not have ICU")
    deploy(cluster.url(name))
    yield cluster.url(name)
    administrate("drop database {} with (force)", name)


def test_a_turkish_database_knows_what_fri_and_daily_mean(turkish_db):
    with new_connection(turkish_db, autocommit=True) as conn:
        assert conn.execute("select upper('i')").fetchone() == ("İ",)
        for cron in ("0 0 * * fri", "0 0 * * Fri-sat", "@daily", "@midnight", "0 0 l * *"):
            assert call(conn, "next_run", cron=cron, time_zone="UTC", after=EVE)
        for cron in ("0 0 * * fr\u0131", "@da\u0131ly", "0\u20030 * * *"):
            with pytest.raises(psycopg.Error) as caught:
                call(conn, "next_run", cron=cron, time_zone="UTC", after=EVE)
            assert caught.value.sqlstate == "RTV02"


def test_a_claim_above_read_committed_says_what_to_set(conn):
    conn.execute("set default_transaction_isolation = 'repeatable read'")

    with pytest.raises(psycopg.Error) as caught:
        call(conn, "claim_next_job")

    assert caught.value.sqlstate == "RTC04"
    assert "READ COMMITTED only, not at REPEATABLE READ" in str(caught.value)
