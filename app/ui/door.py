"""Who comes in: a token in a cookie, and the mark by which a form is known to be ours.

The cookie is for these pages only: it is sent to no other path, no script sees it, and no page of
another site can have it sent along. Where no token is needed, there is no cookie.
"""

import hashlib
import os
import secrets

from flask import Flask, Response, current_app, g, redirect, request, url_for
from itsdangerous import Signer

from rota.app.errors import RequestError
from rota.app.paths import PAGES, is_page
from rota.app.tokens import COOKIE

LONGEST_TOKEN = 200


def init_app(app: Flask) -> None:
    """Choose what forms are signed with.

    Processes that serve one address together need one ROTA_SECRET_KEY. Without it each start makes
    one, and a form of a page from before is refused once.
    """
    app.config["SECRET_KEY"] = os.environ.get("ROTA_SECRET_KEY") or secrets.token_urlsafe(32)


def form_mark() -> str:
    """Return what a form of ours has with it: nobody else can make it, for this visitor."""
    signer = Signer(current_app.config["SECRET_KEY"], "rota form", digest_method=hashlib.sha256)
    return signer.get_signature((g.get("token_hash") or b"").hex()).decode()


def check_form() -> None:
    """Refuse what is no form of ours.

    A browser says where a form comes from. One that says nothing at all is not believed, though
    the mark alone would do.

    Raises:
        RequestError: 403.
    """
    if "Origin" not in request.headers and "Sec-Fetch-Site" not in request.headers:
        raise RequestError(
            403,
            "the browser does not say which page this form comes from",
            hint="It sends neither Origin nor Sec-Fetch-Site: see what is between it and the API.",
        )
    if not secrets.compare_digest(request.form.get("form", "").encode(), form_mark().encode()):
        raise RequestError(
            403,
            "this form is of a page from before",
            hint="The API was started anew since, or somebody else has signed in: go back, reload"
            " the page, and try again.",
        )


def let_in(token: str, target: str) -> Response:
    """Keep a token, and lead to a page of ours."""
    response = redirect(target, 303)
    response.set_cookie(
        COOKIE,
        token,
        path=PAGES,
        secure=request.is_secure or request.headers.get("Origin", "").startswith("https:"),
        httponly=True,
        samesite="Strict",
    )
    return response


def lead_in(target: str = "") -> Response:
    """Lead to where a token can be given, and from there to a page."""
    return redirect(url_for("ui.sign_in", to=target or None), 303)


def let_out(target: str = "") -> Response:
    """Forget the token, and lead to where another can be given, and from there to a page."""
    response = lead_in(target)
    response.delete_cookie(COOKIE, path=PAGES, httponly=True, samesite="Strict")
    return response


def own_target(target: str) -> str:
    """Return where to go on, if that is a page of ours; else the first page."""
    is_own = is_page(target.partition("?")[0]) and "\\" not in target and target.isprintable()
    return target if is_own else url_for("ui.overview.show")
