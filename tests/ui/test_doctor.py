"""The page of the doctor: what is wrong, what to do, and by what it is known."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

import rota.app.doctor
from rota.app.doctor import Diagnosis, diagnosis
from rota.app.tokens import COOKIE
from rota.app.ui import doctor
from rota.db.gateway import call
from tests.ui.pages import Page, look
from tests.waiting import wait_until

HOSTILE = "<img src=x onerror=alert(1)>"


def test_findings_come_by_severity_with_remedy_and_evidence(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "enqueue_job", task="t", queue="a/b", run_at="2020-01-01T00:00:00Z")
    call(conn, "configure_queue", queue="reports")
    call(conn, "pause_queue", queue="reports")

    page = look(client, "/ui/doctor")

    severities = [node.text.split()[0] for node in page.region("What is wrong").all("h2")]
    assert severities == ["Critical", "Note"]
    unserved = page.region("1 jobs are due in queue a/b")
    assert unserved.text.startswith("unserved queue 1 jobs are due")
    assert unserved.one("code").text == "rota worker --queues a/b"
    evidence = unserved.one("dl").text
    assert evidence.startswith("due 1 queue a/b counted at ")
    assert evidence.endswith("oldest due at 2020-01-01 00:00")
    assert page.link("a/b") == "/ui/queues/a%2Fb"
    paused = page.region("Queue reports was paused")
    assert paused.one("code").text == "select resume_queue('reports')"
    copied = {button["data-copy"] for button in page.main.all("button")}
    assert copied <= {node["id"] for node in page.main.all("span") if "id" in node.attributes}
    assert len(copied) == len(list(page.main.all("article")))


def test_the_light_leads_to_the_doctor(client: FlaskClient, conn: Connection) -> None:
    light = look(client, "/ui/queues").root.one("a", id="light")

    assert light["href"] == "/ui/doctor"


def test_nothing_is_wrong(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "diagnosis", healthy)

    page = look(client, "/ui/doctor")

    assert "Nothing is wrong." in page.text
    assert "Looked at" in page.text
    assert list(page.main.all("h2")) == []


def healthy() -> Diagnosis:
    """What the doctor says of a server that, unlike that of the tests, is durable."""
    return replace(diagnosis(), findings=[])


def test_names_that_findings_quote_are_text(client: FlaskClient, conn: Connection) -> None:
    call(conn, "configure_queue", queue=HOSTILE)
    call(conn, "pause_queue", queue=HOSTILE)
    call(conn, "announce_worker", worker=f"web/{HOSTILE}", host=HOSTILE, pid=1, queues=["q"],
         concurrency=1, version="other")  # fmt: skip

    page = look(client, "/ui/doctor")

    assert f"Queue {HOSTILE} was paused" in page.text
    assert not list(page.root.all("img"))
    where = [href for text, href in page.links if text == f"web/{HOSTILE}"]
    assert where
    assert look(client, where[0]).title == f"web/{HOSTILE} ALIVE"


def test_evidence_that_is_long_is_cut() -> None:
    evidence = {"many": list(range(99)), "long": "x" * 9999, "none": None}

    [shown] = doctor._shown([{"severity": "note", "check": "c", "evidence": evidence}])

    many, long, none = shown["facts"]
    assert (len(many["values"]), many["more"]) == (20, 79)
    assert len(long["values"][0][0]) == 300
    assert none["values"] == [("null", None)]


def test_of_many_findings_of_a_kind_some_are_shown(client: FlaskClient, conn: Connection) -> None:
    for number in range(23):
        call(conn, "configure_queue", queue=f"q{number}")
        call(conn, "pause_queue", queue=f"q{number}")

    page = look(client, "/ui/doctor")

    assert page.text.count("paused queue Queue q") == 20
    assert "And 3 more of this kind: paused queue. rota doctor lists them all." in page.text


def test_behind_a_wall_the_page_says_for_whom_it_is(
    look_as: Callable[..., FlaskClient], conn: Connection
) -> None:
    client = look_as("operator", wall="acme.*")

    page = look(client, "/ui/doctor")

    assert "What the doctor finds is of all queues, and you see only some." in page.text
    assert not list(page.root.all("a", id="light"))


def test_where_the_doctor_takes_too_long_the_pages_do_not_wait_for_him_each_time(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = rota.app.doctor.LONGEST
    monkeypatch.setattr(rota.app.doctor, "LONGEST", "set local statement_timeout = '1ms'")

    page = look(client, "/ui/doctor")

    assert "The doctor could not look in time." in page.text
    assert "Nothing is wrong" not in page.text
    assert Page(client.get("/ui/queues")).title == "Queues"
    monkeypatch.setattr(rota.app.doctor, "LONGEST", patient)
    assert "The doctor could not look in time." in look(client, "/ui/doctor").text


def test_a_reader_may_look(look_as: Callable[..., FlaskClient], conn: Connection) -> None:
    page = look(look_as("reader"), "/ui/doctor")

    assert page.title == "Doctor"
    assert page.forms == []


def test_what_was_found_before_a_wall_is_not_shown_behind_it(
    look_as: Callable[..., FlaskClient], conn: Connection
) -> None:
    call(conn, "enqueue_job", task="t", queue="theirs", run_at="2000-01-01")
    call(conn, "take_census", older_than="0 seconds", force=True)
    client = look_as("reader")
    asks = {"Authorization": f"Bearer {client.get_cookie(COOKIE, path='/ui').value}"}
    assert "theirs" in look(client, "/ui/doctor").text
    assert "theirs" in client.get("/metrics", headers=asks).text

    call(conn, "wall", principal="one_who_comes", queue_pattern="ours.*")

    assert "you see only some" in look(client, "/ui/doctor").text
    for path in ("/ui/doctor", "/ui/"):
        assert "theirs" not in client.get(path).text
    asks["Accept"] = "application/openmetrics-text"
    assert "theirs" not in client.get("/metrics", headers=asks).text


def test_who_comes_late_gets_what_is_kept_while_it_is_looked_anew(
    client: FlaskClient, conn: Connection, look_as: Callable[..., FlaskClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    look_as("operator")
    call(conn, "configure_queue", queue="reports")
    monkeypatch.setattr(rota.app.doctor, "KEPT", (0.0, 0.0))
    assert "reports was paused" not in look(client, "/ui/doctor").text
    call(conn, "pause_queue", queue="reports")

    assert "reports was paused" not in look(client, "/ui/doctor").text  # as the last one found it
    # The thread looks as the same principal: it is not refused.
    wait_until(lambda: "reports was paused" in look(client, "/ui/doctor").text)
