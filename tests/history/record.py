"""Writing a history: what each process asked the database for, and what it knows of the answer.

One JSON object a line, appended in one write, so that many processes share a file and a process
that is killed leaves whole lines. A call is an ``invoke`` and, later, one of

- ``ok``: it was answered, with what;
- ``fail``: the database refused it, and nothing happened;
- ``unknown``: the connection broke, so it may have happened or not.

A call without a second line is unknown too: its process died. Times: ``mono`` is the machine's
monotonic clock, the same for all processes of one machine; ``wall`` is its civil time, which a
server on the same machine has too, unless a fault has shifted it.
"""

import itertools
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import Composable

from rota.worker.link import Statement

MAY_HAVE_COMMITTED = ("08", "57P")  # a statement that ended so was perhaps done

RECORDED = re.compile(
    r"rota\.\"?(claim_next_job|finish_jobs?|release_(?:unhandled_)?jobs?|heartbeat_jobs?"
    r"|recover_jobs|enqueue_job|record_step|sleep_job|await_event|emit_event)\b"
)


class Appender:
    """A file that many processes append lines to."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)

    def write(self, **fields: Any) -> None:
        """Append one line, with the time and the process id."""
        line = {"mono": time.monotonic(), "wall": time.time(), "process": os.getpid(), **fields}
        os.write(self._file, json.dumps(line, default=str).encode() + b"\n")


class History(Appender):
    """A history that is being written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._numbers = itertools.count(1)

    def invoke(self, op: str, **fields: Any) -> str:
        """Note that a call is about to be made; return its name, for ``answer``."""
        call = f"{os.getpid()}-{next(self._numbers)}"
        self.write(call=call, op=op, type="invoke", **fields)
        return call

    def answer(self, call: str, op: str, kind: str, **fields: Any) -> None:
        """Note what became of a call: ``ok``, ``fail`` or ``unknown``."""
        self.write(call=call, op=op, type=kind, **fields)

    def error(self, call: str, op: str, error: psycopg.Error) -> None:
        """Note a call that ended in an error: refused, or unknown."""
        unknown = error.sqlstate is None or error.sqlstate.startswith(MAY_HAVE_COMMITTED)
        self.answer(call, op, "unknown" if unknown else "fail", sqlstate=error.sqlstate)


def recording_cursor(history: History) -> type[psycopg.Cursor[Any]]:
    """Return a cursor class that writes each call of a Rota function to the history."""

    class RecordingCursor(psycopg.Cursor[Any]):
        _call: str | None = None
        _op = ""
        _asked: dict[str, Any]

        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            text = query.as_string(self) if isinstance(query, Composable) else str(query)
            found = RECORDED.search(text.replace('"', ""))
            if found is None:
                return super().execute(query, params, **options)
            self._op = found[1].removesuffix("_jobs").removesuffix("_next_job")
            self._op = self._op.removesuffix("_job").removesuffix("_unhandled")
            self._asked = asked(named(text, params))
            self._call = history.invoke(self._op, **self._asked)
            try:
                return super().execute(query, params, **options)
            except psycopg.Error as error:
                history.error(self._call, self._op, error)
                self._call = None
                raise

        def fetchall(self) -> list[Any]:
            rows = super().fetchall()
            if self._call is not None:
                history.answer(self._call, self._op, "ok", **answered(self._op, self._asked, rows))
                self._call = None
            return rows

    return RecordingCursor


def record_claims(history: History) -> None:
    """Write each of the worker's claims to the history; they take no cursor."""

    def recorded(claim: Statement, conn: Any, arguments: Sequence[str]) -> list[Any]:
        queues, worker, lease, *_ = arguments
        call = history.invoke(
            "claim",
            queues=[name.strip('"') for name in _list(queues)],
            worker=worker,
            lease=float(lease.removesuffix(" seconds")),
        )
        try:
            rows = rows_of(claim, conn, arguments)
        except psycopg.Error as error:
            history.error(call, "claim", error)
            raise
        history.answer(call, "claim", "ok", **answered("claim", {}, rows))
        return rows

    rows_of, Statement.rows = Statement.rows, recorded  # type: ignore[method-assign]


def named(text: str, params: Any) -> dict[str, Any]:
    """Return a call's arguments by their names, also where each is passed in its place."""
    if isinstance(params, Mapping):
        return dict(params)
    names = re.findall(r"(\w+) => [^%,]*%s", text)
    return dict(zip(names, params or (), strict=False))


def asked(params: dict[str, Any]) -> dict[str, Any]:
    """Return what of a call's arguments the checker reads."""
    seen: dict[str, Any] = {}
    if "ids" in params:
        seen["pairs"] = [
            [int(job), token]
            for job, token in zip(_list(params["ids"]), _list(params["tokens"]), strict=True)
        ]
    elif "job_id" in params:
        seen["pairs"] = [[int(params["job_id"]), params["token"]]]
    if isinstance(params.get("lease"), timedelta):
        seen["lease"] = params["lease"].total_seconds()
    if "payload" in params:
        payload = params["payload"]
        payload = getattr(payload, "obj", payload)
        seen["key"] = payload.get("key") if isinstance(payload, dict) else None
    if "event" in params:
        payload = params.get("payload")
        seen |= {"event": params["event"], "payload": getattr(payload, "obj", payload)}
    names = ("worker", "queues", "queue", "step")
    return seen | {name: params[name] for name in names if name in params}


def answered(op: str, asked: dict[str, Any], rows: list[Any]) -> dict[str, Any]:
    """Return what of an answer the checker reads."""
    rows = [tuple(row.values()) if isinstance(row, dict) else row for row in rows]
    if op == "claim":
        return {
            "jobs": [
                {"job": row[0], "token": row[1], "queue": row[4], "attempt": row[5]}
                for row in rows
                if row[0] is not None  # the worker's own says so that there is none
            ]
        }
    if op in ("finish", "release"):
        return {"outcomes": [row[1] for row in rows]}
    if op in ("sleep", "await_event"):  # from the worker without the job's id
        return {"state": next(value for value in rows[0] if isinstance(value, str))}
    if op == "heartbeat" and rows and len(rows[0]) >= 3:  # a batch: job, seconds left, cancel
        return {"left": {row[0]: row[1] for row in rows}}
    if op == "heartbeat":
        return {"left": {asked["pairs"][0][0]: asked["lease"]} if rows else {}}
    return {"value": rows[0][0] if rows else None}


def _list(value: Any) -> list[str]:
    """Return an array argument's items, also where it was passed as an array literal."""
    if isinstance(value, str):
        return value.strip("{}").split(",") if value != "{}" else []
    return list(value)
