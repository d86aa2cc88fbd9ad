"""The API as a Flask client in this process, and as a server in one of its own."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from rota.app import create_app
from rota.db.deploy import deploy
from rota.db.embedded import Cluster

PROJECT = Path(__file__).parents[2]
START_SECONDS = 30


@pytest.fixture(scope="session")
def shared_app(shared_db: str) -> Iterator[Flask]:
    """The application of the tests that leave nothing."""
    app = create_app(shared_db)
    yield app
    app.extensions["database"].close()


@pytest.fixture
def client(request: pytest.FixtureRequest, db: str) -> Iterator[FlaskClient]:
    """A client of the application, in this process, on the test's database."""
    if request.node.get_closest_marker("leaves_nothing"):
        yield request.getfixturevalue("shared_app").test_client()
        return
    app = create_app(db)
    yield app.test_client()
    app.extensions["database"].close()


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Answer:
    """What the server answered."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """`rota api` in a process of its own."""

    def __init__(
        self,
        database_url: str,
        log: Path,
        port: int,
        arguments: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        settings = {"DATABASE_URL": database_url, "HOST": "127.0.0.1", "PORT": str(self.port)}
        settings |= environment
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rota.app", *arguments],
                cwd=PROJECT,
                env=os.environ | settings,
                stderr=stderr,
            )

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request, its body as JSON, and return the answer, whatever its status."""
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers = {"Content-Type": "application/json"} | headers
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait until something can be observed of the running server."""
        deadline = time.monotonic() + START_SECONDS
        while not happened():
            assert self.process.poll() is None, self.log_text()
            assert time.monotonic() < deadline, self.log_text()
            time.sleep(0.02)

    def is_live(self) -> bool:
        """Tell whether it answers."""
        try:
            return self.request("GET", "/health/live").status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def log_text(self) -> str:
        """Return what it has logged until now."""
        return self._log.read_text()

    def log_lines(self) -> list[dict[str, Any]]:
        """Return its log lines, each of which must be a JSON object."""
        return [json.loads(line) for line in self.log_text().splitlines()]

    def stop(self) -> int:
        """Ask it to stop, and return its exit status."""
        self.process.terminate()
        return self.process.wait(timeout=30)

    def close(self) -> None:
        """End it, whatever state it is in."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers; all are ended with the test."""
    started: list[Server] = []

    def start(
        database_url: str, wait: bool = True, port: int | None = None, **options: Any
    ) -> Server:
        log = tmp_path / f"api-{len(started)}.log"
        server = Server(database_url, log, port or free_port(), **options)
        started.append(server)
        if wait:
            server.wait_until(server.is_live)
        return server

    yield start
    for server in started:
        server.close()


@pytest.fixture
def server(db: str, start_server: Callable[..., Server]) -> Server:
    """A running server on the test's database."""
    return start_server(db)


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A database server that a test may stop, with Rota on it."""
    with (
        tempfile.TemporaryDirectory(prefix="rota-test-") as folder,
        Cluster(Path(folder) / "pg", settings={"fsync": "off"}) as cluster,
    ):
        deploy(cluster.url())
        yield cluster
