"""Workflows, steps, sleeps and events over HTTP."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.db.gateway import call

GRAPH = [
    {"task": "extract", "node": "x"},
    {"task": "load", "node": "eu", "depends_on": ["x"], "payload": {"region": "eu"}},
    {"task": "load", "node": "us", "depends_on": ["x"], "payload": {"region": "us"}},
    {"task": "report", "depends_on": ["eu", "us"]},
    {"task": "tell", "depends_on": "all", "if_parent_fails": "run"},
]


def post(client: FlaskClient, path: str, body: Any, status: int = 200) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json


def claim(client: FlaskClient) -> tuple[str, dict[str, str]]:
    """Claim a job; return its path and what proves the lease."""
    (job,) = post(client, "/queues/default/claim", {})["jobs"]
    return f"/jobs/{job['id']}", {"token": job["token"]}


def states(client: FlaskClient, workflow_id: int) -> list[str]:
    return [job["state"] for job in client.get(f"/workflows/{workflow_id}").json["jobs"]]


def test_a_graph_is_added_and_shown(client: FlaskClient, conn: Connection) -> None:
    answer = client.post("/workflows", json={"name": "nightly", "jobs": GRAPH})

    made = answer.json
    ids = [job["job_id"] for job in made["jobs"]]
    assert (answer.status_code, answer.headers["Location"]) == (
        201, f"/workflows/{made['workflow_id']}",
    )  # fmt: skip
    assert [job["node"] for job in made["jobs"]] == ["x", "eu", "us", None, None]
    assert [job["state"] for job in made["jobs"]] == ["SCHEDULED"] + ["WAITING"] * 4
    shown = client.get(answer.headers["Location"]).json
    jobs, following = shown.pop("jobs"), shown.pop("next")
    assert following is None
    assert client.get("/workflows").json == {"workflows": [shown], "next": None}
    assert (shown["name"], shown["state"], shown["waiting"], shown["scheduled"]) == (
        "nightly", "RUNNING", 4, 1,
    )  # fmt: skip
    assert jobs[3] == {
        "job_id": ids[3], "node": None, "task": "report", "queue": "default", "state": "WAITING",
        "depends_on": ids[1:3], "if_parent_fails": "cancel", "waits_for": ids[1:3],
        "ended_by": None,
    }  # fmt: skip
    assert jobs[4]["if_parent_fails"] == "run" and jobs[4]["depends_on"] == ids[:4]
    waiting = client.get(f"/jobs/{ids[3]}").json
    assert (waiting["state"], waiting["run_at"]) == ("WAITING", None)
    assert client.get("/jobs?state=WAITING").json["jobs"][-1]["id"] == ids[1]
    assert client.get("/jobs/counts").json["counts"]["WAITING"] == 4
    assert client.get("/jobs/counts?state=WAITING,SCHEDULED").json["counts"]["SCHEDULED"] == 1


def test_each_field_of_a_node_arrives(client: FlaskClient) -> None:
    node = {
        "task": "other", "payload": {"a": 1.50}, "queue": "mail", "priority": 7, "max_retries": 9,
        "timeout_seconds": 2.5, "headers": {"traceparent": "t"}, "key": "acme", "unique_key": "u",
        "run_at": "2030-01-31T09:00:00+00:00", "node": "n", "depends_on": [],
        "if_parent_fails": "run",
    }  # fmt: skip
    made = post(client, "/workflows", {"jobs": [node, {"task": "b", "run_in_seconds": 60}]}, 201)

    first, second = (client.get(f"/jobs/{job['job_id']}").json for job in made["jobs"])
    for name in set(node) - {"run_at", "node", "depends_on", "if_parent_fails"}:
        assert first[name] == node[name], name
    assert first["scheduled_for"] == "2030-01-31T09:00:00.000000+00:00"
    wait = datetime.fromisoformat(second["run_at"]) - datetime.now(UTC)
    assert 30 < wait.total_seconds() < 61
    (shown, _) = client.get(f"/workflows/{made['workflow_id']}").json["jobs"]
    assert (shown["node"], shown["if_parent_fails"]) == ("n", "run")


@pytest.mark.parametrize(
    ("jobs", "status", "code", "message"),
    [
        ("x", 422, "RTV01", "jobs: must be a list of jobs"),
        ([], 422, "RTV01", "jobs must be a JSON array of objects, at least one"),
        ([5], 422, "RTV01", "jobs[0]: must be an object"),
        ([{"task": "a", "depnds_on": []}], 422, "RTV01", "jobs[0].depnds_on: is not a field"),
        ([{"task": "a", "replace": True}], 422, "RTV01", "jobs[0].replace: is not a field"),
        ([{"task": "a", "depends_on": "b"}], 422, "RTV01", "jobs[0].depends_on: must be a list"),
        ([{"task": "a", "depends_on": [1.5]}], 422, "RTV01", "jobs[0].depends_on: must be a list"),
        ([{"task": "a", "depends_on": [True]}], 422, "RTV01", "jobs[0].depends_on: must be"),
        ([{"task": "a", "depends_on": ["b"]}], 422, "RTV01", "jobs[0]: depends_on: no job before"),
        ([{"task": "a", "depends_on": [10**30]}], 422, "RTV01", "jobs[0]: depends_on: 1000000"),
        ([{"task": "a", "depends_on": [999]}], 404, "RTN01", "there is no job 999"),
        ([{"task": "a", "if_parent_fails": "wait"}], 422, "RTV01", "jobs[0].if_parent_fails: must"),
        ([{"task": "a", "timeout_seconds": 1e8}], 422, "RTV01", "jobs[0]: timeout_seconds must"),
        ([{"task": "a", "run_at": "2030-01-01T00:00Z", "run_in_seconds": 1}], 422, "RTV01",
         "jobs[0].run_in_seconds: give this or run_at"),
        ([{"task": "a", "unique_key": "k"}], 409, "RTC03", "jobs[0]: another live job of queue"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_graph_is_said_and_nothing_added(
    client: FlaskClient, conn: Connection, jobs: Any, status: int, code: str, message: str
) -> None:
    call(conn, "enqueue_job", task="taken", unique_key="k")

    for path, field in (("/workflows", "jobs"), (claim(client)[0] + "/finish", "next")):
        if field == "next" and (jobs == [] or status in (404, 409)):
            continue  # none to add; what a job is needed for is below
        answer = client.post(path, json={field: jobs, "token": str(uuid4())}
                             if field == "next" else {field: jobs})  # fmt: skip
        found = (answer.status_code, answer.json["code"], answer.json["message"])
        expected = message.replace("jobs", field, 1) if message.startswith("jobs") else message
        assert found[:2] == (status, code)
        assert found[2].startswith(expected), found[2]
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (1,)


def test_workflows_come_in_pages_the_newest_first(client: FlaskClient) -> None:
    made = [
        post(client, "/workflows", {"jobs": [{"task": "a"}] * 3}, 201)["workflow_id"]
        for _ in range(5)
    ]

    found, url = [], "/workflows?limit=2"
    while url:
        page = client.get(url).json
        found += [row["id"] for row in page["workflows"]]
        url = page["next"]
    assert found == made[::-1]
    nodes, url = [], f"/workflows/{made[0]}?limit=2"
    while url:
        page = client.get(url).json
        nodes += [row["job_id"] for row in page["jobs"]]
        assert (page["id"], page["scheduled"]) == (made[0], 3)
        url = page["next"]
    assert len(nodes) == 3 and nodes == sorted(nodes)


def test_a_workflow_is_cancelled_and_retried_as_a_whole(client: FlaskClient) -> None:
    made = post(client, "/workflows", {"jobs": GRAPH}, 201)
    path = f"/workflows/{made['workflow_id']}"
    job, held = claim(client)
    post(client, f"{job}/finish", held | {"result": 1})

    assert post(client, f"{path}/cancel", {"reason": "enough"}) == {"cancelled": 4}
    assert states(client, made["workflow_id"]) == ["COMPLETED"] + ["CANCELLED"] * 4
    shown = client.get(path).json
    assert shown["state"] == "CANCELLED" and shown["cancelled_at"] is not None
    assert client.get(f"/jobs/{made['jobs'][1]['job_id']}").json["cancel_reason"] == "enough"
    assert post(client, f"{path}/retry", {}) == {"retried": 4}
    assert states(client, made["workflow_id"]) == [
        "COMPLETED", "SCHEDULED", "SCHEDULED", "WAITING", "WAITING",
    ]  # fmt: skip
    assert client.get(path).json["cancelled_at"] is None
    for tail, body in (("", None), ("/cancel", {}), ("/retry", {})):
        method = "GET" if not tail else "POST"
        answer = client.open(f"/workflows/999{tail}", method=method, json=body)
        assert (answer.status_code, answer.json["code"]) == (404, "RTN01")


def test_who_failed_ends_what_depends_on_it_and_its_retry_brings_that_back(
    client: FlaskClient,
) -> None:
    made = post(client, "/workflows", {"jobs": GRAPH}, 201)
    ids = [job["job_id"] for job in made["jobs"]]
    job, held = claim(client)

    post(client, f"{job}/finish", held | {"error": "no rows", "retry": False})

    assert states(client, made["workflow_id"]) == ["FAILED"] + ["CANCELLED"] * 3 + ["SCHEDULED"]
    jobs = client.get(f"/workflows/{made['workflow_id']}").json["jobs"]
    assert [job["ended_by"] for job in jobs[1:4]] == [ids[0], ids[0], ids[1]]
    told = client.get(f"/jobs/{ids[4]}/parents").json["parents"]
    assert told[0] == {
        "job_id": ids[0], "node": "x", "state": "FAILED", "result": None, "error": "no rows",
    }  # fmt: skip
    refused = client.post(f"/jobs/{ids[1]}/retry")
    assert (refused.status_code, refused.json["code"]) == (409, "RTC01")
    assert post(client, f"/jobs/{ids[0]}/retry", {})["state"] == "SCHEDULED"
    assert states(client, made["workflow_id"])[:4] == ["SCHEDULED"] + ["WAITING"] * 3


def test_a_filter_finds_jobs_that_wait_to_cancel_them(client: FlaskClient) -> None:
    made = post(client, "/workflows", {"jobs": GRAPH}, 201)
    body = {"filter": {"state": ["WAITING"], "task": "report"}, "dry_run": False}

    outcome = post(client, "/jobs/cancel", body)

    assert outcome["job_ids"] == [made["jobs"][3]["job_id"]]
    assert states(client, made["workflow_id"])[3:] == ["CANCELLED", "WAITING"]
    wrong = client.post("/jobs/retry", json={"filter": {"state": ["WAITING"]}})
    assert wrong.status_code == 422


def test_parents_come_in_pages_with_numbers_as_they_are(
    client: FlaskClient, conn: Connection
) -> None:
    jobs = [{"task": "part"}] * 3 + [{"task": "sum", "depends_on": "all"}]
    made = post(client, "/workflows", {"jobs": jobs}, 201)
    for number in range(3):
        job, held = claim(client)
        client.post(
            f"{job}/finish",
            data=f'{{"token": "{held["token"]}", "result": {number}.500000000000000000001}}',
            content_type="application/json",
        )
    path = f"/jobs/{made['jobs'][3]['job_id']}/parents"

    texts, url = [], f"{path}?limit=2"
    while url:
        page = client.get(url)
        texts.append(page.text)
        url = page.json["next"]

    assert len(texts) == 2
    assert [f"{number}.500000000000000000001" in "".join(texts) for number in range(3)] == [
        True
    ] * 3
    assert client.get(f"/jobs/{made['jobs'][0]['job_id']}/parents").json["parents"] == []
    assert client.get("/jobs/999/parents").status_code == 404


def test_next_is_added_by_the_finish_that_ends_the_attempt_and_by_no_repeat(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "enqueue_job", task="first")
    job, held = claim(client)
    following = [
        {"task": "a", "node": "a", "run_in_seconds": 0.5},
        {"task": "b", "depends_on": ["a"]},
    ]
    body = held | {"result": {"rows": 3}, "next": following, "claim_next": {"queues": ["none"]}}

    first = post(client, f"{job}/finish", body)
    again = post(client, f"{job}/finish", body)

    assert (first["state"], first["claimed"]) == ("COMPLETED", []) == (again["state"], [])
    (workflow,) = client.get("/workflows").json["workflows"]
    nodes = client.get(f"/workflows/{workflow['id']}").json["jobs"]
    assert [node["state"] for node in nodes] == ["SCHEDULED", "WAITING"]
    (parent,) = client.get(f"/jobs/{nodes[0]['job_id']}/parents").json["parents"]
    assert (f"/jobs/{parent['job_id']}", parent["result"]) == (job, {"rows": 3})


def test_next_is_not_added_by_an_attempt_that_fails_or_is_refused(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "enqueue_job", task="first", max_retries=1)
    call(conn, "configure_queue", queue="default", backoff_base="1 milliseconds")
    job, held = claim(client)
    post(client, f"{job}/finish", held | {"error": "e", "next": [{"task": "a"}]})
    conn.execute("update rota.live_jobs set run_at = now()")
    job, held = claim(client)
    wrong = client.post(f"{job}/finish", json=held | {"next": [{"task": "a", "depends_on": [999]}]})
    late = client.post(f"{job}/finish", json={"token": str(uuid4()), "next": [{"task": "a"}]})

    assert (wrong.status_code, late.status_code) == (404, 409)
    assert conn.execute("select task, state from rota.jobs").fetchall() == [("first", "RUNNING")]


def test_a_step_is_recorded_once_and_listed(client: FlaskClient, conn: Connection) -> None:
    call(conn, "enqueue_job", task="t")
    job, held = claim(client)

    first = post(client, f"{job}/steps", held | {"step": "a, b", "result": {"n": 1}})
    again = post(client, f"{job}/steps", held | {"step": "a, b", "result": 2})
    for step in ("c", "ä/☃"):
        assert post(client, f"{job}/steps", held | {"step": step}) == {"result": None}

    assert first == again == {"result": {"n": 1}}
    found, url = [], f"{job}/steps?limit=1"
    while url:
        page = client.get(url).json
        found += [(row["step"], row["result"]) for row in page["steps"]]
        url = page["next"]
    assert found == [("a, b", {"n": 1}), ("c", None), ("ä/☃", None)]
    for wrong in ("x", "2030-01-01T00:00:00Z", "yesterday,c", ",c"):
        assert client.get(f"{job}/steps?after={wrong}").status_code == 422
    assert client.get("/jobs/999/steps").status_code == 404


def test_a_job_sleeps_and_goes_on(client: FlaskClient, conn: Connection) -> None:
    call(conn, "enqueue_job", task="t")
    job, held = claim(client)

    asleep = post(client, f"{job}/sleep", held | {"step": "nap", "delay_seconds": 0.001})
    again = post(client, f"{job}/sleep", held | {"step": "nap", "delay_seconds": 0.001})
    conn.execute("update rota.live_jobs set run_at = now()")
    job, held = claim(client)
    awake = post(client, f"{job}/sleep", held | {"step": "nap", "delay_seconds": 99})

    assert asleep == again and asleep["state"] == "SCHEDULED"
    assert (awake["state"], awake["run_at"]) == ("RUNNING", None)
    for wrong in ({}, {"step": "s"}, {"step": "", "delay_seconds": 1}, {"step": "s", "delay": 1}):
        assert client.post(f"{job}/sleep", json=held | wrong).status_code == 422
    long = client.post(f"{job}/sleep", json=held | {"step": "s", "delay_seconds": 4e7})
    assert long.json["message"].startswith("delay_seconds must")


@pytest.mark.parametrize("name", ["paid:7", "a/b", "ä ☃", "..", "cancel"])
def test_a_job_awaits_an_event_and_gets_it(
    client: FlaskClient, conn: Connection, name: str
) -> None:
    call(conn, "enqueue_job", task="t")
    job, held = claim(client)
    body = {"step": "w", "event": name, "timeout_seconds": 60}
    # As the docs of paths say: a name of dots is written with a slash more.
    path = f"/events/{quote(name + '/' if name == '..' else name, safe='')}"

    released = post(client, f"{job}/await", held | body)
    woken = post(client, path, {"payload": {"sum": 5}})
    later = post(client, path, {"payload": "other"})
    job, held = claim(client)
    arrived = post(client, f"{job}/await", held | body)

    assert released == {"state": "RELEASED", "payload": None}
    assert (woken, later) == ({"woken": 1}, {"woken": 0})
    assert arrived == {"state": "ARRIVED", "payload": {"sum": 5}}
    other = client.post(f"{job}/await", json=held | body | {"event": "other"})
    assert (other.status_code, other.json["code"]) == (409, "RTC03")


def test_an_event_that_does_not_come_times_out(client: FlaskClient, conn: Connection) -> None:
    call(conn, "enqueue_job", task="t")
    job, held = claim(client)
    body = {"step": "w", "event": "e", "timeout_seconds": 0}

    assert post(client, f"{job}/await", held | body)["state"] == "TIMED_OUT"
    assert post(client, "/events/e", {}) == {"woken": 0}
    assert post(client, f"{job}/await", held | body)["state"] == "TIMED_OUT"


def test_who_holds_no_lease_records_nothing(client: FlaskClient, conn: Connection) -> None:
    call(conn, "enqueue_job", task="t")
    job, _ = claim(client)
    late = {"token": str(uuid4()), "step": "s"}

    for tail, more in (
        ("steps", {}),
        ("sleep", {"delay_seconds": 60}),
        ("await", {"event": "e", "timeout_seconds": 60}),
    ):
        answer = client.post(f"{job}/{tail}", json=late | more)
        assert (answer.status_code, answer.json["code"]) == (409, "RTC02"), tail
        none = client.post(f"{job}/{tail}", json={"step": "s"} | more)
        assert none.json["message"] == "token: is required"
    assert client.get(f"{job}/steps").json["steps"] == []
