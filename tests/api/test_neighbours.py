"""A tenant's token over HTTP: what a neighbour has answers as what there is not, route by route.

Each operation is asked for with whatever belongs to the neighbour, and for each with what belongs
to nobody: status, body and headers must be the same, and nothing of the neighbour's may change.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from rota.app import create_app
from rota.db.gateway import call
from tests.api.conftest import Server
from tests.api.documentation import OPERATIONS
from tests.functions.test_walls import everything_of, put_limits_in_force
from tests.waiting import wait_until

LOGIN = "login_of_the_api"
TENANTS = ("acme", "globex")
SCOPES = ("producer", "worker", "operator", "reader")
NO_JOB = 899_999  # as long as an id that there is
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}


class Things:
    """What a tenant has, by name and id; of nobody's things there are only the names."""

    queue: str
    schedule: str
    worker: str
    key: str
    request: str
    task: str

    def __init__(self, name: str, suffix: str = "1") -> None:
        self.name = name
        for what in ("queue", "schedule", "worker", "key", "request", "task"):
            setattr(self, what, f"{name}.{what}{suffix}")
        self.waiting = self.running = self.failed = self.done = self.workflow = NO_JOB
        self.token = str(uuid4())  # of a lease
        self.etags = ['"0123456789012345678901234567890123456789"'] * 10

    @property
    def ids(self) -> list[int]:
        return [self.waiting, self.running, self.failed, self.done]


@pytest.fixture
def tokens(conn: Connection) -> Iterator[dict[str, str]]:
    """A token of each tenant, and of one of each right alone."""
    names = [*TENANTS, *(f"acme_{scope}" for scope in SCOPES)]
    roles = [f"{name}_over_http" for name in names]
    drop = ", ".join([LOGIN, *roles])
    conn.execute(f"drop role if exists {drop}")
    conn.execute(f"create role {LOGIN} login noinherit in role rota_api")
    option = "with inherit false" if conn.info.server_version >= 160000 else ""
    made = {}
    try:
        for name, role in zip(names, roles, strict=True):
            tenant, _, scope = name.partition("_")
            rights = ", ".join(f"rota_{right}" for right in ([scope] if scope else SCOPES))
            conn.execute(f"create role {role} nologin in role {rights}")
            conn.execute(f"grant {role} to {LOGIN} {option}")
            call(conn, "wall", principal=role, queue_pattern=f"{tenant}.*")
            made[name] = call(conn, "create_token", principal=role)[0]["token"]
        conn.execute("alter sequence rota.job_ids restart with 700001")
        yield made
    finally:
        conn.execute(f"drop role if exists {drop}")


@pytest.fixture
def http(db: str, tokens: Any) -> Iterator[FlaskClient]:
    """The API, with a login that has no rights of its own."""
    app = create_app(make_conninfo(db, user=LOGIN))
    yield app.test_client()
    app.extensions["database"].close()


Ask = Callable[..., Any]


@pytest.fixture
def ask(http: FlaskClient, tokens: dict[str, str]) -> Ask:
    """Send a request as a tenant."""

    def send(who: str, operation: str, path: str, body: Any = None, **headers: str) -> Any:
        method = operation.split()[0]
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["Authorization"] = f"Bearer {tokens[who]}"
        return http.open(path, method=method, json=body, headers=headers)

    return send


