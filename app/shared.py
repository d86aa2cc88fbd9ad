"""Answers that are the same for all who ask within some seconds: one asks, the others wait."""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from rota.app.errors import RequestError

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

    def get(self, key: Hashable, load: Callable[[], tuple[Value, float]]) -> Value:
        """Return what is kept, or what ``load`` returns with the seconds to keep it for.

        Raises:
            RequestError: 503, somebody else has asked already and gets no answer either.
            Exception: whatever ``load`` raises; then nothing is kept, and the next one asks.
        """
        with self._lock:
            if key not in self._entries:
                now = time.monotonic()
                kept = {k: e for k, e in self._entries.items() if now < e.until or e.lock.locked()}
                self._entries = kept
            if len(self._entries) >= MOST_KEYS and key not in self._entries:
                self._entries.clear()
            entry = self._entries.setdefault(key, _Entry())
        if not entry.lock.acquire(timeout=LONGEST_WAIT):
            raise RequestError(503, "the database takes long to answer this; try again")
        try:
            if entry.kept is None or time.monotonic() >= entry.until:
                entry.kept = None  # should there be an error
                value, seconds = load()
                entry.kept = (value,)
                entry.until = time.monotonic() + seconds
            return entry.kept[0]
        finally:
            entry.lock.release()

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
