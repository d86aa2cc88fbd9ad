"""Jobs over HTTP: what is posted is what the functions of the database make of it."""

from itertools import product
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient
from psycopg import Connection

from rota.db.gateway import call


def post(client: FlaskClient, **job: Any) -> int:
    return client.post("/jobs", json={"task": "echo"} | job).json["job_id"]


def claim(conn: Connection) -> tuple[int, UUID]:
    [job] = call(conn, "claim_next_job", worker="w")
    return job["id"], job["token"]


def pages(client: FlaskClient, url: str | None, name: str) -> list[Any]:
    rows = []
    while url is not None:
        page = client.get(url).json
        rows.extend(page[name])
        url = page["next"]
    return rows


def test_post_stores_every_field(client: FlaskClient, conn: Connection) -> None:
    answer = client.post(
        "/jobs",
        json={
            "task": "send_email",
            "payload": {"to": ["a@example.org", None, 1.5, True, "ü \U0001f600"]},
            "schedule_type": "ONE_TIME",
            "queue": "mail",
            "run_at": "2030-01-31T09:00:00+01:00",
            "priority": -7,
            "max_retries": 0,
            "timeout_seconds": 2.5,
            "unique_key": "k",
        },
    )

    assert answer.status_code == 201
    assert answer.json == {"job_id": 1, "created": True}
    assert answer.headers["Location"] == "/jobs/1"
    stored = conn.execute(
        """
        select task, payload, schedule_type, queue, run_at = '2030-01-31 08:00+00', priority,
            max_retries, timeout = '2.5 seconds', unique_key
        from rota.jobs
        """
    ).fetchall()
    payload = {"to": ["a@example.org", None, 1.5, True, "ü \U0001f600"]}
    assert stored == [("send_email", payload, "ONE_TIME", "mail", True, -7, 0, True, "k")]


def test_post_leaves_defaults_to_the_database(client: FlaskClient, conn: Connection) -> None:
    by_post = post(client, queue=None, priority=None, run_at=None)
    [by_sql] = call(conn, "enqueue_job", task="echo")

    [first, second] = conn.execute(
        """
        select array_agg(to_jsonb(j) - '{id,created_at,run_at,scheduled_for}'::text[] order by id)
        from rota.jobs as j where id = any(%s)
        """,
        [[by_post, by_sql["job_id"]]],
    ).fetchone()[0]
    assert first == second


def test_payload_may_be_any_json(client: FlaskClient) -> None:
    for payload in (None, 0, "x", [], [{}], False, {"a": None}):
        job = post(client, payload=payload)

        assert client.get(f"/jobs/{job}").json["payload"] == payload


def test_post_returns_the_live_job_of_the_key(client: FlaskClient) -> None:
    first = post(client, unique_key="k")

    answer = client.post("/jobs", json={"task": "other", "unique_key": "k"})

    assert answer.status_code == 200
    assert answer.json == {"job_id": first, "created": False}
    assert answer.headers["Location"] == f"/jobs/{first}"


def test_interval_job_is_a_schedule(client: FlaskClient, conn: Connection) -> None:
    job = post(client, schedule_type="INTERVAL", interval_seconds=90, name="n", timeout_seconds=5)

    stored = client.get(f"/jobs/{job}").json
    assert stored["schedule_type"] == "INTERVAL"
    assert (stored["name"], stored["timeout_seconds"]) == ("n", 5)
    every = conn.execute("select extract(epoch from every) from rota.schedules").fetchone()[0]
    assert every == 90


def test_interval_job_of_the_same_name_is_updated(client: FlaskClient) -> None:
    first = post(client, schedule_type="INTERVAL", interval_seconds=90, name="n")

    answer = client.post(
        "/jobs",
        json={"task": "new", "schedule_type": "INTERVAL", "interval_seconds": 60, "name": "n"},
    )

    assert (answer.status_code, answer.json) == (200, {"job_id": first, "created": False})
    assert client.get(f"/jobs/{first}").json["task"] == "new"


def test_interval_job_starts_at_its_run_at(client: FlaskClient) -> None:
    job = post(client, schedule_type="INTERVAL", interval_seconds=60, run_at="2030-01-31T09:00:00Z")

    assert client.get(f"/jobs/{job}").json["run_at"] == "2030-01-31T09:00:00.000000+00:00"


