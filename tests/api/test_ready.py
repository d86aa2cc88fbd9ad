"""Whether writes commit: ``/health/ready?write=1``."""

import time
from collections.abc import Callable

import psutil
import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from rota.app import create_app
from rota.app.probe import KEPT, PATIENCE
from rota.db.embedded import Cluster
from tests.api.conftest import Server
from tests.frozen import frozen

WRITE = "/health/ready?write=1"
WAITING = """
    select count(*)
    from pg_stat_activity
    where application_name = 'rota api' and wait_event = 'SyncRep'
"""


def position(conn: Connection) -> int:
    """Return how much has been written to the server's log."""
    return conn.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()[0]


def test_ready_has_a_write_committed_if_it_is_asked_to(
    own_cluster: Cluster, start_server: Callable[..., Server]
) -> None:
    server = start_server(own_cluster.url())
    server.request("GET", WRITE)  # and whatever else a new connection writes
    time.sleep(KEPT)
    with psycopg.connect(own_cluster.url(), autocommit=True) as conn:
        before = position(conn)
        reads = server.request("GET", "/health/ready")
        between = position(conn)
        writes = server.request("GET", WRITE)
        after = position(conn)

    assert (reads.status, writes.status) == (200, 200)
    assert writes.json == reads.json
    assert before == between < after


@pytest.mark.parametrize("query", ["write=2", "write=", "write=1&write=1", "wirte=1"])
def test_what_ready_does_not_know_it_refuses(client: FlaskClient, query: str) -> None:
    assert client.get(f"/health/ready?{query}").status_code == 422


def test_a_server_that_only_reads_is_ready_for_nothing_but_reads(db: str) -> None:
    app = create_app(
        make_conninfo(db, target_session_attrs="any", options="-c default_transaction_read_only=on")
    )

    answers = [app.test_client().get(path) for path in ("/health/ready", WRITE)]

    assert [answer.status_code for answer in answers] == [200, 503]
    assert "only be read" in answers[1].json["message"]
    app.extensions["database"].close()


def test_a_login_that_may_not_write_the_probe_is_told_what_to_grant(
    client: FlaskClient, db: str
) -> None:
    probe = "function pg_logical_emit_message(boolean, text, text, boolean)"
    with psycopg.connect(db, autocommit=True) as conn:
        if conn.info.server_version < 170000:
            probe = "function pg_logical_emit_message(boolean, text, text)"
        conn.execute(f"revoke execute on {probe} from public")
        conn.execute("create role reads_only login in role rota_reader")
    app = create_app(make_conninfo(db, user="reads_only"))

    answer = app.test_client().get(WRITE)

    assert (answer.status_code, "grant it" in answer.json["message"]) == (503, True)
    app.extensions["database"].close()
    with psycopg.connect(db, autocommit=True) as conn:
        conn.execute(f"grant execute on {probe} to public")
        conn.execute("drop role reads_only")


def test_a_server_that_stands_still_is_seen_in_time(
    own_cluster: Cluster, start_server: Callable[..., Server]
) -> None:
    server = start_server(own_cluster.url())
    assert server.request("GET", WRITE).status == 200
    time.sleep(KEPT)
    postmaster = psutil.Process(own_cluster.pid)
    with frozen([postmaster, *postmaster.children(recursive=True)]):
        for _ in range(2):
            began = time.monotonic()
            assert server.request("GET", WRITE).status == 503
            assert time.monotonic() - began < PATIENCE + 1

    server.wait_until(lambda: server.request("GET", WRITE).status == 200)


def test_commits_that_hang_are_seen_in_time_and_leave_no_sessions(
    own_cluster: Cluster, start_server: Callable[..., Server]
) -> None:
    server = start_server(own_cluster.url())
    with psycopg.connect(own_cluster.url(), autocommit=True) as conn:
        assert server.request("GET", WRITE).status == 200
        conn.execute("alter system set synchronous_standby_names = 'nobody'")
        conn.execute("select pg_reload_conf()")
        time.sleep(KEPT)

        answers = []
        for _ in range(4):
            began = time.monotonic()
            answers.append(server.request("GET", WRITE))
            assert time.monotonic() - began < PATIENCE + 1
            assert server.request("GET", "/health/ready").status == 200
        [waiting] = conn.execute(WAITING).fetchone()
        conn.execute("alter system reset synchronous_standby_names")
        conn.execute("select pg_reload_conf()")
        server.wait_until(lambda: server.request("GET", WRITE).status == 200)

    assert [answer.status for answer in answers] == [503] * 4
    assert answers[0].json["message"] == "a write did not commit within 2 seconds"
    assert waiting <= 1
