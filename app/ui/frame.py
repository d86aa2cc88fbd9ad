"""The frame of all pages: how one is made, shared, kept up to date, and how an action answers."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    g,
    redirect,
    render_template,
    request,
    send_from_directory,
    url_for,
)
from psycopg import sql
from psycopg.rows import dict_row
from werkzeug.exceptions import NotFound

from rota.app.database import transaction
from rota.app.doctor import diagnosis
from rota.app.errors import RequestError
from rota.app.health import VERSION
from rota.app.paths import PAGES, is_page
from rota.app.shared import Shared
from rota.app.standby import ask_the_primary, note_age
from rota.app.tokens import is_loopback
from rota.app.ui import door
from rota.db.gateway import call

blueprint = Blueprint("ui", __name__, url_prefix="/ui", template_folder="templates")

STATIC = Path(str(files("rota.app.ui"))) / "static"
STATIC_VERSION = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(STATIC.rglob("*")) if path.is_file())
).hexdigest()[:16]
PAGES_AND_KEYS = [
    ("overview", "Overview", "ui.overview.show", "o"),
    ("queues", "Queues", "ui.queues.index", "q"),
    ("jobs", "Jobs", "ui.jobs.index", "j"),
    ("workflows", "Workflows", "ui.workflows.index", "f"),
    ("schedules", "Schedules", "ui.schedules.index", "s"),
    ("workers", "Workers", "ui.workers.index", "w"),
    ("doctor", "Doctor", "ui.doctor.show", "d"),
    ("log", "Log", "ui.log.show", "l"),
]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SHARED_SECONDS = 2.0
LONGEST_QUERY = "2s"
SAID = "rota_said"  # the cookie that carries what an action has to say to the page after it

# What pages ask of the database for who asks, to show only what he may do.
RIGHTS = """
    select array(
        select distinct p.proname::text
        from pg_catalog.pg_proc as p
        where p.pronamespace = 'rota'::regnamespace
            and left(p.proname, 1) <> '_'
            and has_function_privilege(p.oid, 'execute')
            and (p.proname <> 'doctor' or (select rota.visible_queues()) is null)
    )
"""


def init_app(app: Flask) -> None:
    """Have errors of these pages be pages, and keep what is made for those who ask for the same."""
    app.extensions["pages"] = Shared()
    app.extensions["charts"] = Shared()
    app.after_request(_as_page)


@contextmanager
def reading() -> Iterator[psycopg.Connection[dict[str, Any]]]:
    """Lend a connection whose rows are dictionaries, for a transaction that only reads, briefly."""
    with transaction() as conn:
        conn.execute(f"set local statement_timeout = '{LONGEST_QUERY}'")
        conn.execute("set local transaction_read_only = on")
        conn.row_factory = dict_row
        try:
            yield conn
        finally:
            conn.row_factory = psycopg.rows.tuple_row


def rows(
    conn: psycopg.Connection[dict[str, Any]], query: str | sql.Composable, **arguments: Any
) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    return conn.execute(query, arguments).fetchall()


def rights(conn: psycopg.Connection[dict[str, Any]]) -> set[str]:
    """Return the functions that whoever asks may call; the doctor's is for who has no walls."""
    return set(conn.execute(RIGHTS).fetchone()["array"])


def page(template: str, read: Callable[[psycopg.Connection], dict[str, Any]]) -> Response:
    """Answer with a page.

    All who ask for the same under the same token within two seconds get the same, made once; a
    script that has it already is told so.

    Args:
        template: its file.
        read: returns what it shows, read in one transaction.
    """
    said = _take_said()
    key = (request.full_path, g.get("standby") is None, *visitor())

    def make() -> tuple[tuple[str, float | None], float]:
        with reading() as conn:
            allowed = rights(conn)
            shown = read(conn)
        found = diagnosis().findings if "doctor" in allowed else None
        behind = g.get("data_age")
        body = render_template(
            template, rights=allowed, said=said, found=found, behind=behind, **shown
        )
        return (body, behind), SHARED_SECONDS

    if said:
        ask_the_primary()  # a standby may not have what was just done
    body, behind = make()[0] if said else shared().get(key, make)
    note_age(behind)
    response = Response(body, mimetype="text/html")
    response.add_etag()
    response.make_conditional(request)
    if said or SAID in request.cookies:
        response.delete_cookie(SAID, path=PAGES)
    return response


def shared() -> Shared[Any]:
    """Return what is kept for those who ask for the same, by what it is and who may see it."""
    return current_app.extensions["pages"]


def visitor() -> tuple[bytes | None, str | None]:
    """Return what tells apart those who must not be shown what was made for each other."""
    return g.get("token_hash"), g.get("principal")


