"""How figures, times and states are written on pages."""

import math
from datetime import UTC, datetime

from flask import Flask
from markupsafe import Markup, escape

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
COMMANDS = ("rota ", "select ", "alter ", "vacuum ", "grant ", "rollback ", "drop ")
STATES = {
    "WAITING": "held",
    "SCHEDULED": "calm",
    "RUNNING": "busy",
    "COMPLETED": "good",
    "SUCCEEDED": "good",
    "ARRIVED": "good",
    "FAILED": "bad",
    "LOST": "bad",
    "TIMED_OUT": "bad",
    "CANCELLED": "off",
    "RELEASED": "off",
    "SKIPPED": "off",
    "PAUSED": "off",
    "ALIVE": "good",
    "SILENT": "bad",
    "critical": "bad",
    "warning": "odd",
    "note": "calm",
}


def init_app(app: Flask) -> None:
    """Make these known to the templates."""
    app.jinja_env.filters |= {
        "number": number,
        "span": span,
        "moment": moment,
        "badge": badge,
        "remedy": remedy,
        "colour": lambda word: STATES.get(word, "calm"),
        "first_line": first_line,
        "cut": cut,
        "rate": rate,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
    }


def number(value: float | None) -> str:
    """Write a count with a comma at each thousand; nothing for none."""
    return "" if value is None else f"{value:,.0f}"


def span(seconds: float | None) -> str:
    """Write how long something takes, in its two greatest units."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    sign = "-" if seconds < 0 else ""
    seconds = abs(seconds)
    if seconds < 0.9995:
        return f"{sign}{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{sign}{seconds:.1f} s"
    whole = round(seconds)
    for place, (size, unit) in enumerate(UNITS):
        if whole >= size:
            text = f"{whole // size} {unit}"
            rest = whole % size
            if rest and place + 1 < len(UNITS) and whole < 10 * size:
                smaller, name = UNITS[place + 1]
                if rest // smaller:
                    text += f" {rest // smaller} {name}"
            return sign + text
    return "0 s"


def moment(value: str | None, ago: bool = False) -> Markup:
    """Write a moment in UTC; the page's script adds what it is by the clock of who looks.

    Args:
        value: ISO 8601 in UTC, as the database connection gives it.
        ago: whether the script writes how long ago it is instead.
    """
    if value is None:
        return Markup("")
    text = str(value)
    try:
        shown = datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:  # infinity, or a year that Python has no word for
        return escape(text)
    same_day = shown.date() == datetime.now(UTC).date()
    words = shown.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}" title="{} UTC"{}>{}</time>').format(
        text, shown.strftime("%Y-%m-%d %H:%M:%S"), Markup(" data-ago") if ago else "", words
    )


def badge(word: str | None) -> Markup:
    """Write a state or an outcome as a word with a colour of its kind."""
    if word is None:
        return Markup("")
    return Markup('<span class="badge {}">{}</span>').format(STATES.get(word, "calm"), word)


def remedy(text: str | None) -> Markup:
    """Write what to do: as code, where it is, or ends in, a command or a statement to be copied."""
    words, colon, command = (text or "").partition(": ")
    if command.startswith(COMMANDS):
        return Markup("{}: <code>{}</code>").format(words, command)
    is_code = words.startswith(COMMANDS)
    return Markup("<code>{}</code>" if is_code else "{}").format(words + colon + command)


def first_line(text: str | None, length: int = 120) -> str:
    """Return what an error says at its end, where a traceback has the reason, or at its start."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return cut(lines[-1] if lines else "", length)


def cut(text: str, length: int = 120) -> str:
    """Return a text, no longer than that."""
    return text if len(text) <= length else text[: length - 1] + "…"


def rate(value: float) -> str:
    """Write how often something happens in a minute; a decimal where that tells something."""
    return "0" if not value else f"{value:.1f}" if value < 99.95 else number(value)


def quantile(histogram: list[int] | None, part: float) -> float | None:
    """Return below how many seconds a part of what was counted lies; None of nothing.

    Args:
        histogram: 14 numbers, of up to 1 ms, up to 4 ms and so on, and of what took longer.
        part: from 0 to 1.
    """
    counted = sum(histogram or [])
    if not counted:
        return None
    wanted = part * counted
    passed = 0.0
    for place, count in enumerate(histogram or []):
        if count and passed + count >= wanted:
            upper = 0.001 * 4**place
            return upper / 4 * 4 ** ((wanted - passed) / count)
        passed += count
    return 0.001 * 4 ** len(histogram or [])
