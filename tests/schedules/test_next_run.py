"""When a cron expression comes due."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import Connection

from tests.conftest import NEWEST, SERVER_VERSION
from tests.schedules import oracle
from tests.schedules.expressions import CRON
from tests.schedules.zones import FIRST, ZONES, changes

pytestmark = pytest.mark.leaves_nothing

HORIZON = timedelta(days=800)
TRIPLES_PER_EXAMPLE = 40
EXAMPLES = 150 if SERVER_VERSION == NEWEST else 60  # the same functions run on the others

INSTANTS = st.datetimes(
    FIRST.replace(tzinfo=None) + timedelta(days=2), datetime(2055, 1, 1), timezones=st.just(UTC)
)


@st.composite
def triples(
    draw: st.DrawFn, expressions: st.SearchStrategy[str], zones: list[str]
) -> tuple[str, str, datetime]:
    """An expression, a zone, and an instant that is often near a change of the zone's offset."""
    name = draw(st.sampled_from(zones))
    near = [change for change in changes(name) if change < datetime(2055, 1, 1, tzinfo=UTC)]
    if near and draw(st.integers(0, 3)):
        after = draw(st.sampled_from(near)) + timedelta(minutes=draw(st.integers(-1600, 200)))
    else:
        after = draw(INSTANTS)
    return draw(expressions), name, after


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # the failing assertion names its one question
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    questions=st.lists(
        triples(CRON, list(ZONES)), min_size=TRIPLES_PER_EXAMPLE, max_size=TRIPLES_PER_EXAMPLE
    )
)
def test_next_run_agrees_with_the_oracle(
    ask: Callable, agreed: list[str], questions: list[tuple[str, str, datetime]]
) -> None:
    questions = [question for question in questions if question[1] in agreed]

    answers = ask(questions)

    for (expression, zone, after), answer in zip(questions, answers, strict=True):
        expected = oracle.next_run(expression, ZoneInfo(zone), after, HORIZON)
        if expected is None:
            beyond = answer == "RTV02" or answer >= after + HORIZON - timedelta(days=2)
            assert beyond, (expression, zone, after, answer)
        else:
            assert answer == expected, (expression, zone, after)


