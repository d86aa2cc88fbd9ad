"""What belongs to the whole process, and any module or handler can change.

Only what the worker itself relies on is put back. A module's folder, locale, umask, default timeout
of sockets or garbage collector are its own affair.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from rota.worker import log

SWITCH_INTERVAL = 0.001  # seconds; a busy handler gives way to the heartbeat this soon
RECURSION_LIMIT = sys.getrecursionlimit()

Action = Callable[[int, FrameType | None], None] | signal.Handlers

_actions: dict[signal.Signals, Action] = {}


def hold(stop: Action) -> None:
    """Have the signals that ask to stop call this; in the main thread, before anything starts."""
    _actions.update(
        {
            signal.SIGTERM: stop,
            signal.SIGINT: stop,
            signal.SIGPIPE: signal.SIG_IGN,  # by default a reader that has gone would end us
        }
    )
    restore_all()
    os.register_at_fork(after_in_child=_let_go)


def restore_all() -> list[str]:
    """Put everything back; return what had been changed. In the main thread."""
    changed = []
    for number, action in _actions.items():
        if signal.getsignal(number) is not action:
            signal.signal(number, action)
            changed.append(f"the action on {number.name}")
    if signal.pthread_sigmask(signal.SIG_UNBLOCK, _actions) & _actions.keys():
        changed.append("the signals that are blocked")
    return changed + restore()


def restore() -> list[str]:
    """Put back what any thread may; return what had been changed."""
    changed = []
    if sys.getrecursionlimit() < RECURSION_LIMIT:  # first: nothing works without it
        sys.setrecursionlimit(RECURSION_LIMIT)
        changed.append("the recursion limit")
    if sys.getswitchinterval() > SWITCH_INTERVAL * 1.01:
        sys.setswitchinterval(SWITCH_INTERVAL)
        changed.append("the switch interval")
    if log.restore():
        changed.append("Rota's loggers")
    return changed


def _let_go() -> None:
    """Be no worker: a forked child ends by the signals that its parent stops by."""
    for number in _actions:
        signal.signal(number, signal.SIG_DFL)
    _actions.clear()