def furnish(ask: Ask, name: str) -> Things:
    """Let a tenant have one of everything, all of it made over HTTP."""
    has = Things(name)

    def post(path: str, body: Any, **headers: str) -> Any:
        answer = ask(name, "POST", path, body, **headers)
        assert answer.status_code in (200, 201), answer.text
        return answer.json

    def claim() -> Any:
        body = {"worker": has.worker, "lease_seconds": 36000}
        return post(f"/queues/{has.queue}/claim", body)["jobs"][0]

    def enqueue(**more: Any) -> int:
        return post("/jobs", {"task": has.task, "queue": has.queue, "payload": name} | more)[
            "job_id"
        ]

    has.done = enqueue()
    post(f"/jobs/{has.done}/finish", {"token": claim()["token"], "result": name})
    has.failed = enqueue()
    post(f"/jobs/{has.failed}/finish", {"token": claim()["token"], "error": name, "retry": False})
    has.running = enqueue()
    claim()
    has.waiting = enqueue(unique_key=has.key, key=has.key)
    post("/schedules", {
        "name": has.schedule, "task": has.task, "queue": has.queue, "interval_seconds": 3600,
    })  # fmt: skip
    repeated = {"task": has.task, "queue": has.queue, "run_in_seconds": 3600}
    post("/jobs", repeated, Idempotency_Key=has.request)
    graph = [{"task": has.task, "queue": has.queue, "node": name, "depends_on": [has.running]}]
    has.workflow = post("/workflows", {"name": name, "jobs": graph})["workflow_id"]
    ask(name, "PATCH", f"/queues/{has.queue}", {"max_retries": 7})
    ask(name, "POST", f"/events/{name}.event1", {"payload": name})
    ask(name, "PATCH", f"/queues/{has.queue}/keys/{has.key}", {"max_running": 7})
    pages = ["/jobs?limit=1", "/schedules", "/queues", "/workers", "/jobs/counts"]
    pages += [f"/jobs/{job_id}" for job_id in has.ids] + [f"/queues/{has.queue}"]
    answers = [ask(name, "GET", page) for page in pages]
    has.etags = [answer.headers["ETag"] for answer in answers]
    assert len(has.etags) == len(Things("nobody").etags)
    return has


Probe = Callable[[Things], list[tuple[Any, ...]]]  # paths, bodies, headers


def each_job(tail: str, *bodies: Any) -> Probe:
    return lambda of: [
        (f"/jobs/{job_id}{tail}", body(of) if callable(body) else body)
        for job_id in (*of.ids, of.workflow)
        for body in bodies or (None,)
    ]


def filters(of: Things) -> list[str]:
    return [
        f"queue={of.queue}",
        f"task={of.task}",
        f"unique_key={of.key}",
        f"key={of.key}",
        f"worker={of.worker}",
        f"queue={of.queue}&state=RUNNING",
        f"queue={of.queue}&state=FAILED,COMPLETED",
        f"queue={of.queue}&schedule_type=INTERVAL",
    ]


def bulks(of: Things) -> list[tuple[str, Any]]:
    found = []
    for condition in (
        {"queue": of.queue},
        {"task": of.task},
        {"unique_key": of.key},
        {"key": of.key},
        {"ids": of.ids},
        {"queue": of.queue, "schedule_type": "INTERVAL"},
    ):
        found += [("", {"filter": condition, "dry_run": dry_run}) for dry_run in (True, False)]
    return found


def lease(of: Things) -> dict[str, str]:
    return {"token": of.token}


def pairs(of: Things) -> list[dict[str, Any]]:
    return [{"job_id": job_id, "token": of.token} for job_id in of.ids]


NEW = {"task": "t", "queue": "acme.own"}
RANGE = {"starts_at": "2030-01-01T00:00:00Z", "ends_at": "2030-01-01T02:00:00Z"}

