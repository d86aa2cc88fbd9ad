"""The page of a job: why it does not run, what it did, how it differs, and what is done to it."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.types.json import Jsonb

from rota.app import create_app
from rota.app.ui import hiding, job
from rota.db.gateway import call
from rota.testing import Clock
from tests.ui.pages import OURS, Page, look, press, send

TRACEBACK = "Traceback (most recent call last):\n  File \"a.py\", line 1\nKeyError: '<b>id</b>'"


@pytest.fixture
def hiding_client(db: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    """A client of an application that hides some keys."""
    monkeypatch.setenv("ROTA_HIDE", "password, *secret*,t?ken")
    app = create_app(db)
    yield app.test_client()
    app.extensions["database"].close()


def enqueue(conn: Connection, task: str = "t", payload: Any = None, **arguments: Any) -> int:
    document = Jsonb({} if payload is None else payload)
    return call(conn, "enqueue_job", task=task, payload=document, **arguments)[0]["job_id"]


def end(conn: Connection, error: str | None = None, **more: Any) -> int:
    [claimed] = call(conn, "claim_next_job", queues=["default"], worker="web-1")
    call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"], error=error, **more)
    return claimed["id"]


def badge(page: Page) -> str:
    return next(iter(page.main.one("h1").all("span"))).text


def steps(page: Page) -> list[str]:
    return [step.text for step in page.main.one("ol").all("li")]


def test_a_job_that_waits_says_why_and_what_to_do(client: FlaskClient, conn: Connection) -> None:
    waits = enqueue(conn, queue="q")

    page = look(client, f"/ui/jobs/{waits}")

    assert page.title == f"Job {waits} t SCHEDULED"
    why = page.region("why")
    assert why.one("h2").text == "Why it does not run"
    assert "NO_WORKER" in why.text
    assert "rota worker --queues q" in [code.text for code in why.all("code")]
    assert "It has not run yet." in page.text
    assert not list(page.main.all("ol"))


def test_a_job_with_a_key_says_what_it_waits_for_and_leads_to_the_others(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "configure_queue", queue="default", key_max_running=1)
    runs, waits = enqueue(conn, key="a/c&me"), enqueue(conn, key="a/c&me")
    call(conn, "claim_next_job", queues=["default"], worker="web-1")

    page = look(client, f"/ui/jobs/{waits}")

    assert f"KEY_FULL Key a/c&me runs 1 of 1: job {runs}." in page.region("why").text
    others = look(client, page.link("a/c&me"))
    assert [row["Key"] for row in others.table("live")] == ["a/c&me", "a/c&me"]
    assert (
        "Key" not in look(client, "/ui/jobs?state=COMPLETED").main.one("form", method="post").text
    )


def test_a_job_that_failed_tells_each_attempt_and_the_time_between(
    client: FlaskClient, conn: Connection, clock: Clock
) -> None:
    fails = enqueue(conn, max_retries=1)
    clock.advance(timedelta(seconds=3))
    for error in ("first", TRACEBACK):
        [claimed] = call(conn, "claim_next_job", queues=["default"], worker="web-1")
        clock.advance(timedelta(milliseconds=400))
        call(conn, "finish_job", job_id=fails, token=claimed["token"], error=error,
             retry_in=timedelta(seconds=20))  # fmt: skip
        clock.advance(timedelta(seconds=21))

    page = look(client, f"/ui/jobs/{fails}")

    assert badge(page) == "FAILED"
    assert page.region("why").one("h2").text == "How it ended"
    assert "in attempt 2 of 2" in page.region("why").text
    told = [" ".join(step.split()[:3]) for step in steps(page)]
    assert told[0].startswith("waited 3.")
    assert [step.split()[0] for step in told] == [
        "waited", "1", "backoff", "waited", "2", "FAILED"
    ]  # fmt: skip
    assert "1 FAILED" in told[1]
    rows = page.table("Attempts")
    assert [(row["Attempt"], row["Outcome"], row["Worker"]) for row in rows] == [
        ("2", "FAILED", "web-1"),
        ("1", "FAILED", "web-1"),
    ]
    [traceback] = page.region("Attempts").all("details")
    assert traceback.one("summary").text == "KeyError: '<b>id</b>'"
    assert traceback.one("pre").text == " ".join(TRACEBACK.split())
    assert "data-live" not in page.answer.get_data(as_text=True).partition("<main")[2]


def test_a_running_job_shows_its_progress_and_stays_up_to_date(
    client: FlaskClient, conn: Connection
) -> None:
    runs = enqueue(conn)
    [claimed] = call(conn, "claim_next_job", queues=["default"], worker="web-1")
    call(conn, "heartbeat_job", job_id=runs, token=claimed["token"], progress=Jsonb({"done": 3}))

    page = look(client, f"/ui/jobs/{runs}")

    assert badge(page) == "RUNNING"
    assert '"done": 3' in page.region("progress").text
    assert "data-live" in page.main.one("div", id="job").attributes
    assert steps(page)[-1].startswith("1 RUNNING since")
    again = look(client, f"/ui/jobs/{runs}")
    assert again.root.one("ol").text == page.root.one("ol").text


def test_a_completed_job_shows_its_result(client: FlaskClient, conn: Connection) -> None:
    done = enqueue(conn, payload={"user": 12})
    end(conn, result=Jsonb({"sent": True}))

    page = look(client, f"/ui/jobs/{done}")

    assert page.region("payload").one("code").text == '{ "user": 12 }'
    assert page.region("result").one("code").text == '{ "sent": true }'


def test_a_job_that_is_not_there_is_a_page_that_says_why(client: FlaskClient) -> None:
    page = look(client, "/ui/jobs/4711", 404)

    assert page.title == "There is no job 4711: the last id that was given is none"
    assert "See whether its producer committed" in page.text
    look(client, "/ui/jobs/4711/copy", 404)


def test_executions_of_a_recurring_job_lead_on(
    client: FlaskClient, conn: Connection, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "ATTEMPTS", 3)
    [made] = call(conn, "schedule_job", task="t", name="s", every="1 minute")
    for _ in range(7):
        clock.advance(timedelta(minutes=1))
        end(conn)

    path, runs = f"/ui/jobs/{made['job_id']}", []
    while path:
        page = look(client, path)
        runs += [int(row["Run"]) for row in page.table("Attempts")]
        path = dict(page.links).get("Older attempts")

    assert list(dict.fromkeys(runs)) == [7, 6, 5, 4, 3, 2, 1]
    counted = conn.execute("select count(*) from rota.executions")
    assert counted.fetchone() == (len(runs),)


def test_a_failed_job_is_compared_with_the_last_of_its_task_that_completed(
    client: FlaskClient, conn: Connection
) -> None:
    enqueue(conn, "other", {"to": "x"})
    end(conn)
    good = enqueue(conn, "mail", {"to": "ada", "user": 1, "old": True, "deep": {"a": [1]}})
    end(conn)
    bad = enqueue(conn, "mail", {"to": "bob", "user": 1, "new": None, "deep": {"a": [2]}},
                  max_retries=0)  # fmt: skip
    end(conn, "boom")

    page = look(client, f"/ui/jobs/{bad}")

    assert page.link(f"job {good}") == f"/ui/jobs/{good}"
    assert [tuple(row.values()) for row in page.table("Compared")] == [
        ("deep", "changed", '{"a": [2]}', '{"a": [1]}'),
        ("new", "only here", "null", "\u2013"),
        ("old", "only there", "\u2013", "true"),
        ("to", "changed", '"bob"', '"ada"'),
    ]
    assert "1 key is the same." in page.region("compare").text


def test_a_job_is_compared_with_whichever_is_named(client: FlaskClient, conn: Connection) -> None:
    one, same, text = enqueue(conn, "a", {"x": 1}), enqueue(conn, "b", {"x": 1}), enqueue(
        conn, "c", "just text"
    )  # fmt: skip

    form = look(client, f"/ui/jobs/{one}").form("Compare")
    assert "Their payloads are the same." in Page(send(client, form, compare=str(same))).text
    other = Page(send(client, form, compare=str(text)))
    assert [row["Key of the payload"] for row in other.table("Compared")] == ["(the payload)", "x"]
    assert "There is no job 999." in look(client, f"/ui/jobs/{one}?compare=999").text
    assert "No other job of its task that completed is kept." in (
        look(client, f"/ui/jobs/{one}?compare=last").text
    )
    look(client, f"/ui/jobs/{one}?compare=x", 422)
    look(client, f"/ui/jobs/{one}?executions_before=x", 422)


def test_documents_are_cut_and_the_api_has_the_rest(client: FlaskClient, conn: Connection) -> None:
    large = enqueue(conn, payload={"text": "x" * 300_000})

    page = look(client, f"/ui/jobs/{large}")

    assert "Cut after 20,000 characters" in page.region("payload").text
    assert page.link("the API has all of it") == f"/jobs/{large}"
    assert len(page.answer.data) < 60_000
    assert "too long for a form" in look(client, f"/ui/jobs/{large}/copy", 422).title


def test_a_failed_job_is_retried(client: FlaskClient, conn: Connection) -> None:
    failed = enqueue(conn, max_retries=0)
    end(conn, "boom")

    after = press(client, look(client, f"/ui/jobs/{failed}").form("Retry"))

    assert (after.said, badge(after)) == (f"Job {failed} is scheduled again.", "SCHEDULED")
    assert "Retry" not in after.buttons
    assert conn.execute("select function, job_id from rota.actions").fetchall() == [
        ("retry_job", failed)
    ]


def test_a_job_is_cancelled_with_a_reason_a_running_one_is_asked(
    client: FlaskClient, conn: Connection
) -> None:
    runs, waits = enqueue(conn), enqueue(conn)
    call(conn, "claim_next_job", queues=["default"], worker="w")

    after = press(client, look(client, f"/ui/jobs/{waits}").form("Cancel the job"),
                  reason="<i>no need</i>")  # fmt: skip
    asked = press(client, look(client, f"/ui/jobs/{runs}").form("Ask it to end"))

    assert (after.said, badge(after)) == (f"Job {waits} is cancelled.", "CANCELLED")
    assert "<i>no need</i>" in after.text
    assert asked.said is not None
    assert asked.said.startswith(f"Job {runs} was asked to end")
    assert "asked to end" in asked.title
    rows = conn.execute("select job_id, details ->> 'reason' from rota.actions order by at")
    assert rows.fetchall() == [(waits, "<i>no need</i>"), (runs, None)]


def test_what_the_database_refuses_is_a_page(client: FlaskClient, conn: Connection) -> None:
    done = enqueue(conn)
    form = look(client, f"/ui/jobs/{done}").form("Cancel the job")
    end(conn)

    answer = send(client, form)

    assert (answer.status_code, Page(answer).title) == (409, f"Job {done} is COMPLETED already")
    long = send(client, form, reason="x" * 1001)
    assert long.status_code == 422


def test_a_copy_is_enqueued_as_the_form_has_it(client: FlaskClient, conn: Connection) -> None:
    one = enqueue(conn, "mail", {"n": 1.10, "big": 12345678901234567890123}, queue="q",
                  priority=5, max_retries=7, timeout=timedelta(seconds=9))  # fmt: skip
    page = look(client, look(client, f"/ui/jobs/{one}").link("Enqueue a copy…"))
    form = page.form("Enqueue")
    assert form.fields["queue"] == ["q"]

    same = press(client, form)
    other = press(client, form, payload='{"n": 2}', queue="r", priority="-1")

    made = conn.execute(
        "select id, task, payload::text, queue, priority, max_retries, timeout from rota.live_jobs"
        " where id > %s order by id",
        [one],
    ).fetchall()
    nine = timedelta(seconds=9)
    assert [row[1:] for row in made] == [
        ("mail", '{"n": 1.1, "big": 12345678901234567890123}', "q", 5, 7, nine),
        ("mail", '{"n": 2}', "r", -1, 7, nine),
    ]
    assert same.said == f"Job {made[0][0]} is enqueued, a copy of job {one}."
    assert other.title.startswith(f"Job {made[1][0]} ")
    for wrong in ({"payload": "{"}, {"queue": ""}, {"priority": "x"}, {"priority": "9" * 20}):
        assert send(client, form, **wrong).status_code == 422


def test_hidden_keys_are_covered_at_any_depth_wherever_payloads_are_shown(
    hiding_client: FlaskClient, conn: Connection
) -> None:
    secret = {"Password": "S3CRET", "user": 1, "list": [{"my_secret_key": "S3CRET", "token": 7}]}
    good = enqueue(conn, "mail", {**secret, "user": 2, "PASSWORD": "S3CRET"})
    end(conn, result=Jsonb({"token": "S3CRET", "tokens": "shown"}))
    bad = enqueue(conn, "mail", {**secret, "list": [{"token": "S3CRET2"}]}, max_retries=0)
    end(conn, "boom")
    runs = enqueue(conn, "mail", {"a": 1})
    [claimed] = call(conn, "claim_next_job", queues=["default"], worker="w")
    call(conn, "heartbeat_job", job_id=runs, token=claimed["token"],
         progress=Jsonb({"password": "S3CRET"}))  # fmt: skip

    pages = [
        look(hiding_client, path)
        for path in (f"/ui/jobs/{good}", f"/ui/jobs/{bad}", f"/ui/jobs/{bad}/copy",
                     f"/ui/jobs/{runs}", f"/ui/jobs/{good}?compare={bad}", "/ui/jobs")
    ]  # fmt: skip

    for page in pages:
        assert "S3CRET" not in page.answer.get_data(as_text=True), page.path
    assert '"my_secret_key": "hidden"' in pages[0].text
    assert '"user": 2' in pages[0].text
    assert '"tokens": "shown"' in pages[0].text
    keys = {row["Key of the payload"]: row for row in pages[1].table("Compared")}
    assert keys["PASSWORD"]["Job " + str(good)] == "hidden"
    assert keys["list"]["This job"] == '[{"token": "hidden"}]'


def test_a_copy_has_what_was_hidden_and_only_at_its_place(
    hiding_client: FlaskClient, conn: Connection
) -> None:
    payload = {"password": {"deep": 1.50}, "list": [{"token": "a"}, {"token": "b"}], "user": 1}
    one = enqueue(conn, "mail", payload)
    form = look(hiding_client, f"/ui/jobs/{one}/copy").form("Enqueue")

    press(hiding_client, form)
    press(hiding_client, form, payload='{"password": "new", "user": "hidden"}')

    made = conn.execute("select payload from rota.live_jobs where id > %s order by id", [one])
    assert [row for (row,) in made] == [payload, {"password": "new", "user": "hidden"}]
    answer = send(hiding_client, form, payload='{"user": {"password": "hidden"}}')
    assert answer.status_code == 422
    assert "the job that is copied has no password there" in Page(answer).title


def test_what_was_hidden_in_a_list_goes_with_its_item_or_nowhere(
    hiding_client: FlaskClient, conn: Connection
) -> None:
    a, b, twin = ({"to": to, "token": f"of {n}"} for to, n in (("a", 1), ("b", 2), ("b", 3)))
    one = enqueue(conn, "mail", {"list": [a, b, 1.50], "alike": [b, twin]})
    form = look(hiding_client, f"/ui/jobs/{one}/copy").form("Enqueue")
    hidden = [{"to": to, "token": "hidden"} for to in ("a", "b", "c")]

    for items, made in (
        ([hidden[1]], [b]),
        ([hidden[1], hidden[0], 1], [b, a, 1]),
        ([hidden[0], hidden[2], 1.5], [a, {"to": "c", "token": "of 2"}, 1.5]),
        ([hidden[1], hidden[2], 1], None),
    ):
        answer = send(hiding_client, form, payload=json.dumps({"list": items}))
        assert answer.status_code == (303 if made else 422), items
        if made:
            [[payload]] = conn.execute(
                "select payload from rota.live_jobs order by id desc limit 1"
            )
            assert payload == {"list": made}
    for wrong in ([hidden[1]], [hidden[1], 0, hidden[1]]):
        answer = send(hiding_client, form, payload=json.dumps({"alike": wrong}))
        assert answer.status_code == 422, wrong


def test_keys_to_hide_that_are_nonsense_stop_the_start(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nonsense in (",", "a,,b", "a,", "a\nb,c", "x" * 101):
        monkeypatch.setenv("ROTA_HIDE", nonsense)
        with pytest.raises(ValueError, match="ROTA_HIDE"):
            create_app(db)
    assert hiding.read_patterns(" ") is None
    pattern = hiding.read_patterns("a.b,[x]*,t?ken")
    assert pattern is not None
    keys = ("A.B", "axb", "[x]y", "x", "Token", "tken")
    assert [key for key in keys if pattern.fullmatch(key)] == ["A.B", "[x]y", "Token"]


def test_a_document_nested_very_deeply_breaks_nothing(
    client: FlaskClient, hiding_client: FlaskClient, conn: Connection
) -> None:
    deep = enqueue(conn)
    conn.execute(
        "update rota.live_jobs set payload = (repeat('[', 2000) || repeat(']', 2000))::jsonb"
        " where id = %s",
        [deep],
    )

    for any_client in (client, hiding_client):
        look(any_client, f"/ui/jobs/{deep}")
        assert any_client.get(f"/ui/jobs/{deep}/copy").status_code in (200, 422)


def test_a_reader_sees_the_job_without_buttons_and_is_refused(
    client: FlaskClient, conn: Connection
) -> None:
    failed = enqueue(conn, max_retries=0)
    end(conn, "boom")
    waits = enqueue(conn)
    [made] = call(conn, "create_token", principal="rota_reader")
    client.set_cookie("rota_token", made["token"], path="/ui")

    page = look(client, f"/ui/jobs/{failed}")
    assert page.buttons == ["Compare"]
    assert "boom" in page.region("why").text
    mark = next(page.root.all("input", name="form"))["value"]
    copied = {"payload": "{}", "queue": "q", "priority": "0"}
    for path, data in (
        (f"/ui/jobs/{failed}/retry", {}),
        (f"/ui/jobs/{waits}/cancel", {}),
        (f"/ui/jobs/{failed}/copy", copied),
    ):
        answer = client.post(path, data={"form": mark, **data}, headers={"Origin": OURS})
        assert answer.status_code == 403, path
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (2,)
