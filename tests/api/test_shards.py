"""The API over several databases: which of them answers, and what happens while one is away."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from werkzeug.test import Client, TestResponse

import rota
from rota.app.front import Front, apps_of, create
from rota.db.deploy import number
from rota.db.gateway import call
from tests.api.conftest import Server
from tests.faults.proxy import Proxy
from tests.waiting import wait_until

NOBODY = "postgresql://127.0.0.1:1/none"
KEYS = {rota.shard_of(f"k{n}", 2): f"k{n}" for n in range(10)}  # one of each shard


class Local(Client):
    """A client on this machine, in this process."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        here = {"REMOTE_ADDR": "127.0.0.1"}
        return super().open(*args, environ_base=here, **kwargs)


@pytest.fixture
def client(two_shards: list[str]) -> Iterator[Client]:
    front = create(two_shards)
    assert isinstance(front, Front)
    yield Local(front)
    hang_up(front)


def hang_up(front: Front) -> None:
    for app in apps_of(front):
        app.extensions["database"].close()


@pytest.fixture
def conns(two_shards: list[str]) -> Iterator[list[Connection]]:
    opened = [psycopg.connect(url, autocommit=True) for url in two_shards]
    yield opened
    for conn in opened:
        conn.close()


def jobs(conn: Connection) -> list[str]:
    return [task for (task,) in conn.execute("select task from rota.jobs order by id").fetchall()]


def add(client: Client, path: str = "/jobs", **job: Any) -> Any:
    return client.post(path, json={"task": "echo"} | job)


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("name", ["key", "unique_key"])
def test_a_new_job_goes_where_its_key_is(
    client: Client, conns: list[Connection], name: str, shard: int
) -> None:
    answer = add(client, **{name: KEYS[shard]})

    assert answer.status_code == 201
    assert answer.headers["Rota-Shard"] == str(shard)
    assert answer.json["job_id"] % 1024 == shard
    assert [len(jobs(conn)) for conn in conns] == [1 - shard, shard]


def test_the_key_goes_before_the_unique_key(client: Client) -> None:
    assert add(client, key=KEYS[1], unique_key=KEYS[0]).headers["Rota-Shard"] == "1"


def test_jobs_without_a_key_are_spread_and_can_be_told_where_to_go(client: Client) -> None:
    spread = {add(client).headers["Rota-Shard"] for _ in range(4)}
    told = {add(client, "/jobs?shard=1").headers["Rota-Shard"] for _ in range(4)}

    assert (spread, told) == ({"0", "1"}, {"1"})


def test_a_repeat_finds_the_database_of_the_first(client: Client, conns: list[Connection]) -> None:
    for repeat in ("a", "b", "c", "d"):
        answers = [
            client.post("/jobs", json={"task": "echo"}, headers={"Idempotency-Key": repeat})
            for _ in range(3)
        ]
        assert len({answer.json["job_id"] for answer in answers}) == 1
        assert answers[2].headers["Idempotency-Replayed"] == "true"

    assert sum(len(jobs(conn)) for conn in conns) == 4


@pytest.mark.parametrize("shard", [0, 1])
def test_all_that_is_asked_of_an_id_finds_its_database(client: Client, shard: int) -> None:
    job_id = add(client, key=KEYS[shard]).json["job_id"]
    claimed = client.post(f"/jobs/claim?shard={shard}", json={"queues": ["default"]}).json["jobs"]
    token = {"token": claimed[0]["token"]}

    answers = [
        client.get(f"/jobs/{job_id}"),
        client.get(f"/jobs/{job_id}/why"),
        client.post(f"/jobs/{job_id}/heartbeat", json=token),
        client.post("/jobs/heartbeat", json={"jobs": [{"job_id": job_id} | token]}),
        client.post(f"/jobs/{job_id}/steps", json=token | {"step": "s", "result": 1}),
        client.post("/jobs/finish", json={"jobs": [{"job_id": job_id} | token]}),
        client.get(f"/jobs/{job_id}/executions"),
        client.get(f"/ui/jobs/{job_id}"),
    ]

    assert [(a.status_code, a.headers["Rota-Shard"]) for a in answers] == [(200, str(shard))] * 8
    assert answers[5].json["jobs"] == [{"job_id": job_id, "outcome": "COMPLETED"}]


