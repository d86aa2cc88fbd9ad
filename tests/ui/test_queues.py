"""The pages of queues: what waits in each, who serves it; pauses, settings, an end."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from rota.app.ui import charts, queues, workers
from rota.db.gateway import call
from tests.ui.pages import Page, look, press, send
from tests.ui.story import roll_up_all

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\u202etxt.exe",
    "\"quoted\" & 'so'",
    "a/pause",
    "a//b/../c",
    ".",
    "..",
    "../",
    "q" * 100,
    "50%2F?x=1#y{{7+7}}",
]


def enqueue(conn: Connection, queue: str = "mail", **options: Any) -> int:
    return call(conn, "enqueue_job", **{"task": "send", "queue": queue} | options)[0]["job_id"]


def announce(conn: Connection, worker: str = "w", **options: Any) -> None:
    about = {"host": "h", "pid": 1, "queues": ["mail"], "concurrency": 4, "version": "v"}
    call(conn, "announce_worker", worker=worker, **about | options)


def count(conn: Connection) -> None:
    call(conn, "take_census", older_than="0 seconds", force=True)


def count_minutes(conn: Connection) -> None:
    """Have minutes counted that are over, as if they were: the newest is two minutes ago."""
    conn.execute("update rota.finished_jobs set finished_at = finished_at - interval '3 minutes'")
    conn.execute("update rota.attempts set finished_at = finished_at - interval '3 minutes'")
    conn.execute(
        "update rota.chores set until = date_trunc('minute', now()) - interval '10 minutes'"
        " where chore = 'roll_up'"
    )
    roll_up_all(conn)


def run(conn: Connection, queue: str = "mail", error: str | None = None) -> None:
    [job] = call(conn, "claim_next_job", queues=[queue], worker="w")
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error=error)


def row_of(page: Page, queue: str) -> dict[str, str]:
    [row] = [row for row in page.table() if row["Queue"].removesuffix(" PAUSED") == queue]
    return row


def actions(conn: Connection) -> list[dict[str, Any]]:
    query = "select function, queue, details from rota.actions order by action_id"
    return conn.cursor(row_factory=dict_row).execute(query).fetchall()


def settings(conn: Connection, queue: str = "mail") -> tuple[Any, ...]:
    query = """
        select max_retries, timeout, backoff_base, backoff_cap
        from rota.queue_status where queue = %s
    """
    return conn.execute(query, [queue]).fetchone() or ()


def limits(conn: Connection) -> tuple[Any, ...]:
    query = """
        select max_running, max_starts, starts_period, key_in_order
        from rota.queue_status where queue = 'mail'
    """
    return conn.execute(query).fetchone() or ()


def test_where_nothing_is_the_list_says_how_a_queue_begins(client: FlaskClient) -> None:
    page = look(client, "/ui/queues")

    assert page.title == "Queues"
    assert "There is no queue yet. A queue begins with its first job" in page.text
    assert ("Queues", "/ui/queues") in [(a.text, a["href"]) for a in page.root.one("nav").all("a")]


def test_the_list_shows_what_waits_and_runs_and_who_serves(
    client: FlaskClient, conn: Connection
) -> None:
    for _ in range(3):
        enqueue(conn, run_at="2020-01-01T00:00:00Z")
    enqueue(conn, run_at="2090-01-01T00:00:00Z")
    enqueue(conn, "idle", run_at="2090-01-01T00:00:00Z")
    call(conn, "claim_next_job", queues=["mail"], worker="w")
    for worker in ("w", "v"):
        announce(conn, worker)
    announce(conn, "stopped")
    call(conn, "dismiss_worker", worker="stopped")
    announce(conn, "silent")
    conn.execute(
        "update rota.workers set last_seen_at = now() - interval '2 min' where worker = 'silent'"
    )
    count(conn)

    mail, idle = look(client, "/ui/queues").table()

    assert [mail[name] for name in ("Queue", "Scheduled", "Due", "Running", "Workers")] == [
        "mail", "3", "2", "1", "2",
    ]  # fmt: skip
    assert mail["Oldest due"].endswith(" d")
    assert [idle[name] for name in ("Queue", "Due", "Oldest due", "Workers")] == [
        "idle", "0", "", "0",
    ]  # fmt: skip


def test_the_list_shows_what_ended_a_minute(client: FlaskClient, conn: Connection) -> None:
    for _ in range(45):
        enqueue(conn)
        run(conn)
    for _ in range(3):
        enqueue(conn, max_retries=0)
        run(conn, error="no")
    count_minutes(conn)
    count(conn)

    row = row_of(look(client, "/ui/queues"), "mail")

    assert (row["Succeeded/min"], row["Failed/min"]) == ("3.0", "0.2")


def test_a_queue_that_nobody_serves_is_marked(client: FlaskClient, conn: Connection) -> None:
    enqueue(conn)
    enqueue(conn, "paused")
    call(conn, "pause_queue", queue="paused")
    count(conn)

    page = look(client, "/ui/queues")

    assert row_of(page, "mail")["Workers"] == "none"
    assert row_of(page, "paused")["Workers"] == "0"


def test_the_list_finds_a_part_of_a_name_and_is_turned_page_by_page(
    client: FlaskClient, conn: Connection
) -> None:
    for number in range(205):
        call(conn, "configure_queue", queue=f"Tenant-{number:03}")
    call(conn, "configure_queue", queue="100%")

    first = look(client, "/ui/queues?named=tenant")
    second = look(client, "/ui/queues" + first.link("Next").removeprefix("/ui/queues"))
    last = look(client, second.link("Next"))

    shown = [row["Queue"] for page in (first, second, last) for row in page.table()]
    assert shown == [f"Tenant-{number:03}" for number in range(205)]
    assert "Page 2 of 3" in second.text
    assert [row["Queue"] for row in look(client, "/ui/queues?named=0%25").table()] == ["100%"]
    none = look(client, "/ui/queues?named=nobody")
    assert "No queue has nobody in its name." in none.text
    assert none.link("All queues") == "/ui/queues"
    assert "No queue is on this page." in look(client, "/ui/queues?page=9").text


def test_a_queue_is_paused_and_resumed_from_the_list(client: FlaskClient, conn: Connection) -> None:
    enqueue(conn)

    paused = press(client, look(client, "/ui/queues").form("Pause"))

    assert paused.said == "Queue mail is paused: none of its jobs is started, those that run go on."
    assert paused.path == "/ui/queues"
    assert paused.table()[0]["Queue"] == "mail PAUSED"
    assert call(conn, "claim_next_job", queues=["mail"]) == []
    resumed = press(client, paused.form("Resume"))
    assert resumed.said == "Queue mail goes on."
    assert resumed.table()[0]["Queue"] == "mail"
    assert len(call(conn, "claim_next_job", queues=["mail"])) == 1
    assert [(done["function"], done["queue"]) for done in actions(conn)] == [
        ("pause_queue", "mail"),
        ("resume_queue", "mail"),
    ]


def test_nobody_is_shown_what_was_before_his_action(client: FlaskClient, conn: Connection) -> None:
    enqueue(conn)
    before = look(client, "/ui/queues")
    assert look(client, "/ui/queues").answer.get_etag() == before.answer.get_etag()

    press(client, before.form("Pause"))

    assert look(client, "/ui/queues").table()[0]["Queue"] == "mail PAUSED"


def test_a_queue_is_shown_with_its_figures_and_its_tasks(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "configure_queue", queue="mail", backoff_base="1 hour", backoff_cap="1 hour")
    for _ in range(3):
        enqueue(conn)
    enqueue(conn, task="other", run_at="2090-01-01T00:00:00Z")
    enqueue(conn, "elsewhere", task="foreign")
    enqueue(conn, task="done")
    call(conn, "claim_next_job", queues=["mail"], worker="w")
    for error in (None, "no"):
        run(conn, error=error)
    announce(conn)
    count_minutes(conn)
    count(conn)

    page = look(client, "/ui/queues/mail")

    tiles = [tile.text for tile in page.region("State").all("a") if tile["class"] == "tile"]
    assert tiles[1] == "Running 1 of 4 places"
    assert tiles[2].startswith("For later 2 1 try again")
    assert tiles[3].startswith("Succeeded, last hour 1")
    assert tiles[4] == "Failed attempts, last hour 1 no job gave up"
    assert tiles[5] == "Workers that serve it 1 alive"
    tasks = {row["Task"]: row for row in page.table("Table of the tasks")}
    assert set(tasks) == {"send", "other", "done"}
    assert [tasks["send"][name] for name in ("Running", "To try again", "Failed")] == [
        "1", "1", "1",
    ]  # fmt: skip
    assert tasks["other"]["Scheduled"] == "1"
    assert page.link("send") == "/ui/jobs?queue=mail&task=send"
    assert "/ui/jobs?queue=mail&state=RUNNING" in [href for _, href in page.links]
    depths = page.table("Due and running")
    assert {row["Running"] for row in depths[:-2]} == {""}, "nobody counted then"


def test_a_queue_without_anything_says_where_its_history_is(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "configure_queue", queue="mail")

    page = look(client, "/ui/queues/mail?range=8w")

    assert "Nothing waits or runs, and nothing ended in the last hour." in page.text
    assert page.link("its jobs") == "/ui/jobs?queue=mail"


def test_the_depths_of_a_queue_are_none_where_others_were_counted(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "configure_queue", queue="mail")
    conn.execute(
        """
        insert into rota.depths (minute, seconds, queue, scheduled, due, running)
        select date_trunc('minute', now()) - n * interval '1 minute', 60, 'other', 9, 9, 9
        from generate_series(10, 12) as n
        """
    )
    count_minutes(conn)

    depths = look(client, "/ui/queues/mail").table("Due and running")

    assert {row["Due"] for row in depths} == {"", "0"}
    assert 1 <= sum(row["Due"] == "0" for row in depths) <= 2


def test_a_pause_on_the_page_of_a_queue_leads_back_to_it(
    client: FlaskClient, conn: Connection
) -> None:
    enqueue(conn)
    count(conn)

    paused = press(client, look(client, "/ui/queues/mail").form("Pause"))

    assert (paused.path, paused.title) == ("/ui/queues/mail", "mail PAUSED")
    assert "none of its jobs is started; those that run go on" in paused.text
    assert press(client, paused.form("Resume")).title == "mail"


def test_settings_are_set_and_unset_and_what_is_not_touched_stays(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "configure_queue", queue="mail", max_retries=7, timeout=timedelta(seconds=90))
    form = look(client, "/ui/queues/mail").form("Save")
    assert [form.fields[name] for name in ("max_retries", "timeout", "backoff_base")] == [
        ["7"], ["90"], [""],
    ]  # fmt: skip
    call(conn, "configure_queue", queue="mail", backoff_cap=timedelta(seconds=60))
    conn.execute("delete from rota.action_log")

    page = press(client, form, timeout="", backoff_base=" 2.5 ")

    assert page.said == "Queue mail: backoff base, timeout changed."
    assert settings(conn) == (7, None, timedelta(seconds=2.5), timedelta(seconds=60))
    assert page.form("Save").fields["backoff_base"] == ["2.5"]
    assert actions(conn) == [
        {
            "function": "configure_queue",
            "queue": "mail",
            "details": {"backoff_base": "00:00:02.5", "unset": ["timeout"]},
        }
    ]


def test_a_form_without_a_change_changes_nothing(client: FlaskClient, conn: Connection) -> None:
    call(conn, "configure_queue", queue="mail", timeout=timedelta(days=3))
    conn.execute("delete from rota.action_log")

    page = press(client, look(client, "/ui/queues/mail").form("Save"))

    assert page.said == "Nothing was changed."
    assert settings(conn) == (None, timedelta(days=3), None, None)
    assert actions(conn) == []


def test_a_setting_that_cannot_be_is_named_and_nothing_is_set(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "configure_queue", queue="mail", timeout=timedelta(seconds=1))
    form = look(client, "/ui/queues/mail").form("Save")

    for name, values in {
        "max_retries": ("-1", "1001", "1.5", "\u0663", "9" * 5000),
        "timeout": ("0", "1e3", "nan", "999999999"),
        "backoff_base": ("x",),
        "backoff_cap": ("\0",),
    }.items():
        for value in values:
            answer = send(client, form, **{name: value})

            assert answer.status_code == 422, (name, value)
            assert Page(answer).title.casefold().startswith(name)
            assert settings(conn) == (None, timedelta(seconds=1), None, None)


def test_a_queue_is_made_before_its_first_job(client: FlaskClient, conn: Connection) -> None:
    page = press(client, look(client, "/ui/queues").form("Make it"), queue=" post ")

    assert (page.title, page.said) == ("post", "There is a queue post now.")
    refused = send(client, look(client, "/ui/queues").form("Make it"), queue="a,b")
    assert refused.status_code == 422
    assert "Queue must not contain" in Page(refused).title


def test_a_queue_is_deleted_when_it_is_empty(client: FlaskClient, conn: Connection) -> None:
    job_id = enqueue(conn)
    count(conn)
    page = look(client, "/ui/queues/mail")
    assert "It has live jobs" in page.text
    assert "Delete this queue" not in page.buttons
    call(conn, "cancel_job", job_id=job_id)
    count(conn)
    page = look(client, "/ui/queues/mail?range=24h")
    enqueue(conn)

    refused = send(client, page.form("Delete this queue"))

    assert refused.status_code == 409
    assert Page(refused).title == "Queue mail has live jobs"
    call(conn, "cancel_jobs", filter=Jsonb({"queue": "mail"}), dry_run=False)
    gone = press(client, page.form("Delete this queue"))
    assert (gone.path, gone.said) == ("/ui/queues", "Queue mail is deleted.")
    assert "There is no queue yet." in gone.text
    assert look(client, "/ui/queues/mail", 404).title == "There is no queue mail"
    assert actions(conn)[-1]["function"] == "delete_queue"


def test_a_queue_of_any_name_is_shown_as_text_and_can_be_steered(
    client: FlaskClient, conn: Connection
) -> None:
    for queue in HOSTILE:
        enqueue(conn, queue, task=queue)
        count(conn)

        listed = look(client, "/ui/queues")
        assert [row["Queue"] for row in listed.table()] == [queue]
        [place] = [href for text, href in listed.links if text == queue]
        assert not {".", ".."} & set(place.split("/")), "a browser would go a folder up"
        page = look(client, place)
        assert page.title == queue
        assert page.table("Table of the tasks")[0]["Task"] == queue
        assert not list(page.root.all("img", "script", src="x"))
        assert press(client, page.form("Pause")).title == f"{queue} PAUSED"
        assert press(client, page.form("Save"), max_retries="1").title == f"{queue} PAUSED"
        assert settings(conn, queue)[0] == 1
        assert press(client, listed.form("Pause")).path == "/ui/queues"
        call(conn, "cancel_jobs", filter=Jsonb({"task": queue}), dry_run=False)
        count(conn)
        page = look(client, f"{place}?range=7d")
        assert "There is no queue yet" in press(client, page.form("Delete this queue")).text


def test_a_bad_query_is_said_to_be_one(client: FlaskClient) -> None:
    for query in ("page=0", "page=x", "page=10001", "page=" + "9" * 99, "page=1&page=2", "nope=1"):
        look(client, f"/ui/queues?{query}", 422)


def test_a_range_that_there_is_not_is_said_to_be_none(
    client: FlaskClient, conn: Connection
) -> None:
    enqueue(conn)

    assert "must be one of 3h" in look(client, "/ui/queues/mail?range=1y", 422).title
    look(client, "/ui/queues/mail%00", 422)
    look(client, "/ui/queues?named=%00", 422)


def test_a_reader_sees_no_button_and_may_press_none(
    look_as: Callable[..., FlaskClient], conn: Connection
) -> None:
    call(conn, "configure_queue", queue="mail", max_retries=9)
    client = look_as("reader")
    conn.execute("delete from rota.action_log")

    index, page = look(client, "/ui/queues"), look(client, "/ui/queues/mail")

    assert index.buttons == ["Find"]
    assert list(index.table()[0])[-1] == "Workers"
    assert page.buttons == []
    assert "Max retries 9" in page.region("Settings").text
    mark = index.root.one("form", action="/ui/logout").one("input", name="form")["value"]
    for place in (
        "", "/mail/pause", "/mail/resume", "/mail/settings", "/mail/key", "/mail/delete",
    ):  # fmt: skip
        data = {"form": mark, "queue": "x", "key": "k", "max_retries": "1"}
        answer = client.post(
            f"/ui/queues{place}", data=data, headers={"Origin": "http://localhost"}
        )
        assert answer.status_code == 403, place
    assert settings(conn)[0] == 9
    assert actions(conn) == []


def test_limits_are_set_and_unset_and_shown_beside_what_runs(
    client: FlaskClient, conn: Connection
) -> None:
    enqueue(conn)
    form = look(client, "/ui/queues/mail").form("Save limits")
    filled = {"max_running": "5", "max_starts": "50", "starts_period": "60", "key_in_order": "yes"}

    page = press(client, form, **filled)

    assert page.said == "Queue mail: running at once, starts, in, each key: in order changed."
    assert limits(conn) == (5, 50, timedelta(minutes=1), True)
    call(conn, "claim_next_job", queues=["mail"], worker="w")
    count(conn)
    page = look(client, "/ui/queues/mail")
    assert "Running 1 of 5 that may" in page.region("State").text
    press(client, page.form("Save limits"), max_starts="", starts_period="", key_in_order="")
    assert limits(conn) == (5, None, None, None)


def test_limits_that_cannot_be_are_refused(client: FlaskClient, conn: Connection) -> None:
    enqueue(conn)
    form = look(client, "/ui/queues/mail").form("Save limits")

    for bad in ({"max_running": "0"}, {"max_running": "x"}, {"max_starts": "5"}):
        assert send(client, form, **bad).status_code == 422, bad

    assert limits(conn) == (None, None, None, None)


def test_a_key_gets_limits_of_its_own_and_loses_them(client: FlaskClient, conn: Connection) -> None:
    enqueue(conn, key="acme")
    form = look(client, "/ui/queues/mail").form("Save key")

    page = press(client, form, key=" acme ", max_running="2", max_starts="9", starts_period="60")

    assert page.said == "Key acme of queue mail has limits of its own."
    assert page.table("Keys with limits of their own") == [
        {"Key": "acme", "Running at once": "2", "Starts": "9 in 1 min"}
    ]
    assert ("acme", "/ui/jobs?queue=mail&key=acme") in page.links
    page = press(client, page.form("Save key"), key="acme")
    assert page.said == "Key acme of queue mail has no limits of its own any more."
    assert "None: what is set for each key holds for all." in page.text


def test_the_fullest_keys_are_told_with_what_they_may(
    client: FlaskClient, conn: Connection
) -> None:
    call(conn, "configure_queue", queue="mail", key_max_running=3)
    call(conn, "configure_key", queue="mail", key="big", max_running=7)
    for key, number in (("big", 4), ("small", 1)):
        for _ in range(number):
            enqueue(conn, key=key)
    enqueue(conn, "other", key="elsewhere")
    for queue in ("mail", "other"):
        while call(conn, "claim_next_job", queues=[queue], worker="w", max_jobs=10):
            pass
    count(conn)

    page = look(client, "/ui/queues/mail")

    assert page.table("Fullest keys") == [
        {"Key": "big", "Running": "4 of 7"},
        {"Key": "small", "Running": "1 of 3"},
    ]
    call(conn, "configure_queue", queue="plain")
    assert "Fullest keys" not in look(client, "/ui/queues/plain").text


def test_behind_a_wall_other_queues_are_not_there(
    look_as: Callable[..., FlaskClient], conn: Connection
) -> None:
    for queue in ("acme.mail", "globex.mail"):
        enqueue(conn, queue)
        announce(conn, f"w-{queue}", queues=[queue])
    count(conn)
    client = look_as("operator", wall="acme.*")

    page = look(client, "/ui/queues")

    assert [row["Queue"] for row in page.table()] == ["acme.mail"]
    assert look(client, "/ui/queues/acme.mail").title == "acme.mail"
    there = look(client, "/ui/queues/globex.mail", 404)
    nowhere = look(client, "/ui/queues/nothing.mail", 404)
    assert there.text.replace("globex", "nothing") == nowhere.text
    form = page.form("Pause")
    assert press(client, form).said
    form.action = form.action.replace("acme", "globex")
    assert send(client, form).status_code == 403


def test_for_settings_and_names_no_job_is_counted(conn: Connection) -> None:
    def looks_at_jobs(query: str, **arguments: Any) -> int:
        plan = conn.execute(f"explain {query}", arguments).fetchall()
        return sum(" on live_jobs" in line for (line,) in plan)

    if conn.info.server_version < 160000:
        pytest.skip("PostgreSQL 15 keeps the join that counts them")
    # Two are the look, in a queue that was deleted, whether there is any, in either index.
    assert looks_at_jobs("select queue, due from rota.queue_status") == 3
    assert looks_at_jobs("select queue, paused_at, timeout from rota.queue_status") == 2
    assert looks_at_jobs(queues.QUEUE, queue="mail") == 2
    arguments = {"at": None, "until": None, "named": None, "limit": 1, "offset": 0}
    assert looks_at_jobs(queues.QUEUES.as_string(conn), **arguments) == 2
    assert looks_at_jobs(workers.WORKER.as_string(conn), worker="w") == 0


def test_charts_of_weeks_are_counted_once_in_some_minutes(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(conn, "configure_queue", queue="a")
    conn.execute("select rota.roll_up()")
    asked: list[object] = []
    rows = charts.rows
    monkeypatch.setattr(charts, "rows", lambda *a, **b: asked.append(a) or rows(*a, **b))

    for path, queries in (("?range=3h", 6), ("?range=8w", 3), ("/queues/a?range=8w", 3)):
        asked.clear()
        look(client, f"/ui/{path}".replace("//", "/"))
        look(client, f"/ui/{path}".replace("//", "/"))
        assert len(asked) == queries
