"""The API as a client in this process, as a server, and a browser for its pages."""

from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.app.tokens import COOKIE
from rota.app.ui import frame, jobs, workflows
from rota.db.gateway import call
from tests.api.conftest import client, server, start_server
from tests.browser import browser

__all__ = ["browser", "client", "server", "start_server"]


@pytest.fixture(autouse=True)
def nothing_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each page made anew, though the same was asked for a moment ago."""
    monkeypatch.setattr(frame, "SHARED_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no search stop halfway because this machine is busy."""
    for page in (jobs, workflows):
        monkeypatch.setattr(page, "SECONDS", 30.0)


@pytest.fixture
def look_as(client: FlaskClient, conn: Connection) -> Iterator[Callable[..., FlaskClient]]:
    """Have the client be one who has this right, from ``reader`` to ``operator``.

    ``look_as("operator", wall="acme.*")`` sees the queues of that pattern only.
    """

    def become(right: str, wall: str | None = None) -> FlaskClient:
        conn.execute(f"create role one_who_comes nologin in role rota_{right}")
        if wall:
            call(conn, "wall", principal="one_who_comes", queue_pattern=wall)
        [made] = call(conn, "create_token", principal="one_who_comes")
        client.set_cookie(COOKIE, made["token"], path="/ui")
        return client

    yield become
    conn.execute("drop role if exists one_who_comes")
