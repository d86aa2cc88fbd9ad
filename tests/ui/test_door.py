"""Who comes in at the dashboard, and which forms are taken."""

import base64
from collections.abc import Iterator
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from werkzeug.test import TestResponse

from rota.app import create_app
from rota.db.gateway import call
from tests.api.conftest import Server

ORIGIN = {"Origin": "http://localhost"}


@pytest.fixture
def token(conn: Connection) -> Iterator[str]:
    """The token of one who may look, and nothing else."""
    conn.execute("create role one_who_looks nologin in role rota_reader")
    try:
        yield call(conn, "create_token", principal="one_who_looks")[0]["token"]
    finally:
        conn.execute("drop owned by one_who_looks; drop role one_who_looks")


def mark(page: TestResponse) -> str:
    """Return what the forms of a page have with them."""
    return page.text.partition('name="form" value="')[2].partition('"')[0]


def sign_in(client: FlaskClient, token: str, to: str = "/ui/") -> TestResponse:
    page = client.get("/ui/login")
    form = {"form": mark(page), "token": token, "to": to}
    return client.post("/ui/login", data=form, headers=ORIGIN)


def test_where_no_token_is_needed_the_pages_are_open(client: FlaskClient) -> None:
    assert client.get("/").headers["Location"] == "/ui/"
    assert client.get("/ui").headers["Location"] == "/ui/"
    page = client.get("/ui/")
    assert page.status_code == 200
    assert page.mimetype == "text/html"
    assert "Set-Cookie" not in page.headers


def test_without_pages_the_first_one_is_the_documentation(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROTA_UI", "off")
    client = create_app(db).test_client()
    assert client.get("/").headers["Location"] == "/apidocs/"
    assert client.get("/ui/").status_code == 404
    monkeypatch.setenv("ROTA_UI", "maybe")
    with pytest.raises(ValueError, match="ROTA_UI is 'on' or 'off', not 'maybe'"):
        create_app(db)


def test_who_has_no_token_is_asked_for_one_and_comes_back_to_his_page(
    client: FlaskClient, token: str
) -> None:
    refused = client.get("/ui/?range=24h")
    assert refused.status_code == 303
    target = urlsplit(refused.headers["Location"])
    assert (target.path, parse_qs(target.query)) == ("/ui/login", {"to": ["/ui/?range=24h"]})

    wrong = sign_in(client, "rota_" + 43 * "x")
    assert wrong.status_code == 401
    assert "This token is not valid" in wrong.text
    assert "Set-Cookie" not in wrong.headers

    right = sign_in(client, token, "/ui/?range=24h")
    assert (right.status_code, right.headers["Location"]) == (303, "/ui/?range=24h")
    cookie = right.headers["Set-Cookie"]
    assert {"HttpOnly", "Path=/ui", "SameSite=Strict"} <= set(cookie.split("; "))
    page = client.get("/ui/?range=24h")
    assert page.status_code == 200
    assert "as one_who_looks" in page.text

    out = client.post("/ui/logout", data={"form": mark(page)}, headers=ORIGIN)
    assert (out.status_code, out.headers["Location"]) == (303, "/ui/login")
    assert client.get("/ui/").status_code == 303


def test_over_https_the_token_goes_over_https_only(client: FlaskClient, token: str) -> None:
    page = client.get("/ui/login")
    answer = client.post(
        "/ui/login",
        base_url="https://localhost",
        data={"form": mark(page), "token": token},
        headers={"Origin": "https://localhost"},
    )
    assert "Secure" in answer.headers["Set-Cookie"].split("; ")


def test_the_cookie_opens_the_pages_and_not_the_api(client: FlaskClient, token: str) -> None:
    client.set_cookie("rota_token", token, path="/")
    assert client.get("/ui/").status_code == 200
    for path in ("/jobs", "/uix", "/metrics"):
        assert client.get(path).status_code == 401, path
    assert client.get("/ui/nothing").status_code == 404


def test_a_password_that_a_proxy_in_front_asks_for_is_no_matter_of_ours(
    client: FlaskClient, token: str
) -> None:
    sign_in(client, token)
    assert client.get("/ui/", headers={"Authorization": "Basic b3BzOm9wcw=="}).status_code == 200
    assert client.get("/ui/", headers={"Authorization": "Bearer wrong"}).status_code == 303


def test_a_token_that_is_revoked_opens_nothing_any_more(
    client: FlaskClient, conn: Connection, token: str
) -> None:
    sign_in(client, token)
    assert client.get("/ui/").status_code == 200
    conn.execute("select rota.revoke_token(token_id) from rota.tokens")
    assert client.get("/ui/?range=24h").status_code == 303


def test_a_link_on_another_site_leads_to_the_page_all_the_same(
    client: FlaskClient, token: str
) -> None:
    """The browser leaves the cookie out on the way from another site: it is sent once more."""
    from_elsewhere = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    answer = client.get("/ui/?range=24h", headers=from_elsewhere)
    assert answer.status_code == 200
    assert 'content="0; url=/ui/?range=24h"' in answer.text
    assert (
        client.get("/ui/?range=24h", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303
    )


def test_over_plain_http_a_link_on_another_site_signs_nobody_out(
    client: FlaskClient, token: str
) -> None:
    """The browser leaves the cookie out and does not say why: it is asked for it from here."""
    elsewhere = client.application.test_client()
    refused = elsewhere.get("/ui/?range=24h")
    assert (refused.status_code, "Set-Cookie" in refused.headers) == (303, False)
    again = elsewhere.get(refused.headers["Location"]).text.partition('href="')[2].partition('"')[0]
    again = unescape(again)
    assert elsewhere.get(again).text.count('type="password"') == 1
    sign_in(client, token)
    assert client.get(again).headers["Location"] == "/ui/?range=24h"


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/ui/",
        "/\\evil.example",
        "/ui/\\..\\..",
        "/uievil",
        "javascript:alert(1)",
        "/ui/\r\nX: y",
        "",
    ],
)
def test_signing_in_leads_to_no_other_site(client: FlaskClient, token: str, target: str) -> None:
    assert sign_in(client, token, target).headers["Location"] == "/ui/"


