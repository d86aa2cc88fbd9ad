"""A secret in every place where one can be put, looked for in all that comes out."""

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.api.conftest import Server, free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
LOGIN = "somebody_canary"


class Canaries:
    """Texts that stand nowhere else, by the place where each was put."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        """Return a new one."""
        return self.keep(place, f"canary-{secrets.token_hex(16)}")

    def keep(self, place: str, text: str) -> str:
        """Look for this text, too."""
        self._texts[place] = text
        return text

    def found(self, text: str, *but: str) -> list[str]:
        """Return the places whose secrets stand in a text, but for those that may."""
        return [place for place, it in self._texts.items() if it in text and place not in but]


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def server_log(cluster: Any) -> Callable[[], str]:
    """What PostgreSQL itself logs from now on; nothing where the server is somebody else's."""
    if not hasattr(cluster, "log"):
        return lambda: ""
    before = cluster.log.stat().st_size
    return lambda: cluster.log.read_bytes()[before:].decode()


@pytest.fixture
def principals(db: str, conn: Connection) -> Iterator[tuple[str, str]]:
    """Tokens of two principals, each behind a wall."""
    tokens = []
    for name, pattern in (("canary_a", "a.*"), ("canary_b", "b.*")):
        conn.execute(sql.SQL("create role {}").format(sql.Identifier(name)))
        conn.execute(f"grant rota_producer, rota_worker, rota_operator to {name}")
        call(conn, "wall", principal=name, queue_pattern=pattern)
        tokens.append(call(conn, "create_token", principal=name)[0]["token"])
    yield tokens[0], tokens[1]
    for name in ("canary_a", "canary_b"):
        conn.execute(f"drop owned by {name}; drop role {name}")


@pytest.fixture
def start(
    db: str, tmp_path: Path, canaries: Canaries
) -> Iterator[Callable[..., tuple[subprocess.Popen, Path]]]:
    """Start a program of ours with secrets in its environment, all that it says in a file."""
    started = []
    environment = {
        "ROTA_TOKEN": canaries("ROTA_TOKEN"),
        "ROTA_HTTP_SECRET_PARTNER": canaries("ROTA_HTTP_SECRET_PARTNER"),
        "ROTA_HTTP_SECRET_KEY": canaries("ROTA_HTTP_SECRET_KEY"),
        "DATABASE_URL": with_password(db, canaries("password of DATABASE_URL")),
    }

    def run(*command: str, **more: str) -> tuple[subprocess.Popen, Path]:
        log = tmp_path / f"{len(started)}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "rota", *command],
                cwd=ROOT,
                env=os.environ | environment | more,
                stdout=said,
                stderr=said,
            )
        started.append(process)
        return process, log

    yield run
    for process in started:
        process.kill()
        process.wait()


def with_password(url: str, password: str) -> str:
    """Return a URL with a password, which our server does not ask for."""
    at = conninfo_to_dict(url)
    place = f"host={at['host']}" + (f"&port={at['port']}" if "port" in at else "")
    return f"postgresql://{at['user']}:{password}@/{at['dbname']}?{place}"


