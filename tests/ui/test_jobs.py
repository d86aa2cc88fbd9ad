"""The pages of jobs: which are found, how far was looked, and what is done to many at once."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.app.ui import jobs, search
from rota.db.gateway import call
from tests.ui.pages import OURS, Page, look, press, send

HOSTILE = "<img src=x onerror=alert(1)>\u202e\"'/{{7*7}}"


def enqueue(conn: Connection, task: str = "t", **arguments: Any) -> int:
    if "payload" in arguments:
        arguments["payload"] = Jsonb(arguments["payload"])
    return call(conn, "enqueue_job", task=task, **arguments)[0]["job_id"]


def run(conn: Connection, error: str | None = None, queue: str = "default", **more: Any) -> int:
    """Have the next job of a queue end."""
    [job] = call(conn, "claim_next_job", queues=[queue], worker="w")
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error=error, **more)
    return job["id"]


def failed(conn: Connection, error: str = "boom", **arguments: Any) -> int:
    enqueue(conn, max_retries=0, **arguments)
    return run(conn, error, arguments.get("queue", "default"))


def ids(page: Page, part: str) -> list[int]:
    region = page.region(part)
    return [int(row["Job"]) for row in page.table(part)] if list(region.all("table")) else []


def actions(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select function, affected, details -> 'reason' from rota.actions order by at"
    ).fetchall()


@pytest.fixture
def as_reader(client: FlaskClient, conn: Connection) -> FlaskClient:
    [made] = call(conn, "create_token", principal="rota_reader")
    client.set_cookie("rota_token", made["token"], path="/ui")
    return client


@pytest.fixture
def walled(conn: Connection) -> Iterator[str]:
    """A token of an operator behind a wall."""
    conn.execute("create role acme_looks nologin in role rota_operator")
    try:
        call(conn, "wall", principal="acme_looks", queue_pattern="acme.*")
        yield call(conn, "create_token", principal="acme_looks")[0]["token"]
    finally:
        conn.execute("drop role acme_looks")


def test_without_jobs_the_page_says_how_to_make_one(client: FlaskClient) -> None:
    page = look(client, "/ui/jobs")

    assert "No job waits or runs." in page.text
    assert "enqueue_job" in page.text
    assert "No job ended within 24 hours." in page.text


def test_live_jobs_and_those_that_ended_stand_on_one_page(
    client: FlaskClient, conn: Connection
) -> None:
    done, first, second = enqueue(conn), enqueue(conn), enqueue(conn, queue="other")
    assert run(conn) == done

    page = look(client, "/ui/jobs")

    assert ids(page, "live") == [second, first]
    assert ids(page, "ended") == [done]
    [row] = page.table("ended")
    assert (row["State"], row["Attempt"], row["Queue"]) == ("COMPLETED", "1 of 4", "default")


FOUND = [
    ("state=FAILED", {"f"}),
    ("state=CANCELLED", {"c"}),
    ("state=COMPLETED", {"d"}),
    ("state=ENDED", {"f", "c", "d"}),
    ("state=RUNNING", {"r"}),
    ("state=SCHEDULED", {"s", "n"}),
    ("state=LIVE", {"s", "n", "r"}),
    ("queue=q%2F1", {"s"}),
    ("queue=q", set()),
    ("task=mail", {"f", "s"}),
    ("task=mail&state=FAILED", {"f"}),
    ("unique_key=k-1", {"s"}),
    ("key=k-1", set()),
    ("key=acme&queue=q%2F1", {"s"}),
    ("key=acme&queue=q", set()),
    ("name=nightly", {"n"}),
    ("error=refused", {"f"}),
    ("error=REFUSED", {"f"}),
    ("error=re%25used", set()),
    ("payload=%7B%22user%22%3A%2012%7D", {"s"}),
    ("payload=%7B%22to%22%3A%20%5B%22a%22%5D%7D", {"c"}),
]


def test_a_filter_finds_what_it_names_and_nothing_else(
    client: FlaskClient, conn: Connection
) -> None:
    made = {
        "f": failed(conn, "ConnectionError: refused", task="mail"),
        "d": enqueue(conn, "done"),
        "r": None,
        "c": None,
        "s": None,
        "n": None,
    }
    run(conn)
    made["r"] = enqueue(conn, "running")
    call(conn, "claim_next_job", queues=["default"], worker="w")
    made["c"] = enqueue(conn, "other", payload={"to": ["a", "b"]})
    call(conn, "cancel_job", job_id=made["c"])
    made["s"] = enqueue(
        conn, "mail", queue="q/1", key="acme", unique_key="k-1", payload={"user": 12, "x": 1}
    )
    made["n"] = call(conn, "schedule_job", task="tidy", name="nightly", every="1 hour")[0]["job_id"]

    names = {job: name for name, job in made.items()}

    for query, found in FOUND:
        page = look(client, f"/ui/jobs?{query}")
        parts = [name for name in ("live", "ended") if any(page.main.all("section", id=name))]
        assert {names[job] for part in parts for job in ids(page, part)} == found, query


def test_what_ended_before_the_span_is_one_link_away(client: FlaskClient, conn: Connection) -> None:
    job = failed(conn)
    conn.execute("update rota.finished_jobs set finished_at = finished_at - interval '3 days'")

    page = look(client, "/ui/jobs?state=FAILED")

    assert "None that matches ended within 24 hours." in page.text
    assert ids(look(client, page.link("Look through all that is kept")), "ended") == [job]
    assert ids(look(client, "/ui/jobs?state=FAILED&within=7d"), "ended") == [job]
    conn.execute("delete from rota.attempts")  # its attempt is of another time now
    conn.execute("delete from rota.finished_jobs")


def test_pages_lead_on_and_no_job_is_left_out_or_told_twice(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PAGE", 3)
    ended = [failed(conn) for _ in range(8)]
    live = [enqueue(conn) for _ in range(8)]
    conn.execute(  # some at the same moment
        "update rota.finished_jobs set finished_at = date_trunc('hour', now()) where id <= %s",
        [ended[4]],
    )

    for state, made in (("ENDED", ended), ("LIVE", live)):
        part, path, seen = state.lower(), f"/ui/jobs?state={state}&within=7d", []
        while path:
            page = look(client, path)
            seen += ids(page, part)
            path = dict(page.links).get("Older jobs")
        assert seen == sorted(made, reverse=True)
    conn.execute("delete from rota.attempts")
    conn.execute("delete from rota.finished_jobs")


@pytest.mark.parametrize(("state", "part"), [("ENDED", "ended"), ("LIVE", "live")])
def test_a_search_that_takes_too_long_says_how_far_it_came_and_goes_on_from_there(
    client: FlaskClient,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    part: str,
) -> None:
    job = failed(conn) if state == "ENDED" else enqueue(conn, "t", queue="a")
    conn.execute("update rota.finished_jobs set finished_at = finished_at - interval '3 hours'")
    conn.execute("select setval('rota.job_ids', 100000)")
    for _ in range(3):
        enqueue(conn, "other", queue="b")
    monkeypatch.setattr(jobs, "SECONDS", 0.0)
    monkeypatch.setattr(search, "GROWTH", 1)  # so the stretches stay as short as they begin

    path, looks = f"/ui/jobs?state={state}&task=t&within=all", 0
    while True:
        page = look(client, path)
        looks += 1
        if ids(page, part):
            break
        assert "None found yet." in page.text
        assert "Searched back to" in page.text
        assert "data-live" not in page.answer.get_data(as_text=True).partition("<main")[2]
        path = page.link("Go on searching")

    assert ids(page, part) == [job]
    assert looks > 3
    conn.execute("delete from rota.attempts")
    conn.execute("delete from rota.finished_jobs")


def test_those_that_run_behind_many_that_wait_are_known_by_the_census(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [enqueue(conn), enqueue(conn)]
    for _ in runs:
        call(conn, "claim_next_job", worker="w")
    call(conn, "take_census", older_than="0 seconds", force=True)
    conn.execute("select setval('rota.job_ids', 100000)")
    enqueue(conn)
    monkeypatch.setattr(jobs, "SECONDS", 0.0)
    monkeypatch.setattr(search, "GROWTH", 1)

    page = look(client, "/ui/jobs?state=RUNNING")

    assert ids(page, "live") == runs[::-1]
    assert "of the older ones the last census knows those that have run longest" in page.text
    assert ids(look(client, page.link("Go on searching")), "live") == runs[::-1]
    assert ids(look(client, "/ui/jobs?state=RUNNING&task=other"), "live") == []


def test_a_stretch_that_takes_long_is_given_up_for_a_shorter_one(conn: Connection) -> None:
    conn.row_factory = dict_row
    stretches = []

    def read(lower: int | None, upper: int | None, rows: int) -> list[dict[str, Any]]:
        stretches.append((lower, upper))
        slow = 0 if lower is not None and 1000 - lower < 20 else 9
        return conn.execute("select pg_sleep(%s)", [slow]).fetchall()[1:]

    with conn.transaction():
        conn.execute("set local statement_timeout = '8s'")
        found = search._search(conn, read, 1000, 0, 800, 50, 0.3, search.Place)
        assert conn.execute("show statement_timeout").fetchone() == {"statement_timeout": "8s"}

    assert stretches[:3] == [(200, None), (900, None), (988, None)]
    assert found.stopped_at is not None
    assert 900 < found.stopped_at <= 988
    assert found.more == search.Place(found.stopped_at)


def test_what_is_to_be_retried_is_found_however_long_it_takes(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = failed(conn)
    conn.execute("update rota.finished_jobs set finished_at = finished_at - interval '5 hours'")
    monkeypatch.setattr(jobs, "COUNT_SECONDS", 0.0)
    monkeypatch.setattr(search, "GROWTH", 1)

    page, looks = look(client, "/ui/jobs/retry?task=t"), 1
    while "None found yet: searched back to" in page.text:
        page, looks = look(client, page.link("Go on searching")), looks + 1

    assert looks > 3
    after = press(client, page.form("Retry 1 job"), words="retry 1")
    assert after.said == "1 job was retried."
    assert after.path == "/ui/jobs?task=t"
    look(client, "/ui/jobs/retry?before=12", 422)
    look(client, "/ui/jobs/cancel?before=2026-01-01T00:00:00Z,1", 422)
    conn.execute("delete from rota.attempts")
    call(conn, "cancel_job", job_id=job)


def test_an_id_leads_straight_to_the_job_and_empty_fields_to_a_short_address(
    client: FlaskClient,
) -> None:
    assert client.get("/ui/jobs?id=12&state=").headers["Location"] == "/ui/jobs?id=12"
    assert client.get("/ui/jobs?id=12").headers["Location"] == "/ui/jobs/12"
    answer = client.get("/ui/jobs?id=&state=FAILED&queue=&task=a%26b&payload=")
    assert answer.headers["Location"] == "/ui/jobs?state=FAILED&task=a%26b"


NONSENSE = [
    "state=NOPE",
    "within=1y",
    "payload=%7B",
    "payload=%7B%22a%22:1,%22a%22:2%7D",
    "payload=%22%5Cu0000%22",
    "payload=" + 2000 * "%5B",
    "task=%00",
    "id=x",
    "id=99999999999999999999",
    "before=x",
    "before=1,2",
    "before=99999-01-01T00:00:00Z,2",
    "state=FAILED&before=12",
    "state=LIVE&before=2026-01-01T00:00:00Z,12",
    "nope=1",
    "task=a&task=b",
]


def test_what_cannot_be_asked_for_gives_a_page_that_says_so(client: FlaskClient) -> None:
    for path in ("/ui/jobs", "/ui/jobs/retry", "/ui/jobs/cancel"):
        for query in NONSENSE:
            assert look(client, f"{path}?{query}", 422).title


def test_places_at_the_ends_of_time_are_places(client: FlaskClient, conn: Connection) -> None:
    failed(conn)
    for before in ("infinity,1", "-infinity,1", "0001-01-01T00:00:00Z,0", "9999-12-31T23:59:59Z,0"):
        look(client, f"/ui/jobs?state=ENDED&within=all&before={before}")
    look(client, f"/ui/jobs?state=LIVE&before={2**63 - 1}")
    form = look(client, "/ui/jobs/retry").form("Retry 1 job")
    last = "9999-12-31T23:59:59.999999Z,1"
    assert press(client, form, words="retry 1", last=last).said == "0 jobs were retried."


def test_hostile_texts_are_shown_as_texts(client: FlaskClient, conn: Connection) -> None:
    long = "x" * 100
    name = HOSTILE[:100]
    job = failed(conn, HOSTILE, task=name, queue=name.replace("*", ""), unique_key=HOSTILE)
    enqueue(conn, long, queue=long, unique_key="k" * 200, payload={HOSTILE: HOSTILE})

    for path in ("/ui/jobs", "/ui/jobs/retry", "/ui/jobs/cancel", f"/ui/jobs/{job}"):
        page = look(client, path)
        assert not list(page.root.all("img"))
        assert path == "/ui/jobs/cancel" or "{{7*7}}" in page.text
    page = look(client, "/ui/jobs?state=FAILED&task=" + "%3Cimg%20src=x%3E" + "&error=%22%3E")
    assert not list(page.root.all("img"))


def test_selected_jobs_are_retried(client: FlaskClient, conn: Connection) -> None:
    first, second, third = failed(conn), failed(conn), failed(conn)
    page = look(client, "/ui/jobs?state=FAILED&within=7d")
    form = page.form("Retry selected")
    boxes = {int(box["value"].rpartition(",")[2]): box["value"] for box in boxes_of(form)}

    after = press(client, form, "Retry selected", job=[boxes[first], boxes[third]])

    assert after.said == "2 jobs were retried."
    assert after.path == "/ui/jobs?state=FAILED&within=7d"
    assert ids(after, "ended") == [second]
    assert actions(conn) == [("retry_jobs", 2, None)]


def test_selected_jobs_are_cancelled_and_those_that_ended_are_left(
    client: FlaskClient, conn: Connection
) -> None:
    job, ended = enqueue(conn), enqueue(conn, queue="q")
    run(conn, queue="q")
    form = look(client, "/ui/jobs").form("Cancel selected")
    boxes = [box["value"] for box in boxes_of(form)]

    after = press(client, form, "Cancel selected", job=boxes)

    assert after.said is not None
    assert after.said.startswith("1 job was cancelled. 1 was left as they are")
    assert set(ids(after, "ended")) == {job, ended}
    assert actions(conn) == [("cancel_jobs", 1, None)]


def test_nothing_selected_does_nothing(client: FlaskClient, conn: Connection) -> None:
    enqueue(conn)

    after = press(client, look(client, "/ui/jobs").form("Cancel selected"), "Cancel selected")

    assert after.said == "No job is selected: nothing was done."
    assert actions(conn) == []


def boxes_of(form: Any) -> list[Any]:
    return list(form.node.all("input", name="job"))


def test_all_that_match_are_shown_before_they_are_retried(
    client: FlaskClient, conn: Connection
) -> None:
    made = [failed(conn, f"ConnectionError: {n}", task="mail") for n in range(12)]
    other = failed(conn, "KeyError")
    held = failed(conn, "ConnectionError: held", unique_key="k")
    enqueue(conn, unique_key="k", queue="default")
    page = look(client, "/ui/jobs?error=connection&within=7d")

    many = look(client, page.link("Retry all that match…"))

    assert "12 jobs match" in many.text
    assert "1 more cannot come back" in many.text
    assert [int(row["Job"]) for row in many.table("The first")] == [held, *made[:1:-1][:9]]
    assert many.table("By task")[0] == {"Task": "mail", "Queue": "default", "Jobs": "12"}
    assert actions(conn) == []

    after = press(client, many.form("Retry 12 jobs"), words="retry 12")

    assert after.said is not None
    assert after.said.startswith("12 jobs were retried. 1 was left as they are")
    assert after.path == "/ui/jobs?error=connection&within=7d"
    states = dict(conn.execute("select id, state from rota.jobs").fetchall())
    assert {states[job] for job in made} == {"SCHEDULED"}
    assert states[other] == states[held] == "FAILED"
    assert actions(conn) == [("retry_jobs", 12, None)]


def test_what_is_typed_must_be_what_was_shown(client: FlaskClient, conn: Connection) -> None:
    job = enqueue(conn)
    many = look(client, "/ui/jobs/cancel?task=t")

    for words in ("", "cancel", "cancel 2", "retry 1", "cancel 1 1"):
        after = press(client, many.form("Cancel 1 job"), words=words)
        assert after.said == "Nothing was cancelled: what was typed is not “cancel 1”."
        assert after.path == "/ui/jobs/cancel?task=t"
    assert conn.execute("select state from rota.jobs where id = %s", [job]).fetchone() == (
        "SCHEDULED",
    )
    assert press(client, many.form("Cancel 1 job"), words=" Cancel 1 ").said == (
        "1 job was cancelled."
    )


def test_many_go_batch_by_batch_each_in_a_transaction_over_several_answers(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BATCH", 2)
    monkeypatch.setattr(jobs, "REQUEST_SECONDS", 1e-9)  # one batch an answer
    made = [enqueue(conn) for _ in range(7)]
    kept = call(conn, "schedule_job", task="t", name="s", every="1 hour")[0]["job_id"]
    many = look(client, "/ui/jobs/cancel")
    later = enqueue(conn)

    answer = send(client, many.form("Cancel 7 jobs"), words="cancel 7", reason="no more need")

    told = []
    while answer.status_code == 200:
        page = Page(answer)
        told.append(page.title)
        [form] = page.forms
        assert "data-go-on" in form.node.attributes
        answer = send(client, form)
    assert told == ["2 of 7 cancelled", "4 of 7 cancelled", "6 of 7 cancelled"]
    assert answer.status_code == 303
    assert look(client, answer.headers["Location"]).said == "7 jobs were cancelled."
    live = [id for (id,) in conn.execute("select id from rota.live_jobs order by id")]
    assert live == [kept, later]
    assert actions(conn) == [("cancel_jobs", n, "no more need") for n in (2, 2, 2, 1)]
    assert made


def test_a_form_that_is_sent_again_touches_nothing_that_came_later(
    client: FlaskClient, conn: Connection
) -> None:
    enqueue(conn)
    form = look(client, "/ui/jobs/cancel").form("Cancel 1 job")
    press(client, form, words="cancel 1")
    later = enqueue(conn)

    after = press(client, form, words="cancel 1")

    assert after.said == "0 jobs were cancelled."
    assert ids(look(client, "/ui/jobs?state=LIVE"), "live") == [later]


def test_more_than_can_be_done_at_once_are_done_in_parts(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MOST_AT_ONCE", 3)
    made = [failed(conn) for _ in range(5)]

    many = look(client, "/ui/jobs/retry")

    assert "3 jobs match , and more." in many.text.replace("match,", "match ,")
    press(client, many.form("Retry 3 jobs"), words="retry 3")
    left = look(client, "/ui/jobs?state=FAILED")
    assert ids(left, "ended") == [made[1], made[0]]


def test_only_what_can_be_done_is_offered(client: FlaskClient, conn: Connection) -> None:
    failed(conn)
    enqueue(conn)
    run(conn)
    enqueue(conn)

    def offered(state: str) -> set[str]:
        page = look(client, f"/ui/jobs?state={state}")
        labels = {*page.buttons, *(text for text, _ in page.links)}
        return {label for label in labels if label.startswith(("Retry", "Cancel"))}

    assert offered("COMPLETED") == set()
    assert offered("FAILED") == {"Retry selected", "Retry all that match…"}
    assert offered("SCHEDULED") == {"Cancel selected", "Cancel all that match…"}
    look(client, "/ui/jobs/retry?state=COMPLETED", 422)
    look(client, "/ui/jobs/retry?state=RUNNING", 422)
    look(client, "/ui/jobs/cancel?state=FAILED", 422)


def test_where_nothing_matches_there_is_nothing_to_type(client: FlaskClient) -> None:
    page = look(client, "/ui/jobs/retry?task=nope")

    assert "No job matches." in page.text
    assert page.forms == []


def test_a_reader_sees_jobs_and_no_buttons_and_is_refused(
    client: FlaskClient, conn: Connection, as_reader: FlaskClient
) -> None:
    job = failed(conn)
    enqueue(conn)
    page = look(as_reader, "/ui/jobs")

    assert ids(page, "ended") == [job]
    assert [label for label in page.buttons if label != "Search"] == []
    assert not list(page.main.all("input", type="checkbox"))
    look(as_reader, "/ui/jobs/retry", 403)
    mark = page.root.all("input", name="form").__next__()["value"]
    form = {"form": mark, "do": "retry", "job": f"infinity,{job}"}
    answer = as_reader.post("/ui/jobs/selected", data=form, headers={"Origin": OURS})
    assert answer.status_code == 403
    assert actions(conn) == [("create_token", 1, None)]


def test_behind_a_wall_only_the_own_queues_are_searched_and_changed(
    client: FlaskClient, conn: Connection, walled: str
) -> None:
    own, foreign = failed(conn, queue="acme.mail"), failed(conn, queue="other")
    live = enqueue(conn, queue="other")
    client.set_cookie("rota_token", walled, path="/ui")

    page = look(client, "/ui/jobs?within=7d")
    assert ids(page, "ended") == [own]
    assert ids(page, "live") == []
    assert ids(look(client, "/ui/jobs?queue=other&state=FAILED"), "ended") == []
    look(client, f"/ui/jobs/{foreign}", 404)
    many = look(client, "/ui/jobs/retry")
    assert press(client, many.form("Retry 1 job"), words="retry 1").said == "1 job was retried."
    form = look(client, "/ui/jobs?state=LIVE").form("Cancel selected")
    after = press(client, form, "Cancel selected", job=[str(live)])
    assert after.said is not None
    assert after.said.startswith("0 jobs were cancelled.")
    states = dict(conn.execute("select id, state from rota.jobs").fetchall())
    assert states == {own: "SCHEDULED", foreign: "FAILED", live: "SCHEDULED"}


@pytest.mark.parametrize("name", ["endpoint", "_method", "_scheme", "_external", "_anchor"])
def test_no_word_in_an_address_is_taken_for_one_of_ours(client: FlaskClient, name: str) -> None:
    answer = client.get("/ui/jobs", query_string={name: "DELETE", "queue": ""})
    assert answer.headers["Location"] == f"/ui/jobs?{name}=DELETE"
    assert client.get(answer.headers["Location"]).status_code == 422