def moments(ask: Callable, expression: str, zone: str, after: str, count: int) -> list[str]:
    """The next runs, in the zone's own time with its offset."""
    found = []
    moment = datetime.fromisoformat(after)
    for _ in range(count):
        [moment] = ask([(expression, zone, moment)])
        found.append(moment.astimezone(ZoneInfo(zone)).isoformat(" ", "minutes"))
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        pytest.param(
            "30 2 * * *", "Europe/Berlin", "2025-03-29T12:00+01:00",
            ["2025-03-30 03:00+02:00", "2025-03-31 02:30+02:00"],
            id="a skipped fixed time runs when the gap ends",
        ),
        pytest.param(
            "0,30 2,3 * * *", "Europe/Berlin", "2025-03-29T12:00+01:00",
            ["2025-03-30 03:00+02:00", "2025-03-30 03:30+02:00", "2025-03-31 02:00+02:00"],
            id="fixed times that the gap throws together run once",
        ),
        pytest.param(
            "30 2 * * *", "Europe/Berlin", "2025-10-25T12:00+02:00",
            ["2025-10-26 02:30+02:00", "2025-10-27 02:30+01:00"],
            id="a repeated fixed time runs the first time",
        ),
        pytest.param(
            "30 2 * * *", "Europe/Berlin", "2025-10-26T02:10+01:00",
            ["2025-10-27 02:30+01:00"],
            id="a repeated fixed time does not run in the second pass",
        ),
        pytest.param(
            "0 * * * *", "Europe/Berlin", "2025-10-26T01:30+02:00",
            ["2025-10-26 02:00+02:00", "2025-10-26 02:00+01:00", "2025-10-26 03:00+01:00"],
            id="an hourly pattern runs in both passes",
        ),
        pytest.param(
            "0 * * * *", "America/New_York", "2025-03-09T00:30-05:00",
            ["2025-03-09 01:00-05:00", "2025-03-09 03:00-04:00", "2025-03-09 04:00-04:00"],
            id="an hourly pattern follows elapsed time over the gap",
        ),
        pytest.param(
            "*/30 1 * * *", "America/New_York", "2025-11-01T12:00-04:00",
            [
                "2025-11-02 01:00-04:00", "2025-11-02 01:30-04:00",
                "2025-11-02 01:00-05:00", "2025-11-02 01:30-05:00",
                "2025-11-03 01:00-05:00",
            ],
            id="a step in the minutes makes a pattern",
        ),
        pytest.param(
            "15 2 * * *", "Australia/Lord_Howe", "2025-10-04T12:00+10:30",
            ["2025-10-05 02:30+11:00", "2025-10-06 02:15+11:00"],
            id="a gap of half an hour",
        ),
        pytest.param(
            "45 1 * * *", "Australia/Lord_Howe", "2025-04-05T12:00+11:00",
            ["2025-04-06 01:45+11:00", "2025-04-07 01:45+10:30"],
            id="half an hour that repeats",
        ),
        pytest.param(
            "*/15 1 * * *", "Australia/Lord_Howe", "2025-04-06T01:20+11:00",
            [
                "2025-04-06 01:30+11:00", "2025-04-06 01:45+11:00",
                "2025-04-06 01:30+10:30", "2025-04-06 01:45+10:30",
                "2025-04-07 01:00+10:30",
            ],
            id="a pattern in half an hour that repeats",
        ),
        pytest.param(
            "0 9 * * *", "Pacific/Apia", "2011-12-29T08:00-10:00",
            ["2011-12-29 09:00-10:00", "2011-12-31 00:00+14:00", "2011-12-31 09:00+14:00"],
            id="a fixed time of a day that is skipped runs when the next begins",
        ),
        pytest.param(
            "0 */6 * * *", "Pacific/Apia", "2011-12-29T17:00-10:00",
            ["2011-12-29 18:00-10:00", "2011-12-31 00:00+14:00", "2011-12-31 06:00+14:00"],
            id="a pattern does not notice a day that is skipped",
        ),
        pytest.param(
            "30 2 * * *", "Africa/Casablanca", "2024-03-09T12:00+01:00",
            ["2024-03-10 02:30+01:00", "2024-03-11 02:30+00:00"],
            id="the hour that Ramadan gives back",
        ),
        pytest.param(
            "30 2 * * *", "Africa/Casablanca", "2024-04-13T12:00+00:00",
            ["2024-04-14 03:00+01:00", "2024-04-15 02:30+01:00"],
            id="the hour that the end of Ramadan takes",
        ),
        pytest.param(
            "0 3 27 3,10 *", "Europe/Istanbul", "2015-12-01T00:00+02:00",
            [
                "2016-03-27 04:00+03:00", "2016-10-27 03:00+03:00",
                "2017-03-27 03:00+03:00", "2017-10-27 03:00+03:00",
            ],
            id="a zone that gave up changing its clocks",
        ),
        pytest.param(
            "10 0 4 5 *", "Asia/Pyongyang", "2018-01-01T00:00+08:30",
            ["2018-05-04 00:10+08:30", "2019-05-04 00:10+09:00"],
            id="a zone that moved",
        ),
        pytest.param(
            "0 0 1 * *", "Africa/Monrovia", "1971-01-01T12:00+00:00",
            ["1971-02-01 00:00-00:44:30"],
            id="an offset of old times, with odd seconds",
        ),
        pytest.param(
            "* 30 2 * * *", "Europe/Berlin", "2025-03-29T12:00+01:00",
            ["2025-03-30 03:00+02:00", "2025-03-31 02:30+02:00"],
            id="the seconds do not make a pattern",
        ),
    ],
)  # fmt: skip
def test_clock_changes_follow_the_rules_of_the_manual(
    ask: Callable, expression: str, zone: str, after: str, expected: list[str]
) -> None:
    assert moments(ask, expression, zone, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("@hourly", "2025-06-18 11:00"),
        ("@daily", "2025-06-19 00:00"),
        ("@midnight", "2025-06-19 00:00"),
        ("@weekly", "2025-06-22 00:00"),
        ("@monthly", "2025-07-01 00:00"),
        ("@yearly", "2026-01-01 00:00"),
        ("@annually", "2026-01-01 00:00"),
        ("  0\t12  * * 7 ", "2025-06-22 12:00"),
        ("0 12 * * 0", "2025-06-22 12:00"),
        ("0 12 * * fri-sun", "2025-06-20 12:00"),
        ("0 12 * jul-sep *", "2025-07-01 12:00"),
        ("5/20 10 * * *", "2025-06-18 10:45"),
        ("0 0 L * *", "2025-06-30 00:00"),
        ("0 0 L-2 * *", "2025-06-28 00:00"),
        ("0 0 LW 8 *", "2025-08-29 00:00"),
        ("0 0 1W 11 *", "2025-11-03 00:00"),
        ("0 0 31W 8 *", "2025-08-29 00:00"),
        ("0 0 22W 6 *", "2025-06-23 00:00"),
        ("0 0 * * 5L", "2025-06-27 00:00"),
        ("0 0 * * MON#3", "2025-07-21 00:00"),
        ("0 0 13 * FRI", "2025-06-20 00:00"),
        ("0 0 */10 * FRI", "2025-07-11 00:00"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("0 0 29 2 1#5", "2028-02-29 00:00"),
        ("0 0 * 2 1#5", "2044-02-29 00:00"),
        ("0 0 * 2 0#5", "2032-02-29 00:00"),
        ("30 45 10 * * *", "2025-06-18 10:45"),
    ],
)
def test_expressions_mean_what_the_manual_says(
    ask: Callable, expression: str, expected: str
) -> None:
    wednesday = datetime(2025, 6, 18, 10, 42, 17, tzinfo=UTC)

    [answer] = ask([(expression, "UTC", wednesday)])

    assert f"{answer:%Y-%m-%d %H:%M}" == expected


