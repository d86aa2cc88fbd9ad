"""What the API shows is what the views hold, in every column, and each of its fields arrives.

The tables are checked against the views and the functions: whoever adds a column or a parameter has
to show it, or say here that the API does not.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.app import jobs, queues, schedules, steps, work, workflows
from rota.app.inputs import MAX_BODY_BYTES, MAX_DEPTH
from rota.db.gateway import call

OTHER_NAMES = {  # columns that the API shows as seconds
    name: f"{name}_seconds"
    for name in (
        *("timeout", "backoff_base", "backoff_cap", "jitter", "max_lateness", "clock_difference"),
        *("starts_period", "key_starts_period", "keep_completed", "keep_failed"),
    )
}
START = "2030-01-31T09:00:00+00:00"


def rows(conn: Connection, query: str) -> list[dict[str, Any]]:
    return conn.cursor(row_factory=dict_row).execute(query).fetchall()


def plain(value: Any) -> Any:
    """A value of the database or of the API, so that the two can be compared."""
    if isinstance(value, timedelta):
        return float(value.total_seconds())
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, str) and len(value) > 18 and value[4:5] == "-" and "T" in value:
        return datetime.fromisoformat(value).astimezone(UTC)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def assert_shown(shown: dict[str, Any], row: dict[str, Any], left_out: set[str] = set()) -> None:  # noqa: B006
    """Every column of the row is shown, with its value."""
    expected = {
        OTHER_NAMES.get(name, name): plain(value)
        for name, value in row.items()
        if name not in left_out
    }
    assert {name: plain(shown[name]) for name in expected} == expected


@pytest.fixture
def eventful(conn: Connection) -> dict[str, Any]:
    """A job, and a schedule, with as much behind them as they can have; nobody else's."""
    call(conn, "enqueue_job", task="other", queue="other")
    (made,) = call(
        conn,
        "enqueue_job",
        task="work",
        payload=Jsonb({"a": 1}),
        queue="mail",
        priority=7,
        max_retries=4,
        timeout=timedelta(seconds=9.25),
        unique_key="k",
        run_at="2020-01-02 03:04:05.678Z",
        headers=Jsonb({"traceparent": "of the enqueue"}),
        key="acme",
    )
    for error in ("the first time", "the second time"):
        (claimed,) = call(conn, "claim_next_job", queues=["mail"], worker="w", lease="1 hour")
        held = {"job_id": claimed["id"], "token": claimed["token"]}
        call(conn, "heartbeat_job", **held, progress=Jsonb({"done": 0.5}))
        if error == "the first time":
            call(conn, "finish_job", **held, error=error, result=Jsonb(1), retry_in="0")
    call(conn, "cancel_job", job_id=made["job_id"], reason="enough")
    call(
        conn,
        "schedule_job",
        task="tick",
        payload=Jsonb([2]),
        cron="5 * * * *",
        name="tick",
        time_zone="Asia/Tokyo",
        starts_at=START,
        ends_at="2040-01-01",
        max_runs=5,
        jitter=timedelta(seconds=30.5),
        misfire="all",
        misfire_cap=9,
        max_lateness=timedelta(hours=1),
        overlap="catch_up",
        queue="mail",
        priority=-5,
        max_retries=2,
        timeout=timedelta(seconds=2.5),
        headers=Jsonb({"traceparent": "of the schedule"}),
        key="globex",
    )
    call(conn, "pause_schedule", name="tick")
    call(
        conn,
        "configure_queue",
        queue="mail",
        max_retries=9,
        backoff_base="1.5 seconds",
        backoff_cap="1 hour",
        timeout="2 minutes",
        max_running=50,
        max_starts=1000,
        starts_period="1 minute",
        key_max_running=5,
        key_max_starts=100,
        key_starts_period="2.5 seconds",
        key_in_order=True,
        keep_completed="90.5 minutes",
        keep_failed="3 days",
    )
    limits = {"max_running": 7, "max_starts": 70, "starts_period": "0.5 seconds"}
    call(conn, "configure_key", queue="mail", key="acme", **limits)
    call(conn, "pause_queue", queue="mail")
    about = {"host": "here", "pid": 7, "queues": ["mail"], "concurrency": 4, "version": "v"}
    more = {"tasks": ["work", "tick"], "overrun": 3, "clock": datetime.now(UTC)}
    call(conn, "announce_worker", worker="w", **about, **more)
    call(conn, "announce_worker", worker="gone", **about)
    call(conn, "dismiss_worker", worker="gone")
    return held


