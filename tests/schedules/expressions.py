"""Random cron expressions, in the proportions in which they find bugs."""

import calendar

from hypothesis import strategies as st

MONTH_NAMES = [month.upper() for month in calendar.month_abbr[1:]]


def plain(
    lowest: int, highest: int, favourites: tuple[int, ...] = (), steps: bool = True
) -> st.SearchStrategy[str]:
    """A field of values, ranges, steps and lists."""
    value = st.integers(lowest, highest)
    if favourites:
        value = st.sampled_from(favourites) | value
    span = st.tuples(value, value).map(lambda pair: f"{min(pair)}-{max(pair)}")
    items = [value.map(str), span]
    if steps:
        step = st.integers(1, highest - lowest)
        items.append(st.tuples(span | value, step).map(lambda pair: f"{pair[0]}/{pair[1]}"))
    item = st.one_of(items)
    return st.one_of(value.map(str), item, st.lists(item, min_size=2, max_size=3).map(",".join))


def stars(highest: int) -> st.SearchStrategy[str]:
    """A star, often with a step."""
    return st.just("*") | st.integers(2, highest).map(lambda step: f"*/{step}")


MINUTES = plain(0, 59, (0, 1, 15, 30, 45, 59)) | plain(0, 59, (0, 30)) | stars(59)
HOURS = plain(0, 23, (0, 1, 2, 3, 23)) | plain(0, 23, (1, 2), steps=False) | stars(23)
MONTHDAYS = st.one_of(
    st.just("*"),
    st.just("*"),
    stars(31),
    plain(1, 31, (1, 28, 29, 30, 31)),
    st.sampled_from(["L", "LW", "L-1", "L-3,5", "1W", "15W,L", "31W", "29W", "L-30"]),
)
MONTHS = st.one_of(
    st.just("*"),
    st.just("*"),
    plain(1, 12, (2, 3, 10, 12)),
    st.sampled_from(MONTH_NAMES),
    stars(12),
)
WEEKDAYS = st.one_of(
    st.just("*"),
    st.just("*"),
    plain(0, 7),
    stars(6),
    st.sampled_from(["MON-FRI", "FRI-SUN", "SUN", "SAT,SUN", "5#2", "0#1", "7#5", "1L,3", "FRIL"]),
)
SECONDS = plain(0, 59) | stars(59)

CRON = st.one_of(
    st.tuples(MINUTES, HOURS, MONTHDAYS, MONTHS, WEEKDAYS),
    st.tuples(MINUTES, HOURS, st.just("*"), st.just("*"), st.just("*")),
    st.tuples(MINUTES, HOURS, MONTHDAYS, st.just("*"), WEEKDAYS),
    st.tuples(SECONDS, MINUTES, HOURS, st.just("*"), MONTHS, WEEKDAYS),
).map(" ".join)
