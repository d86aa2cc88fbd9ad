"""What preview_schedule shows: the runs that would come, and what the clocks do to them."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from rota.db.gateway import call

SPRING = datetime(
    2030, 3, 30, tzinfo=UTC
)  # the clocks of Berlin skip from two to three on the 31st
AUTUMN = datetime(2030, 10, 26, tzinfo=UTC)  # and go back from three to two on the 27th
DAY = timedelta(days=1)


@pytest.fixture
def preview(conn):
    """Preview a schedule in Berlin, as (day and local time, first word of the note)."""

    def rows(**arguments):
        return [
            (row["local_time"][8:], (row["note"] or "").split(":")[0])
            for row in call(conn, "preview_schedule", **{"time_zone": "Europe/Berlin", **arguments})
        ]

    return rows


def test_a_time_that_is_skipped_is_marked_as_moved(preview):
    assert preview(cron="30 2 * * *", n=3, from_time=SPRING) == [
        ("30 02:30:00+01:00", ""),
        ("31 03:00:00+02:00", "moved"),
        ("01 02:30:00+02:00", ""),
    ]


def test_times_that_fall_on_one_moment_are_marked_as_merged(preview):
    assert preview(cron="0,30 2 * * *", n=4, from_time=SPRING) == [
        ("30 02:00:00+01:00", ""),
        ("30 02:30:00+01:00", ""),
        ("31 03:00:00+02:00", "merged"),
        ("01 02:00:00+02:00", ""),
    ]
    assert preview(cron="30 2,3 * * *", n=2, from_time=SPRING + DAY) == [
        ("31 03:00:00+02:00", "moved"),
        ("31 03:30:00+02:00", ""),
    ]


def test_a_merged_run_names_the_times_that_it_stands_for(conn):
    (row,) = call(
        conn,
        "preview_schedule",
        cron="0,30 2,3 * * *",
        time_zone="Europe/Berlin",
        n=1,
        from_time=SPRING + DAY,
    )

    assert row["run_at"] == datetime(2030, 3, 31, 1, tzinfo=UTC)
    for time in ("02:00:00", "02:30:00", "03:00:00"):
        assert f"2030-03-31 {time}" in row["note"]


def test_a_repeated_time_is_marked_and_runs_once(preview):
    assert preview(cron="30 2 * * *", n=3, from_time=AUTUMN) == [
        ("26 02:30:00+02:00", ""),
        ("27 02:30:00+02:00", "repeated"),
        ("28 02:30:00+01:00", ""),
    ]


def test_seconds_that_follow_each_other_are_not_taken_for_one(preview):
    for start in (SPRING, SPRING + DAY, AUTUMN):
        rows = preview(cron="*/1 * * * * *", n=5, from_time=start)
        assert [note for _, note in rows] == [""] * 5
    rows = preview(cron="0-59 0-59 0-23 * * *", n=5, from_time=SPRING)
    assert [note for _, note in rows] == [""] * 5


def test_of_two_moments_with_one_local_time_it_says_which_is_which(conn):
    rows = call(
        conn,
        "preview_schedule",
        cron="0 */1 * * *",
        time_zone="Europe/Berlin",
        n=2,
        from_time=AUTUMN + timedelta(hours=24),
    )

    assert [row["note"].split(" of ")[0] for row in rows] == [
        "repeated: the first",
        "repeated: the second",
    ]


def test_a_pattern_runs_at_both_moments_of_a_repeated_time_and_none_that_is_skipped(preview):
    assert preview(cron="0 */1 * * *", n=4, from_time=AUTUMN + timedelta(hours=23)) == [
        ("27 01:00:00+02:00", ""),
        ("27 02:00:00+02:00", "repeated"),
        ("27 02:00:00+01:00", "repeated"),
        ("27 03:00:00+01:00", ""),
    ]
    assert preview(cron="0 */1 * * *", n=2, from_time=SPRING + DAY) == [
        ("31 01:00:00+01:00", ""),
        ("31 03:00:00+02:00", ""),
    ]


def test_a_calendar_interval_is_marked_too(preview):
    start = datetime(2030, 3, 30, 1, 30, tzinfo=UTC)

    assert preview(every="1 day", n=3, from_time=start) == [
        ("30 02:30:00+01:00", ""),
        ("31 03:00:00+02:00", "moved"),
        ("01 02:30:00+02:00", ""),
    ]
    assert preview(every="24 hours", n=2, from_time=start) == [
        ("30 02:30:00+01:00", ""),
        ("31 03:30:00+02:00", ""),
    ]


def test_a_day_that_a_zone_skipped_is_merged_into_the_next(preview):
    start = datetime(2011, 12, 29, 10, tzinfo=UTC)  # midnight in Apia, where the 30th never was

    assert preview(every="1 day", n=3, from_time=start, time_zone="Pacific/Apia") == [
        ("29 00:00:00-10:00", ""),
        ("31 00:00:00+14:00", "merged"),
        ("01 00:00:00+14:00", ""),
    ]


@pytest.mark.parametrize(
    "timing",
    [
        {"cron": "*/20 1-3 * * *"},
        {"cron": "0,30 2 * * *"},
        {"every": timedelta(minutes=50)},
        {"every": "1 day 1 hour"},
    ],
    ids=str,
)
def test_the_runs_are_those_of_a_schedule_that_starts_then(conn, clock, timing):
    clock.set(SPRING - DAY)
    shown = call(
        conn,
        "preview_schedule",
        **timing,
        time_zone="Europe/Berlin",
        n=12,
        from_time=SPRING,
    )
    call(conn, "schedule_job", task="tick", **timing, time_zone="Europe/Berlin", starts_at=SPRING)

    for row in shown:
        (slot,) = conn.execute("select scheduled_for from rota.schedule_status").fetchone()
        assert slot == row["run_at"]
        clock.set(slot)
        (job,) = call(conn, "claim_next_job")
        call(conn, "finish_job", job_id=job["id"], token=job["token"])


def test_without_a_start_it_begins_now(conn, clock):
    clock.set(SPRING)

    rows = call(conn, "preview_schedule", cron="@daily")

    assert len(rows) == 10
    assert rows[0]["run_at"] == SPRING + DAY
    assert rows[0]["local_time"] == "2030-03-31 00:00:00+00:00"


def test_it_ends_where_the_calendar_of_the_server_does(conn):
    late = datetime(9998, 12, 30, tzinfo=UTC)

    years = call(conn, "preview_schedule", every="1 year", from_time=late)
    days = call(conn, "preview_schedule", cron="@daily", from_time=late)

    assert [row["local_time"][:4] for row in years] == ["9998", "9999"]
    assert len(days) == 3


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ({}, "RTV01", "every or cron"),
        ({"cron": "@daily", "every": DAY}, "RTV01", "every or cron"),
        ({"every": timedelta(0)}, "RTV01", "every"),
        ({"cron": "0 24 * * *"}, "RTV02", "hour"),
        ({"cron": "0 0 30 2 *"}, "RTV02", "never"),
        ({"cron": "@daily", "time_zone": "Mars/Phobos"}, "RTV02", "time_zone"),
        ({"cron": "@daily", "time_zone": None}, "RTV01", "time_zone"),
        ({"cron": "@daily", "n": 0}, "RTV01", "^n "),
        ({"cron": "@daily", "n": 1001}, "RTV01", "^n "),
        ({"cron": "@daily", "n": None}, "RTV01", "^n "),
        ({"cron": "@daily", "from_time": "infinity"}, "RTV01", "from_time"),
        ({"every": DAY, "from_time": "-infinity"}, "RTV01", "from_time"),
        ({"every": DAY, "from_time": "4000-01-01 BC"}, "RTV01", "from_time"),
    ],
    ids=str,
)
def test_bad_input_is_refused_by_name(conn, arguments, code, named):
    with pytest.raises(psycopg.Error, match=named) as caught:
        call(conn, "preview_schedule", **arguments)

    assert caught.value.sqlstate == code


def test_the_grid_of_an_interval_goes_on_from_where_its_schedule_starts(preview):
    start = datetime(2029, 8, 31, 7, tzinfo=UTC)

    assert preview(every="1 month", n=3, from_time=SPRING, starts_at=start) == [
        ("31 09:00:00+02:00", ""),
        ("30 09:00:00+02:00", ""),
        ("31 09:00:00+02:00", ""),
    ]
    assert preview(every="7 hours", n=2, from_time=start + 8 * DAY, starts_at=start) == [
        ("08 13:00:00+02:00", ""),
        ("08 20:00:00+02:00", ""),
    ]
    assert preview(every="1 day", n=1, from_time=SPRING, starts_at=SPRING + 3 * DAY) == [
        ("02 02:00:00+02:00", "")
    ]


def test_a_preview_far_from_the_start_notes_the_changes_of_the_clocks(preview):
    start = datetime(2029, 1, 1, 1, 30, tzinfo=UTC)

    assert preview(every="1 day", n=3, from_time=SPRING, starts_at=start) == [
        ("30 02:30:00+01:00", ""),
        ("31 03:00:00+02:00", "moved"),
        ("01 02:30:00+02:00", ""),
    ]


def test_no_run_of_an_expression_is_listed_before_its_schedule_starts(preview):
    rows = preview(cron="0 9 * * *", n=1, from_time=SPRING, starts_at=SPRING + 3 * DAY)
    assert rows == [("02 09:00:00+02:00", "")]


def test_a_fine_grid_that_began_long_ago_has_its_next_slots(conn):
    rows = conn.execute(
        "select extract(epoch from run_at - '2030-01-01 00:00:00+00')::text"
        " from rota.preview_schedule(every => '1 millisecond',"
        " starts_at => '2000-01-01 00:00:00+00', from_time => '2030-01-01 00:00:00+00', n => 2)"
    ).fetchall()

    assert [float(seconds) for (seconds,) in rows] == [0, 0.001]