def test_a_claim_that_names_no_database_looks_at_all(client: Client) -> None:
    for shard in (0, 1):
        add(client, key=KEYS[shard])

    claims = [client.post("/jobs/claim", json={"queues": ["default"]}) for _ in range(3)]

    assert sorted(claim.status_code for claim in claims) == [200, 200, 204]
    assert {claim.json["jobs"][0]["id"] % 1024 for claim in claims[:2]} == {0, 1}


def test_a_batch_is_of_one_database(client: Client, conns: list[Connection]) -> None:
    both = [{"task": "echo", "key": KEYS[0]}, {"task": "echo", "unique_key": KEYS[1]}]
    alike = [{"task": "echo"}, {"task": "echo", "unique_key": KEYS[1]}]

    refused = client.post("/jobs/bulk", json={"jobs": both})
    added = client.post("/jobs/bulk", json={"jobs": alike})
    chosen = client.post("/jobs/bulk?shard=0", json={"jobs": both})

    assert refused.status_code == 422
    assert refused.json["message"] == (
        "jobs[1].unique_key: belongs to shard 1, and jobs[0].key to shard 0: what is added"
        " together is in one database"
    )
    assert (added.status_code, added.headers["Rota-Shard"]) == (201, "1")
    assert (chosen.status_code, chosen.headers["Rota-Shard"]) == (201, "0")
    assert [len(jobs(conn)) for conn in conns] == [2, 2]


def test_a_workflow_is_where_the_jobs_are_that_it_depends_on(client: Client) -> None:
    parents = [add(client, key=KEYS[shard]).json["job_id"] for shard in (0, 1)]

    made = [
        client.post("/workflows", json={"jobs": [{"task": "echo", "depends_on": [parent]}]})
        for parent in parents
    ]
    crossing = client.post("/workflows", json={"jobs": [{"task": "echo", "depends_on": parents}]})
    elsewhere = client.post(
        "/workflows?shard=0", json={"jobs": [{"task": "echo", "depends_on": [parents[1]]}]}
    )

    assert [answer.headers["Rota-Shard"] for answer in made] == ["0", "1"]
    assert client.get(made[1].headers["Location"]).headers["Rota-Shard"] == "1"
    assert crossing.status_code == 422
    assert (elsewhere.status_code, elsewhere.json["code"]) == (404, "RTN01")
    assert elsewhere.json["message"] == f"there is no job {parents[1]} here: it is of shard 1"


@pytest.mark.parametrize("shard", [0, 1])
def test_a_schedule_is_found_by_its_name(client: Client, shard: int) -> None:
    saved = client.post(
        "/schedules", json={"task": "echo", "name": KEYS[shard], "interval_seconds": 60}
    )
    looked = client.get(f"/schedules/{KEYS[shard]}")
    paused = client.post(f"/schedules/{KEYS[shard]}/pause")
    put = client.put(f"/schedules/{KEYS[shard]}", json={"task": "echo", "interval_seconds": 60})

    answers = (saved, looked, paused, put)
    assert [answer.headers["Rota-Shard"] for answer in answers] == [str(shard)] * 4
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200]


def test_a_schedule_with_a_key_is_where_that_is_and_is_found(client: Client) -> None:
    job = {"task": "echo", "name": KEYS[0], "key": KEYS[1], "interval_seconds": 60}

    assert client.post("/schedules", json=job).headers["Rota-Shard"] == "1"
    assert client.get(f"/schedules/{KEYS[0]}").headers["Rota-Shard"] == "1"
    assert client.delete(f"/schedules/{KEYS[0]}").status_code == 200
    assert client.get(f"/schedules/{KEYS[0]}").status_code == 404


def test_lists_are_of_one_database(client: Client) -> None:
    for _ in range(3):
        add(client, key=KEYS[1])

    first, second = client.get("/jobs"), client.get("/jobs?shard=1&limit=2")
    rest = client.get(second.json["next"])

    assert first.json["jobs"] == []
    assert len(second.json["jobs"]) == 2
    assert "shard=1" in second.json["next"]
    assert (len(rest.json["jobs"]), rest.headers["Rota-Shard"]) == (1, "1")
    assert client.get("/metrics?shard=1").status_code == 200
    assert client.get("/queues?shard=1").status_code == 200


@pytest.mark.parametrize("path", ["/jobs", "/queues", "/jobs/1"])
@pytest.mark.parametrize("shard", ["2", "-1", "one", "", "1" * 30])
def test_a_shard_that_is_not_there_is_refused(client: Client, path: str, shard: str) -> None:
    answer = client.get(f"{path}?shard={shard}")

    assert (answer.status_code, answer.json["code"]) == (422, "RTV01")
    assert answer.json["message"] == f"shard: there is no shard {shard}"
    assert answer.json["hint"] == "There are 0, 1."