@pytest.mark.parametrize("ended", [False, True])
def test_a_job_is_shown_with_all_that_its_view_holds(
    client: FlaskClient, conn: Connection, eventful: dict[str, Any], ended: bool
) -> None:
    if ended:
        call(conn, "finish_job", **eventful, error="the end", result=Jsonb({"b": 2}))
    (row,) = rows(conn, "select * from rota.jobs where task = 'work'")
    attempts = rows(
        conn,
        f"select * from rota.executions where job_id = {row['id']}"  # noqa: S608
        " order by attempt desc",
    )

    shown = client.get(f"/jobs/{row['id']}").json

    assert_shown(shown, row)
    assert len(shown["executions"]) == 2
    for one, attempt in zip(shown["executions"], attempts, strict=True):
        assert_shown(one, attempt, {"job_id", "scheduled_for", "job_state", "next_run_at"})
    page = client.get(shown["executions_url"]).json
    assert page == {"executions": shown["executions"], "next": None}
    (listed,) = client.get("/jobs?task=work").json["jobs"]
    assert_shown(listed, row, {"payload", "headers", "result", "progress"})


def test_a_schedule_is_shown_with_all_that_its_view_holds(
    client: FlaskClient, conn: Connection, eventful: dict[str, Any]
) -> None:
    (row,) = rows(conn, "select * from rota.schedule_status")

    assert_shown(client.get("/schedules/tick").json, row)
    (listed,) = client.get("/schedules").json["schedules"]
    assert_shown(listed, row, {"payload", "headers"})


def test_queues_and_workers_are_shown_with_all_that_their_views_hold(
    client: FlaskClient, conn: Connection, eventful: dict[str, Any]
) -> None:
    found = rows(conn, "select * from rota.queue_status order by queue")
    shown = client.get("/queues").json["queues"]
    for one, row in zip(shown, found, strict=True):
        assert_shown(one, row)

    (row,) = rows(conn, "select * from rota.key_limits")
    (key,) = client.get("/queues/mail/keys").json["keys"]
    assert_shown(key, row, {"queue"})

    found = rows(conn, "select * from rota.worker_status order by last_seen_at desc, worker")
    shown = client.get("/workers").json["workers"]
    for one, row in zip(shown, found, strict=True):
        assert_shown(one, row)
    assert [worker["worker"] for worker in shown] == ["gone", "w"]


def parameters(conn: Connection, function: str) -> set[str]:
    row = conn.execute(
        "select proargnames[1:pronargs] from pg_proc"
        " where pronamespace = 'rota'::regnamespace and proname = %s",
        [function],
    ).fetchone()
    return set(row[0]) if row else set()


def arguments(fields: dict[str, Any]) -> set[str]:
    return {field.argument or name for name, field in fields.items()}