def test_bulk_adds_all_in_order(client: FlaskClient, conn: Connection) -> None:
    known = post(client, unique_key="k")

    answer = client.post(
        "/jobs/bulk",
        json={
            "jobs": [
                {"task": "a", "payload": [1], "timeout_seconds": 0.25},
                {"task": "b", "unique_key": "k"},
                {"task": "c", "run_at": "2030-01-31T09:00:00+01:00", "priority": 3},
            ]
        },
    )

    assert answer.status_code == 201
    first, second, third = answer.json["jobs"]
    assert second == {"job_id": known, "created": False}
    assert first["created"] and third["created"]
    stored = conn.execute(
        """
        select task, payload, extract(epoch from timeout)::float8, priority,
            run_at = '2030-01-31 08:00+00'
        from rota.jobs where task in ('a', 'c') order by id
        """
    ).fetchall()
    assert stored == [("a", [1], 0.25, 0, False), ("c", {}, None, 3, True)]


def test_bulk_is_all_or_nothing(client: FlaskClient, conn: Connection) -> None:
    answer = client.post(
        "/jobs/bulk", json={"jobs": [{"task": "a"}, {"task": "b", "priority": 101}]}
    )

    assert answer.status_code == 422
    assert answer.json["message"].startswith("jobs[1]")
    assert "priority" in answer.json["message"]
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (0,)


def test_bulk_of_known_keys_creates_nothing(client: FlaskClient) -> None:
    post(client, unique_key="k")

    answer = client.post("/jobs/bulk", json={"jobs": [{"task": "a", "unique_key": "k"}]})

    assert answer.status_code == 200


def test_job_shows_its_executions_newest_first(client: FlaskClient, conn: Connection) -> None:
    job = post(client, max_retries=5)
    for number in range(2):
        _, token = claim(conn)
        call(conn, "finish_job", job_id=job, token=token, error=f"boom {number}", retry_in="0")
    claim(conn)

    shown = client.get(f"/jobs/{job}").json

    assert (shown["state"], shown["attempt"], shown["last_error"]) == ("RUNNING", 3, "boom 1")
    assert shown["worker"] == "w"
    assert [(e["attempt"], e["outcome"], e["error"]) for e in shown["executions"]] == [
        (3, "RUNNING", None),
        (2, "FAILED", "boom 1"),
        (1, "FAILED", "boom 0"),
    ]
    assert shown["executions_url"] == f"/jobs/{job}/executions"


def test_finished_job_has_its_result(client: FlaskClient, conn: Connection) -> None:
    job, token = post(client), claim(conn)[1]
    conn.execute("select finish_job(%s, %s, result => '{\"sum\": 3}')", [job, token])

    shown = client.get(f"/jobs/{job}").json

    assert (shown["state"], shown["result"]) == ("COMPLETED", {"sum": 3})
    assert shown["executions"][0]["result"] == {"sum": 3}
    assert shown["finished_at"].endswith("+00:00")


def test_executions_page_through_all(client: FlaskClient, conn: Connection) -> None:
    job = post(client, max_retries=1000)
    for number in range(25):
        token = claim(conn)[1]
        call(conn, "finish_job", job_id=job, token=token, error=str(number), retry_in="0")
    claim(conn)

    shown = client.get(f"/jobs/{job}").json["executions"]
    whole = pages(client, f"/jobs/{job}/executions?limit=7", "executions")

    assert [e["attempt"] for e in whole] == list(range(26, 0, -1))
    assert whole[:20] == shown
    assert pages(client, f"/jobs/{job}/executions?limit=1", "executions") == whole


def test_numbers_pass_through_unharmed(client: FlaskClient, conn: Connection) -> None:
    digits = "9" * 5000
    conn.execute("select enqueue_job('echo', %s::jsonb)", [f"[{digits}, 0.12345678901234567890]"])

    answer = client.get("/jobs/1")

    assert answer.status_code == 200
    assert f'"payload":[{digits}, 0.12345678901234567890]' in answer.text


def test_list_filters(client: FlaskClient, conn: Connection) -> None:
    post(client, task="a", queue="default")
    post(client, task="b", queue="mail")
    post(client, task="b", schedule_type="INTERVAL", interval_seconds=60, queue="mail")
    claim(conn)

    def ids(query: str) -> list[int]:
        return [job["id"] for job in client.get(f"/jobs?{query}").json["jobs"]]

    assert ids("") == [3, 2, 1]
    assert ids("state=RUNNING") == [1]
    assert ids("state=SCHEDULED") == [3, 2]
    assert ids("queue=mail") == [3, 2]
    assert ids("task=b&schedule_type=ONE_TIME") == [2]
    assert ids("task=nothing") == []
    assert ids("before=3") == [2, 1]


