"""The doctor: what is wrong with this installation."""

from flask import Blueprint, Response

from rota.app.answers import answer, call_rows
from rota.app.database import transaction

blueprint = Blueprint("doctor", __name__)


@blueprint.get("/doctor")
def examine() -> Response:
    """Say what is wrong with this installation.

    The worst first, and what to do about each; nothing when all is well. No row is locked and
    nothing is written; the live jobs are read once or twice, so once a minute is often enough. It
    is about all queues, so a token behind a wall gets 403.
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
