"""The real worker, with a history of what it asked the database: ``python -m tests.faults.worker``.

ROTA_HISTORY names the file. ROTA_DIE_AT names a point at which the process kills itself, as
``kill -9`` would: ``claim:invoke``, ``claim:ok``, ``finish:invoke``, ``finish:ok``,
``effect:start``, ``effect:done``, and the like of other phases of handlers, and of
``record_step``, ``sleep`` and ``await_event``.
"""

import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psycopg

from rota.worker.__main__ import main
from tests.history.record import History, record_claims, recording_cursor

POINTS = ("claim", "finish", "record_step", "sleep", "await_event")


class MortalHistory(History):
    """A history whose writer dies when a named line has been written."""

    def write(self, **fields: Any) -> None:
        super().write(**fields)
        idle = fields.get("jobs") == [] or fields.get("op") not in POINTS
        if not idle:
            die_at(f"{fields['op']}:{fields['type']}")


def die_at(point: str) -> None:
    """Die if this is the named point."""
    if os.environ.get("ROTA_DIE_AT") == point:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    history = MortalHistory(Path(os.environ["ROTA_HISTORY"]))
    record_claims(history)
    psycopg.connect = functools.partial(  # type: ignore[assignment]
        psycopg.connect, cursor_factory=recording_cursor(history)
    )
    sys.exit(main())
