"""The slow and obvious way to say when a cron expression or an interval comes due.

Nothing here is clever: it walks a clock minute by minute and asks of each minute whether it
matches. It shares no idea with the SQL under test, which computes with bits and jumps. The only
short cuts go over days and hours that do not match, and never over a change of the clocks.
"""

import calendar
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

NAMES = {
    name: number
    for names, first in (
        ("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC", 1),
        ("SUN MON TUE WED THU FRI SAT", 0),
    )
    for number, name in enumerate(names.split(), first)
}


def number(word: str) -> int:
    """Read a number or a name of three letters."""
    return NAMES[word] if word in NAMES else int(word)


@cache
def values(entry: str, lowest: int, highest: int) -> set[int]:
    """Read a field without special items into the set of what it allows."""
    allowed: set[int] = set()
    for item in entry.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            start, stop = lowest, highest
        else:
            start = number(first)
            stop = number(last) if last else highest if step else start
            if last == "SUN" and start > 0:
                stop = 7
        allowed |= set(range(start, stop + 1, int(step or 1)))
    return allowed


class Cron:
    """A cron expression as a predicate on dates and as sets of hours, minutes and seconds."""

    def __init__(self, expression: str) -> None:
        entries = expression.upper().split()
        if len(entries) == 5:
            entries.insert(0, "0")
        self.seconds = sorted(values(entries[0], 0, 59))
        self.minutes = values(entries[1], 0, 59)
        self.hours = values(entries[2], 0, 23)
        self.days = entries[3]
        self.months = values(entries[4], 1, 12)
        self.weekdays = entries[5]
        self.either_day = "*" not in entries[3] + entries[5]
        self.elapsed = any(sign in entries[1] + entries[2] for sign in "*/")

    def matches_day(self, day: date) -> bool:
        """Whether it may come due on this date."""
        if day.month not in self.months:
            return False
        by_date = any(is_monthday(item, day) for item in self.days.split(","))
        by_weekday = any(is_weekday(item, day) for item in self.weekdays.split(","))
        return by_date or by_weekday if self.either_day else by_date and by_weekday


def is_monthday(item: str, day: date) -> bool:
    """Whether one item of the day-of-month field means this date."""
    last = calendar.monthrange(day.year, day.month)[1]
    if item == "L":
        return day.day == last
    if item.startswith("L-"):
        return day.day == last - int(item[2:])
    if item.endswith("W"):
        target = last if item == "LW" else int(item[:-1])
        if target > last:
            return False
        weekdays = [
            d for d in range(1, last + 1) if date(day.year, day.month, d).weekday() not in (5, 6)
        ]
        return day.day == min(weekdays, key=lambda d: abs(d - target))
    return day.day in values(item, 1, 31)


def is_weekday(item: str, day: date) -> bool:
    """Whether one item of the day-of-week field means this date."""
    sunday_is_0 = day.isoweekday() % 7
    if "#" in item:
        word, nth = item.split("#")
        return number(word) % 7 == sunday_is_0 and (day.day - 1) // 7 + 1 == int(nth)
    if item.endswith("L"):
        last = calendar.monthrange(day.year, day.month)[1]
        return number(item[:-1]) % 7 == sunday_is_0 and day.day + 7 > last
    return sunday_is_0 in {value % 7 for value in values(item, 0, 7)}


def instant_of(local: datetime, zone: ZoneInfo) -> datetime:
    """The first moment at which clocks in the zone show a time, or have just skipped it."""
    readings = [local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    for instant in readings:
        if instant.astimezone(zone).replace(tzinfo=None, fold=0) == local:
            return instant
    # skipped: the two readings, by the offsets of after and before, lie around the gap's end
    instant = min(readings).replace(second=0)
    while instant.astimezone(zone).replace(tzinfo=None) < local:
        instant += MINUTE
    return instant


def next_run(
    expression: str, zone: ZoneInfo, after: datetime, horizon: timedelta
) -> datetime | None:
    """The least moment after another at which an expression comes due, within the horizon."""
    cron = Cron(expression)
    after = after.astimezone(UTC)
    if cron.elapsed:
        return _next_elapsed(cron, zone, after, after + horizon)
    return _next_fixed(cron, zone, after, after + horizon)


def _next_elapsed(cron: Cron, zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    time = after.replace(second=0, microsecond=0)
    while time < until:
        local = time.astimezone(zone)
        if not cron.matches_day(local.date()):
            time += _step(time, local, (DAY, HOUR))
        elif local.hour not in cron.hours:
            time += _step(time, local, (HOUR,))
        else:
            if local.minute in cron.minutes:
                for second in cron.seconds:
                    if time + timedelta(seconds=second) > after:
                        return time + timedelta(seconds=second)
            time += MINUTE
    return None


def _step(time: datetime, local: datetime, units: tuple[timedelta, ...]) -> timedelta:
    """The way to the next full day or hour, or a minute when the clocks change before it."""
    midnight = local.replace(hour=0, minute=0, fold=0)
    for unit in units:
        step = unit - (local.replace(fold=0) - midnight) % unit
        if (time + step).astimezone(local.tzinfo).utcoffset() == local.utcoffset():
            return step
    return MINUTE


def _next_fixed(cron: Cron, zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    local = after.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0) - 25 * HOUR
    local_until = until.replace(tzinfo=None)
    while local < local_until:
        if not cron.matches_day(local.date()):
            local = datetime.combine(local.date() + DAY, datetime.min.time())
        elif local.hour not in cron.hours:
            local = local.replace(minute=0) + HOUR
        else:
            if local.minute in cron.minutes and instant_of(local + MINUTE, zone) > after:
                for second in cron.seconds:
                    instant = instant_of(local + timedelta(seconds=second), zone)
                    if instant > after:
                        return instant
            local += MINUTE
    return None


def next_slot(
    starts_at: datetime, months: int, days: int, elapsed: timedelta, zone: ZoneInfo, after: datetime
) -> datetime:
    """The least moment after another on an interval's grid, by counting from its start."""
    slot, n = starts_at, 0
    first = starts_at.astimezone(zone).replace(tzinfo=None)
    while slot <= after:
        n += 1
        if months == days == 0:
            slot = starts_at + n * elapsed
            continue
        year, month = divmod(first.year * 12 + first.month - 1 + n * months, 12)
        last = calendar.monthrange(year, month + 1)[1]
        local = first.replace(year=year, month=month + 1, day=min(first.day, last))
        slot = instant_of(local + n * days * DAY, zone) + n * elapsed
    return slot