def act(function: str, **arguments: Any) -> list[dict[str, Any]]:
    """Do what a form asks for, as whoever sent it; the rights are the database's to know.

    Raises:
        psycopg.Error: it is refused.
    """
    with transaction() as conn:
        done = call(conn, function, **arguments)
    shared().forget()  # nobody is shown what was before
    return done


def say(text: str, target: str, is_bad: bool = False) -> Response:
    """Lead to a page that shows what was done; to reload that does nothing again."""
    response = redirect(target, 303)
    told = base64.urlsafe_b64encode(json.dumps([text[:1000], is_bad]).encode()).decode()
    response.set_cookie(SAID, told, path=PAGES, max_age=60, httponly=True, samesite="Strict")
    return response


def _take_said() -> dict[str, Any] | None:
    """Return what the cookie says; nothing if it is none of ours, as another port may have set."""
    try:
        text, is_bad = json.loads(base64.urlsafe_b64decode(request.cookies.get(SAID, "")))
        text.encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return {"text": text, "is_bad": bool(is_bad)}


@blueprint.before_request
def check_form() -> None:
    """Refuse forms that are not ours."""
    if request.method == "POST":
        door.check_form()


@blueprint.get("")
def lead_in() -> Response:
    """Lead to the first page."""
    return redirect(url_for("ui.overview.show"))


@blueprint.get("/login")
def sign_in() -> Response | str:
    """Ask for a token, unless the browser has one that it left out on the way from another site.

    Over plain HTTP it does not say that he comes from there, so whoever is led here comes once
    more, from here.
    """
    target = door.own_target(request.args.get("to", ""))
    has_token, comes_again = door.COOKIE in request.cookies, "again" in request.args
    if has_token and comes_again:
        return redirect(target)
    if "to" in request.args and not (
        has_token or comes_again or "Sec-Fetch-Site" in request.headers
    ):
        return render_template("lead_on.html", target=url_for(".sign_in", to=target, again=1))
    return render_template("sign_in.html", target=target)


@blueprint.post("/login")
def take_token() -> Response | tuple[str, int]:
    """Keep a token, if it is valid."""
    token = request.form.get("token", "").strip()
    target = door.own_target(request.form.get("to", ""))
    try:
        if not token or len(token) > door.LONGEST_TOKEN or not token.isascii():
            raise RequestError(401, "")
        current_app.extensions["principals"].of(token, is_loopback(request.remote_addr or ""))
    except RequestError as refusal:
        if refusal.status != 401:
            raise
        return render_template("sign_in.html", target=target, was_wrong=True), 401
    return door.let_in(token, target)


@blueprint.post("/logout")
def sign_out() -> Response:
    """Forget the token."""
    return door.let_out()


@blueprint.get("/static/<version>/<path:name>")
def static(version: str, name: str) -> Response:
    """Serve a file that never changes under its address."""
    if version != STATIC_VERSION:
        raise NotFound
    response = send_from_directory(STATIC, name, max_age=31_536_000)
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response


@blueprint.app_context_processor
def give_to_templates() -> dict[str, Any]:
    """Give what every page needs."""
    front = current_app.extensions.get("front")
    return {
        "shards": front.numbers if front else [],
        "shard": front.number_of(current_app) if front else None,
        "asset": lambda name: url_for("ui.static", version=STATIC_VERSION, name=name),
        "form_mark": door.form_mark,
        "pages": PAGES_AND_KEYS,
        "version": VERSION[:12],
        "is_signed_in": g.get("token_hash") is not None,
        "principal": g.get("principal"),
    }


def _as_page(response: Response) -> Response:
    """Make pages of the errors, and say what a page may do."""
    if not is_page(request.path):
        return response
    problem = response.get_json(silent=True) if response.status_code >= 400 else None
    if isinstance(problem, dict):
        if response.status_code == 401 and request.endpoint != "ui.take_token":
            return _ask_for_token()
        response.data = render_template("problem.html", status=response.status_code, **problem)
        response.mimetype = "text/html"
    response.headers["Content-Security-Policy"] = POLICY
    # Without any, browsers do not say of which page a form is, not to us either: Origin is null.
    response.headers["Referrer-Policy"] = "same-origin"
    return response


def _ask_for_token() -> Response:
    """Lead to where a token is asked for, and from there back.

    Who follows a link on another site comes without his cookie; from a page of ours he comes with
    it. So that page only leads here again.
    """
    # As it was written: a name may have what would end a path.
    target = door.own_target(request.environ.get("REQUEST_URI", ""))
    if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method == "GET":
        response = Response(render_template("lead_on.html", target=target))
        response.headers["Content-Security-Policy"] = POLICY
        return response
    back = target if request.method == "GET" else ""
    return door.let_out(back) if door.COOKIE in request.cookies else door.lead_in(back)