PROBES: dict[str, Probe] = {
    "POST /jobs": lambda of: [
        ("/jobs", {"task": "t", "queue": of.queue}),
        ("/jobs", {"task": "t", "queue": of.queue, "unique_key": of.key}),
        ("/jobs", NEW | {"unique_key": of.key}),
        ("/jobs", {"task": "t", "queue": of.queue, "unique_key": of.key, "unique_for_seconds": 60}),
        ("/jobs", {"task": "t", "queue": of.queue, "unique_key": of.key, "replace": True}),
        ("/jobs", NEW, {"Idempotency-Key": of.request}),
        ("/jobs", {"task": of.task, "queue": of.queue, "run_in_seconds": 3600},
         {"Idempotency-Key": of.request}),
        ("/jobs", NEW | {"schedule_type": "INTERVAL", "interval_seconds": 60, "name": of.schedule}),
    ],
    "POST /jobs/bulk": lambda of: [
        ("/jobs/bulk", {"jobs": [{"task": "t", "queue": of.queue}]}),
        ("/jobs/bulk", {"jobs": [NEW, {"task": "t", "queue": of.queue, "unique_key": of.key}]}),
        ("/jobs/bulk", {"jobs": [NEW]}, {"Idempotency-Key": of.request}),
    ],
    "GET /jobs": lambda of: [
        *((f"/jobs?{condition}",) for condition in filters(of)),
        *((f"/jobs?before={cursor}&queue={of.queue}",) for cursor in of.ids),
        *(("/jobs", None, {"If-None-Match": etag}) for etag in of.etags),
    ],
    "GET /jobs/counts": lambda of: [(f"/jobs/counts?{condition}",) for condition in filters(of)],
    "GET /jobs/{job_id}": lambda of: [
        *((f"/jobs/{job_id}",) for job_id in of.ids),
        (f"/jobs/{of.running}?wait=1",),
        *((f"/jobs/{of.done}", None, {"If-None-Match": etag}) for etag in of.etags),
    ],
    "GET /jobs/{job_id}/executions": each_job("/executions"),
    "GET /jobs/{job_id}/why": each_job("/why"),
    "POST /jobs/{job_id}/cancel": each_job("/cancel", {}, {"reason": "x"}),
    "POST /jobs/{job_id}/retry": each_job("/retry", {}),
    "POST /jobs/cancel": lambda of: [("/jobs/cancel", body) for _, body in bulks(of)],
    "POST /jobs/retry": lambda of: [("/jobs/retry", body) for _, body in bulks(of)],
    "POST /queues/{queue}/claim": lambda of: [
        (f"/queues/{of.queue}/claim", {}),
        (f"/queues/{of.queue}/claim", {"worker": of.worker, "max_jobs": 10}),
        (f"/queues/{of.queue}/claim", {"worker": "acme.w"}),
        ("/queues/acme.empty/claim", {"worker": of.worker}),
        ("/queues/acme.empty/claim", {"worker": of.worker}),
    ],
    "POST /jobs/claim": lambda of: [
        ("/jobs/claim", {"queues": [of.queue, "acme.empty"], "worker": of.worker}),
        ("/jobs/claim", {"queues": [of.queue], "max_jobs": 10}),
    ],
    "POST /jobs/{job_id}/heartbeat": each_job("/heartbeat", lease),
    "POST /jobs/heartbeat": lambda of: [("/jobs/heartbeat", {"jobs": pairs(of)})],
    "POST /jobs/{job_id}/finish": each_job(
        "/finish", lease, lambda of: lease(of) | {"claim_next": {"queues": [of.queue]}}
    ),
    "POST /jobs/finish": lambda of: [
        ("/jobs/finish", {"jobs": pairs(of)}),
        ("/jobs/finish", {"jobs": [], "claim_next": {"queues": [of.queue], "worker": of.worker}}),
    ],
    "POST /jobs/{job_id}/release": each_job("/release", lease),
    "POST /workflows": lambda of: [
        ("/workflows", {"jobs": [{"task": "t", "queue": of.queue}]}),
        ("/workflows", {"jobs": [NEW, {"task": "t", "queue": of.queue, "unique_key": of.key}]}),
        *(
            ("/workflows", {"jobs": [NEW | {"depends_on": [job_id], "if_parent_fails": "run"}]})
            for job_id in of.ids
        ),
        ("/workflows", {"jobs": [NEW]}, {"Idempotency-Key": of.request}),
    ],
    "GET /workflows": lambda of: [
        *((f"/workflows?before={cursor}",) for cursor in (*of.ids, of.workflow)),
        *(("/workflows", None, {"If-None-Match": etag}) for etag in of.etags),
    ],
    "GET /workflows/{workflow_id}": lambda of: [
        (f"/workflows/{of.workflow}",),
        (f"/workflows/{of.workflow}?after={of.workflow}",),
    ],
    "POST /workflows/{workflow_id}/cancel": lambda of: [
        (f"/workflows/{of.workflow}/cancel", {"reason": "x"})
    ],
    "POST /workflows/{workflow_id}/retry": lambda of: [(f"/workflows/{of.workflow}/retry", {})],
    "GET /jobs/{job_id}/parents": each_job("/parents"),
    "GET /jobs/{job_id}/steps": each_job("/steps"),
    "POST /jobs/{job_id}/steps": each_job("/steps", lambda of: lease(of) | {"step": "s"}),
    "POST /jobs/{job_id}/sleep": each_job(
        "/sleep", lambda of: lease(of) | {"step": "s", "delay_seconds": 60}
    ),
    "POST /jobs/{job_id}/await": each_job(
        "/await",
        lambda of: (
            lease(of) | {"step": "s", "event": f"{of.name}.event1", "timeout_seconds": 60}
        ),
    ),
    "POST /events/{event}": lambda of: [(f"/events/{of.name}.event1", {"payload": 1})],
    "POST /schedules": lambda of: [
        ("/schedules", NEW | {"name": of.schedule, "cron": "@daily"}),
        ("/schedules", {"task": "t", "queue": of.queue, "name": "acme.s", "cron": "@daily"}),
        ("/schedules", NEW | {"name": of.schedule, "cron": "@daily"},
         {"Idempotency-Key": of.request}),
    ],
    "GET /schedules": lambda of: [
        *((f"/schedules?before={cursor}",) for cursor in of.ids),
        *(("/schedules", None, {"If-None-Match": etag}) for etag in of.etags),
    ],
    "GET /schedules/{name}": lambda of: [(f"/schedules/{of.schedule}",)],
    "PUT /schedules/{name}": lambda of: [
        (f"/schedules/{of.schedule}", NEW | {"cron": "@daily"}),
        ("/schedules/acme.s", {"task": "t", "queue": of.queue, "cron": "@daily"}),
    ],
    "POST /schedules/{name}/pause": lambda of: [(f"/schedules/{of.schedule}/pause", {})],
    "POST /schedules/{name}/resume": lambda of: [(f"/schedules/{of.schedule}/resume", {})],
    "POST /schedules/{name}/trigger": lambda of: [(f"/schedules/{of.schedule}/trigger", {})],
    "POST /schedules/{name}/backfill": lambda of: [
        (f"/schedules/{of.schedule}/backfill", RANGE),
        (f"/schedules/{of.schedule}/backfill", RANGE, {"Idempotency-Key": of.request}),
    ],
    "DELETE /schedules/{name}": lambda of: [(f"/schedules/{of.schedule}", {})],
    "POST /schedules/preview": lambda of: [
        ("/schedules/preview", {"cron": "@daily", "from_time": "2030-01-01T00:00:00Z"})
    ],
    "GET /queues": lambda of: [
        (f"/queues?after={of.queue}",),
        *(("/queues", None, {"If-None-Match": etag}) for etag in of.etags),
    ],
    "GET /queues/{queue}": lambda of: [
        (f"/queues/{of.queue}",),
        *((f"/queues/{of.queue}", None, {"If-None-Match": etag}) for etag in of.etags),
    ],
    "POST /queues/{queue}/pause": lambda of: [(f"/queues/{of.queue}/pause", {})],
    "POST /queues/{queue}/resume": lambda of: [(f"/queues/{of.queue}/resume", {})],
    "PATCH /queues/{queue}": lambda of: [
        (f"/queues/{of.queue}", {"max_retries": 1}),
        (f"/queues/{of.queue}", {"timeout_seconds": None}),
    ],
    "DELETE /queues/{queue}": lambda of: [(f"/queues/{of.queue}", {})],
    "PATCH /queues/{queue}/keys/{key}": lambda of: [
        (f"/queues/{of.queue}/keys/{of.key}", {"max_running": 1}),
        (f"/queues/{of.queue}/keys/{of.key}", {"max_running": None}),
    ],
    "GET /queues/{queue}/keys": lambda of: [
        (f"/queues/{of.queue}/keys",),
        (f"/queues/{of.queue}/keys?after={of.key[:-1]}",),
    ],
    "DELETE /queues/{queue}/keys/{key}": lambda of: [(f"/queues/{of.queue}/keys/{of.key}", {})],
    "GET /workers": lambda of: [
        ("/workers",),
        *(("/workers", None, {"If-None-Match": etag}) for etag in of.etags),
    ],
    "GET /doctor": lambda of: [("/doctor",)],
    "GET /metrics": lambda of: [("/metrics",), (f"/metrics?queue={of.queue}",)],
}  # fmt: skip
OPEN = {"GET /health/live", "GET /health/ready"}  # which nobody is asked for


