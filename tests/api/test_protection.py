"""Whom the API answers: by the host that a request is for, and by the page that sent it."""

import socket
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient

from rota.app import create_app
from rota.db.gateway import call
from tests.api.conftest import Server

OURS = [
    "localhost",
    "LOCALHOST:8080",
    "localhost.",
    "api.localhost:5000",
    "127.0.0.1:5000",
    "127.9.9.9",
    "[::1]:5000",
    "[0:0::1]",
    "[::ffff:127.0.0.1]:80",
]
OTHERS = [
    "evil.example",
    "evil.example:5000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evillocalhost",
    "10.1.2.3:5000",
    "0.0.0.0:5000",
    "[::2]",
    "[fe80::1]",
    "2130706433",
    "0x7f000001",
    "api",
]
MALFORMED = [
    "",
    " ",
    "localhost:",
    "localhost:x",
    "localhost:123456",
    "[",
    "[::1",
    "[::1]x",
    "[1.2.3.4]",
    "a b",
    "user@localhost",
    "localhost/",
    "localhost, evil.example",
    "localhost\\",
    "löcalhost",
    "%6cocalhost",
    "x" * 5000 + ":x",
]
NO_ORIGIN_OF_OURS = [
    "null",
    "",
    "http://",
    "http://[",
    "http://[::1",
    "http://]",
    "http://evil.example",
    "http://localhost:1",
    "http://localhost.evil.example",
    "http://user@localhost",
    "file://localhost",
    "localhost",
    "//localhost",
    "http://localhost, http://localhost",
    "http://\u2100localhost",
    "http://[v1.x]",
    "http://[::1%25x]",
]
PATHS = ["/jobs", "/health/live", "/health/ready", "/apispec.json", "/apidocs/", "/nowhere", "/"]


def latin(text: str) -> str:
    """Return a header's text as WSGI hands over the bytes that a client sent."""
    return text.encode().decode("latin-1")


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("host", OURS)
def test_loopback_s_names_and_addresses_are_ours(client: FlaskClient, host: str) -> None:
    assert client.get("/queues", headers={"Host": host}).status_code == 200


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("host", OTHERS)
def test_requests_for_other_hosts_are_refused_before_anything_else(
    client: FlaskClient, host: str
) -> None:
    for path in PATHS:
        answer = client.get(path, headers={"Host": host})

        assert (answer.status_code, answer.json["code"]) == (421, "HTTP421"), path
    posted = client.post("/jobs", json={"task": "a"}, headers={"Host": host})
    assert posted.status_code == 421
    assert client.get("/jobs").json["jobs"] == []


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("host", MALFORMED)
def test_a_malformed_host_is_a_bad_request(client: FlaskClient, host: str) -> None:
    for path in PATHS:
        answer = client.get(path, headers={"Host": latin(host)})

        assert (answer.status_code, answer.json["code"]) == (400, "HTTP400"), path


@pytest.mark.parametrize("target", ["http://evil.example/jobs", "http://[/jobs", "evil.example:5"])
def test_a_target_with_another_host_counts_as_a_host(client: FlaskClient, target: str) -> None:
    answer = client.get("/jobs", environ_overrides={"REQUEST_URI": target})

    assert answer.status_code in (400, 421)
    assert (
        client.get(
            "/jobs", environ_overrides={"REQUEST_URI": "http://127.0.0.1:5000/jobs"}
        ).status_code
        == 200
    )


def test_more_names_are_a_setting(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "rota.internal")
    monkeypatch.setenv("ROTA_ALLOWED_HOSTS", "Rota.Example , 10.1.2.3,[2001:DB8::1]")
    client = create_app(db).test_client()

    for host in (
        "rota.internal:1",
        "rota.example",
        "10.1.2.3",
        "[2001:db8:0::1]:5000",
        "localhost",
    ):
        assert client.get("/health/live", headers={"Host": host}).status_code == 200, host
    for host in ("x.rota.example", "10.1.2.4", "[2001:db8::2]"):
        assert client.get("/health/live", headers={"Host": host}).status_code == 421, host


@pytest.mark.parametrize("hosts", ["rota.example:5000", "http://rota.example", "*", "a b"])
def test_a_setting_that_names_no_host_is_refused_at_the_start(
    db: str, monkeypatch: pytest.MonkeyPatch, hosts: str
) -> None:
    monkeypatch.setenv("ROTA_ALLOWED_HOSTS", hosts)

    with pytest.raises(ValueError, match="ROTA_ALLOWED_HOSTS"):
        create_app(db)


