"""Rota's next_run beside croniter and cronsim, two libraries that people know.

Both are asked about random expressions of the part of the language that they share with Rota, and
must agree except for the differences of this table. Each row has its test below, which shows the
difference, so that the table cannot grow stale.

===  ==================================  ==============================  ==========================
row  when                                Rota                            the library
===  ==================================  ==============================  ==========================
1    ``0-59/30 1 * * *``, a step         a step makes a pattern, which   cronsim: only a leading
     without a star, in an hour that     runs in both passes             star does; runs in one
     repeats
2    a fixed time, asked for in the      tomorrow: its one run was in    cronsim: a moment before
     second pass of a repeated hour      the first pass                  the one it was given
3    six fields, a fixed time that the   runs when the gap ends          cronsim: skips the day
     clocks skip
4    a pattern, clocks that move by      every match                     cronsim: passes over some
     half an hour
5    a pattern, clocks that skip         every match and nothing else    cronsim: 1:00, which does
     midnight                                                            not match
6    ``0 0 */10 * FRI``                  a field with a star restricts   croniter: either is
                                         nothing, so both must match     enough, unless
                                         (as Vixie's cron)               implement_cron_bug is set
7    ``15-15``, ``2-2/3``               only the 15; only 2             croniter: any value;
                                                                         cronsim: 2, 5, 8, ...
8    ``*/90`` in the minutes             refused: it would run hourly    both: hourly
9    a fixed time that the clocks        the first time                  croniter: both times
     repeat
10   a pattern, an hour that the         not in the gap                  croniter: when it ends
     clocks skip
===  ==================================  ==============================  ==========================
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.schedules.expressions import HOURS, MINUTES, MONTHS, plain, stars
from tests.schedules.test_next_run import INSTANTS, triples

pytestmark = [pytest.mark.leaves_nothing, pytest.mark.on_first_server]

SETTINGS = settings(
    max_examples=50,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SHARED = st.tuples(
    MINUTES,
    HOURS,
    st.sampled_from(["*", "*", "*", "L"]) | stars(31) | plain(1, 28),
    MONTHS,
    st.sampled_from(["*", "*", "MON-FRI", "0", "7"]) | stars(6) | plain(0, 6, steps=False),
).map(" ".join)

# Zones whose clocks move by whole hours and never skip midnight: rows 4 and 5.
WHOLE_HOURS = [
    "UTC", "Europe/Berlin", "America/New_York", "Europe/Istanbul", "Antarctica/Troll",
]  # fmt: skip

RANGE_OF_ONE = re.compile(r"\b(\d+)-\1\b")  # row 7


def by_cronsim(expression: str, zone: str, after: datetime) -> datetime:
    """Ask cronsim."""
    return next(CronSim(expression, after.astimezone(ZoneInfo(zone)))).astimezone(UTC)


def by_croniter(expression: str, zone: str, after: datetime, **options: bool) -> datetime:
    """Ask croniter."""
    local = after.astimezone(ZoneInfo(zone))
    return croniter(expression, local, ret_type=datetime, **options).get_next().astimezone(UTC)


def is_cronsim_alike(expression: str, zone: str, after: datetime) -> bool:
    """Whether the rows for cronsim have nothing to say about a question."""
    step_without_star = any("/" in field.replace("*/", "") for field in expression.split()[:2])
    second_pass = after.astimezone(ZoneInfo(zone)).fold == 1
    return not (step_without_star or second_pass or RANGE_OF_ONE.search(expression))


@SETTINGS
@given(questions=st.lists(triples(SHARED, WHOLE_HOURS), min_size=40, max_size=40))
def test_cronsim_agrees_on_what_is_not_in_the_table(
    ask: Callable, agreed: list[str], questions: list[tuple[str, str, datetime]]
) -> None:
    questions = [
        question for question in questions if question[1] in agreed and is_cronsim_alike(*question)
    ]

    answers = ask(questions) if questions else []

    for question, answer in zip(questions, answers, strict=True):
        assert answer == by_cronsim(*question), question


@SETTINGS
@given(questions=st.lists(st.tuples(SHARED, INSTANTS), min_size=40, max_size=40))
def test_croniter_agrees_in_utc_on_what_is_not_in_the_table(
    ask: Callable, questions: list[tuple[str, datetime]]
) -> None:
    questions = [
        (expression, "UTC", after)
        for expression, after in questions
        if not RANGE_OF_ONE.search(expression)
    ]

    answers = ask(questions)

    for question, answer in zip(questions, answers, strict=True):
        assert answer == by_croniter(*question, implement_cron_bug=True), question


@pytest.mark.parametrize(
    ("library", "expression", "zone", "after", "ours", "theirs"),
    [
        pytest.param(
            by_cronsim, "0-59/30 1 * * *", "America/New_York", "2025-11-02T01:45-04:00",
            "2025-11-02T01:00-05:00", "2025-11-03T01:00-05:00", id="row 1",
        ),
        pytest.param(
            by_cronsim, "30 1 * * *", "America/New_York", "2025-11-02T01:10-05:00",
            "2025-11-03T01:30-05:00", "2025-11-02T01:30-04:00", id="row 2",
        ),
        pytest.param(
            by_cronsim, "0 30 2 * * *", "Europe/Berlin", "2025-03-30T00:00+01:00",
            "2025-03-30T03:00+02:00", "2025-03-31T02:30+02:00", id="row 3",
        ),
        pytest.param(
            by_cronsim, "*/13 10 * * *", "Australia/Lord_Howe", "2049-04-03T23:34+11:00",
            "2049-04-04T10:00+10:30", "2049-04-04T10:39+10:30", id="row 4",
        ),
        pytest.param(
            by_cronsim, "0 */21 27 * *", "Asia/Gaza", "2009-03-26T23:39+02:00",
            "2009-03-27T21:00+03:00", "2009-03-27T01:00+03:00", id="row 5",
        ),
        pytest.param(
            by_croniter, "0 0 */10 * FRI", "UTC", "2025-06-18T10:42+00:00",
            "2025-07-11T00:00+00:00", "2025-06-20T00:00+00:00", id="row 6",
        ),
        pytest.param(
            by_croniter, "0 0 15-15 * *", "UTC", "2025-06-18T10:42+00:00",
            "2025-07-15T00:00+00:00", "2025-06-19T00:00+00:00", id="row 7, croniter",
        ),
        pytest.param(
            by_cronsim, "0 0 * 2-2/3 *", "UTC", "2025-06-18T10:42+00:00",
            "2026-02-01T00:00+00:00", "2025-08-01T00:00+00:00", id="row 7, cronsim",
        ),
        pytest.param(
            by_croniter, "*/90 * * * *", "UTC", "2025-06-18T10:42+00:00",
            None, "2025-06-18T11:00+00:00", id="row 8, croniter",
        ),
        pytest.param(
            by_cronsim, "*/90 * * * *", "UTC", "2025-06-18T10:42+00:00",
            None, "2025-06-18T11:00+00:00", id="row 8, cronsim",
        ),
        pytest.param(
            by_croniter, "30 2 * * *", "Europe/Berlin", "2025-10-26T02:30+02:00",
            "2025-10-27T02:30+01:00", "2025-10-26T02:30+01:00", id="row 9",
        ),
        pytest.param(
            by_croniter, "*/20 2 * * *", "Europe/Berlin", "2025-03-30T00:00+01:00",
            "2025-03-31T02:00+02:00", "2025-03-30T03:00+02:00", id="row 10",
        ),
    ],
)  # fmt: skip
def test_each_row_of_the_table_is_so(
    ask: Callable,
    library: Callable[[str, str, datetime], datetime],
    expression: str,
    zone: str,
    after: str,
    ours: str | None,
    theirs: str,
) -> None:
    moment = datetime.fromisoformat(after)

    [answer] = ask([(expression, zone, moment)])

    assert answer == (datetime.fromisoformat(ours) if ours else "RTV02")
    assert library(expression, zone, moment) == datetime.fromisoformat(theirs)
