"""In which words it is said when a schedule runs."""

import pytest

from rota.app.ui.timings import cron_in_words, interval_in_words

CRON = {
    "* * * * *": "every minute",
    "*/5 * * * *": "every 5 minutes",
    "*/10 * * * * *": "every 10 seconds",
    "5 * * * *": "every hour at :05",
    "5,35 * * * *": "every hour at :05 and :35",
    "0 */2 * * *": "every 2 hours at :00",
    "30 2 * * *": "at 02:30 every day",
    "0 30 2 * * *": "at 02:30 every day",
    "0 9,17 * * 1-5": "at 09:00 and 17:00 from Monday to Friday",
    "0 0 * * 6,0": "at 00:00 on Saturday and Sunday",
    "0 0 * * 0-7": "at 00:00 every day",
    "*/10 8-18 * * mon-fri": "every 10 minutes from 08:00 to 18:59 from Monday to Friday",
    "0 8-18 * * *": "every hour from 08:00 to 18:00",
    "0 0 1,15 * *": "at 00:00 on the 1st and 15th of the month",
    "0 0 L * *": "at 00:00 on the last day of the month",
    "0 0 LW * *": "at 00:00 on the last weekday of the month",
    "0 9 15W * *": "at 09:00 on the weekday nearest to the 15th of the month",
    "0 9 * * 5L": "at 09:00 on the last Friday of the month",
    "0 9 * * FRI#2": "at 09:00 on the second Friday of the month",
    "0 0 23 12 *": "at 00:00 on the 23rd in December",
    "0 0 * 1,7 *": "at 00:00 every day in January and July",
    "0 12 * JAN SUN": "at 12:00 on Sunday in January",
    "@hourly": "every hour",
    "@Yearly": "at 00:00 on the 1st in January",
}
AS_THEY_ARE = [
    "*/7 * * * *",  # not every seven minutes: it begins anew with each hour
    "0 0 1 * MON",  # either of them
    "0 0 */2 * *",
    "30 2 * * */2",
    "0 0 L-3 * *",
    "0 0 * */2 *",
    "0,30 1-9 * * *",
    "1/5 * * * *",
    "30 * * * * *",
    "0 0 * * FOO",
    "what is no expression",
    "",
]


@pytest.mark.parametrize(("cron", "words"), CRON.items())
def test_common_expressions_are_said_in_words(cron: str, words: str) -> None:
    assert cron_in_words(cron) == words


@pytest.mark.parametrize("cron", AS_THEY_ARE)
def test_expressions_that_would_be_said_wrongly_are_not_put_into_words(cron: str) -> None:
    assert cron_in_words(cron) is None


@pytest.mark.parametrize(
    ("months", "days", "seconds", "words"),
    [
        (0, 0, 300, "every 5 minutes"),
        (0, 0, 3600, "every hour"),
        (0, 0, 5400, "every 1 hour and 30 minutes"),
        (0, 0, 0.25, "every 0.25 seconds"),
        (0, 1, 0, "every day"),
        (0, 1, 7200, "every 1 day and 2 hours"),
        (1, 0, 0, "every month"),
        (14, 0, 0, "every 1 year and 2 months"),
    ],
)
def test_intervals_are_said_in_words(months: int, days: int, seconds: float, words: str) -> None:
    assert interval_in_words(months, days, seconds, is_delay=False) == words


def test_a_delay_counts_from_the_end_of_a_run() -> None:
    assert interval_in_words(0, 0, 300, is_delay=True) == "5 minutes after the end of each run"