class Api(Server):
    """A running API of which nothing but the address is needed."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"


def command_lines(process: psutil.Process) -> str:
    return " ".join(" ".join(it.cmdline()) for it in [process, *process.children(recursive=True)])


def statements(conn: Connection) -> str:
    rows = conn.execute(
        "select query from pg_stat_activity where datname = current_database()"
    ).fetchall()
    return "\n".join(query for (query,) in rows)


def shown(conn: Connection, *relations: str) -> str:
    """Return all rows of these tables or views, as text."""
    rows = []
    for relation in relations:
        query = sql.SQL("select r::text from {} as r").format(sql.Identifier("rota", relation))
        rows += [row for (row,) in conn.execute(query)]
    return "\n".join(rows)


def test_no_secret_that_a_request_brings_comes_out_elsewhere(
    conn: Connection,
    connect: Callable[..., Connection],
    principals: tuple[str, str],
    canaries: Canaries,
    start: Callable[..., tuple[subprocess.Popen, Path]],
    server_log: Callable[[], str],
) -> None:
    mine, theirs = principals
    canaries.keep("a token", mine)
    canaries.keep("the other token", theirs)
    port = free_port()
    process, log = start("api", "--processes", "2", PORT=str(port), HOST="127.0.0.1")
    api = Api(port)
    wait_until(api.is_live)
    out: list[str] = []  # what whoever asked is told

    def ask(method: str, path: str, body: Any = None, token: str = theirs, **headers: str) -> Any:
        answer = api.request(method, path, body, **{"Authorization": f"Bearer {token}"} | headers)
        out.append(f"{answer.headers}\n{answer.body.decode()}")
        return answer

    # What the neighbour has, of which nobody else is told.
    secret = canaries("a neighbour's text")
    made = api.request(
        "POST",
        "/jobs",
        {"task": "t", "queue": "a.q", "unique_key": secret, "payload": {"of mine": secret}},
        **{"Authorization": f"Bearer {mine}", "Idempotency-Key": secret},
    ).json
    lease = call(conn, "claim_next_job", queues=["a.q"])[0]
    canaries.keep("a lease", str(lease["token"]))
    job = f"/jobs/{made['job_id']}"
    call(conn, "finish_job", job_id=made["job_id"], token=lease["token"], error=secret, retry=False)
    schedule = {"name": "a.s", "task": secret, "queue": "a.q", "cron": "@daily"}
    api.request("POST", "/schedules", schedule, Authorization=f"Bearer {mine}")
    for path in (job, f"{job}/executions", f"{job}?wait=1", "/jobs", "/queues", "/schedules/a.s"):
        ask("GET", path)
    for path in (f"{job}/cancel", f"{job}/retry", "/schedules/a.s/pause", "/queues/a.q/pause"):
        ask("POST", path)
    ask("POST", "/jobs", {"task": "t", "queue": "b.q", "unique_key": secret})
    ask("POST", "/schedules", schedule | {"task": "t"})
    ask("POST", f"{job}/finish", {"token": str(lease["token"])})
    ask("POST", "/jobs/retry", {"filter": {"ids": [made["job_id"]]}, "dry_run": False})

    # What is put where it does not belong, or is wrong.
    for place in ("Bearer {}", "Basic {}", "{}", "Bearer  {} {}", "bearer\t{}", "Token {}"):
        text = place.replace("{}", canaries(f"Authorization: {place}"))
        assert ask("GET", "/jobs", Authorization=text).status == 401
    for header in ("Cookie", "X-Api-Key", "Proxy-Authorization", "User-Agent", "X-Session"):
        ask("GET", "/jobs", **{header: f"session={canaries(header)}"})
    ask("GET", "/jobs", Referer=f"http://127.0.0.1:{port}/?token={canaries('Referer')}")
    ask("GET", "/jobs", Origin=f"http://{canaries('Origin')}")
    ask("GET", "/jobs", Host=canaries("Host"))
    for name in ("token", "access_token", "queue", "state", "limit", "before", "created_since"):
        ask("GET", f"/jobs?{name}={canaries(f'?{name}=')}")
    for path in (f"/jobs/{theirs}", f"/queues/{theirs}", f"/schedules/{theirs}", f"/{theirs}"):
        ask("GET", path)
        out[-1] = out[-1].replace(f" {theirs}", "")  # a name that there is not
    for body in (
        {"token": canaries("token of a body")},
        {"task": canaries("a task that is none") + "\n"},
        {"task": "t", "queue": "b.q", "priority": canaries("a priority")},
        {"task": "t", "queue": "b.q", "run_at": canaries("a time")},
        {"task": "t", "queue": "b.q", "payload": canaries("a payload"), "priority": 1000},
    ):
        assert ask("POST", "/jobs", body, token=theirs).status == 422
    ask("POST", "/jobs/1/finish", {"token": canaries("no lease")})
    wrong = "3f333df6-90a4-4fda-8dd3-" + secrets.token_hex(6)
    ask("POST", "/jobs/1/finish", {"token": canaries.keep("another lease", wrong)})
    ask("POST", "/jobs", {"task": "t", "queue": "b.q"}, **{"Idempotency-Key": canaries("its key")})
    ask("POST", "/jobs", {"task": "u", "queue": "b.q"}, **{"Idempotency-Key": canaries("a key")})
    long = canaries("a long key") * 9
    ask("POST", "/jobs", {"task": "t", "queue": "b.q"}, **{"Idempotency-Key": long})

    # What fails in the database, or in us.
    with connect().transaction() as holder:
        holder.connection.execute("lock table rota.live_jobs")
        body = {"task": "t", "queue": "b.q", "payload": canaries("a payload that waits")}
        assert ask("POST", "/jobs", body).status == 503
    conn.execute("alter function rota.enqueue_job rename to elsewhere")
    body = {"task": "t", "queue": "b.q", "payload": canaries("a payload of a fault")}
    assert ask("POST", "/jobs", body).status == 500
    conn.execute("alter function rota.elsewhere rename to enqueue_job")
    conn.execute("alter function rota.authenticate_token rename to elsewhere")
    ask("GET", "/jobs", Authorization=f"Bearer {canaries('a token that cannot be looked up')}")
    conn.execute("alter function rota.elsewhere rename to authenticate_token")
    quiet = server_log()
    conn.execute("alter table rota.live_jobs add constraint c check (task <> 'no') not valid")
    body = {"task": "no", "queue": "b.q", "payload": canaries("a payload against a rule")}
    assert ask("POST", "/jobs", body).status == 422
    for path in ("/", "/apidocs/", "/apispec.json", "/health/live", "/health/ready"):
        ask("GET", path)

    told = "\n".join(out).replace(f'"unique_key":"{secret}"', "")  # which they gave to a job
    assert canaries.found(told) == []
    assert canaries.found(log.read_text()) == []
    assert canaries.found(quiet) == []
    assert canaries.found(statements(conn)) == []
    assert canaries.found(command_lines(psutil.Process(process.pid))) == []
    assert canaries.found(shown(conn, "tokens", "api_tokens", "workers", "actions")) == []
    process.terminate()
    process.wait(30)
    assert canaries.found(log.read_text()) == []


class Parrot(threading.Thread):
    """A server that says what it was sent, in the place of an answer."""

    def __init__(self, before: bytes) -> None:
        super().__init__(daemon=True)
        self._before = before
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                said = connection.recv(65536)
                lines = [line for line in said.split(b"\r\n") if line.startswith(b"x-partner")]
                connection.sendall(self._before + lines[0] + b"\r\n\r\n" + lines[0])


def test_no_secret_of_a_worker_comes_out(
    conn: Connection,
    canaries: Canaries,
    start: Callable[..., tuple[subprocess.Popen, Path]],
    server_log: Callable[[], str],
) -> None:
    parrots = [Parrot(b""), Parrot(b"HTTP/1.1 200 OK\r\n"), Parrot(b"HTTP/1.1 500 No\r\n")]
    headers = {"x-partner": "PARTNER"}
    for number, parrot in enumerate(parrots):
        payload = {
            "url": f"http://{parrot.place}/?key={canaries(f'query of a URL {number}')}",
            "secret_headers": headers,
            "sign": "KEY",
            "headers": {"authorization": canaries(f"header {number}")},
            "json": canaries(f"body {number}"),
        }
        call(conn, "enqueue_job", task="http", payload=Jsonb(payload), max_retries=0)
    for task, payload in (
        ("http", {"url": f"http://u:{canaries('password in a URL')}@{parrots[0].place}/"}),
        ("http", {"url": "http://h/", "secret_headers": {"x": canaries("no name of a secret")}}),
        ("http", {canaries("a key that there is not"): 1}),
        ("echo", canaries("an echoed payload")),
        ("flaky", {"probability": 1, "secret": canaries("a payload of what fails")}),
        ("nobody", canaries("a payload of nobody")),
    ):
        call(conn, "enqueue_job", task=task, payload=Jsonb(payload), max_retries=0)
    process, log = start(
        *("worker", "--tasks", "rota.demo.tasks", "--tasks", "rota.http"),
        ROTA_HTTP_HOSTS=",".join([*(parrot.place for parrot in parrots), "127.0.0.0/8"]),
    )
    left = "select count(*) from rota.live_jobs where task <> 'nobody'"
    wait_until(lambda: conn.execute(left).fetchone() == (0,))
    lines = command_lines(psutil.Process(process.pid))
    process.terminate()
    process.wait(30)

    assert canaries.found(log.read_text(), "a key that there is not") == []
    assert canaries.found(server_log() + statements(conn) + lines) == []
    rows = conn.execute("select error, result from rota.executions").fetchall()
    ours = [place for place in canaries.found(json.dumps(rows)) if "ROTA" in place]
    assert ours == []


URLS = [
    "{}",
    "postgresql://u:{}@[bad/db",
    "postgresql://u:%zz{}@127.0.0.1:1/db",
    "postgresql://u:{}/x@127.0.0.1:1/db",
    "postgresql://u:x/{}@127.0.0.1:1/db",
    "postgresql://u:5432/{}@127.0.0.1:1/db",
    "postgresql://u:x@{}@127.0.0.1:1/db",
    "postgresql://u:{}@127.0.0.1:1/db",
    "postgresql://u@127.0.0.1:1/db?password={}&bad=1",
    "host=127.0.0.1 port=1 password={}' x",
    "host=127.0.0.1 port=1 password={} bad=1",
    "host=127.0.0.1 port=1 password={}",
]
COMMANDS = [("token", "list"), ("deploy",), ("demo",), ("api",), ("worker", "--tasks", "rota.http")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_command_repeats_a_password(
    command: tuple[str, ...], canaries: Canaries, tmp_path: Path
) -> None:
    running = []
    for number, url in enumerate(URLS):
        log = tmp_path / f"{number}.log"
        settings = {"DATABASE_URL": url.replace("{}", canaries(url)), "PORT": str(free_port())}
        with log.open("wb") as said:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "rota", *command],
                    cwd=ROOT,
                    env=os.environ | settings,
                    stdout=said,
                    stderr=said,
                )
            )
    logs = [tmp_path / f"{number}.log" for number in range(len(URLS))]
    wait_until(lambda: all(log.stat().st_size for log in logs), 60)
    for process in running:
        process.terminate()
    for process in running:
        process.wait(30)
    for url, log in zip(URLS, logs, strict=True):
        assert canaries.found(log.read_text()) == [], url
        assert "Traceback" not in log.read_text(), url


def test_a_token_is_printed_once_and_nowhere_else(
    db: str, conn: Connection, canaries: Canaries, server_log: Callable[[], str]
) -> None:
    def rota_token(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "rota", "token", *words],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": db},
            capture_output=True,
            text=True,
        )

    conn.execute("create role canary_c")
    made = rota_token("create", "--principal", "canary_c", "--scope", "reader")
    canaries.keep("a token", made.stdout.strip())
    listed = rota_token("list")
    revoked = rota_token("revoke", "1")
    conn.execute("drop owned by canary_c; drop role canary_c")

    assert made.stdout.startswith("rota_")
    assert canaries.found(made.stderr + listed.stdout + revoked.stdout) == []
    assert canaries.found(server_log() + shown(conn, "api_tokens", "actions", "tokens")) == []


def test_a_token_that_cannot_be_made_is_not_repeated(db: str, canaries: Canaries) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rota", "deploy"],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": db, "ROTA_TOKEN": canaries("ROTA_TOKEN") + " weak"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1 and "ROTA_TOKEN must have" in done.stderr
    assert canaries.found(done.stdout + done.stderr) == []


def test_errors_of_the_database_are_logged_without_what_was_sent(
    conn: Connection, canaries: Canaries, server_log: Callable[[], str]
) -> None:
    """Arguments are sent apart from the statement, which alone is logged."""
    for arguments in (
        {"principal": canaries("note of nobody"), "note": canaries("a note")},
        {"principal": "rota_reader", "hash": canaries("a hash").encode()},
    ):
        with pytest.raises(psycopg.Error):
            call(conn, "create_token", **arguments)

    assert canaries.found(server_log(), "note of nobody") == []
