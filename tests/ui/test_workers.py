"""The pages of workers: who is alive, silent or stopped, of which version, and what each runs."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.db.gateway import call
from tests.ui.pages import Page, look

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\u202etxt.exe",
    "web/…/\"quoted\" & 'so'",
    "two\nlines",
    "a//b",
    ".",
    "..",
    "..//",
    "w" * 200,
    "50%2F?x=1#y{{7*7}}",
]


def announce(conn: Connection, worker: str, **options: Any) -> None:
    about = {"host": "h", "pid": 7, "queues": ["mail"], "concurrency": 4, "version": version(conn)}
    call(conn, "announce_worker", worker=worker, **about | options)


def version(conn: Connection) -> str:
    return call(conn, "version")[0]["version"]


def quiet_since(conn: Connection, worker: str, since: str) -> None:
    conn.execute(
        "update rota.workers set last_seen_at = now() - %s::interval, clock = clock - %s::interval"
        " where worker = %s",
        [since, since, worker],
    )


def claim(conn: Connection, worker: str, jobs: int = 1, queue: str = "mail") -> list[int]:
    for _ in range(jobs):
        call(conn, "enqueue_job", task="send", queue=queue)
    rows = call(conn, "claim_next_job", queues=[queue], worker=worker, max_jobs=jobs)
    return [row["id"] for row in rows]


def count(conn: Connection) -> None:
    call(conn, "take_census", older_than="0 seconds", force=True)


def shown(page: Page) -> dict[str, dict[str, str]]:
    return {row["Worker"]: row for row in page.table()}


@pytest.fixture
def crew(conn: Connection) -> Connection:
    """A worker of each kind."""
    ahead = datetime.now(UTC) + timedelta(seconds=42)
    announce(conn, "alive", queues=list("abcdef"), clock=datetime.now(UTC), overrun=0)
    announce(conn, "other", version="0123456789abcdef", clock=ahead, overrun=3)
    announce(conn, "silent")
    quiet_since(conn, "silent", "5 min")
    announce(conn, "gone")
    call(conn, "dismiss_worker", worker="gone")
    announce(conn, "http", version=None)
    quiet_since(conn, "http", "5 min")
    claim(conn, "alive", 2)
    claim(conn, "in psql")
    count(conn)
    return conn


def test_where_no_worker_is_the_list_says_how_to_start_one(client: FlaskClient) -> None:
    page = look(client, "/ui/workers")

    assert page.title == "Workers"
    assert "No worker has announced itself in the last day. Start one: rota worker" in page.text


def test_the_list_tells_the_states_of_workers_apart(client: FlaskClient, crew: Connection) -> None:
    page = look(client, "/ui/workers")

    states = [(row["Worker"], row["State"]) for row in page.table()]
    assert states[0] == ("silent", "SILENT")
    assert dict(states[1:3]) == {"alive": "ALIVE", "other": "ALIVE"}
    assert states[3:] == [("in psql", "UNANNOUNCED"), ("http", "AWAY"), ("gone", "STOPPED")]
    tiles = [tile.text for tile in page.region("figures").all("div") if tile["class"] == "tile"]
    assert tiles[0] == "Alive 2 1 silent"
    assert tiles[1] == "Busy places 2 of 8"
    assert tiles[2].startswith("Overrun places 3")
    assert tiles[3] == f"Deployed version {version(crew)[:12]} 1 alive with another"


def test_the_overview_calls_nobody_silent_of_whom_nothing_can_be_heard(
    client: FlaskClient, crew: Connection
) -> None:
    tile = next(
        tile.text
        for tile in look(client, "/ui/").region("figures").all("div")
        if tile["class"] == "tile" and tile.text.startswith("Workers")
    )

    assert tile == "Workers 2 1 silent"  # the other that has said nothing works over HTTP


def test_the_list_shows_places_queues_version_and_clock(
    client: FlaskClient, crew: Connection
) -> None:
    rows = shown(look(client, "/ui/workers"))

    assert rows["alive"]["Busy"] == "2 of 4"
    assert rows["alive"]["Queues"] == "a , b , c , d and 2 more"
    assert rows["alive"]["Version"] == version(crew)[:12]
    assert rows["other"]["Busy"] == "0 of 4 3 overrun"
    assert rows["other"]["Version"] == "0123456789ab other"
    assert rows["other"]["Clock"] in ("42 s", "41 s")
    assert rows["in psql"]["Last seen"] == "never"
    assert rows["in psql"]["Busy"] == "1"


def test_the_list_is_of_one_state_or_of_those_that_serve_a_queue(
    client: FlaskClient, crew: Connection
) -> None:
    page = look(client, "/ui/workers")

    silent = look(client, page.link("Silent 1"))
    assert list(shown(silent)) == ["silent"]
    assert list(shown(look(client, "/ui/workers?queue=f&state=ALIVE"))) == ["alive"]
    none = look(client, "/ui/workers?queue=f&state=STOPPED")
    assert "No worker is stopped serves f" in none.text.replace(" and", "")
    assert none.link("All workers") == "/ui/workers"
    for query in ("state=DEAD", "page=0", "worker=x", "queue=%00"):
        look(client, f"/ui/workers?{query}", 422)


def test_more_workers_than_fit_a_page_are_turned_to(client: FlaskClient, conn: Connection) -> None:
    for number in range(103):
        announce(conn, f"w{number:03}")

    first = look(client, "/ui/workers?state=ALIVE")
    second = look(client, first.link("Next"))

    assert (len(first.table()), len(second.table())) == (100, 3)
    assert not set(shown(first)) & set(shown(second))


def test_a_worker_is_shown_with_what_it_says_of_itself(
    client: FlaskClient, conn: Connection
) -> None:
    announce(conn, "web-1", version="0" * 40, tasks=["send", "resize"], overrun=1)

    page = look(client, "/ui/workers/web-1")

    assert page.title == "web-1 ALIVE"
    assert "It spoke within the last 90 seconds." in page.text
    told = page.region("What it says of itself").text
    assert "Host h , process 7" in told
    assert f"Version {'0' * 12} is not the deployed one, {version(conn)[:12]}" in told
    assert page.link("mail") == "/ui/queues/mail"
    assert page.link("resize") == "/ui/jobs?task=resize"
    assert "It runs nothing at the moment." in page.text


def test_a_worker_is_shown_with_the_jobs_that_it_has_run_for_longest(
    client: FlaskClient, conn: Connection
) -> None:
    announce(conn, "w")
    [first] = claim(conn, "w")
    ended = claim(conn, "w", 2, "post")
    claim(conn, "another")
    conn.execute(
        "update rota.live_jobs set started_at = now() - interval '1 h', timeout = '1 min'"
        " where id = %s",
        [first],
    )
    count(conn)
    call(conn, "cancel_job", job_id=first)
    jobs = {job: conn.execute("select token from rota.live_jobs where id = %s", [job]).fetchone()
            for job in ended}  # fmt: skip
    call(conn, "finish_job", job_id=ended[0], token=jobs[ended[0]][0])

    page = look(client, "/ui/workers/w")

    rows = page.table()
    assert [row["Job"] for row in rows] == [str(first), str(ended[1])]
    assert rows[0]["Notes"] == "over its timeout to be cancelled"
    assert (rows[0]["Attempt"], rows[0]["Timeout"]) == ("1/4", "1 min")
    assert (rows[1]["Queue"], rows[1]["Timeout"], rows[1]["Notes"]) == ("post", "none", "")
    assert page.link(str(first)) == f"/ui/jobs/{first}"
    assert "2 of 3, those that have run for longest." in page.text


def test_a_worker_in_sql_is_known_by_what_it_runs(client: FlaskClient, crew: Connection) -> None:
    page = look(client, "/ui/workers/in%20psql")

    assert page.title == "in psql UNANNOUNCED"
    assert "It has jobs that run, but has never announced itself." in page.text
    assert len(page.table()) == 1


def test_a_worker_that_there_is_not_is_not_found(client: FlaskClient) -> None:
    page = look(client, "/ui/workers/nobody", 404)

    assert page.title == "There is no worker nobody"
    look(client, "/ui/workers/%00", 422)


def test_a_worker_of_any_name_is_shown_as_text(client: FlaskClient, conn: Connection) -> None:
    for worker in HOSTILE:
        announce(conn, worker, host=worker, tasks=[worker], queues=["a/b"])

    page = look(client, "/ui/workers")

    assert set(shown(page)) == {" ".join(worker.split()) for worker in HOSTILE}
    assert not list(page.root.all("img", "script", src="x"))
    for worker in HOSTILE:
        name = " ".join(worker.split())
        [place] = [href for text, href in page.links if text == name]
        assert not {".", ".."} & set(place.split("/")), "a browser would go a folder up"
        one = look(client, place)
        assert one.title == f"{name} ALIVE"
        assert f"Host {name}" in one.text
        assert not list(one.root.all("img", "script", src="x"))
        assert one.link("a/b") == "/ui/queues/a%2Fb"


def test_behind_a_wall_other_workers_and_their_jobs_are_not_there(
    look_as: Callable[..., FlaskClient], conn: Connection
) -> None:
    for tenant in ("acme", "globex"):
        announce(conn, f"w-{tenant}", queues=[f"{tenant}.mail"])
        claim(conn, f"w-{tenant}", queue=f"{tenant}.mail")
        claim(conn, "both", queue=f"{tenant}.mail")
    count(conn)
    client = look_as("reader", wall="acme.*")

    assert set(shown(look(client, "/ui/workers"))) == {"w-acme", "both"}
    assert len(look(client, "/ui/workers/w-acme").table()) == 1
    assert [row["Queue"] for row in look(client, "/ui/workers/both").table()] == ["acme.mail"]
    look(client, "/ui/workers/w-globex", 404)