def test_the_answer_is_later_even_by_a_microsecond(ask: Callable) -> None:
    noon = datetime(2025, 6, 18, 12, tzinfo=UTC)
    microsecond = timedelta(microseconds=1)

    answers = ask(
        [("* * * * * *", "UTC", noon - microsecond), ("* * * * * *", "UTC", noon),
         ("* * * * * *", "UTC", noon + microsecond)]
    )  # fmt: skip

    assert answers == [noon, noon + timedelta(seconds=1), noon + timedelta(seconds=1)]


def test_the_sessions_own_time_zone_makes_no_difference(ask: Callable, conn: Connection) -> None:
    questions = [
        (expression, "Europe/Berlin", datetime(2025, month, day, 6, tzinfo=UTC))
        for expression in ("30 2 * * *", "*/20 * * * *", "0 0 1 * *")
        for month, day in ((3, 8), (3, 29), (10, 25), (11, 1))
    ]
    in_utc = ask(questions)

    for zone in ("America/New_York", "Pacific/Apia", "Australia/Lord_Howe"):
        conn.execute("select set_config('timezone', %s, false)", [zone])
        assert ask(questions) == in_utc


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("60 * * * *", 'cron field minute: "60" is not allowed'),
        ("* 24 * * *", 'cron field hour: "24" is not allowed'),
        ("* * 0 * *", 'cron field day-of-month: "0" is not allowed'),
        ("* * 32W * *", 'cron field day-of-month: "32" is not allowed'),
        ("* * L-31 * *", 'cron field day-of-month: "L-31" is not allowed'),
        ("* * ? * *", 'cron field day-of-month: "?" is not allowed'),
        ("* * * 13 *", 'cron field month: "13" is not allowed'),
        ("* * * MON *", 'cron field month: "MON" is not allowed'),
        ("* * * * 8", 'cron field day-of-week: "8" is not allowed'),
        ("* * * * L", 'cron field day-of-week: "L" is not allowed'),
        ("* * * * 1#6", 'cron field day-of-week: "1#6" is not allowed'),
        ("* * * * MON,", 'cron field day-of-week: "" is not allowed'),
        ("60 * * * * *", 'cron field second: "60" is not allowed'),
        ("*/0 * * * *", 'cron field minute: "*/0" is not allowed'),
        ("*/90 * * * *", 'cron field minute: "*/90" is not allowed'),
        ("30-10 * * * *", 'cron field minute: "30-10" is not allowed'),
        ("1-2-3 * * * *", 'cron field minute: "1-2-3" is not allowed'),
        ("-5 * * * *", 'cron field minute: "-5" is not allowed'),
        ("99999999999 * * * *", 'cron field minute: "99999999999" is not allowed'),
        ("\u0661 * * * *", 'cron field minute: "\u0661" is not allowed'),
        ("", 'cron "" is not an expression of five or six fields'),
        ("* * * *", 'cron "* * * *" is not an expression of five or six fields'),
        ("* * * * * * *", 'cron "* * * * * * *" is not an expression of five or six fields'),
        ("@reboot", 'cron "@reboot" is not an expression of five or six fields'),
        (
            "0 0 30 2 *",
            'cron "0 0 30 2 *" never comes: day-of-month, month and day-of-week together '
            "allow no date",
        ),
        (
            "0 0 31W 4,6,9,11 *",
            'cron "0 0 31W 4,6,9,11 *" never comes: day-of-month, month and day-of-week together '
            "allow no date",
        ),
        (
            "*/5 2 * 3 SUNL",
            'cron "*/5 2 * 3 SUNL" never comes: Europe/Berlin skips all that minute and hour allow',
        ),
    ],
)
def test_what_cannot_come_is_refused_with_the_field(
    conn: Connection, expression: str, message: str
) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        conn.execute("select rota._check_cron(%s, 'Europe/Berlin')", [expression])

    assert refusal.value.sqlstate == "RTV02"
    assert refusal.value.diag.message_primary == message
    assert refusal.value.diag.message_hint


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("* * * * MON-XYZ", "day-of-week takes 0 to 7 or SUN to SAT: *,"),
        ("* * * * XYZ-MON", "day-of-week takes 0 to 7 or SUN to SAT: *,"),
        ("* * * JAN-XYZ *", "month takes 1 to 12 or JAN to DEC: *,"),
        ("* * JAN * *", "day-of-month takes 1 to 31: *,"),
        ("* 1-MON * * *", "hour takes 0 to 23: *,"),
        ("61 * * * *", "minute takes 0 to 59: *,"),
    ],
)
def test_a_field_is_refused_with_what_it_takes(conn: Connection, field: str, hint: str) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        conn.execute("select rota.next_run(%s, 'UTC', now())", [field])

    assert refusal.value.sqlstate == "RTV02"
    assert refusal.value.diag.message_hint.startswith(hint)