def test_settings_are_changed_in_one_database_that_is_named(
    client: Client, conns: list[Connection]
) -> None:
    for conn in conns:
        call(conn, "configure_queue", queue="default")

    refused = client.post("/queues/default/pause")
    paused = client.post("/queues/default/pause?shard=1")

    assert (refused.status_code, refused.json["code"]) == (422, "RTV01")
    assert refused.json["hint"] == "Add ?shard= to the path, with one of 0, 1."
    assert paused.status_code == 200
    query = "select paused_at is not null from rota.queues where name = 'default'"
    assert [conn.execute(query).fetchone() for conn in conns] == [(False,), (True,)]


def test_an_event_is_told_to_all(client: Client, conns: list[Connection]) -> None:
    for conn in conns:
        call(conn, "enqueue_job", task="echo")
        (job,) = call(conn, "claim_next_job")
        held = {"job_id": job["id"], "token": job["token"]}
        call(conn, "await_event", **held, step="s", event="paid:7", timeout="1 hour")

    first = client.post("/events/paid:7", json={"payload": 1})
    again = client.post("/events/paid:7", json={"payload": 2})

    assert (first.status_code, first.json) == (200, {"woken": 2})
    assert again.json == {"woken": 0}
    for conn in conns:
        assert conn.execute("select payload from rota.events").fetchall() == [(1,)]


def test_jobs_of_the_time_before_there_were_shards_are_found(
    db: str, conn: Connection, new_db: Callable, drop: Callable, cluster: Any
) -> None:
    old = [call(conn, "enqueue_job", task="old")[0]["job_id"] for _ in range(3)]
    other = new_db()
    try:
        number([db, cluster.url(other)], report=lambda line: None)
        front = create([db, cluster.url(other)])
        client = Local(front)

        assert [client.get(f"/jobs/{it}").json["task"] for it in old] == ["old"] * 3
        new = [add(client, key=KEYS[shard]).json["job_id"] for shard in (0, 1)]
        assert new == [1024, 1025]
        assert [client.get(f"/jobs/{it}").json["task"] for it in new] == ["echo"] * 2
        assert client.get("/jobs/2049").status_code == 404
        hang_up(front)
    finally:
        drop(other)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/jobs", {"task": "echo", "key": "\ud800"}),
        ("/jobs", {"task": "echo", "key": 7}),
        ("/jobs", {"key": "k"}),
        ("/jobs", []),
        ("/jobs/bulk", {"jobs": 7}),
        ("/jobs/bulk", {"jobs": [7]}),
        ("/jobs/finish", {"jobs": 7}),
        ("/jobs/finish", {"jobs": [{"job_id": -1}]}),
        ("/workflows", {"jobs": [{"task": "echo", "depends_on": [-1, "x", 2**80]}]}),
        ("/schedules", {"task": "echo", "name": 7}),
    ],
)
def test_what_is_wrong_with_a_request_is_said_as_for_one_database(
    client: Client, path: str, body: Any
) -> None:
    answer = client.post(path, json=body)

    assert answer.status_code in (400, 422)
    assert answer.json["message"] != "internal error"


def test_the_same_database_is_not_served_twice(two_shards: list[str], db: str) -> None:
    with pytest.raises(ValueError, match="say that they are shard 0: they are one database"):
        create([two_shards[0], f"{two_shards[0]}&port=5432"])
    with pytest.raises(ValueError, match="has no number as a shard"):
        create([two_shards[0], db])
    with pytest.raises(ValueError, match="DATABASE_URL names a database twice"):
        create([two_shards[1], two_shards[1]])


def test_ready_says_of_which_a_write_does_not_commit(two_shards: list[str]) -> None:
    only_read = make_conninfo(
        two_shards[1],
        target_session_attrs="any",
        options="-c default_transaction_read_only=on",
    )
    front = create([two_shards[0], only_read])
    client = Local(front)

    reads, writes = (client.get(f"/health/ready{query}") for query in ("", "?write=1"))

    assert [shard["status"] for shard in reads.json["shards"]] == ["ready", "ready"]
    assert (writes.status_code, writes.json["shards"][0]["status"]) == (200, "ready")
    assert writes.json["shards"][1]["status"] != "ready"
    assert client.get("/health/ready?write=2").status_code == 422
    hang_up(front)


