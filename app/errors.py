"""Errors as JSON: the caller's with all that helps, ours with an id to look up in the log."""

import logging
import re
import uuid
from collections.abc import Mapping
from typing import Any

import psycopg
from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from rota.app.database import ForeignRoleError

log = logging.getLogger("rota.api")

# The longest prefix of the SQLSTATE decides, so that a new code of a family needs no Python.
STATUS_BY_SQLSTATE = {
    "RTN": 404,
    "RTC": 409,
    "RTP": 403,
    "RTP02": 401,
    "RTV": 422,
    "22": 422,
    "23": 409,
    "23502": 422,
    "23514": 422,
    "08": 503,
    "0A000": 503,  # a deploy has changed what a prepared statement would return
    "25006": 503,  # a standby: the primary is elsewhere now
    "25P03": 503,  # idle_in_transaction_session_timeout: we stood still
    "25P04": 503,  # transaction_timeout
    "40": 503,
    "42501": 403,
    "53": 503,
    "55P03": 503,  # lock_timeout
    "57": 503,
}

# What callers are told. Only the errors of our own functions speak to them; what PostgreSQL says is
# about tables and settings, quotes values and shows rows, and goes to the log at most.
WORDS_BY_SQLSTATE = {
    "": "the database is not available",
    "0A000": "the database was changed meanwhile; try again",
    "22": "a value is out of range, or not of its type",
    "22P05": "a text has a character that the database cannot store",
    "23": "what this request asks for would break a rule of the database",
    "23505": "another one has this key already",
    "25006": "the database can only be read at the moment",
    "25P": "this took longer than a request may; try again",
    "40": "another transaction was in the way; try again",
    "42501": "whom this request acts for has no right to this",
    "53": "the database is short of connections, memory or disk; try again later",
    "55P03": "another transaction holds what this request needs; try again",
    "57014": "this took longer than a request may, and was given up",
}
WORDS_BY_STATUS = {
    400: "the request cannot be read",
    404: "there is nothing at this path",
    405: "this path does not take this method",
    413: "the body is too large",
    416: "there is no such part of this file",
}


REFUSAL = "rota.refusal"  # in the environment of a request: why nobody can answer it


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


def refuse() -> None:
    """Refuse what no database can be found for, where there are several (app/front.py).

    Raises:
        RequestError: why.
    """
    refusal = request.environ.get(REFUSAL)
    if refusal is not None:
        raise refusal


def unauthorized() -> RequestError:
    """Return the answer to every request without a valid token."""
    return RequestError(
        401,
        "this needs a valid token",
        hint="Send it as Authorization: Bearer TOKEN. `rota token create` makes one.",
    )


def status_of(error: psycopg.Error) -> int:
    """Return the HTTP status for what the database, or the way to it, answered."""
    if error.sqlstate is None:
        if isinstance(error, psycopg.OperationalError):
            return 503
        return 422 if isinstance(error, psycopg.DataError) else 500
    return _by_prefix(STATUS_BY_SQLSTATE, error.sqlstate) or 500


def _by_prefix(table: Mapping[str, Any], sqlstate: str) -> Any:
    prefixes = [prefix for prefix in table if sqlstate.startswith(prefix)]
    return table[max(prefixes, key=len)] if prefixes else None


def init_app(app: Flask) -> None:
    """Answer every error as JSON."""
    app.register_error_handler(RequestError, _answer_problem)
    app.register_error_handler(psycopg.Error, _answer_database_error)
    app.register_error_handler(ForeignRoleError, _answer_foreign_role)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_failure)


def _answer_problem(problem: RequestError) -> tuple[Response, int]:
    response = jsonify(problem.body)
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.status == 503:
        response.headers["Retry-After"] = "1"
    return response, problem.status


def _answer_foreign_role(error: ForeignRoleError) -> tuple[Response, int]:
    """Tell whoever runs the API that a valid token's principal is not granted to its login."""
    fields = {"principal": g.get("principal"), "reason": str(error)}
    log.error("grant this principal to the login of the API", extra={"fields": fields})
    return _answer_problem(
        RequestError(403, "the API may not act for whom this token stands; its log says why")
    )


def _answer_database_error(error: psycopg.Error) -> tuple[Response, int]:
    status = status_of(error)
    if status >= 500:
        return _answer_failure(error, status)
    if status == 401:  # the token was revoked, or ran out, since it was looked up
        return _answer_problem(unauthorized())
    sqlstate = error.sqlstate or "22000"  # psycopg's own: a value that cannot be sent
    if sqlstate.startswith("RT"):
        return _answer_problem(
            RequestError(
                status,
                _name_fields(error.diag.message_primary or ""),
                code=sqlstate,
                detail=error.diag.message_detail,
                hint=error.diag.message_hint,
            )
        )
    fields = {"sqlstate": sqlstate, "constraint": error.diag.constraint_name}
    if status == 403:
        fields |= {"principal": g.get("principal"), "reason": error.diag.message_primary}
    log.warning("the database refused this", extra={"fields": fields})
    message = _by_prefix(WORDS_BY_SQLSTATE, sqlstate)
    return _answer_problem(RequestError(status, message, code=sqlstate))


def _name_fields(message: str) -> str:
    """Begin a message of the database with the field's name instead of the argument's."""
    fields = g.get("fields_by_argument", {})
    return re.sub(
        r"^((?:jobs|next)\[\d+\]: )?(\w+)",
        lambda start: (start[1] or "") + fields.get(start[2], start[2]),
        message,
    )


def _answer_http_error(error: HTTPException) -> Response:
    if error.code is None or error.code >= 500:
        return _answer_failure(error)[0]
    response = error.get_response()
    message = WORDS_BY_STATUS.get(error.code, error.name)
    response.data = jsonify(RequestError(error.code, message).body).data
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

    message = "internal error"
    if status == 503:
        message = _by_prefix(WORDS_BY_SQLSTATE, getattr(error, "sqlstate", None) or "")
    response = jsonify(code=f"HTTP{status}", message=message, id=failure_id)
    if status == 503:
        response.headers["Retry-After"] = "1"
    return response, status