@pytest.mark.parametrize(
    ("back", "months"),
    [
        (27, {28: 1, 29: 2, 30: 3, 31: 4}),
        (28, {28: None, 29: 1, 30: 2, 31: 3}),
        (29, {28: None, 29: None, 30: 1, 31: 2}),
        (30, {28: None, 29: None, 30: None, 31: 1}),
    ],
)
def test_a_day_before_the_first_of_a_short_month_does_not_come(
    conn: Connection, back: int, months: dict[int, int | None]
) -> None:
    firsts = {28: "2030-02-01", 29: "2028-02-01", 30: "2030-04-01", 31: "2030-01-01"}
    for length, day in months.items():
        first = datetime.fromisoformat(firsts[length]).replace(tzinfo=UTC)
        found = conn.execute(
            "select rota.next_run(%s, 'UTC', %s)", [f"0 0 L-{back} * *", first - timedelta(hours=1)]
        ).fetchone()[0]
        assert (found.day if found < first + timedelta(days=length) else None) == day


def test_a_long_expression_is_refused_unread(ask: Callable) -> None:
    after = datetime(2025, 6, 18, tzinfo=UTC)

    answers = ask([("1," * 10_000 + "1 * * * *", "UTC", after), (" " * 2000, "UTC", after)])

    assert answers == ["RTV02", "RTV02"]


@pytest.mark.parametrize("after", ["infinity", "-infinity", "200000-01-01", "0044-03-15 BC"])
def test_an_instant_outside_the_calendar_is_refused(conn: Connection, after: str) -> None:
    with pytest.raises(psycopg.Error, match="after must lie between") as refusal:
        conn.execute("select rota.next_run('* * * * *', 'UTC', %s)", [after])

    assert refusal.value.sqlstate == "RTV01"


def test_the_first_and_the_last_instants_have_an_answer_or_a_refusal(ask: Callable) -> None:
    questions = [
        (expression, zone, moment)
        for expression in ("* * * * *", "0 0 L * *", "30 2 * * *", "0 0 29 2 *")
        for zone in ("UTC", "Pacific/Apia", "Europe/Berlin", "Asia/Manila")
        for moment in (datetime(1, 1, 3, tzinfo=UTC), datetime(9998, 12, 30, tzinfo=UTC))
    ]

    answers = ask(questions)

    for (expression, zone, moment), answer in zip(questions, answers, strict=True):
        ends_before_the_next_leap_year = expression == "0 0 29 2 *" and moment.year == 9998
        if ends_before_the_next_leap_year:
            assert answer == "RTV02"
        else:
            assert answer > moment, (expression, zone)


def test_every_zone_of_the_server_is_accepted_but_for_abbreviations(conn: Connection) -> None:
    refused = conn.execute("""
        create function pg_temp.refused(zone text)
            returns boolean
            language plpgsql
        as $$
        begin
            perform rota._check_zone(zone);
            return false;
        exception
            when sqlstate 'RTV02' then
                return true;
        end;
        $$;

        select n.name
        from pg_timezone_names as n
        where pg_temp.refused(n.name) and n.name !~ '^posix/'
        order by n.name collate "C";
    """)
    refused.nextset()

    names = {name for (name,) in refused}

    assert names - {"Factory", "localtime", "posixrules"} == {
        "CET", "EET", "EST", "HST", "MET", "MST", "WET",
    }  # fmt: skip


@pytest.mark.parametrize(
    "zone",
    ["Mars/Phobos", "Mars/Phobos1", "Europe/Berlin1", "CEST", "Etc/GMT+13", "UTC+3", "+02:00",
     "", " ", "../etc/passwd", "Europe/Berlin\n", "x" * 10_000],
)  # fmt: skip
def test_an_unknown_zone_is_refused(conn: Connection, zone: str) -> None:
    with pytest.raises(psycopg.Error, match="is not a time zone that the server knows") as refusal:
        conn.execute("select rota.next_run('0 0 * * *', %s, now())", [zone])

    assert refusal.value.sqlstate == "RTV02"


def test_null_is_refused_when_a_schedule_is_saved(conn: Connection) -> None:
    for arguments in ((None, "UTC"), ("* * * * *", None)):
        with pytest.raises(psycopg.Error, match="must not be null"):
            conn.execute("select rota._check_cron(%s, %s)", arguments)
