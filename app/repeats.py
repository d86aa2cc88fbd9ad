"""Requests with an Idempotency-Key: a repeat is answered as the first one was, and adds nothing.

The key is noted in the transaction that does what is asked for, as its first statement, so that a
repeat that comes meanwhile waits, and what was rolled back leaves nothing.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import psycopg
from flask import Response, current_app, request

from rota.app.database import transaction
from rota.app.errors import invalid
from rota.db.gateway import call

KEY = "Idempotency-Key"
LONGEST_KEY = 200
PRINTABLE = re.compile("[!-~]([ -~]*[!-~])?")

Made = tuple[dict[str, Any], int, dict[str, str]]  # a body, a status, headers


def once(make: Callable[[psycopg.Connection], Made]) -> Made | Response:
    """Do what a request asks for in one transaction, once for its key if it has one.

    Args:
        make: does it, and returns the answer; its only header may be ``Location``.
    """
    key = request.headers.get(KEY)
    if key is None:
        with transaction() as conn:
            return make(conn)
    if len(key) > LONGEST_KEY or not PRINTABLE.fullmatch(key):
        raise invalid(KEY, f"must have 1 to {LONGEST_KEY} characters, all of printable ASCII")
    with transaction() as conn:
        (past,) = call(conn, "begin_request", key=key, fingerprint=_fingerprint())
        if past["status"] is not None:
            return _again(past)
        body, status, headers = make(conn)
        text = current_app.json.response(body).get_data(as_text=True)
        location = headers.get("Location")
        call(conn, "end_request", key=key, status=status, answer=text, location=location)
    return body, status, headers


def _again(past: dict[str, Any]) -> Response:
    answer = Response(past["answer"], past["status"], mimetype="application/json")
    answer.headers["Idempotency-Replayed"] = "true"
    if past["location"] is not None:
        answer.headers["Location"] = past["location"]
    return answer


def _fingerprint() -> str:
    """Return what tells this request from others: its method, path and body."""
    said = f"{request.method} {request.full_path}\n".encode() + request.get_data()
    return hashlib.sha256(said).hexdigest()
