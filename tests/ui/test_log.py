"""The page of the log: who did what, when, and to how many."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.app.ui import log
from rota.db.gateway import call
from tests.ui.pages import Page, look, send

FUNCTIONS = Path(__file__).parents[2] / "db" / "functions"
HOSTILE = "<img src=x onerror=alert(1)>"


def test_where_nothing_was_done_the_page_says_what_would_be_here(client: FlaskClient) -> None:
    page = look(client, "/ui/log")

    assert page.title.startswith("Log")
    assert "Nothing was done yet." in page.text


def test_actions_are_shown_with_who_did_what_to_how_many(
    client: FlaskClient, conn: Connection
) -> None:
    [job] = call(conn, "enqueue_job", task="t", queue="a/b")
    call(conn, "schedule_job", task="t", every="1 hour", name="tick/1", queue="mail")
    call(conn, "cancel_job", job_id=job["job_id"], reason="enough")
    call(conn, "pause_schedule", name="tick/1")
    call(conn, "configure_queue", queue="mail", max_retries=2, unset=["timeout"])
    call(conn, "enqueue_job", task="t", queue="mail")
    call(conn, "cancel_jobs", filter=Jsonb({"queue": "mail"}), reason="w" * 300, dry_run=False)

    page = look(client, "/ui/log")

    rows = page.table()
    assert [row["Function"] for row in rows] == [
        "cancel_jobs", "configure_queue", "pause_schedule", "cancel_job",
    ]  # fmt: skip
    assert rows[3]["What"] == f"job {job['job_id']} queue a/b"
    assert rows[3]["Details"] == "reason enough"
    assert rows[2]["What"].endswith("schedule tick/1 queue mail")
    assert rows[1]["Details"] == 'unset ["timeout"] · max retries 2'
    assert {row["Who"] for row in rows} == {"postgres"}
    whole = page.main.one("pre").text
    assert "w" * 300 in whole
    assert len(page.main.one("summary").text) <= 120
    assert page.link(f"job {job['job_id']}") == f"/ui/jobs/{job['job_id']}"
    assert page.link("tick/1") == "/ui/schedules/tick%2F1"
    assert page.link("a/b") == "/ui/queues/a%2Fb"


def test_the_log_is_turned_by_keyset(client: FlaskClient, conn: Connection) -> None:
    for number in range(120):
        call(conn, "configure_queue", queue=f"q{number:03}")

    page, seen = look(client, "/ui/log"), []
    while True:
        seen += [row["What"] for row in page.table()]
        call(conn, "configure_queue", queue="later")
        older = [href for text, href in page.links if text == "Older"]
        if not older:
            break
        page = look(client, older[0])

    assert seen == [f"queue q{number:03}" for number in reversed(range(120))]
    assert look(client, page.link("Newest")).table()[0]["What"] == "queue later"


def test_the_log_is_filtered_by_a_form(client: FlaskClient, conn: Connection) -> None:
    conn.execute("create role one_who_steers in role rota_operator")
    try:
        call(conn, "configure_queue", queue="mail")
        call(conn, "configure_queue", queue="post")
        conn.execute("set role one_who_steers")
        call(conn, "pause_queue", queue="mail")
        conn.execute("reset role")
        conn.execute(
            "update rota.action_log set at = now() - interval '2 days' where queue = 'post'"
        )

        form = look(client, "/ui/log").form("Find")

        def found(**values: str) -> list[str]:
            page = Page(send(client, form, **values))
            if "Nothing of that kind was done." in page.text:
                return []
            return [f"{row['Function']} {row['What']}" for row in page.table()]

        assert found() == [
            "pause_queue queue mail", "configure_queue queue post", "configure_queue queue mail",
        ]  # fmt: skip
        assert found(principal="one_who_steers") == ["pause_queue queue mail"]
        assert found(function="configure_queue", queue="mail") == ["configure_queue queue mail"]
        assert found(within="24h", function="configure_queue") == ["configure_queue queue mail"]
        assert found(queue="nope") == []
        kept = Page(send(client, form, principal="postgres", within="7d")).form("Find")
        assert kept.fields == {
            "principal": ["postgres"], "function": [""], "queue": [""], "within": ["7d"],
        }  # fmt: skip
    finally:
        conn.execute("reset role; drop role one_who_steers")


def test_what_was_not_looked_at_is_said_and_can_be_gone_on_to(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(conn, "configure_queue", queue="rare")
    for number in range(9):
        call(conn, "configure_queue", queue=f"q{number}")
    monkeypatch.setattr(log, "LOOK", 3)
    monkeypatch.setattr(log, "LONGEST_LOOK", 1e-9)
    found: list[str] = []

    page = look(client, "/ui/log?queue=rare&within=7d")
    assert "None of those that were looked at so far. There are more, further back." in page.text
    for _ in range(10):
        if list(page.main.all("table")):
            found += [row["What"] for row in page.table()]
        on = [href for text, href in page.links if text == "Look further back"]
        if not on:
            break
        page = look(client, on[0])

    assert found == ["queue rare"]


def test_numbers_that_are_missing_end_no_look(client: FlaskClient, conn: Connection) -> None:
    call(conn, "configure_queue", queue="first")
    conn.execute("alter sequence rota.action_log_action_id_seq restart with 9000000000")
    call(conn, "configure_queue", queue="last")

    assert [row["What"] for row in look(client, "/ui/log").table()] == ["queue last", "queue first"]


def test_a_bad_query_is_said_to_be_one(client: FlaskClient) -> None:
    for query in (
        *("within=1y", "function=doctor", "nope=1", "queue=a&queue=b", "principal=%00"),
        *("before=x", "before=99999999999999999999", "before=-1"),
    ):
        look(client, f"/ui/log?{query}", 422)


def test_what_somebody_wrote_is_text(client: FlaskClient, conn: Connection) -> None:
    [job] = call(conn, "enqueue_job", task="t", queue=HOSTILE)
    call(conn, "cancel_job", job_id=job["job_id"], reason=HOSTILE)

    page = look(client, "/ui/log")

    assert page.table()[0]["Details"] == f"reason {HOSTILE}"
    assert page.table()[0]["What"] == f"job {job['job_id']} queue {HOSTILE}"
    assert not list(page.root.all("img"))


def test_every_function_that_writes_the_log_can_be_chosen() -> None:
    texts = [path.read_text() for path in FUNCTIONS.rglob("*.sql")]
    written = {
        name
        for text in texts
        for name in re.findall(r"rota\._(?:record_action|bulk_outcome)\(\s*'(\w+)'", text)
    }

    assert set(log.FUNCTIONS) == written
    assert sorted(log.FUNCTIONS) == log.FUNCTIONS


def test_behind_a_wall_only_what_was_done_to_own_queues_is_there(
    look_as: Callable[..., FlaskClient], conn: Connection
) -> None:
    call(conn, "configure_queue", queue="acme.mail")
    call(conn, "configure_queue", queue="globex.mail")
    client = look_as("reader", wall="acme.*")

    page = look(client, "/ui/log")

    assert [row["What"] for row in page.table()] == ["queue acme.mail"]
    assert page.buttons == ["Find"]