def test_every_parameter_has_its_field(conn: Connection) -> None:
    assert arguments(jobs.ONE_TIME) - {"run_in"} == parameters(conn, "enqueue_job")
    outcome = {"job_id"}
    assert arguments(work.CLAIM | work.QUEUES) | {"max_bytes"} == parameters(conn, "claim_next_job")
    assert arguments(work.FINISH) | outcome == parameters(conn, "finish_job")
    assert arguments(work.HEARTBEAT) | outcome == parameters(conn, "heartbeat_job")
    assert arguments(work.RELEASE) | outcome == parameters(conn, "release_job")
    assert arguments(steps.RECORD) | outcome == parameters(conn, "record_step")
    assert arguments(steps.SLEEP) | outcome == parameters(conn, "sleep_job")
    assert arguments(steps.AWAIT) | outcome == parameters(conn, "await_event")
    assert arguments(steps.EVENT) | {"event"} == parameters(conn, "emit_event")
    only_alone = {"unique_for", "replace"}
    edges = {"node", "depends_on", "if_parent_fails"}
    assert arguments(workflows.NODE) - {"run_in"} == (
        parameters(conn, "enqueue_job") - only_alone | edges
    )
    assert arguments(schedules.OPTIONS | schedules.TIMINGS | schedules.NAME) == parameters(
        conn, "schedule_job"
    )
    assert arguments(queues.SETTINGS) | {"queue", "unset"} == parameters(
        conn, "configure_queue"
    ) | {"unset"}
    assert arguments(queues.LIMITS) | {"queue", "key", "unset"} == parameters(conn, "configure_key")
    assert arguments(schedules.PREVIEW) | {"cron", "every"} == parameters(conn, "preview_schedule")
    assert arguments(schedules.RANGE) | {"name"} == parameters(conn, "backfill_schedule")


# Each field of POST /jobs, with a value that is not its default, and the column that shows it.
FIELDS = {
    "task": ("other", "task"),
    "payload": ({"a": [1]}, "payload"),
    "queue": ("mail", "queue"),
    "priority": (7, "priority"),
    "max_retries": (9, "max_retries"),
    "timeout_seconds": (2.5, "timeout_seconds"),
    "run_at": (START, "scheduled_for"),
    "headers": ({"traceparent": "of a test"}, "headers"),
    "key": ("acme", "key"),
}
KINDS = {
    "ONE_TIME": {
        "unique_key": ("k", "unique_key"),
        "unique_for_seconds": (90.5, None),
        "replace": (False, None),
    },
    "INTERVAL": {"interval_seconds": (90.5, None), "name": ("n", "name")},
    "CRON": {"cron": ("0 9 * * *", None), "time_zone": ("Asia/Tokyo", None), "name": ("n", "name")},
}


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_field_of_a_job_arrives(client: FlaskClient, kind: str, bulk: bool) -> None:
    if bulk and kind != "ONE_TIME":
        pytest.skip("a bulk has jobs of type ONE_TIME only")
    fields = FIELDS | KINDS[kind]
    if kind == "CRON":
        fields["run_at"] = ("2030-01-31T00:00:00+00:00", "scheduled_for")  # nine in Tokyo
    assert set(fields) == set(jobs.KINDS[kind][1]) - {"run_in_seconds"}
    body = {name: value for name, (value, _) in fields.items()} | {"schedule_type": kind}

    if bulk:
        answer = client.post("/jobs/bulk", json={"jobs": [body]})
        job_id = answer.json["jobs"][0]["job_id"]
    else:
        answer = client.post("/jobs", json=body)
        job_id = answer.json["job_id"]
        assert answer.headers["Location"] == f"/jobs/{job_id}"

    assert answer.status_code == 201
    shown = client.get(f"/jobs/{job_id}").json
    assert shown["schedule_type"] == kind
    for value, column in fields.values():
        if column:
            assert plain(shown[column]) == plain(value), column
    if kind != "ONE_TIME":
        found = client.get("/schedules/n").json
        timing = {"INTERVAL": ("every", "PT1M30.5S"), "CRON": ("cron", "0 9 * * *")}[kind]
        assert found[timing[0]] == timing[1]
        assert found["time_zone"] == ("Asia/Tokyo" if kind == "CRON" else "UTC")


