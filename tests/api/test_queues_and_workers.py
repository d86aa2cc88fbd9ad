"""Queues, workers and health over HTTP."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from rota.app import create_app, health
from rota.db.gateway import call
from rota.db.version import checkout_version

ROOT = Path(__file__).parents[2]


def test_queues_show_what_waits(client: FlaskClient, conn: Connection) -> None:
    for job in ({}, {}, {"run_at": "2090-01-01T00:00:00Z"}, {"queue": "mail"}):
        client.post("/jobs", json={"task": "echo"} | job)
    call(conn, "claim_next_job")

    default, mail = client.get("/queues").json["queues"]

    assert (default["queue"], mail["queue"]) == ("default", "mail")
    assert (default["scheduled"], default["due"], default["running"]) == (2, 1, 1)
    assert (mail["scheduled"], mail["due"], mail["running"]) == (1, 1, 0)
    assert mail["oldest_due_at"].endswith("+00:00")


def test_queues_are_listed_page_by_page(client: FlaskClient) -> None:
    names = ["a", "a b", "b/c", "ü", *(f"q{number:02}" for number in range(10))]
    for name in names:
        assert client.patch(f"/queues/{quote(name)}", json={}).status_code == 200

    seen, url = [], "/queues?limit=3"
    while url:
        page = client.get(url).json
        assert 0 < len(page["queues"]) <= 3
        seen += [queue["queue"] for queue in page["queues"]]
        url = page["next"]

    assert sorted(seen) == sorted(names)
    assert client.get("/queues?after=").json["queues"] == client.get("/queues").json["queues"]
    for query in ("limit=0", "before=a", "after=%00", "after=a&after=b"):
        assert client.get(f"/queues?{query}").status_code == 422, query


def test_a_queue_can_be_looked_at_by_its_name(client: FlaskClient) -> None:
    client.post("/jobs", json={"task": "echo", "queue": "a/b c"})

    queue = client.get("/queues/a/b%20c").json

    assert (queue["queue"], queue["scheduled"]) == ("a/b c", 1)
    missing = client.get("/queues/nobody")
    assert (missing.status_code, missing.json["code"]) == (404, "RTN03")


def test_a_queue_without_live_jobs_is_deleted(client: FlaskClient) -> None:
    client.post("/jobs", json={"task": "echo", "queue": "mail"})
    client.patch("/queues/mail", json={"max_retries": 9})

    refused = client.delete("/queues/mail")
    client.post("/jobs/1/cancel")
    deleted = client.delete("/queues/mail")

    assert (refused.status_code, refused.json["code"]) == (409, "RTC01")
    assert (deleted.status_code, deleted.data) == (204, b"")
    assert client.get("/queues").json["queues"] == []
    assert client.delete("/queues/mail").status_code == 404
    client.post("/jobs", json={"task": "echo", "queue": "mail"})
    assert client.get("/queues/mail").json["max_retries"] is None


def test_null_unsets_a_setting(client: FlaskClient) -> None:
    names = ["max_retries", "backoff_base_seconds", "backoff_cap_seconds", "timeout_seconds"]
    for name in names:
        client.patch("/queues/mail", json=dict.fromkeys(names, 5))

        answer = client.patch("/queues/mail", json={name: None})

        assert answer.status_code == 200
        assert [other for other in names if answer.json[other] is None] == [name]
    assert client.patch("/queues/mail", json={"tiemout": None}).status_code == 422


def test_a_name_that_nobody_uses_cannot_be_paused(client: FlaskClient) -> None:
    for verb in ("pause", "resume"):
        answer = client.post(f"/queues/defualt/{verb}")

        assert (answer.status_code, answer.json["code"]) == (404, "RTN03")
    assert client.get("/queues").json["queues"] == []


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
    assert client.get("/queues").json == {"queues": [], "next": None}


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
    assert client.get("/queues").json == {"queues": [], "next": None}


LIMITS = {
    "max_running": 50,
    "max_starts": 1000,
    "starts_period_seconds": 60.5,
    "key_max_running": 5,
    "key_max_starts": 100,
    "key_starts_period_seconds": 0.25,
    "key_in_order": True,
}


def test_limits_of_a_queue_are_set_and_unset(client: FlaskClient) -> None:
    made = client.patch("/queues/mail", json=LIMITS)
    fewer = client.patch("/queues/mail", json={"max_running": None, "key_in_order": None})
    none = client.patch("/queues/mail", json=dict.fromkeys(LIMITS))

    assert made.json.items() >= LIMITS.items()
    assert fewer.json.items() >= (LIMITS | {"max_running": None, "key_in_order": None}).items()
    assert none.json.items() >= dict.fromkeys(LIMITS).items()


def test_how_long_a_queue_keeps_what_ended_is_set_and_unset(client: FlaskClient) -> None:
    made = client.patch("/queues/mail", json={"keep_completed_seconds": 0})
    more = client.patch("/queues/mail", json={"keep_failed_seconds": 5400.5})
    none = client.patch("/queues/mail", json={"keep_completed_seconds": None})

    seen = [(a.json["keep_completed_seconds"], a.json["keep_failed_seconds"]) for a in (made, more)]
    assert seen == [(0, None), (0, 5400.5)]
    assert none.json["keep_completed_seconds"] is None
    assert none.json["keep_failed_seconds"] == 5400.5


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("name", ["keep_completed_seconds", "keep_failed_seconds"])
@pytest.mark.parametrize("value", [-1, 1, 3599, 1e10, "3600", True])
def test_how_long_a_queue_cannot_keep_anything_is_named(
    client: FlaskClient, name: str, value: object
) -> None:
    answer = client.patch("/queues/mail", json={name: value})

    assert answer.status_code == 422
    assert name.removesuffix("_seconds") in answer.json["message"]


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_out_of_its_range_is_named(client: FlaskClient, name: str) -> None:
    for value in (0, -1, 1000001, "5", 1e18):
        if (name, value) == ("starts_period_seconds", 1000001):
            continue
        if name == "key_starts_period_seconds" and value == 1000001:
            continue
        answer = client.patch("/queues/mail", json={name: value})

        assert (answer.status_code, answer.json["code"]) == (422, "RTV01"), value
        assert answer.json["message"].startswith(name), value
    assert client.get("/queues").json["queues"] == []


def test_what_starts_is_limited_in_some_time(client: FlaskClient) -> None:
    for path, prefix in (("", ""), ("", "key_"), ("/keys/acme", "")):
        answer = client.patch(f"/queues/mail{path}", json={f"{prefix}max_starts": 5})

        assert answer.status_code == 422
        needs = f"{prefix}max_starts needs a {prefix}starts_period"
        assert answer.json["message"].startswith(needs)
    client.patch("/queues/mail", json={"key_starts_period_seconds": 60})
    assert client.patch("/queues/mail/keys/acme", json={"max_starts": 5}).status_code == 200


def test_a_key_has_limits_of_its_own(client: FlaskClient, conn: Connection) -> None:
    client.patch("/queues/mail", json={"key_max_running": 1})
    limits = {"max_running": 2, "max_starts": 9, "starts_period_seconds": 0.5}

    made = client.patch("/queues/mail/keys/acme", json=limits)
    changed = client.patch("/queues/mail/keys/acme", json={"max_running": 3, "max_starts": None})

    assert (made.status_code, made.json) == (200, {"key": "acme"} | limits)
    assert changed.json == made.json | {"max_running": 3, "max_starts": None}
    assert client.get("/queues/mail/keys").json == {"keys": [changed.json], "next": None}
    assert client.get("/queues/other/keys").json["code"] == "RTN03"
    jobs = [{"task": "echo", "queue": "mail", "key": key} for key in ("acme", "globex")]
    client.post("/jobs/bulk", json={"jobs": jobs * 5})
    claimed = client.post("/queues/mail/claim", json={"max_jobs": 100}).json["jobs"]
    assert sorted(job["key"] for job in claimed) == ["acme"] * 3 + ["globex"]


@pytest.mark.parametrize("by_patch", [True, False])
def test_a_key_without_limits_of_its_own_is_not_listed(
    client: FlaskClient, conn: Connection, by_patch: bool
) -> None:
    client.patch("/queues/mail/keys/acme", json={"max_running": 2})

    if by_patch:
        unset = client.patch("/queues/mail/keys/acme", json={"max_running": None})
        rest = dict.fromkeys(("max_running", "max_starts", "starts_period_seconds"))
        assert (unset.status_code, unset.json) == (200, {"key": "acme"} | rest)
    else:
        deleted = client.delete("/queues/mail/keys/acme")
        assert (deleted.status_code, deleted.data) == (204, b"")

    assert client.get("/queues/mail/keys").json == {"keys": [], "next": None}
    assert client.delete("/queues/mail/keys/acme").status_code == 204


def test_to_take_limits_from_a_key_makes_no_queue(client: FlaskClient) -> None:
    answer = client.delete("/queues/mial/keys/acme")

    assert (answer.status_code, answer.json["code"]) == (404, "RTN03")
    assert client.get("/queues").json["queues"] == []


def test_keys_are_listed_page_by_page_whatever_they_are_called(client: FlaskClient) -> None:
    names = ["a/keys", "keys/a", "a b", "ü", "?", "%2F", "a\nb", "/", "a/", "k" * 200]
    for name in names:
        path = f"/queues/a%2Fkeys%2Fb/keys/{quote(name, safe='')}"
        assert client.patch(path, json={"max_running": 1}).json["key"] == name

    seen, url = [], "/queues/a%2Fkeys%2Fb/keys?limit=3"
    while url:
        page = client.get(url).json
        assert 0 < len(page["keys"]) <= 3
        seen += [key["key"] for key in page["keys"]]
        url = page["next"]

    assert sorted(seen) == sorted(names)
    assert [queue["queue"] for queue in client.get("/queues").json["queues"]] == ["a/keys/b"]
    for name in ("k" * 201, "%00"):
        answer = client.patch(f"/queues/mail/keys/{name}", json={"max_running": 1})
        assert answer.status_code == 422, name


def test_a_settings_path_is_not_taken_for_a_pause(client: FlaskClient) -> None:
    assert client.patch("/queues/mail/pause", json={"max_retries": 1}).status_code == 405
    assert client.patch("/queues/mail/pauses", json={"max_retries": 1}).status_code == 200


def test_bad_queue_names_are_refused(client: FlaskClient) -> None:
    for queue in ("x" * 101, "%00", "%0a", "%1b[31m", "a,b", "mail:2", "mail.*", "%20a", "a%20"):
        assert client.post(f"/queues/{queue}/pause").status_code == 422, queue
        assert client.patch(f"/queues/{queue}", json={}).status_code == 422, queue
    for queue in ("a,b", "mail:2", "mail.*", " a", "a "):
        for path, body in (("/jobs", {}), ("/schedules", {"name": "n", "every": "PT1H"})):
            answer = client.post(path, json={"task": "t", "queue": queue} | body)
            assert (answer.status_code, "queue" in answer.json["message"]) == (422, True), queue


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


def test_what_is_wrong_is_told(client: FlaskClient, conn: Connection) -> None:
    conn.execute("alter table rota.live_jobs set (autovacuum_enabled = off)")

    answer = client.get("/doctor")

    assert answer.status_code == 200
    [found] = [row for row in answer.json["findings"] if row["check"] == "autovacuum"]
    assert found["severity"] == "critical"
    assert found["remedy"] == "alter table rota.live_jobs reset (autovacuum_enabled)"


def test_live_answers(client: FlaskClient) -> None:
    assert client.get("/health/live").json == {"status": "alive"}


def test_ready_tells_the_version(client: FlaskClient) -> None:
    answer = client.get("/health/ready")

    assert answer.status_code == 200
    assert answer.json == {"status": "ready", "version": checkout_version()}


def test_ready_with_a_later_version(client: FlaskClient, conn: Connection) -> None:
    """All of a fleet would be taken out of service at once by its balancer."""
    conn.execute("create or replace function rota.version() returns text language sql return 'abc'")

    answer = client.get("/health/ready")

    assert (answer.status_code, answer.json["version"]) == (200, checkout_version())


def test_not_ready_with_another_version(client: FlaskClient, conn: Connection) -> None:
    conn.execute("create or replace function rota.version() returns text language sql return 'abc'")
    conn.execute("delete from rota.versions")

    answer = client.get("/health/ready")

    assert answer.status_code == 503
    assert "rota deploy" in answer.json["message"]


def test_not_ready_without_the_schema(client: FlaskClient, conn: Connection) -> None:
    conn.execute("alter function rota.version() rename to elsewhere")

    answer = client.get("/health/ready")

    assert answer.status_code == 503
    assert "rota deploy" in answer.json["message"]


def as_role(db: str, statements: str, role: str) -> FlaskClient:
    """Return a client of an API whose login may do what these statements allow."""
    with psycopg.connect(db, autocommit=True) as conn:
        conn.execute(statements)
    return create_app(make_conninfo(db, options=f"-c role={role}")).test_client()


@pytest.fixture
def role(db: str) -> Iterator[str]:
    """A role that may do nothing."""
    name = f"nobody_{uuid4().hex}"
    with psycopg.connect(db, autocommit=True) as conn:
        conn.execute(f"create role {name}")
        yield name
        conn.execute(f"drop owned by {name}")
        conn.execute(f"drop role {name}")


@pytest.mark.parametrize(
    "rights",
    [
        "",
        "grant usage on schema rota to {0}",
        "grant usage on schema rota to {0}; grant execute on function rota.version to {0}",
        "grant usage on schema rota to {0}; grant execute on function rota.maintain to {0}",
    ],
)
def test_not_ready_when_the_login_may_do_nothing(db: str, role: str, rights: str) -> None:
    answer = as_role(db, rights.format(role) or "select", role).get("/health/ready")

    assert answer.status_code == 503
    assert "grant it rota_producer and rota_operator" in answer.json["message"]


def test_ready_lists_the_rights_that_are_missing(db: str, role: str) -> None:
    client = as_role(db, f"grant rota_reader to {role}", role)

    answer = client.get("/health/ready")

    assert answer.status_code == 200
    missing = answer.json["missing_rights"]
    assert {"enqueue_job", "cancel_job", "delete_queue"} <= set(missing)
    assert not {"jobs", "queue_status", "preview_schedule"} & set(missing)
    assert client.get("/jobs").status_code == 200


def test_the_rights_that_are_looked_at_are_those_that_the_api_uses(conn: Connection) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "app").glob("*.py"))
    asked = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    named = set(re.findall(r'"(\w+)"', sources.replace((ROOT / "app/health.py").read_text(), "")))
    functions = {
        name
        for (name,) in conn.execute(
            "select proname from pg_proc where pronamespace = 'rota'::regnamespace"
        )
    }
    named |= set(re.findall(r"from rota\.(\w+)\(", asked))
    views = set(re.findall(r"from rota\.(\w+)(?![\w(]|\S* import)", asked))

    # Everybody may ask for these, and where they are needed it is said that they are not there.
    assert set(health.FUNCTIONS) == (named & functions) - {"version", "shard"}
    assert set(health.VIEWS) == views