def told(answer: Any, of: Things) -> tuple[Any, ...]:
    """Return all that an answer says, without names and ids of whose things it is about."""

    def plain(text: str) -> str:
        for job_id in sorted({*of.ids, of.workflow}, reverse=True):
            text = re.sub(rf"\b{job_id}\b", "ID", text)
        text = re.sub(r"(?<!\.)\b7\d{5}\b", "NEW", text)  # an id, no microseconds
        text = re.sub(
            r"\b(globex|nobody)\.(queue|schedule|worker|key|request|task|event)\d", "NAME", text
        )
        text = re.sub(r"(?m)^(rota_\w+_(?:age|due)_seconds\S*) .*", r"\1 AGE", text)
        return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "MOMENT", text)

    body = plain(answer.text)
    varies = (
        {"ETag", "Content-Length"} if body != answer.text or not body else set()
    )  # HEAD: of its own
    headers = sorted(
        (name, "" if name in varies else plain(value))
        for name, value in answer.headers
        if name not in ("Date", "X-Request-Id")
    )
    return answer.status_code, body, headers


def test_every_operation_of_the_routes_is_probed(http: FlaskClient) -> None:
    routes = set()
    for rule in http.application.url_map.iter_rules():
        if rule.endpoint.split(".")[0] in (
            "jobs",
            "queues",
            "schedules",
            "work",
            "workers",
            "doctor",
            "metrics",
            "workflows",
            "steps",
        ):
            path = re.sub(r"<(?:[^:>]*:)?(\w+)>", r"{\1}", str(rule))
            routes |= {f"{method} {path}" for method in (rule.methods or set()) & METHODS}

    assert set(PROBES) == routes == set(OPERATIONS) - OPEN