def test_list_pages_through_live_and_finished_jobs(client: FlaskClient, conn: Connection) -> None:
    for number in range(30):
        post(client, queue="default" if number % 3 else "done")
    for _ in range(10):
        [job] = call(conn, "claim_next_job", queues=["done"])
        call(conn, "finish_job", job_id=job["id"], token=job["token"])

    listed = pages(client, "/jobs?limit=4", "jobs")
    completed = pages(client, "/jobs?limit=3&state=COMPLETED&queue=done", "jobs")

    assert [job["id"] for job in listed] == list(range(30, 0, -1))
    assert [job["id"] for job in completed] == list(range(28, 0, -3))


def test_list_leaves_payloads_out(client: FlaskClient) -> None:
    post(client, payload="x" * 100_000)

    assert len(client.get("/jobs").data) < 2000


def test_cancel_ends_a_scheduled_job(client: FlaskClient) -> None:
    job = post(client)

    answer = client.post(f"/jobs/{job}/cancel", json={"reason": "no use"})

    assert answer.status_code == 200
    assert answer.json == {"job_id": job, "state": "CANCELLED", "run_at": None}
    assert client.get(f"/jobs/{job}").json["cancel_reason"] == "no use"


def test_cancel_asks_a_running_job(client: FlaskClient, conn: Connection) -> None:
    job, (_, token) = post(client), claim(conn)

    answer = client.post(f"/jobs/{job}/cancel")

    assert answer.json["state"] == "RUNNING"
    [lease] = call(conn, "heartbeat_job", job_id=job, token=token)
    assert lease["cancel_requested"] is True


def test_cancel_of_a_completed_job_conflicts(client: FlaskClient, conn: Connection) -> None:
    job, (_, token) = post(client), claim(conn)
    call(conn, "finish_job", job_id=job, token=token)

    answer = client.post(f"/jobs/{job}/cancel")

    assert answer.status_code == 409
    assert answer.json["code"] == "RTC01"
    assert set(answer.json) == {"code", "message", "detail", "hint"}


def test_retry_brings_a_failed_job_back(client: FlaskClient, conn: Connection) -> None:
    job, (_, token) = post(client), claim(conn)
    call(conn, "finish_job", job_id=job, token=token, error="boom", retry=False)

    answer = client.post(f"/jobs/{job}/retry")

    assert answer.status_code == 200
    assert (answer.json["job_id"], answer.json["state"]) == (job, "SCHEDULED")
    assert answer.json["run_at"].endswith("+00:00")
    assert [e["outcome"] for e in client.get(f"/jobs/{job}").json["executions"]] == ["FAILED"]


def test_retry_of_a_live_job_conflicts(client: FlaskClient) -> None:
    job = post(client)

    assert client.post(f"/jobs/{job}/retry").status_code == 409


def test_unknown_job_is_not_found(client: FlaskClient) -> None:
    routes = (
        "GET /jobs/{}",
        "GET /jobs/{}/executions",
        "POST /jobs/{}/cancel",
        "POST /jobs/{}/retry",
    )
    ids = ("1", "0", str(2**63 - 1), str(2**63), "9" * 5000, "-1", "x")
    for route, job_id in product(routes, ids):
        method, path = route.format(job_id).split()

        answer = client.open(path, method=method)

        assert answer.status_code == 404, (route, job_id[:30])
        assert answer.json["code"] in ("RTN01", "HTTP404"), (route, job_id[:30])


def test_why_a_job_waits_is_told_and_of_a_job_that_there_is_not_nothing(
    client: FlaskClient, conn: Connection
) -> None:
    job = client.post("/jobs", json={"task": "t", "queue": "mail"}).json["job_id"]
    client.post("/queues/mail/pause")

    answer = client.get(f"/jobs/{job}/why")

    assert answer.status_code == 200
    assert [(r["code"], r["blocks"]) for r in answer.json["reasons"]] == [
        ("QUEUE_PAUSED", True),
        ("NO_WORKER", True),
    ]
    assert answer.json["reasons"][0]["remedy"] == "select resume_queue('mail')"
    missing = client.get(f"/jobs/{job + 1}/why")
    assert (missing.status_code, missing.json["code"]) == (404, "RTN01")
