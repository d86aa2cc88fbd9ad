"""The doctor: what is wrong with this installation."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg
from flask import Blueprint, Response, current_app, g
from psycopg.rows import dict_row

from rota.app.answers import answer, call_rows
from rota.app.database import Database, database, transaction
from rota.app.errors import status_of
from rota.app.shared import Shared

blueprint = Blueprint("doctor", __name__)


LONGEST = "set local statement_timeout = '5s'"
KEPT = 30.0, 600.0  # seconds that a look is good for metrics and pages, at least and at most
SHARE = 100  # times what it took
STALE = 600.0  # seconds for which it is shown after that, while somebody looks anew
FINDINGS = """
    select severity, "check", finding, remedy, evidence,
        extract(epoch from clock_timestamp() - (evidence ->> 'since')::timestamptz)::float8
            as age
    from rota.doctor(max_age => '5 minutes')  -- so nothing is counted for us
"""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found when it looked last."""

    at: str  # ISO 8601
    asked_at: float  # by the monotonic clock
    findings: list[dict[str, Any]] | None  # None where it could not look
    status: int | None = None  # why it could not, as of HTTP


def diagnosis() -> Diagnosis:
    """Return what was found for whoever asks, half a minute ago or some more if it is slow.

    Who comes when that is over has a thread look anew, and gets what is kept, unless it is so old
    that it tells nothing. That it was refused, or took too long, is kept, too: else each page would
    wait for it.

    Raises:
        RequestError: 503, somebody else has asked already and gets no answer either.
    """
    kept: Shared[Diagnosis] = current_app.extensions["diagnoses"]
    look = partial(_look, database(), g.get("token_hash"))  # a thread has no request
    return kept.get(g.get("principal"), look, STALE)


def _look(connections: Database, token_hash: bytes | None) -> tuple[Diagnosis, float]:
    began = time.monotonic()
    at = datetime.now(UTC).isoformat()
    try:
        with connections.transaction(token_hash) as conn:
            conn.execute(LONGEST)
            findings = conn.cursor(row_factory=dict_row).execute(FINDINGS).fetchall()
        looked = Diagnosis(at, time.monotonic(), findings)
    except psycopg.Error as error:
        looked = Diagnosis(at, time.monotonic(), None, status_of(error))
        if looked.status == 401:
            raise
    least, most = KEPT
    return looked, min(max(least, SHARE * (looked.asked_at - began)), most)


@blueprint.get("/doctor")
def examine() -> Response:
    """Say what is wrong with this installation.

    The worst first, and what to do about each; nothing when all is well. No row is locked and
    nothing is written; the live jobs are counted unless workers did so in the last 30 seconds, so
    once a minute is often enough. It is about all queues, so a token behind a wall gets 403.
    ---
    tags: [doctor]
    operationId: examine
    security: [operator, reader]
    responses:
      200:
        description: What was found.
        json: Findings
    """
    with transaction() as conn:
        columns = 'severity, "check", finding, remedy, evidence'
        return answer(findings=call_rows(conn, columns, {}, "doctor"))