@pytest.mark.parametrize("who", ["acme", *(f"acme_{scope}" for scope in SCOPES)])
def test_what_a_neighbour_has_answers_as_what_there_is_not(
    who: str, ask: Ask, conn: Connection, connect: Callable[..., Connection]
) -> None:
    """While the neighbour holds its rows: who waits for one would be answered after 3 seconds."""
    has = furnish(ask, "globex")
    nobody = [Things("nobody"), Things("globex", "2")]
    put_limits_in_force(conn)
    holder = connect(autocommit=False)
    holder.execute("select from rota.chores for update")  # or upkeep counts, as it may
    before = everything_of(conn, "globex")
    for table in ("live_jobs", "finished_jobs", "schedules", "queues", "workers", "requests"):
        holder.execute(f"select from rota.{table} where {table}::text like '%globex%' for update")
    compared = 0

    for operation, probe in PROBES.items():
        for methods in [[operation], ["HEAD", "OPTIONS"]][: 1 + operation.startswith("GET")]:
            for method in methods:
                about = [
                    [
                        told(ask(who, method, *request[:2], **dashed(request)), of)
                        for request in probe(of)
                    ]
                    for of in (has, *nobody)
                ]
                assert about[0] == about[1] == about[2], (who, operation)
                assert not [status for status, _, _ in about[0] if status >= 500]
                assert not [body for _, body, _ in about[0] if "globex" in body]
                compared += len(about[0])
    holder.rollback()

    after = everything_of(conn, "globex")
    for table, rows in before.items():
        assert set(rows) <= set(after[table]), table
        assert all("acme" in row for row in set(after[table]) - set(rows)), table
    assert compared > 150


def dashed(request: tuple[Any, ...]) -> dict[str, str]:
    return request[2] if len(request) > 2 else {}


def test_lists_and_numbers_stay_as_they_are_when_a_neighbour_comes_and_goes(
    ask: Ask, conn: Connection
) -> None:
    furnish(ask, "acme")
    pages = [
        "/jobs", "/jobs?limit=1", "/jobs/counts", "/schedules", "/queues", "/queues?limit=1",
        "/workers", "/queues/acme.queue1", "/jobs?state=RUNNING", "/jobs/counts?state=RUNNING",
    ]  # fmt: skip
    conn.execute("update rota.live_jobs set run_at = '2020-01-01Z' where state = 'SCHEDULED'")
    before = [told(ask("acme", "GET", page), Things("x")) for page in pages]

    has = furnish(ask, "globex")
    for _ in range(10):
        ask("globex", "POST", "/jobs", {"task": "t", "queue": has.queue})
        ask("globex", "POST", "/jobs/claim", {"queues": [has.queue], "worker": "globex.w2"})
    ask("globex", "POST", f"/jobs/{has.waiting}/cancel", {})

    assert [told(ask("acme", "GET", page), Things("x")) for page in pages] == before


def test_the_doctor_is_not_for_tenants_and_a_foreign_job_has_no_reasons(ask: Ask) -> None:
    has = furnish(ask, "globex")

    assert ask("acme", "GET", "/doctor").status_code == 403
    for job_id in has.ids:
        assert ask("acme", "GET", f"/jobs/{job_id}/why").status_code == 404
        assert ask("globex", "GET", f"/jobs/{job_id}/why").json["reasons"]


