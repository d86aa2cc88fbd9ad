"""What is shown to a person: no text steers the terminal, and a wait says how far it has come."""

import contextlib
import os
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import TextIO

PAUSE = 0.5  # seconds between two looks at how far it is
EVERY = 5.0  # seconds between two lines on a wait, where they cannot stand in one place


def printable(text: str, stream: TextIO | None = None) -> str:
    """Return a text as a terminal may have it, on one line.

    Names and errors are anybody's: what would steer the terminal is left out, and what its
    encoding cannot show is written otherwise.
    """
    text = "".join(one if one.isprintable() else " " for one in text)
    encoding = (stream or sys.stdout).encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def cut(text: str, width: int) -> str:
    """Return as much of a text as stands in so many columns, with a mark if that is not all."""
    if columns(text) <= width:
        return text
    kept, taken = "", 1  # the mark's column
    for one in text:
        taken += columns(one)
        if taken > width:
            break
        kept += one
    return kept + ("…" if printable("…") == "…" else "~")


def width_of(stream: TextIO) -> int | None:
    """Return how many columns a terminal has, None for what is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def has_colours(stream: TextIO) -> bool:
    """Tell whether colours are wanted and understood (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return stream.isatty() and not plain


class Progress:
    """How far a wait has come: on a terminal in one place, else a line every few seconds.

    What is over before the first line is due leaves nothing behind. Its stream is not that of
    results.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._shown = False
        self._lock = threading.RLock()
        self._next = time.monotonic() + EVERY

    @contextlib.contextmanager
    def during(self, tell: Callable[[], str]) -> Iterator[None]:
        """Show what is told, twice a second, until the block has ended."""
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(PAUSE):
                self.show(tell())

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.clear()

    def waiting(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Show for how long the block has been going on."""
        began = time.monotonic()
        return self.during(lambda: f"{what}, {time.monotonic() - began:.0f} s")

    def show(self, text: str) -> None:
        """Say how far it is, in place of what was said before."""
        text = printable(text, self._stream)
        with self._lock:
            if self._in_place:
                self._write("\r\x1b[K" + cut(text, shutil.get_terminal_size().columns - 1))
                self._shown = True
            elif time.monotonic() >= self._next:
                self._write(f"{text}\n")
                self._next = time.monotonic() + EVERY

    def aside(self, report: Callable[[str], None]) -> Callable[[str], None]:
        """Return a report whose lines stay, each in the place of what was shown."""

        def stay(line: str) -> None:
            with self._lock:
                self.clear()
                report(line)

        return stay

    def clear(self) -> None:
        """Make room for a line that stays."""
        with self._lock:
            if self._shown:
                self._write("\r\x1b[K")
                self._shown = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