def test_each_is_read_from_a_standby_of_its_own(
    two_shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_READ_URL", " ".join(two_shards))
    front = create(two_shards)
    client = Local(front)
    for key in KEYS.values():
        job_id = add(client, key=key).json["job_id"]
        assert client.get(f"/jobs/{job_id}").json["key"] == key
    read_from = [app.extensions["standby"].database for app in apps_of(front)]
    assert len(set(map(id, read_from))) == 2
    for database in read_from:
        database.close()
    hang_up(front)

    monkeypatch.setenv("DATABASE_READ_URL", two_shards[0])
    with pytest.raises(ValueError, match="a standby for each of 2 databases"):
        create(two_shards)


def test_one_that_is_away_takes_nothing_of_the_other(
    two_shards: list[str], start_server: Callable[..., Server]
) -> None:
    """The other one does all that is its own, and health says who is missing."""
    server = start_server(f"{two_shards[0]} {NOBODY}")

    ready = server.request("GET", "/health/ready")
    added = [server.request("POST", "/jobs", {"task": "echo"}) for _ in range(4)]
    own = server.request("POST", "/jobs", {"task": "echo", "key": KEYS[0]})
    lost = server.request("POST", "/jobs", {"task": "echo", "key": KEYS[1]})
    claimed = server.request("POST", "/jobs/claim", {"queues": ["default"], "max_jobs": 10})

    assert ready.status == 200
    assert [(s["shard"], s["status"]) for s in ready.json["shards"]] == [
        (0, "ready"),
        (None, "away"),
    ]
    assert [answer.status for answer in (*added, own)] == [201] * 5
    assert (lost.status, lost.json["message"]) == (503, "shard 1 is away")
    assert len(claimed.json["jobs"]) == 5
    assert server.stop() == 0


def test_one_that_says_nothing_any_more_costs_the_other_nothing(
    two_shards: list[str], start_server: Callable[..., Server]
) -> None:
    """Its own wait in vain, as many as leave threads to those of the other; more are refused."""
    place = conninfo_to_dict(two_shards[1])
    socket = Path(place["host"]) / f".s.PGSQL.{place.get('port', 5432)}"
    if not socket.exists():
        pytest.skip("this server has no socket here")
    with Proxy(socket) as proxy:
        silent = proxy.url(place["dbname"])
        server = start_server(f"{two_shards[0]} {silent}")
        own, other = ({"task": "echo", "key": KEYS[shard]} for shard in (0, 1))

        def in_vain() -> float:
            began = time.monotonic()
            assert server.request("POST", "/jobs", other).status == 503
            return time.monotonic() - began

        assert server.request("POST", "/jobs", other).status == 201
        proxy.silence("up", "down")
        with ThreadPoolExecutor(8) as pool:
            vain = [pool.submit(in_vain) for _ in range(8)]
            while not all(request.done() for request in vain):
                asked = time.monotonic()
                assert server.request("POST", "/jobs", own).status == 201
                assert time.monotonic() - asked < 2
                time.sleep(0.1)
        took = sorted(request.result() for request in vain)
        assert took[2] < took[3] - 1
        proxy.heal()
        wait_until(lambda: server.request("POST", "/jobs", other).status == 201)
        assert server.stop() == 0


def test_a_claim_over_all_databases_waits(
    two_shards: list[str], conns: list[Connection], start_server: Callable[..., Server]
) -> None:
    server = start_server("", arguments=[a for url in two_shards for a in ("--database", url)])
    found = []

    def claim() -> None:
        found.append(
            server.request("POST", "/jobs/claim", {"queues": ["default"], "wait_seconds": 20})
        )

    for conn in conns:
        waiting = threading.Thread(target=claim)
        waiting.start()
        wait_until(
            lambda: any(
                c.execute(
                    "select from pg_stat_activity where datname = current_database()"
                    " and application_name = 'rota api' and query like '%next_due_in%'"
                ).rowcount
                for c in conns
            )
        )
        call(conn, "enqueue_job", task="echo")
        waiting.join(10)

    assert [answer.status for answer in found] == [200, 200]
    assert [answer.json["jobs"][0]["id"] % 1024 for answer in found] == [0, 1]
    assert server.stop() == 0


def test_the_pages_are_of_the_database_that_was_chosen(client: Client) -> None:
    plain = client.get("/ui/queues")
    chosen = client.get("/ui/queues?shard=1")
    later = client.get("/ui/queues")

    assert [a.headers["Rota-Shard"] for a in (plain, chosen, later)] == ["0", "1", "1"]
    assert 'aria-current="true">1</a>' in later.text