def test_a_tenant_scrapes_its_own_queues_and_nothing_of_the_server(
    ask: Ask, conn: Connection, http: FlaskClient
) -> None:
    for tenant in ("acme", "globex"):
        furnish(ask, tenant)
    conn.execute("update rota.chores set took = '0', ran_at = null where chore = 'take_census'")
    call(conn, "take_census")
    conn.execute(
        """
        insert into rota.totals (queue, task, outcome, ended, gave_up, ran_seconds, firsts,
            waited_seconds, ran_histogram, waited_histogram)
        select queue, task, 'LOST', 7, 0, 1, 1, 1, array_fill(0, '{14}'), array_fill(0, '{14}')
        from rota.live_jobs
        on conflict do nothing
        """
    )

    seen = {tenant: ask(tenant, "GET", "/metrics").text for tenant in ("acme", "globex")}
    conn.execute("delete from rota.totals where outcome = 'LOST'")

    for tenant, text in seen.items():
        names = dict(re.findall(r'^(rota_\w+)\{.*queue="([^"]*)"', text, re.M))
        assert names.keys() >= {"rota_jobs", "rota_queue_oldest_due_seconds", "rota_worker_places"}
        assert names.keys() >= {"rota_attempts_total", "rota_wait_duration_seconds_bucket"}
        assert set(re.findall('queue="([^"]*)"', text)) == {f"{tenant}.queue1"}
        assert not re.search("rota_findings|rota_oldest_snapshot|rota_table", text)
    assert ask("acme", "GET", "/metrics").text == seen["acme"]  # kept, and of its own


def test_a_key_of_a_request_stands_for_that_of_its_own_principal(ask: Ask) -> None:
    key = {"Idempotency-Key": "one-key"}
    theirs = ask("globex", "POST", "/jobs", {"task": "t", "queue": "globex.mail"}, **key)

    mine = ask("acme", "POST", "/jobs", {"task": "t", "queue": "acme.mail"}, **key)
    again = ask("acme", "POST", "/jobs", {"task": "t", "queue": "acme.mail"}, **key)

    assert (mine.status_code, mine.headers.get("Idempotency-Replayed")) == (201, None)
    assert mine.json["job_id"] != theirs.json["job_id"]
    assert (again.json, again.headers["Idempotency-Replayed"]) == (mine.json, "true")


def test_a_name_of_a_worker_that_a_neighbour_tries_keeps_it_from_nothing(
    ask: Ask, conn: Connection
) -> None:
    for queue in ("acme.mail", "globex.mail"):
        answer = ask("acme", "POST", f"/queues/{queue}/claim", {"worker": "globex.w"})
        assert answer.status_code == 204
    assert conn.execute("select from rota.workers").fetchall() == []

    ask("globex", "POST", "/queues/globex.mail/claim", {"worker": "globex.w"})

    assert conn.execute("select worker from rota.workers").fetchall() == [("globex.w",)]


# -- with a server, where requests wait ----------------------------------------------------------


@pytest.fixture
def walled(db: str, start_server: Any, tokens: dict[str, str]) -> Server:
    """A running server, with a login that has no rights of its own."""
    return start_server(make_conninfo(db, user=LOGIN))


def bearer(tokens: dict[str, str], who: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens[who]}"}


def in_background(call_it: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call_it()))
    thread.start()
    return thread, answers


def requests_that_wait(conn: Connection, number: int) -> None:
    """Wait until so many have claimed in vain and fallen asleep."""
    wait_until(
        lambda: conn.execute(
            "select count(*) >= %s from rota.workers where last_seen_at is not null", [number]
        ).fetchone()[0]  # type: ignore[index]
    )
    time.sleep(0.4)  # the quick looks are over


