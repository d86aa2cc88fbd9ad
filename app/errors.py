"""Errors as JSON: the caller's with all that helps, ours with an id to look up in the log."""

import logging
import re
import uuid

import psycopg
from flask import Flask, Response, g, jsonify
from werkzeug.exceptions import HTTPException

log = logging.getLogger("rota.api")

# The longest prefix of the SQLSTATE decides, so that a new code of a family needs no Python.
STATUS_BY_SQLSTATE = {
    "RTN": 404,
    "RTC": 409,
    "RTV": 422,
    "22": 422,
    "23": 409,
    "23502": 422,
    "23514": 422,
    "08": 503,
    "25006": 503,  # a standby: the primary is elsewhere now
    "40": 503,
    "53": 503,
    "55P03": 503,  # lock_timeout
    "57": 503,
}


class RequestError(Exception):
    """A request that cannot be answered as it stands.

    Args:
        status: the HTTP status.
        message: what is wrong, naming the field.
        code: the SQLSTATE that the database would have raised, else ``HTTP`` and the status.
        detail: more about this case.
        hint: what to do instead.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "code": code or f"HTTP{status}",
            "message": message,
            "detail": detail,
            "hint": hint,
        }


def invalid(field: str, message: str, hint: str | None = None) -> RequestError:
    """Return the problem of a field that has a wrong value."""
    return RequestError(422, f"{field}: {message}", code="RTV01", hint=hint)


def status_of(error: psycopg.Error) -> int:
    """Return the HTTP status for what the database, or the way to it, answered."""
    if error.sqlstate is None:
        if isinstance(error, psycopg.OperationalError):
            return 503
        return 422 if isinstance(error, psycopg.DataError) else 500
    prefixes = [prefix for prefix in STATUS_BY_SQLSTATE if error.sqlstate.startswith(prefix)]
    return STATUS_BY_SQLSTATE[max(prefixes, key=len)] if prefixes else 500


def init_app(app: Flask) -> None:
    """Answer every error as JSON."""
    app.register_error_handler(RequestError, _answer_problem)
    app.register_error_handler(psycopg.Error, _answer_database_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_failure)


def _answer_problem(problem: RequestError) -> tuple[Response, int]:
    return jsonify(problem.body), problem.status


def _answer_database_error(error: psycopg.Error) -> tuple[Response, int]:
    status = status_of(error)
    if status >= 500:
        return _answer_failure(error, status)
    return _answer_problem(
        RequestError(
            status,
            _name_fields(error.diag.message_primary or str(error)),
            code=error.sqlstate or "RTV01",
            detail=error.diag.message_detail,
            hint=error.diag.message_hint,
        )
    )


def _name_fields(message: str) -> str:
    """Begin a message of the database with the field's name instead of the argument's."""
    fields = g.get("fields_by_argument", {})
    return re.sub(
        r"^(jobs\[\d+\]: )?(\w+)",
        lambda start: (start[1] or "") + fields.get(start[2], start[2]),
        message,
    )


def _answer_http_error(error: HTTPException) -> Response:
    if error.code is None or error.code >= 500:
        return _answer_failure(error)[0]
    response = error.get_response()
    response.data = jsonify(RequestError(error.code, error.description or error.name).body).data
    response.content_type = "application/json"
    return response


def _answer_failure(error: Exception, status: int = 500) -> tuple[Response, int]:
    """Answer without a word about the inside; the log has it under the same id."""
    failure_id = uuid.uuid4().hex
    fields = {"id": failure_id, "status": status, "error": type(error).__name__}
    if isinstance(error, psycopg.Error):
        # The whole text of the server's error may quote a payload.
        fields |= {"sqlstate": error.sqlstate, "reason": error.diag.message_primary or str(error)}
        log.error("database error", extra={"fields": fields})
    else:
        log.error("unexpected error", exc_info=error, extra={"fields": fields})

    message = "the database is not available" if status == 503 else "internal error"
    response = jsonify(code=f"HTTP{status}", message=message, id=failure_id)
    if status == 503:
        response.headers["Retry-After"] = "1"
    return response, status
