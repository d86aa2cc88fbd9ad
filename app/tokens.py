"""Who asks: a request's token, and the principal that it stands for.

A principal is a database role, and all that a request does in the database is done under it
(app/database.py). So what it may is decided there, by db/grants.sql, for psql and REST alike. As
long as no token was made, requests from this machine run as the API's own login; and so do all
requests where ROTA_WITHOUT_TOKEN is ``serve``, which is for a network of its own that others do not
reach, such as the compose stack's.
"""

import hashlib
import ipaddress
import logging
import os
import socket
import time
from typing import Any, LiteralString

import psycopg
from flask import Flask, g, request
from flask.globals import request_ctx
from werkzeug.exceptions import MethodNotAllowed

from rota.app.database import Database
from rota.app.errors import RequestError, unauthorized
from rota.app.paths import is_page
from rota.app.standby import Standby

# Whose a token is, is known for so long once it was looked up. Whether it is valid still is asked
# by the transaction of each request (principal_of), so one that was revoked is refused at once.
# This is how long the tokens of a role that came to too much power are taken.
REMEMBERED_SECONDS = 3.0
MOST_REMEMBERED = 10_000

COOKIE = "rota_token"  # has the token of who looks at the dashboard, and is for it alone
OPEN_BLUEPRINTS = {"health", "docs"}
OPEN_ENDPOINTS = {
    "flasgger.spec",
    "ui.lead_in",
    "ui.static",
    "ui.sign_in",
    "ui.take_token",
}

log = logging.getLogger("rota.api")


class Principals:
    """Finds out whose a token is; remembers it for some seconds.

    Args:
        database: has the tokens.
        standby: is asked while that cannot be reached, if there is one, so that GETs go on.
        serves_all: whether nobody needs one as long as there is none, wherever they come from.
    """

    def __init__(
        self, database: Database, standby: Standby | None = None, serves_all: bool = False
    ) -> None:
        self.serves_all = serves_all
        self._database = database
        self._standby = standby
        self._known: dict[bytes | None, tuple[str | None, float]] = {}  # by hash, until when

    def needs_token(self) -> bool:
        """Tell whether a token was ever made.

        Raises:
            psycopg.Error: the database cannot be reached, or has no such function for this login.
        """
        return self._ask("select rota.needs_token()") == (True,)

    def of(self, token: str | None, is_local: bool) -> tuple[str | None, bytes | None]:
        """Return the principal of a token, and the token's hash; None twice where none is needed.

        Missing, unknown, expired and revoked are told apart by nothing: not by words, and not by
        time, for each is one look in the database.

        Args:
            token: what the request brought.
            is_local: whether it comes from this machine.

        Raises:
            RequestError: 401.
            psycopg.Error: the database cannot be reached.
        """
        # What may stand in logs of the server is the hash, from which nobody has the token.
        key = None if token is None else hashlib.sha256(token.encode("latin-1", "replace")).digest()
        principal, until = self._known.get(key, (None, 0.0))
        if time.monotonic() > until:
            if key is None:
                is_valid = not self.needs_token()
            else:
                principal = self._look_up(key)
                is_valid = principal is not None
            if not is_valid:
                self._known.pop(key, None)
                raise unauthorized()
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[key] = principal, time.monotonic() + REMEMBERED_SECONDS
        if key is None and not is_local and not self.serves_all:
            raise unauthorized()
        return principal, key

    def _look_up(self, token_hash: bytes) -> str | None:
        try:
            row = self._ask("select rota.authenticate_token(%s)", token_hash)
        except psycopg.errors.InsufficientPrivilege:
            log.error("the login of the API may not look up tokens: grant it rota_api")
            raise RequestError(503, "the API may not look up tokens; its log says why") from None
        return row[0] if row else None

    def _ask(self, query: LiteralString, *arguments: Any) -> tuple[Any, ...] | None:
        """Return the row of a query."""
        try:
            with self._database.own_transaction() as conn:
                return conn.execute(query, arguments).fetchone()
        except psycopg.OperationalError:
            if self._standby is None or self._standby.is_away:
                raise
        with self._standby.database.own_transaction() as conn:
            return conn.execute(query, arguments).fetchone()


def init_app(app: Flask) -> None:
    """Ask each request for its token, but for health and documentation."""
    principals = Principals(app.extensions["database"], app.extensions["standby"], _serves_all())
    app.extensions["principals"] = principals

    @app.before_request
    def authenticate() -> None:
        if _is_open():
            return
        is_local = is_loopback(request.remote_addr or "")
        g.principal, g.token_hash = principals.of(_token(), is_local)


def _serves_all() -> bool:
    """Read ROTA_WITHOUT_TOKEN.

    Raises:
        ValueError: it is neither of the two.
    """
    chosen = os.environ.get("ROTA_WITHOUT_TOKEN") or "refuse"
    if chosen not in ("refuse", "serve"):
        raise ValueError(f"ROTA_WITHOUT_TOKEN is 'refuse' or 'serve', not {chosen!r}")
    return chosen == "serve"


def _is_open() -> bool:
    """Tell whether a request leads to what asks nobody, be it by a method that it does not take."""
    endpoint = request.endpoint
    if isinstance(request.routing_exception, MethodNotAllowed):
        method = request.routing_exception.valid_methods[0]
        endpoint, _ = request_ctx.url_adapter.match(method=method)
    return endpoint in OPEN_ENDPOINTS or (endpoint or "").partition(".")[0] in OPEN_BLUEPRINTS


def _token() -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    # Another scheme is for a proxy in front, which may have asked for a password of its own.
    return request.cookies.get(COOKIE) if is_page(request.path) else None


def is_loopback(address: str) -> bool:
    """Tell whether an address is this machine's own."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def refusal_to_listen(app: Flask, host: str) -> str | None:
    """Say why the API must not listen on this address, and how to go on; None if it may.

    Raises:
        OSError: the host's name cannot be resolved.
    """
    if host and all(is_loopback(str(info[4][0])) for info in socket.getaddrinfo(host, None)):
        return None
    principals = app.extensions["principals"]
    try:
        if principals.needs_token():
            return None
    except psycopg.OperationalError:
        return None  # each request will be asked, once the database can be reached
    if principals.serves_all:
        log.warning(
            "there is no token yet, so whoever reaches %s may do what the login of the API may:"
            " make one with `rota token create --scope operator`, or set ROTA_TOKEN for the deploy",
            host or "this machine",
        )
        return None
    return (
        f"there is no token yet, and without one the API serves this machine only, not {host}:"
        " make one with `rota token create --scope operator`, set HOST=127.0.0.1, or, where nobody"
        " else reaches that address, ROTA_WITHOUT_TOKEN=serve"
    )