def test_who_waits_for_a_neighbour_s_queue_keeps_no_job_from_it(
    walled: Server, conn: Connection, tokens: dict[str, str]
) -> None:
    """It has waited longer, and would be the first whom a job wakes."""
    nosy, nosy_answers = in_background(
        lambda: walled.request(
            "POST", "/jobs/claim",
            {"queues": ["acme.x", "globex.mail"], "worker": "acme.w", "wait_seconds": 6},
            **bearer(tokens, "acme"),
        )
    )  # fmt: skip
    nosy_too, nosy_too_answers = in_background(
        lambda: walled.request(
            "POST", "/queues/globex.mail/claim", {"worker": "acme.w", "wait_seconds": 6},
            **bearer(tokens, "acme"),
        )
    )  # fmt: skip
    time.sleep(1)
    owner, answers = in_background(
        lambda: walled.request(
            "POST", "/queues/globex.mail/claim", {"worker": "globex.w", "wait_seconds": 6},
            **bearer(tokens, "globex"),
        )
    )  # fmt: skip
    requests_that_wait(conn, 1)
    began = time.monotonic()
    call(conn, "enqueue_job", task="t", queue="globex.mail")
    owner.join()

    assert time.monotonic() - began < 0.9
    assert answers[0].status == 200
    nosy.join()
    nosy_too.join()
    assert [answer.status for answer in nosy_answers + nosy_too_answers] == [204, 204]


def test_a_wall_that_is_built_while_a_claim_waits_holds_for_it(
    walled: Server, conn: Connection, tokens: dict[str, str]
) -> None:
    call(conn, "unwall", principal="acme_over_http", queue_pattern="acme.*")
    waiting, answers = in_background(
        lambda: walled.request(
            "POST", "/queues/globex.mail/claim", {"worker": "w", "wait_seconds": 3},
            **bearer(tokens, "acme"),
        )
    )  # fmt: skip
    requests_that_wait(conn, 1)

    call(conn, "wall", principal="acme_over_http", queue_pattern="acme.*")
    call(conn, "enqueue_job", task="t", queue="globex.mail")
    waiting.join()

    assert answers[0].status == 204
    assert conn.execute("select state from rota.jobs").fetchall() == [("SCHEDULED",)]


@pytest.mark.parametrize(
    "what", ["the token is revoked", "the role is taken away", "it is dropped"]
)
def test_a_claim_that_waits_gets_no_job_any_more_when(
    what: str, walled: Server, conn: Connection, tokens: dict[str, str]
) -> None:
    waiting, answers = in_background(
        lambda: walled.request(
            "POST", "/queues/acme.mail/claim", {"worker": "acme.w", "wait_seconds": 8},
            **bearer(tokens, "acme"),
        )
    )  # fmt: skip
    requests_that_wait(conn, 1)
    if what == "the token is revoked":
        query = "select token_id from rota.tokens where principal = 'acme_over_http'"
        (token_id,) = conn.execute(query).fetchone()  # type: ignore[misc]
        call(conn, "revoke_token", token_id=token_id)
        time.sleep(3.2)  # for which a token is remembered
    elif what == "the role is taken away":
        conn.execute(f"revoke acme_over_http from {LOGIN}")
    else:
        conn.execute("drop role acme_over_http")
    call(conn, "enqueue_job", task="t", queue="acme.mail")
    waiting.join()

    assert answers[0].status in (401, 403, 503), answers[0].body
    assert conn.execute("select state from rota.jobs").fetchall() == [("SCHEDULED",)]
    other = walled.request("GET", "/jobs", **bearer(tokens, "globex"))
    assert (other.status, other.json["jobs"]) == (200, [])


def test_no_request_leaves_its_role_to_the_next(
    walled: Server, conn: Connection, tokens: dict[str, str]
) -> None:
    """Errors of every kind in between, on the same few connections."""
    for tenant in TENANTS:
        call(conn, "enqueue_job", task="t", queue=f"{tenant}.mail")
    wrong = [
        ("POST", "/jobs", {"task": "t", "queue": "default"}),
        ("POST", "/jobs/1/cancel", {"reason": "x" * 2000}),
        ("POST", "/jobs", {"task": "", "queue": "acme.mail"}),
        ("GET", "/schedules/none", None),
        ("POST", "/jobs/999/finish", {"token": str(uuid4())}),
    ]

    for number in range(20):
        for tenant in TENANTS:
            method, path, body = wrong[number % len(wrong)]
            walled.request(method, path, body, **bearer(tokens, tenant))
            seen = walled.request("GET", "/jobs", **bearer(tokens, tenant)).json["jobs"]
            assert [job["queue"] for job in seen] == [f"{tenant}.mail"]
            assert walled.request("GET", "/jobs").status == 401
