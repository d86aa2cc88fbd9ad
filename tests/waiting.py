"""Waiting for something that can be seen, instead of sleeping for long enough."""

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")


def wait_until(look: Callable[[], Seen], timeout: float = 30.0, every: float = 0.01) -> Seen:
    """Look again and again, with a pause between, until what is seen is true; return it.

    Raises:
        AssertionError: it was not true within that many seconds.
    """
    deadline = time.monotonic() + timeout
    while not (seen := look()):
        assert time.monotonic() < deadline, f"did not come about in {timeout} s: {seen!r}"
        time.sleep(every)
    return seen