@pytest.mark.parametrize("secret", ["", "one for all processes of them"])
def test_a_form_is_known_by_its_mark(
    db: str, conn: Connection, token: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROTA_SECRET_KEY", secret)
    client, other = create_app(db).test_client(), create_app(db).test_client()
    sign_in(client, token)
    own = mark(client.get("/ui/"))
    stranger = mark(other.get("/ui/login"))

    for wrong in ("", "x", stranger, own[:-1], own + "x", "\udcff"):
        form = {"form": wrong.encode(errors="surrogatepass")}
        refused = client.post("/ui/logout", data=form, headers=ORIGIN)
        assert refused.status_code == 403
        assert "This form is of a page from before" in refused.text

    sign_in(other, token)
    is_shared = other.post("/ui/logout", data={"form": own}, headers=ORIGIN).status_code == 303
    assert is_shared == bool(secret)


def test_a_form_of_another_site_or_of_who_knows_where_is_refused(
    client: FlaskClient, token: str
) -> None:
    sign_in(client, token)
    form = {"form": mark(client.get("/ui/"))}
    for headers, words in (
        ({"Origin": "https://evil.example"}, "This request comes from a page of another site"),
        ({"Origin": "null"}, "This request comes from a page of another site"),
        ({"Sec-Fetch-Site": "cross-site"}, "This request comes from a page of another site"),
        ({"Sec-Fetch-Site": "same-site"}, "This request comes from a page of another site"),
        ({}, "It sends neither Origin nor Sec-Fetch-Site"),
    ):
        refused = client.post("/ui/logout", data=form, headers=headers)
        assert refused.status_code == 403, headers
        assert words in refused.text
    assert client.get("/ui/").status_code == 200
    same = client.post("/ui/logout", data=form, headers={"Sec-Fetch-Site": "same-origin"})
    assert same.status_code == 303


def test_a_page_may_run_and_load_only_what_is_ours(client: FlaskClient) -> None:
    for path in ("/ui/", "/ui/login", "/ui/nothing", "/ui/?range=no"):
        policy = client.get(path).headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


def test_an_error_is_a_page(client: FlaskClient) -> None:
    for path, status, words in (
        ("/ui/nothing", 404, "There is nothing at this path"),
        ("/ui/?range=no", 422, "Range: must be one of 3h, 24h, 7d, 8w"),
        ("/ui/static/of-before/ui.css", 404, "There is nothing at this path"),
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (status, "text/html"), path
        assert words in answer.text


def test_a_page_that_did_not_change_is_not_sent_again(client: FlaskClient) -> None:
    first = client.get("/ui/")
    again = client.get("/ui/", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_files_are_kept_for_ever_under_an_address_of_what_they_are(client: FlaskClient) -> None:
    page = client.get("/ui/").text
    address = page.partition('rel="stylesheet" href="')[2].partition('"')[0]
    answer = client.get(address)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for outside in ("../__init__.py", "..%2f..%2fdoor.py", "%2e%2e/frame.py"):
        folder = address.partition("vendor/")[0]
        assert client.get(folder + outside).status_code == 404


def test_who_comes_back_to_a_page_finds_it_whatever_its_name_holds(
    client: FlaskClient, token: str
) -> None:
    page = "/ui/queues/a%3Fb%23c%2525?range=24h"
    answer = client.get(page)
    assert parse_qs(urlsplit(answer.headers["Location"]).query) == {"to": [page]}
    assert f'href="{page}"' in client.get(page, headers={"Sec-Fetch-Site": "cross-site"}).text


@pytest.mark.parametrize("told", [b"5", b"null", b'["\\ud800", false]', b"[" * 3000, b"[1, 2]"])
def test_what_another_port_has_said_in_our_name_breaks_no_page(
    client: FlaskClient, told: bytes
) -> None:
    client.set_cookie("rota_said", base64.urlsafe_b64encode(told).decode(), path="/ui")
    answer = client.get("/ui/")
    assert (answer.status_code, 'class="said' in answer.text) == (200, False)


def test_what_the_server_itself_refuses_is_a_page_too(server: Server) -> None:
    for path, kind in (("/ui/login", "text/html; charset=utf-8"), ("/jobs", "application/json")):
        refused = server.request("POST", path, "x" * 5_000_000)
        assert (refused.status, refused.headers["Content-Type"]) == (413, kind)
    assert b"<h1>The body is too large</h1>" in server.request("POST", "/ui", "x" * 5_000_000).body
