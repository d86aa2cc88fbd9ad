"""A clock that nobody can set."""

import time
from time import clock_gettime  # as it is now, whatever a module makes of it

# Time that goes on while this process, or the machine, is suspended.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Return seconds; only differences mean something."""
    return clock_gettime(_CLOCK)
