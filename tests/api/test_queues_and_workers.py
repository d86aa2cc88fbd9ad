"""Queues, workers and health over HTTP."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from flask.testing import FlaskClient
from psycopg import Connection

from db.deploy import checkout_version
from db.gateway import call


def test_queues_show_what_waits(client: FlaskClient, conn: Connection) -> None:
    for job in ({}, {}, {"run_at": "2090-01-01T00:00:00Z"}, {"queue": "mail"}):
        client.post("/jobs", json={"task": "echo"} | job)
    call(conn, "claim_next_job")

    default, mail = client.get("/queues").json["queues"]

    assert (default["queue"], mail["queue"]) == ("default", "mail")
    assert (default["scheduled"], default["due"], default["running"]) == (2, 1, 1)
    assert (mail["scheduled"], mail["due"], mail["running"]) == (1, 1, 0)
    assert mail["oldest_due_at"].endswith("+00:00")


def test_paused_queue_gives_no_jobs(client: FlaskClient, conn: Connection) -> None:
    for queue in ("default", "a/b", "a//b", "with space", "ü", "50%"):
        client.post("/jobs", json={"task": "echo", "queue": queue})
        path = f"/queues/{quote(queue)}"

        paused = client.post(f"{path}/pause")
        claimed_while_paused = call(conn, "claim_next_job", queues=[queue])
        resumed = client.post(f"{path}/resume")
        claimed = call(conn, "claim_next_job", queues=[queue])

        assert (paused.status_code, resumed.status_code) == (200, 200)
        assert paused.json["queue"] == queue
        assert paused.json["paused_at"] is not None and resumed.json["paused_at"] is None
        assert (len(claimed_while_paused), len(claimed)) == (0, 1)


def test_resume_of_an_unknown_queue_is_not_found(client: FlaskClient) -> None:
    assert client.post("/queues/nobody/resume").status_code == 404
    assert client.get("/queues").json == {"queues": []}


def test_configure_changes_only_what_is_named(client: FlaskClient) -> None:
    client.patch("/queues/mail", json={"max_retries": 7, "backoff_base_seconds": 0.5})

    answer = client.patch("/queues/mail", json={"timeout_seconds": 30, "backoff_cap_seconds": 60})

    assert answer.status_code == 200
    settings = ("max_retries", "backoff_base_seconds", "backoff_cap_seconds", "timeout_seconds")
    assert [answer.json[name] for name in settings] == [7, 0.5, 60, 30]
    client.post("/jobs", json={"task": "echo", "queue": "mail"})
    assert client.get("/jobs/1").json["max_retries"] == 7


def test_configure_names_what_is_wrong(client: FlaskClient) -> None:
    for body, named in (
        ({"backoff_base_seconds": 1e9}, "backoff_base_seconds"),
        ({"max_retries": 1001}, "max_retries"),
        ({"backoff_base_seconds": 0}, "backoff_base_seconds"),
        ({"backoff_cap_seconds": "5"}, "backoff_cap_seconds"),
        ({"retries": 5}, "retries"),
    ):
        answer = client.patch("/queues/mail", json=body)

        assert answer.status_code == 422, body
        assert named in answer.json["message"], body
    assert client.get("/queues").json == {"queues": []}


def test_a_settings_path_is_not_taken_for_a_pause(client: FlaskClient) -> None:
    assert client.patch("/queues/mail/pause", json={"max_retries": 1}).status_code == 405
    assert client.patch("/queues/mail/pauses", json={"max_retries": 1}).status_code == 200


def test_bad_queue_names_are_refused(client: FlaskClient) -> None:
    for queue in ("x" * 101, "%00", "%0a", "%1b[31m"):
        assert client.post(f"/queues/{queue}/pause").status_code == 422, queue


def test_workers_are_listed(client: FlaskClient, conn: Connection) -> None:
    call(
        conn,
        "announce_worker",
        worker="w1",
        host="h",
        pid=7,
        queues=["default"],
        concurrency=8,
        version="1",
        tasks=["echo", "mail"],
        overrun=2,
        clock=datetime.now(UTC) + timedelta(minutes=5),
    )
    client.post("/jobs", json={"task": "echo"})
    call(conn, "claim_next_job", worker="w1")

    [worker] = client.get("/workers").json["workers"]

    assert (worker["worker"], worker["host"], worker["pid"]) == ("w1", "h", 7)
    assert (worker["queues"], worker["concurrency"], worker["running"]) == (["default"], 8, 1)
    assert worker["stopped_at"] is None
    assert (worker["tasks"], worker["overrun"]) == (["echo", "mail"], 2)
    assert 290 < worker["clock_difference_seconds"] < 310


def test_live_answers(client: FlaskClient) -> None:
    assert client.get("/health/live").json == {"status": "alive"}


def test_ready_tells_the_version(client: FlaskClient) -> None:
    answer = client.get("/health/ready")

    assert answer.status_code == 200
    assert answer.json == {"status": "ready", "version": checkout_version()}


def test_not_ready_with_another_version(client: FlaskClient, conn: Connection) -> None:
    conn.execute("create or replace function rota.version() returns text language sql return 'abc'")

    answer = client.get("/health/ready")

    assert answer.status_code == 503
    assert "python -m db.deploy" in answer.json["message"]


def test_not_ready_without_the_schema(client: FlaskClient, conn: Connection) -> None:
    conn.execute("alter function rota.version() rename to elsewhere")

    answer = client.get("/health/ready")

    assert answer.status_code == 503
    assert "python -m db.deploy" in answer.json["message"]