OPS = "https://ops.example:8443"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


def test_pages_of_origins_that_are_named_may_use_the_api_with_a_token(
    db: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROTA_ALLOWED_ORIGINS", f"https://other.example, {OPS}")
    client = create_app(db).test_client()
    (made,) = call(conn, "create_token", principal="rota_producer")
    sent = {"Origin": OPS, "Sec-Fetch-Site": "cross-site"}

    asked = client.options("/jobs", headers=sent | ASKS)
    assert (asked.status_code, asked.data) == (204, b"")
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    stranger = client.post("/jobs", json={"task": "t"}, headers=sent)
    known = sent | {"Authorization": f"Bearer {made['token']}"}
    added = client.post("/jobs", json={"task": "t"}, headers=known)
    assert (stranger.status_code, added.status_code) == (401, 201)
    for answer in (asked, stranger, added, client.get("/nowhere", headers=known)):
        assert answer.headers["Access-Control-Allow-Origin"] == OPS
        assert "Origin" in answer.headers["Vary"]
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("named", ["", "https://other.example", "http://ops.example:8443"])
@pytest.mark.parametrize("sender", [OPS, f"{OPS}/", "https://ops.example", "null", "*"])
def test_pages_of_other_origins_may_not(
    db: str, monkeypatch: pytest.MonkeyPatch, named: str, sender: str
) -> None:
    monkeypatch.setenv("ROTA_ALLOWED_ORIGINS", named)
    client = create_app(db).test_client()

    for answer in (
        client.options("/jobs", headers=ASKS | {"Origin": sender}),
        client.get("/jobs", headers={"Origin": sender}),
        client.post("/jobs", json={"task": "t"}, headers={"Origin": sender}),
    ):
        assert answer.status_code == 403
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    "origins", ["*", "null", "ops.example", "https://", "https://ops.example/", "https://a b"]
)
def test_a_setting_that_names_no_origin_is_refused_at_the_start(
    db: str, monkeypatch: pytest.MonkeyPatch, origins: str
) -> None:
    monkeypatch.setenv("ROTA_ALLOWED_ORIGINS", origins)

    with pytest.raises(ValueError, match="ROTA_ALLOWED_ORIGINS"):
        create_app(db)


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("header", ["Origin", "Referer"])
@pytest.mark.parametrize("sender", NO_ORIGIN_OF_OURS)
def test_what_another_site_or_nobody_can_be_is_refused(
    client: FlaskClient, header: str, sender: str
) -> None:
    if header == "Referer" and not sender:
        return  # as good as none
    for send in (client.get, client.post, client.options):
        answer = send("/queues/default/pause", headers={header: latin(sender)})

        assert (answer.status_code, answer.json["code"]) == (403, "HTTP403"), send
    assert client.get("/jobs", headers={header: latin(sender)}).status_code == 403


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "CROSS-SITE", "x, same-origin"])
@pytest.mark.parametrize("mode", ["no-cors", "cors", "navigate", None])
def test_what_the_browser_calls_another_site_s_is_refused(
    client: FlaskClient, site: str, mode: str | None
) -> None:
    headers = {"Sec-Fetch-Site": site} | ({"Sec-Fetch-Mode": mode} if mode else {})

    for path in ("/jobs", "/queues", "/apispec.json", "/health/live", "/apidocs/page.js"):
        assert client.get(path, headers=headers).status_code == 403, path
    assert client.post("/jobs", json={"task": "a"}, headers=headers).status_code == 403
    assert client.get("/jobs").json["jobs"] == []


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_what_the_browser_calls_our_own_is_answered(client: FlaskClient, site: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"}

    assert client.get("/jobs", headers=headers).status_code == 200
    assert client.post("/jobs", json={"task": "a"}, headers=headers).status_code == 201


def test_a_link_on_another_site_may_lead_to_a_page_and_no_further(client: FlaskClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    tab, frame = link | {"Sec-Fetch-Dest": "document"}, link | {"Sec-Fetch-Dest": "iframe"}
    old = {"Referer": "http://evil.example/"}

    for path in ("/", "/apidocs", "/apidocs/"):
        assert client.get(path, headers=tab).status_code < 400, path
        assert client.get(path, headers=old).status_code < 400, path
        assert client.get(path, headers=frame).status_code == 403, path
        assert client.post(path, headers=tab).status_code == 403, path
    assert client.get("/jobs", headers=tab).status_code == 403


def test_no_other_site_may_embed_an_answer(client: FlaskClient) -> None:
    for path in PATHS:
        headers = client.get(path).headers
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", path
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin", path
        assert "Access-Control-Allow-Origin" not in headers, path


ODD_HEADERS = {
    "Content-Length": ["x", "-1", "1e3", "9" * 5000],
    "Content-Type": ["application/json; charset=x", "application/json;=", "x", "\xff/\xff"],
    "Range": ["bytes=", "bytes=x-", "bytes=5-1", "bytes=" + "0-," * 500, "x=0-1"],
    "If-Range": ["x", '"', "Thu, 99 Foo 9999 99:99:99 GMT"],
    "If-Modified-Since": ["x", "Thu, 99 Foo 9999 99:99:99 GMT", "9" * 500],
    "If-None-Match": ['"', "*", ",,,", 'W/"x'],
    "Accept": ["*/*;q=x", ";;;", "\xff"],
    "Cookie": ["=;=;" * 100, "\xff"],
    "Authorization": ["Basic x", "Digest =", "\xff"],
    "X-Forwarded-Host": ["evil.example"],
    "X-Forwarded-Proto": ["x"],
    "X-Forwarded-For": ["[", "x"],
    "Forwarded": ["for=[", "host=evil.example"],
    "X-HTTP-Method-Override": ["DELETE"],
    "Sec-Fetch-Mode": ["x"],
    "Max-Forwards": ["x"],
}


@pytest.mark.parametrize("name", ODD_HEADERS)
def test_no_odd_header_is_a_fault_of_ours(client: FlaskClient, name: str) -> None:
    for value in ODD_HEADERS[name]:
        for path in (*PATHS, "/apidocs/page.js", "/jobs/1"):
            for method in ("GET", "POST", "DELETE"):
                answer = client.open(path, method=method, headers={name: value})

                assert answer.status_code < 500, (method, path, value)
                assert "evil" not in answer.text + str(answer.headers), (method, path, value)


CHUNKED = (
    b"Host: localhost\r\nContent-Type: application/json\r\n\r\n" + b'c\r\n{"task":"t"}\r\n0\r\n\r\n'
)
RAW = {
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n": 400,
    b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n": 421,
    b"GET http://localhost/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n": 421,
    b"GET http://localhost/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n": 200,
    b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"GET / HTTP/1.1\r\nHost: [:::]\r\n\r\n": 400,
    b"GET /jobs HTTP/1.0\r\n\r\n": 200,
    b"GET /health/live HTTP/1.0\r\nHost: evil.example\r\n\r\n": 421,
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 5\r\n\r\n": 400,
    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n": 400,
    b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n": 400,
    # Bodies with which the same would be answered 201, were they read.
    b"POST /jobs HTTP/1.1\r\nContent-Length: 12\r\nTransfer-Encoding: chunked\r\n" + CHUNKED: 400,
    b"POST /jobs HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" + CHUNKED: 400,
    b"POST /jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n": 400,
    b"POST /jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n": 400,
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n": 400,
    b"GET / HTTP/1.1\nHost: localhost\n\n\r\n\r\n": 400,
    b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nX: " + b"x" * (2**16 - 19): 431,
}


def test_a_request_that_cannot_be_read_is_answered_in_json(server: Server) -> None:
    for request, status in RAW.items():
        answer = raw_answer(server.port, request)

        assert answer[: len("HTTP/1.x")] in ("HTTP/1.0", "HTTP/1.1"), (request, answer)
        assert answer.split(" ", 2)[1] == str(status), (request, answer)
        assert "application/json" in answer, request
        assert "waitress" not in answer.lower() and "evil" not in answer, request


def raw_answer(port: int, request: bytes, address: str = "127.0.0.1") -> str:
    """Send bytes, and return all that comes back until the server closes or has answered."""
    with socket.create_connection((address, port), timeout=20) as connection:
        connection.sendall(request)
        received = b""
        try:
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                received += data
        except OSError:  # it has closed already
            pass
        return received.decode("latin-1")


def test_an_address_at_which_the_server_listens_is_its_own(
    db: str, start_server: Callable[..., Any]
) -> None:
    address = outward_address()
    with psycopg.connect(db, autocommit=True) as conn:  # without a token it would listen here only
        conn.execute("select rota.create_token('rota_reader')")
    server = start_server(db, HOST="0.0.0.0")

    for host, status in ((f"{address}:{server.port}", 200), ("0.0.0.0", 200), ("192.0.2.9", 421)):
        request = f"GET /health/live HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        assert f" {status} " in raw_answer(server.port, request, address), host


def outward_address() -> str:
    """Return an address of this machine that is not loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return probe.getsockname()[0]
