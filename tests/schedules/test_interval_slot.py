"""When an interval comes due: its grid, in the calendar of its zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import Connection

from tests.schedules import oracle
from tests.schedules.zones import ZONES, changes

pytestmark = pytest.mark.leaves_nothing

SLOT = "select rota._interval_slot(%s, %s::interval, %s, %s)"


@st.composite
def grids(draw: st.DrawFn) -> tuple[datetime, int, int, timedelta, str, datetime]:
    """A start, an interval, a zone, and an instant that is often near a clock change."""
    zone = draw(st.sampled_from(list(ZONES)))
    months = draw(st.sampled_from([0, 0, 1, 2, 12, 13, 27]))
    days = draw(st.sampled_from([0, 0, 1, 7, 30]))
    minutes = draw(st.sampled_from([0, 0, 7, 60, 1440, 100_000]))
    if months == days == minutes == 0:
        days = 1
    period = timedelta(days=months * 30 + days, minutes=minutes)
    near = [change for change in changes(zone) if 1990 < change.year < 2050]
    if near and draw(st.booleans()):
        after = draw(st.sampled_from(near)) + timedelta(minutes=draw(st.integers(-1600, 1600)))
    else:
        after = draw(
            st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC))
        )
    slots_before = draw(st.integers(-2, 150))
    starts_at = after - slots_before * period - timedelta(seconds=draw(st.integers(0, 90_000)))
    starts_at = max(starts_at, datetime(1986, 6, 1, tzinfo=UTC))
    return starts_at, months, days, timedelta(minutes=minutes), zone, after


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # the failing assertion names its one question
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(questions=st.lists(grids(), min_size=25, max_size=25))
def test_the_slot_agrees_with_counting_from_the_start(
    conn: Connection,
    agreed: list[str],
    questions: list[tuple[datetime, int, int, timedelta, str, datetime]],
) -> None:
    questions = [question for question in questions if question[4] in agreed]

    rows = conn.execute(
        "select rota._interval_slot("
        "     q.starts_at, make_interval(months => q.months, days => q.days, secs => q.seconds),"
        "     q.zone, q.after)"
        " from unnest(%s::timestamptz[], %s::integer[], %s::integer[], %s::float8[],"
        "     %s::text[], %s::timestamptz[]) with ordinality"
        "     as q (starts_at, months, days, seconds, zone, after, n)"
        " order by q.n",
        [
            list(column)
            for column in zip(
                # a timedelta of 24 hours would arrive as a day of the calendar
                *(
                    (starts_at, months, days, elapsed.total_seconds(), zone, after)
                    for starts_at, months, days, elapsed, zone, after in questions
                ),
                strict=True,
            )
        ],
    ).fetchall()

    for (starts_at, months, days, elapsed, zone, after), (answer,) in zip(
        questions, rows, strict=True
    ):
        expected = oracle.next_slot(starts_at, months, days, elapsed, ZoneInfo(zone), after)
        assert answer == expected, (starts_at, months, days, elapsed, zone, after)


def slots(conn: Connection, starts_at: str, every: str, zone: str, count: int) -> list[str]:
    """The slots that follow the first, in the zone's own time with its offset."""
    found = []
    moment = datetime.fromisoformat(starts_at)
    for _ in range(count):
        [moment] = conn.execute(SLOT, [starts_at, every, zone, moment]).fetchone()
        found.append(moment.astimezone(ZoneInfo(zone)).isoformat(" ", "minutes"))
    return found


@pytest.mark.parametrize(
    ("starts_at", "every", "zone", "expected"),
    [
        pytest.param(
            "2025-01-31T08:00+01:00", "1 month", "Europe/Berlin",
            ["2025-02-28 08:00+01:00", "2025-03-31 08:00+02:00", "2025-04-30 08:00+02:00"],
            id="the 31st stays the 31st after shorter months",
        ),
        pytest.param(
            "2025-03-29T02:30+01:00", "1 day", "Europe/Berlin",
            ["2025-03-30 03:00+02:00", "2025-03-31 02:30+02:00"],
            id="days are days of the calendar",
        ),
        pytest.param(
            "2025-03-29T02:30+01:00", "24 hours", "Europe/Berlin",
            ["2025-03-30 03:30+02:00", "2025-03-31 03:30+02:00"],
            id="hours are elapsed time",
        ),
        pytest.param(
            "2025-10-26T02:30+01:00", "1 day", "Europe/Berlin",
            ["2025-10-27 02:30+01:00", "2025-10-28 02:30+01:00"],
            id="a start in the second pass of an hour",
        ),
        pytest.param(
            "2011-12-29T09:00-10:00", "1 day", "Pacific/Apia",
            ["2011-12-31 00:00+14:00", "2011-12-31 09:00+14:00"],
            id="a day that is skipped",
        ),
        pytest.param(
            "2024-02-29T00:00+00:00", "1 year", "UTC",
            ["2025-02-28 00:00+00:00", "2026-02-28 00:00+00:00", "2027-02-28 00:00+00:00",
             "2028-02-29 00:00+00:00"],
            id="leap days come back",
        ),
    ],
)  # fmt: skip
def test_the_grid_follows_the_calendar(
    conn: Connection, starts_at: str, every: str, zone: str, expected: list[str]
) -> None:
    assert slots(conn, starts_at, every, zone, len(expected)) == expected


def test_the_first_slot_is_the_start(conn: Connection) -> None:
    starts_at = datetime(2025, 1, 1, 12, tzinfo=UTC)

    before = starts_at - timedelta(days=1000)

    assert conn.execute(SLOT, [starts_at, "1 day", "UTC", before]).fetchone() == (starts_at,)


@pytest.mark.parametrize("every", ["1 second", "1 day", "1 month", "1 month 1 day 1 second"])
def test_a_start_in_the_distant_past_is_not_counted_from(conn: Connection, every: str) -> None:
    after = datetime(9990, 5, 5, 5, 5, 5, tzinfo=UTC)

    with conn.transaction():
        conn.execute("set local statement_timeout = '1s'")
        [slot] = conn.execute(SLOT, ["0002-01-01 00:00+00", every, "UTC", after]).fetchone()

    assert after < slot < after + timedelta(days=35)


@pytest.mark.parametrize(
    ("starts_at", "every", "after"),
    [
        ("2025-01-01", "178000000 years", "2025-01-02"),
        ("2025-01-01", "-178000000 years", "2025-01-02"),
        ("2025-01-01", "2147483647 days", "2025-01-02"),
        ("2025-01-01", "2147483647 hours", "2025-01-02"),
        ("2025-01-01", "9000 years", "2025-01-02"),
        ("2025-01-01", "0", "2025-01-02"),
        ("2025-01-01", "1 month -1 day", "2025-01-02"),
        ("2025-01-01", "1 day", "infinity"),
        ("2025-01-01", "1 day", "9999-12-31"),
        ("-infinity", "1 day", "2025-01-02"),
    ],
)
def test_no_slot_is_better_than_an_error(
    conn: Connection, starts_at: str, every: str, after: str
) -> None:
    assert conn.execute(SLOT, [starts_at, every, "UTC", after]).fetchone() == (None,)
