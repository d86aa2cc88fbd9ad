"""Answers that are the same for all who ask within some seconds: one asks, the others wait."""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from rota.app.errors import RequestError

log = logging.getLogger("rota.api")

LONGEST_WAIT = 5.0  # seconds that a request waits for the answer that another one gets
MOST_KEYS = 200  # then everything goes; what is over goes before

Value = TypeVar("Value")


class Shared(Generic[Value]):
    """What was answered, kept for a while; of those who come for something new one works it out.

    Kept is by key, and whoever asks by one must be allowed all that is kept by it.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry[Value]] = {}
        self._lock = threading.Lock()
        self._renewal = threading.Lock()

    def get(
        self, key: Hashable, load: Callable[[], tuple[Value, float]], stale: float = 0.0
    ) -> Value:
        """Return what is kept, or what ``load`` returns with the seconds to keep it for.

        Args:
            key: what it is, and who may see it.
            load: works it out.
            stale: for how many seconds more what is over is returned at once, while a thread of its
                own works it out anew.

        Raises:
            RequestError: 503, somebody else has asked already and gets no answer either.
            Exception: whatever ``load`` raises; then nothing is kept, and the next one asks.
        """
        with self._lock:
            if key not in self._entries:
                now = time.monotonic()
                self._entries = {k: e for k, e in self._entries.items() if e.is_of_use(now)}
            if len(self._entries) >= MOST_KEYS and key not in self._entries:
                self._entries.clear()
            entry = self._entries.setdefault(key, _Entry())
        entry.stale = stale
        kept = entry.kept
        if kept is not None and entry.until <= time.monotonic() < entry.until + stale:
            self._renew(entry, load)
            return kept[0]
        if not entry.lock.acquire(timeout=LONGEST_WAIT):
            raise RequestError(503, "the database takes long to answer this; try again")
        try:
            if entry.kept is None or time.monotonic() >= entry.until:
                entry.kept = None  # should there be an error
                entry.load(load)
            return entry.kept[0]
        finally:
            entry.lock.release()

    def _renew(self, entry: "_Entry[Value]", load: Callable[[], tuple[Value, float]]) -> None:
        """Have a thread work something out anew, unless there is one that does."""

        def work() -> None:
            try:
                if time.monotonic() >= entry.until:
                    entry.load(load)
            except Exception:  # whoever comes when it is too old is told
                log.warning("what is shown could not be renewed", exc_info=True)
            finally:
                entry.lock.release()
                self._renewal.release()

        if not self._renewal.acquire(blocking=False):
            return
        if entry.lock.acquire(blocking=False):
            threading.Thread(target=work, daemon=True).start()
        else:
            self._renewal.release()

    def forget(self) -> None:
        """Have everything worked out anew."""
        with self._lock:
            self._entries.clear()


class _Entry(Generic[Value]):
    """One answer, and who works it out holds its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: tuple[Value] | None = None
        self.until = 0.0
        self.stale = 0.0

    def is_of_use(self, now: float) -> bool:
        """Tell whether it may be returned, or is being worked out."""
        return now < self.until + self.stale or self.lock.locked()

    def load(self, load: Callable[[], tuple[Value, float]]) -> None:
        """Keep what is worked out."""
        value, seconds = load()
        self.kept = (value,)
        self.until = time.monotonic() + seconds