FILTERS = {
    "state": ("SCHEDULED", "CANCELLED"),
    "queue": ("default", "mail"),
    "task": ("work", "tick"),
    "schedule_type": ("ONE_TIME", "INTERVAL"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_each_filter_chooses_and_goes_with_each_other(
    client: FlaskClient, conn: Connection, name: str
) -> None:
    assert set(FILTERS) <= set(jobs.FILTERS)
    for queue in ("default", "mail"):
        for _ in range(2):
            call(conn, "enqueue_job", task="work", queue=queue)
        (last,) = call(conn, "schedule_job", task="tick", every="1 hour", queue=queue)
        call(conn, "cancel_job", job_id=last["job_id"])
        call(conn, "cancel_job", job_id=last["job_id"] - 1)
    everything = rows(conn, "select * from rota.jobs order by id desc")

    for value in FILTERS[name]:
        shown = client.get(f"/jobs?{name}={value}").json["jobs"]
        expected = [row["id"] for row in everything if row[name] == value]
        assert [job["id"] for job in shown] == expected != []
        for other, (chosen, _) in FILTERS.items():
            if other != name:
                shown = client.get(f"/jobs?{name}={value}&{other}={chosen}").json["jobs"]
                assert [job["id"] for job in shown] == [
                    row["id"] for row in everything if row[name] == value and row[other] == chosen
                ]


def test_a_page_is_of_fifty_unless_asked_and_the_last_has_no_next(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "a"}] * 201))

    def page(query: str) -> tuple[int, bool]:
        answer = client.get(f"/jobs?{query}").json
        return len(answer["jobs"]), answer["next"] is not None

    assert page("") == (50, True)
    assert page("limit=1") == (1, True)
    assert page("limit=200") == (200, True)
    assert page("limit=200&before=202") == (200, True)
    assert page("limit=200&before=201") == (200, False)
    assert page("limit=50&before=52") == (50, True)
    assert page("limit=50&before=51") == (50, False)
    assert page("before=1") == (0, False)
    for wrong in ("limit=0", "limit=201", "limit=-1", "limit=1.0", "before=-1", "before=x"):
        assert client.get(f"/jobs?{wrong}").status_code == 422


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return value


def test_the_limits_of_a_body_are_where_they_are_said_to_be(client: FlaskClient) -> None:
    def post(**fields: Any) -> int:
        return client.post("/jobs", json={"task": "a", **fields}).status_code

    assert [post(payload=nested(MAX_DEPTH)), post(payload=nested(MAX_DEPTH + 1))] == [201, 422]
    head, tail = b'{"task": "a", "payload": "', b'"}'
    room = MAX_BODY_BYTES - len(head) - len(tail)
    for size, status in ((room, 201), (room + 1, 413)):
        answer = client.post(
            "/jobs", data=head + b"x" * size + tail, content_type="application/json"
        )
        assert answer.status_code == status
    for field, least, most in (("priority", -100, 100), ("max_retries", 0, 1000)):
        assert [post(**{field: value}) for value in (least, most)] == [201, 201]
        assert [post(**{field: value}) for value in (least - 1, most + 1)] == [422, 422]
    assert [post(priority=value) for value in (2**31 - 1, 2**31, -(2**31))] == [422] * 3


def test_an_id_is_any_bigint(client: FlaskClient) -> None:
    for job_id, code in ((2**63 - 1, "RTN01"), (2**63, "HTTP404"), (0, "RTN01")):
        for answer in (
            client.get(f"/jobs/{job_id}"),
            client.get(f"/jobs/{job_id}/executions"),
            client.post(f"/jobs/{job_id}/cancel"),
            client.post(f"/jobs/{job_id}/retry"),
        ):
            assert (answer.status_code, answer.json["code"]) == (404, code)


PATHS = ["/jobs", "/jobs/1", "/jobs/999", "/queues", "/workers", "/schedules", "/health/live"]


@pytest.mark.parametrize("path", [*PATHS, "/health/ready", "/nowhere", "/jobs?limit=0"])
def test_every_answer_is_marked(client: FlaskClient, conn: Connection, path: str) -> None:
    call(conn, "enqueue_job", task="a")

    answer = client.get(path)

    assert answer.content_type == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "frame-ancestors 'none'" in policy
    if answer.status_code >= 400:
        assert set(answer.json) == {"code", "message", "detail", "hint"}
