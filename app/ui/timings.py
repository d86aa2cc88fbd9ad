"""What a schedule says of when it runs, in words."""

import re
from collections.abc import Callable

UNITS = ((3600, "hour"), (60, "minute"), (1, "second"))
ALIASES = {
    "@hourly": "every hour",
    "@daily": "at 00:00 every day",
    "@midnight": "at 00:00 every day",
    "@weekly": "at 00:00 on Sunday",
    "@monthly": "at 00:00 on the 1st of the month",
    "@yearly": "at 00:00 on the 1st in January",
    "@annually": "at 00:00 on the 1st in January",
}
DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
NUMBERED = ("first", "second", "third", "fourth", "fifth")
MOST_TIMES = 6  # that are said one by one


class UncommonError(Exception):
    """An expression is better shown as it is."""


def cron_in_words(cron: str) -> str | None:
    """Say in English when an expression comes; None for forms that are not common."""
    expression = cron.strip()
    if expression.lower() in ALIASES:
        return ALIASES[expression.lower()]
    fields = expression.upper().split()
    try:
        second = fields.pop(0) if len(fields) == 6 else "0"
        minute, hour, monthday, month, weekday = fields
        times, is_pattern = _times(second, minute, hour)
        days = _days(monthday, month, weekday)
    except (UncommonError, ValueError):
        return None
    if monthday == weekday == "*" and not is_pattern:
        days = f"every day {days}".rstrip()
    return f"{times} {days}".rstrip()


def interval_in_words(months: int, days: int, seconds: float, is_delay: bool) -> str:
    """Say in English how often an interval comes, or how long after the end of a run."""
    parts = [(months // 12, "year"), (months % 12, "month"), (days, "day")]
    rest = seconds
    for size, unit in UNITS[:2]:
        parts.append((int(rest // size), unit))
        rest %= size
    parts.append((round(rest, 6), "second"))
    parts = [(number, unit) for number, unit in parts if number]
    said = _list([f"{number:g} {unit}{'' if number == 1 else 's'}" for number, unit in parts])
    if is_delay:
        return f"{said} after the end of each run"
    return f"every {parts[0][1]}" if [n for n, _ in parts] == [1] else f"every {said}"


def _times(second: str, minute: str, hour: str) -> tuple[str, bool]:
    """Return the times of a day, and whether they are a pattern that goes on all day."""
    if second != "0":
        every = _step(second, 60, "second")
        if not every or (minute, hour) != ("*", "*"):
            raise UncommonError
        return every, True
    every = _step(minute, 60, "minute")
    if every and hour == "*":
        return every, True
    if every:
        first, last = _span(hour, 23)
        return f"{every} from {first:02}:00 to {last:02}:59", True
    minutes = _numbers(minute, 59)
    at = _list([f":{number:02}" for number in minutes])
    if hour == "*":
        return f"every hour at {at}", True
    hourly = _step(hour, 24, "hour")
    if hourly:
        return f"{hourly} at {at}", True
    if "-" in hour and len(minutes) == 1:
        first, last = _span(hour, 23)
        return f"every hour from {first:02}:{minutes[0]:02} to {last:02}:{minutes[0]:02}", True
    times = [f"{h:02}:{m:02}" for h in _numbers(hour, 23) for m in minutes]
    if len(times) > MOST_TIMES:
        raise UncommonError
    return f"at {_list(times)}", False


def _days(monthday: str, month: str, weekday: str) -> str:
    """Return on which days; nothing for all."""
    said = []
    if weekday != "*":
        if monthday != "*":
            raise UncommonError  # either of them, or both: to know which is an art of its own
        said.append(_weekdays(weekday))
    elif monthday != "*":
        said.append(_monthdays(monthday) + ("" if month != "*" else " of the month"))
    if month != "*":
        names = [name[:3].upper() for name in MONTHS]
        numbers = _numbers(month, 12, lambda word: names.index(word) + 1, lowest=1)
        said.append(f"in {_list([MONTHS[number - 1] for number in numbers])}")
    return " ".join(said)


def _weekdays(field: str) -> str:
    names = [name[:3].upper() for name in DAYS]
    if match := re.fullmatch(r"([0-7]|[A-Z]{3})(L|#([1-5]))", field):
        day = DAYS[int(match[1])] if match[1].isdecimal() else DAYS[names.index(match[1])]
        which = "last" if match[2] == "L" else NUMBERED[int(match[3]) - 1]
        return f"on the {which} {day} of the month"
    numbers = _numbers(field, 7, names.index)
    days = sorted({number % 7 or 7 for number in numbers})
    if len(days) == 7:
        return "every day"
    if len(days) > 2 and days == list(range(days[0], days[-1] + 1)):
        return f"from {DAYS[days[0]]} to {DAYS[days[-1]]}"
    return f"on {_list([DAYS[day] for day in days])}"


def _monthdays(field: str) -> str:
    if field == "L":
        return "on the last day"
    if field == "LW":
        return "on the last weekday"
    if match := re.fullmatch("([0-9]{1,2})W", field):
        return f"on the weekday nearest to the {_ordinal(int(match[1]))}"
    return f"on the {_list([_ordinal(number) for number in _numbers(field, 31, lowest=1)])}"


def _step(field: str, size: int, unit: str) -> str | None:
    """Say that each unit counts, or each of so many that the whole divides by."""
    if field in ("*", "*/1"):
        return f"every {unit}"
    if match := re.fullmatch(r"(?:\*|0)/([0-9]{1,2})", field):
        step = int(match[1])
        if field[0] == "*" and 1 < step < size and size % step == 0:
            return f"every {step} {unit}s"
        raise UncommonError
    return None


def _span(field: str, highest: int) -> tuple[int, int]:
    numbers = _numbers(field, highest)
    if numbers != list(range(numbers[0], numbers[-1] + 1)):
        raise UncommonError
    return numbers[0], numbers[-1]


def _numbers(
    field: str,
    highest: int,
    name: Callable[[str], int] | None = None,
    lowest: int = 0,
) -> list[int]:
    """Return the numbers that a list of single values and ranges names, in their order.

    Raises:
        UncommonError: there is something else in it.
        ValueError: a name is none.
    """
    numbers = set()
    for part in field.split(","):
        ends = [
            int(word) if word.isdecimal() else name(word) if name and word.isalpha() else -1
            for word in part.split("-")
        ]
        if len(ends) > 2 or not lowest <= ends[0] <= ends[-1] <= highest:
            raise UncommonError
        numbers |= set(range(ends[0], ends[-1] + 1))
    return sorted(numbers)


def _ordinal(number: int) -> str:
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _list(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
