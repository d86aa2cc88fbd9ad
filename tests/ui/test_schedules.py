"""The pages of schedules: what they show, and what their forms do."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import quote, urljoin

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import Connection
from psycopg.rows import dict_row

from rota.app.paths import ESCAPED_SLASH
from rota.app.ui import frame, schedules
from rota.db.gateway import call
from tests.ui.pages import OURS, Page, look, press, send

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script>",
    "a/pause",
    "a/../../b",
    "preview",
    "100 % of {{ 7 * 7 }} #?&=",
    "\u202erotallac\u202c",
    "ä" * 200,
]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each calendar made anew."""
    views = {view: (words, 0.0) for view, (words, _) in schedules.VIEWS.items()}
    monkeypatch.setattr(schedules, "VIEWS", views)


@pytest.fixture
def now() -> datetime:
    """A moment in the midst of an hour of today, some seconds off the clock at most."""
    return datetime.now(UTC)


@pytest.fixture
def reader(client: FlaskClient, conn: Connection) -> Iterator[FlaskClient]:
    """The client as one who may look, and nothing else."""
    conn.execute("create role one_who_looks nologin in role rota_reader")
    try:
        token = call(conn, "create_token", principal="one_who_looks")[0]["token"]
        client.set_cookie("rota_token", token, path="/ui")
        yield client
    finally:
        conn.execute("drop owned by one_who_looks; drop role one_who_looks")


def add(conn: Connection, name: str | None = "nightly", **options: Any) -> int:
    if "every" not in options:
        options = {"cron": "30 2 * * *"} | options
    [job] = call(conn, "schedule_job", **{"task": "report", "name": name, **options})
    return job["job_id"]


def run(conn: Connection, error: str | None = None, queue: str = "default") -> None:
    """Run what is due, once."""
    [job] = call(conn, "claim_next_job", queues=[queue], worker="by hand")
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error=error)


def path_of(name: str) -> str:
    return f"/ui/schedules/{quote(name, safe='')}"


def facts(page: Page, day: str) -> dict[str, str]:
    """Return what the calendar says of the cells of a day or week: by their heads, if anything."""
    said = {}
    for line in page.table("calendar"):
        if day in (line.get("Day"), line.get("Week of")):
            said = {head: words for head, words in line.items() if ":" in words}
    return said


def runs(page: Page) -> list[dict[str, str]]:
    """Return the rows of the runs; a page has those to come, too."""
    table = page.main.one("section", id="runs").one("table")
    heads = [cell.text for cell in table.one("thead").all("th")]
    lines = [list(line.all("th", "td")) for line in table.one("tbody").all("tr")]
    return [dict(zip(heads, (c.text for c in line), strict=True)) for line in lines]


def day(moment: datetime) -> str:
    return f"{moment:%a} {moment.day} {moment:%b}"


def actions(conn: Connection) -> list[str]:
    query = "select function from rota.actions where function <> 'create_token' order by action_id"
    return [function for (function,) in conn.execute(query)]


def test_without_schedules_the_list_says_how_to_make_one(client: FlaskClient) -> None:
    page = look(client, "/ui/schedules")
    assert page.title == "Schedules"
    assert "Nothing runs again and again yet" in page.text
    assert "schedule_job(" in page.text


def test_the_list_shows_each_schedule_by_its_name(
    client: FlaskClient, conn: Connection, clock: Any, now: datetime
) -> None:
    clock.set(now - 3 * HOUR)
    add(conn, "sync", every=HOUR, queue="crm", starts_at=now - 3 * HOUR + MINUTE, max_retries=0)
    for number in range(3):
        clock.set(now - (3 - number) * HOUR + 2 * MINUTE)
        run(conn, error="KeyError: 'id'" if number == 1 else None, queue="crm")
    clock.set(now)
    add(conn, "digest", cron="0 9 * * MON-FRI", time_zone="Europe/Berlin")
    call(conn, "pause_schedule", name="digest")
    add(conn, None, cron="*/7 3 1 * MON")

    page = look(client, "/ui/schedules")
    digest, sync, nameless = page.table()

    assert digest["Name"] == "digest"
    assert digest["When"] == "at 09:00 from Monday to Friday 0 9 * * MON-FRI Europe/Berlin"
    assert (digest["Next run"], digest["Last ended"]) == ("PAUSED", "never")
    assert (sync["When"], sync["Task"], sync["Queue"]) == ("every hour", "report", "crm")
    assert "1 failed" in sync["Last outcomes newest right"]
    assert "succeeded" in sync["Last outcomes newest right"]
    assert nameless["Name"].endswith("without a name")
    assert nameless["When"] == "by its expression */7 3 1 * MON UTC"
    assert page.link("sync") == "/ui/schedules/sync"


def test_the_list_finds_a_part_of_a_name(client: FlaskClient, conn: Connection) -> None:
    for name in ("Nightly 100%", "nightly_b", "weekly"):
        add(conn, name)

    def names(wanted: str) -> list[str]:
        page = look(client, f"/ui/schedules?q={quote(wanted)}")
        return [row["Name"] for row in page.table()]

    assert names("NIGHT") == ["Nightly 100%", "nightly_b"]
    assert names("100%") == ["Nightly 100%"]
    assert names("_") == ["nightly_b"]
    none = look(client, "/ui/schedules?q=no<such>")
    assert "No live schedule has “no<such> ” in its name" in none.text


def test_the_list_comes_page_by_page(client: FlaskClient, conn: Connection) -> None:
    conn.execute(
        "select rota.schedule_job('report', name => 's' || to_char(n, 'FM000'), cron => '@daily')"
        " from generate_series(1, 120) as n"
    )
    conn.execute("select rota.schedule_job('report', cron => '@daily') from generate_series(1, 2)")
    seen = []
    path = "/ui/schedules"
    for _ in range(3):
        page = look(client, path)
        seen += [row["Name"] for row in page.table()]
        path = page.link("More schedules") if "More schedules" in page.text else ""
    assert path == ""
    assert seen[:120] == [f"s{number:03}" for number in range(1, 121)]
    assert len(set(seen)) == len(seen) == 122


def test_a_page_tells_all_of_a_schedule(client: FlaskClient, conn: Connection) -> None:
    job_id = add(
        conn,
        time_zone="Europe/Berlin",
        queue="reports",
        jitter=MINUTE,
        misfire="all",
        overlap="catch_up",
        max_retries=7,
        priority=-3,
        timeout=2 * HOUR,
        starts_at=datetime(2030, 3, 29, tzinfo=UTC),
    )
    page = look(client, path_of("nightly"))

    assert page.title == "nightly"
    for words in (
        "at 02:30 every day 30 2 * * * Europe/Berlin",
        "by the clocks of Europe/Berlin",
        "the last 100 are run",
        "slots during a run are run after it",
        "up to 1 min",
        "Retries 7",
        "Priority -3",
        "Timeout 2 h",
        "in queue reports",
    ):
        assert words in page.text, words
    assert page.link(str(job_id)) == f"/ui/jobs/{job_id}"
    rows = [(row["UTC"], row["Europe/Berlin"]) for row in page.table("next")]
    assert [utc for utc, _ in rows] == [
        "2030-03-29 01:30:00",
        "2030-03-30 01:30:00",
        "2030-03-31 01:00:00",  # the clocks skip from two to three
        "2030-04-01 00:30:00",
        "2030-04-02 00:30:00",
    ]
    assert rows[2][1] == ("2030-03-31 03:00:00 +02:00 moved: the clocks skip 2030-03-31 02:30:00")


def test_the_next_runs_are_those_of_the_schedules_own_grid(
    client: FlaskClient, conn: Connection
) -> None:
    add(conn, every=timedelta(hours=7), starts_at=datetime(2020, 1, 1, 0, 11, tzinfo=UTC))
    shown = [row["UTC"] for row in look(client, path_of("nightly")).table("next")]
    [(slot,)] = conn.execute("select scheduled_for at time zone 'UTC' from rota.schedule_status")
    assert shown == [str(slot + number * 7 * HOUR) for number in range(5)]


def test_no_more_next_runs_are_shown_than_there_will_be(
    client: FlaskClient, conn: Connection, now: datetime
) -> None:
    add(conn, "two", every=DAY, max_runs=2)
    add(conn, "one", every=DAY, max_runs=1, queue="other")
    add(conn, "ends", every=DAY, ends_at=now + 2.5 * DAY, queue="other")
    add(conn, "delay", every=DAY, fixed_delay=True, queue="other")
    assert len(look(client, path_of("two")).table("next")) == 1  # beside the one that is due
    run(conn)
    assert len(look(client, path_of("two")).table("next")) == 1
    assert len(look(client, path_of("ends")).table("next")) == 2  # its first is past by now
    assert "No slot is left" in look(client, path_of("one")).text
    assert "Each run decides when the next one comes" in look(client, path_of("delay")).text


def test_the_calendar_tells_what_ran_failed_was_skipped_and_missed(
    client: FlaskClient, conn: Connection, clock: Any, now: datetime
) -> None:
    start = (now - 2 * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    clock.set(start - MINUTE)
    add(conn, cron="5 * * * *", max_retries=0)

    def at(hours: float) -> None:
        clock.set(start + hours * HOUR)

    at(0.2)
    run(conn)
    at(1.2)
    run(conn, error="boom")
    at(6.2)  # 02:05 to 05:05 are given up, and 06:05 is run
    run(conn)
    at(7.01)
    call(conn, "pause_schedule", name="nightly")
    at(10.01)
    call(conn, "resume_schedule", name="nightly")
    at(10.2)
    run(conn)

    said = facts(look(client, path_of("nightly")), day(start))

    assert said["00"].endswith(f"{day(start)} 00:00: 1 succeeded")
    assert said["00"].startswith("S")
    assert said["01"].startswith("F")
    assert said["01"].endswith("01:00: 1 failed")
    assert said["02"].startswith("K")
    assert "4 skipped" in said["02"]
    for hour in ("03", "04", "05"):
        assert said[hour].startswith("K"), said[hour]
    assert said["06"].endswith("1 succeeded")
    for hour in ("07", "08", "09"):
        assert said[hour].startswith("P"), said[hour]
    assert said["10"].endswith("1 succeeded")
    for hour in (11, 17, 23):
        assert said[f"{hour:02}"].startswith("M"), said[f"{hour:02}"]
        assert f"no run of the slot of {hour:02}:05" in said[f"{hour:02}"]
    # Neither before it began nor after now anything is missed.
    assert facts(look(client, path_of("nightly")), day(start - DAY)) == {}
    today = facts(look(client, path_of("nightly")), day(now))
    assert f"{(now + HOUR).hour:02}" not in today or now.hour == 23

    weeks = look(client, path_of("nightly") + "?view=months")
    week = f"{start - start.weekday() * DAY:%-d %b}"
    cell = facts(weeks, week)[f"{start:%a}"]
    assert cell.startswith("K 4 M")  # for most of its slots, and the worst
    assert "3 succeeded" in cell and "1 failed" in cell and "paused" in cell


def test_what_is_due_but_a_minute_is_not_missed(
    client: FlaskClient, conn: Connection, clock: Any, now: datetime
) -> None:
    clock.set(now - HOUR)
    add(conn, every=2 * HOUR, starts_at=now - timedelta(seconds=20))
    page = look(client, path_of("nightly"))
    assert "due, not run yet" in page.text
    assert facts(page, day(now)) == {}


def test_slots_that_wait_for_a_run_under_way_are_not_missed(
    client: FlaskClient, conn: Connection, clock: Any, now: datetime
) -> None:
    start = now - 5 * HOUR
    clock.set(start - MINUTE)
    add(conn, every=HOUR, starts_at=start)
    clock.set(start)
    call(conn, "claim_next_job", queues=["default"], worker="by hand", lease=DAY)
    clock.set(now)

    page = look(client, path_of("nightly"))
    said = [words for line in page.table("calendar") for words in line.values() if ":" in words]
    assert len(said) == 1
    assert said[0].startswith("R")
    assert said[0].endswith("runs now")


def test_of_a_delay_after_each_run_and_of_a_paused_schedule_nothing_is_missed(
    client: FlaskClient, conn: Connection, clock: Any, now: datetime
) -> None:
    clock.set(now - 2 * DAY)
    add(conn, "delay", every=HOUR, fixed_delay=True)
    add(conn, "paused", every=HOUR, starts_at=now - 2 * DAY + MINUTE)
    call(conn, "pause_schedule", name="paused")
    assert facts(look(client, path_of("delay")), day(now - DAY)) == {}
    said = facts(look(client, path_of("paused")), day(now - DAY))
    assert len(said) == 24
    assert all(words.endswith("paused") for words in said.values())


def test_slots_of_before_a_change_are_not_missed(
    client: FlaskClient, conn: Connection, clock: Any, now: datetime
) -> None:
    clock.set(now - 3 * DAY)
    add(conn, every=DAY, starts_at=now - 2 * DAY)
    clock.set(now - 2 * DAY + MINUTE)
    run(conn)
    clock.set(now - DAY - HOUR)
    add(conn, every=HOUR, starts_at=now - 3 * DAY)
    said = facts(look(client, path_of("nightly")), day(now - 2 * DAY))
    assert len(said) == 1
    assert next(iter(said.values())).endswith("1 succeeded")


def test_a_cell_leads_to_the_runs_of_its_slots(
    client: FlaskClient, conn: Connection, clock: Any, now: datetime
) -> None:
    start = now - 2 * DAY
    clock.set(start)
    add(conn, every=HOUR, starts_at=start + MINUTE, max_retries=0)
    for number in range(3):
        clock.set(start + number * HOUR + 2 * MINUTE)
        run(conn, error=f"error {number}")
    clock.set(now)

    page = look(client, path_of("nightly"))
    assert [row["Error"] for row in runs(page)] == ["error 2", "error 1", "error 0"]
    cells = [(text, href) for text, href in page.links if text.endswith("1 failed")]
    assert len(cells) == 3
    page = look(client, urljoin(path_of("nightly"), cells[1][1]))
    assert [row["Error"] for row in runs(page)] == ["error 1"]
    assert "Runs of slots" in page.text

    missed = next(href for text, href in page.links if text.startswith("M"))
    assert (
        "No run of a slot of this time has ended"
        in look(client, urljoin(path_of("nightly"), missed)).text
    )


def cells_of(conn: Connection, view: str, zone: str, moment: datetime) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        arguments = {"view": view, "zone": zone, "now": moment}
        return cursor.execute(schedules.CELLS, arguments).fetchall()


DAYS_OF_ZONES = [
    ("Europe/Berlin", datetime(2026, 3, 29, 12, tzinfo=UTC), 23, 23 * HOUR),
    ("Europe/Berlin", datetime(2026, 10, 25, 12, tzinfo=UTC), 25, 25 * HOUR),
    ("Europe/Berlin", datetime(2026, 7, 1, 12, tzinfo=UTC), 24, DAY),
    ("Asia/Kathmandu", datetime(2026, 7, 1, 12, tzinfo=UTC), 24, DAY),
    ("Australia/Lord_Howe", datetime(2026, 4, 5, 1, tzinfo=UTC), 25, 24.5 * HOUR),
    ("America/Havana", datetime(2026, 3, 8, 17, tzinfo=UTC), 23, 23 * HOUR),
    ("UTC", datetime(2026, 10, 25, 12, tzinfo=UTC), 24, DAY),
]


def test_days_of_23_and_25_hours_have_as_many_cells(conn: Connection) -> None:
    for zone, moment, hours, lasting in DAYS_OF_ZONES:
        _check_day(conn, zone, moment, hours, lasting)


def _check_day(
    conn: Connection, zone: str, moment: datetime, hours: int, lasting: timedelta
) -> None:
    cells = cells_of(conn, "week", zone, moment)
    last = [cell for cell in cells if cell["day"] == cells[-1]["day"]]

    assert len(last) == hours
    assert last[-1]["end"] - last[0]["start"] == lasting
    assert all(one["end"] == two["start"] for one, two in pairwise(cells))
    assert len({cell["day"] for cell in cells}) == 7
    lines = list(schedules._lines(cells, "week"))
    assert len(lines) == 7
    assert [len(line) for _, line in lines] == [24] * 7
    assert sum(len(place) for place in lines[-1][1]) == hours

    days = cells_of(conn, "months", zone, moment)
    assert len(days) == 56
    today = next(cell for cell in days if cell["day"] == cells[-1]["day"])
    assert today["end"] - today["start"] == lasting


def test_an_hour_that_comes_twice_has_two_cells_told_apart(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add(conn, cron="0 * * * *", time_zone="Europe/Berlin")
    conn.execute("update rota.schedules set starts_at = '2026-01-01'")
    conn.execute("update rota.live_jobs set created_at = '2026-01-01', run = 3")
    for hour in (0, 1):
        conn.execute(
            "insert into rota.attempts (job_id, run, attempt, token, outcome, scheduled_for,"
            " started_at, finished_at, job_state) values (%s, %s, 1, gen_random_uuid(),"
            " 'SUCCEEDED', %s, %s, %s, 'SCHEDULED')",
            [job_id, hour + 1, *[datetime(2026, 10, 25, hour, tzinfo=UTC)] * 3],
        )
    look_back = "'2026-10-26 12:00+00'::timestamptz"
    parts = [
        part
        if not isinstance(part, psycopg.sql.SQL)
        else psycopg.sql.SQL(part.as_string(conn).replace("statement_timestamp()", look_back))
        for part in schedules.ONE
    ]
    monkeypatch.setattr(schedules, "ONE", psycopg.sql.Composed(parts))

    said = facts(look(client, path_of("nightly")), "Sun 25 Oct")["02"]
    assert "02:00 (+02:00): 1 succeeded" in said
    assert "02:00 (+01:00): 1 succeeded" in said


def test_a_calendar_counts_so_many_runs_and_says_how_far_it_looked(
    client: FlaskClient,
    conn: Connection,
    clock: Any,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedules, "LOOK", 3)
    start = now - 10 * HOUR
    clock.set(start)
    add(conn, every=HOUR, starts_at=start + MINUTE)
    for number in range(8):
        clock.set(start + number * HOUR + 2 * MINUTE)
        run(conn)
    page = look(client, path_of("nightly"))
    assert "Counted back to" in page.text
    said = [words for line in page.table("calendar") for words in line.values()]
    assert sum("succeeded" in words for words in said) == 4
    assert "not counted" in said


def test_a_calendar_that_takes_too_long_breaks_no_page(
    client: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(conn)
    slow = "select pg_sleep(10), %(view)s, %(zone)s, %(now)s"
    monkeypatch.setattr(schedules, "CELLS", slow)
    monkeypatch.setattr(frame, "LONGEST_QUERY", "100ms")
    page = look(client, path_of("nightly"))
    assert "too many to be counted" in page.text
    assert len(page.table("next")) == 5


def test_a_schedule_whose_slots_cannot_be_computed_is_shown_all_the_same(
    client: FlaskClient, conn: Connection
) -> None:
    add(conn)
    conn.execute("update rota.schedules set time_zone = 'Mars/Phobos'")
    page = look(client, path_of("nightly"))
    assert "Its slots cannot be computed" in page.text
    assert "Mars/Phobos" in page.text
    assert "Pause" in page.buttons
    assert "Mars/Phobos" in look(client, "/ui/schedules").text


def test_each_action_has_a_form(client: FlaskClient, conn: Connection) -> None:
    job_id = add(conn, queue="reports")
    path = path_of("nightly")

    after = press(client, look(client, path).form("Pause"))
    assert after.said.startswith("nightly is paused")
    assert after.path == path
    assert "PAUSED" in after.text
    assert "Pause" not in after.buttons

    after = press(client, after.form("Resume"))
    assert after.said.startswith("nightly runs again, next at ")

    after = press(client, after.form("Run once now"))
    assert after.said == "nightly runs once more now, as soon as a worker is free."
    assert "due, not run yet" in after.text

    after = press(client, after.form("Delete this schedule"), sure="yes")
    assert after.said == "nightly is deleted."
    assert after.path == "/ui/schedules"
    state = conn.execute("select state from rota.jobs where id = %s", [job_id]).fetchone()
    assert state == ("CANCELLED",)
    look(client, path, status=404)
    assert actions(conn) == [
        "pause_schedule",
        "resume_schedule",
        "trigger_schedule",
        "delete_schedule",
    ]


def test_actions_say_what_becomes_of_a_run_under_way(client: FlaskClient, conn: Connection) -> None:
    add(conn)
    call(conn, "trigger_schedule", name="nightly")
    call(conn, "claim_next_job", queues=["default"], worker="by hand")
    page = look(client, path_of("nightly"))
    assert "RUNNING" in page.text
    assert "when the run under way has ended" in press(client, page.form("Run once now")).said
    assert "The run under way ends as it would" in press(client, page.form("Pause")).said
    after = press(client, page.form("Delete this schedule"), sure="yes")
    assert after.said == "nightly is to end: the run under way was asked to stop."
    assert after.path == path_of("nightly")


def test_nothing_is_deleted_without_the_tick(client: FlaskClient, conn: Connection) -> None:
    add(conn)
    form = look(client, path_of("nightly")).form("Delete this schedule")
    answer = send(client, form)
    assert answer.status_code == 422
    assert "tick the box" in answer.text
    assert actions(conn) == []


def test_a_backfill_shows_its_slots_before_it_adds_their_jobs(
    client: FlaskClient, conn: Connection
) -> None:
    add(conn, cron="0,30 2 * * *", time_zone="Europe/Berlin", queue="reports")
    path = path_of("nightly")
    form = look(client, path).form("Show the slots")
    answer = send(client, form, backfill_from="2026-03-28T00:00", backfill_to="2026-03-30T00:00")
    page = Page(answer)
    assert page.status == 200
    assert "3 slots in this time" in page.text
    assert "2026-03-29 03:00:00+02:00 merged" in page.text
    assert conn.execute("select count(*) from rota.jobs").fetchone() == (1,)

    button = page.form("Add 3 jobs to reports")
    assert press(client, button).said == "3 jobs were added for nightly."
    slots = conn.execute(
        "select to_char(scheduled_for at time zone 'UTC', 'DD HH24:MI') from rota.jobs"
        " where schedule_type = 'ONE_TIME' order by scheduled_for"
    ).fetchall()
    assert slots == [("28 01:00",), ("28 01:30",), ("29 01:00",)]
    again = press(client, button).said
    assert again == "0 jobs were added for nightly. 3 were live already, of an earlier backfill."
    assert actions(conn) == ["backfill_schedule", "backfill_schedule"]


BACKFILLED = [
    {"every": timedelta(hours=7)},
    {"every": timedelta(days=3), "time_zone": "Europe/Berlin"},
    {"cron": "15 */5 * * *", "ends_at": datetime(2030, 1, 10, tzinfo=UTC)},
    {"cron": "0 9 * * MON", "starts_at": datetime(2030, 1, 5, tzinfo=UTC)},
    {"every": timedelta(hours=9), "starts_at": datetime(2030, 1, 5, tzinfo=UTC)},
]


def test_a_backfill_shows_as_many_slots_as_it_makes_jobs(
    client: FlaskClient, conn: Connection, clock: Any
) -> None:
    clock.set(datetime(2029, 12, 1, 3, tzinfo=UTC))
    for number, options in enumerate(BACKFILLED):
        add(conn, f"s{number}", **options)
        query = "?backfill_from=2030-01-01T00:00&backfill_to=2030-01-20T00:00"
        page = look(client, path_of(f"s{number}") + query)
        form = next(form for form in page.forms if form.action.endswith("/backfill"))
        added = press(client, form).said.split()[0]
        assert form.labels == [f"Add {added} jobs to default"]


def test_a_backfill_of_too_many_slots_or_none_has_no_button(
    client: FlaskClient, conn: Connection
) -> None:
    add(conn, cron="* * * * *")
    add(conn, "delay", every=HOUR, fixed_delay=True)

    def page(span: str, name: str = "nightly") -> Page:
        return look(client, f"{path_of(name)}?backfill_from=2026-01-01T00:00&backfill_to={span}")

    assert "1,000 slots in this time" in page("2026-01-01T16:40").text
    assert "more than 1,000 slots" in page("2026-01-01T16:41").text
    assert not any("Add" in label for label in page("2026-01-01T16:41").buttons)
    add(conn, cron="0 0 29 2 *")
    assert "There is no slot in this time" in page("2026-01-02T00:00").text
    assert "no slots to run afterwards" in page("2026-01-02T00:00", "delay").text


def test_a_reader_sees_no_buttons_and_gets_no_further(
    reader: FlaskClient, conn: Connection
) -> None:
    add(conn)
    page = look(reader, path_of("nightly"))
    assert page.buttons == []
    assert [row["Name"] for row in look(reader, "/ui/schedules").table()] == ["nightly"]
    mark = reader.get("/ui/login").text.partition('name="form" value="')[2].partition('"')[0]
    for action in ("pause", "resume", "trigger", "backfill", "delete"):
        answer = reader.post(
            f"{path_of('nightly')}/{action}",
            headers={"Origin": OURS},
            data={
                "form": mark,
                "sure": "yes",
                "starts_at": "2026-01-01T00:00:00Z",
                "ends_at": "2026-01-02T00:00:00Z",
            },
        )
        assert answer.status_code == 403, action
    assert actions(conn) == []


def test_behind_a_wall_a_neighbours_schedules_are_not_there(
    reader: FlaskClient, conn: Connection, clock: Any, now: datetime
) -> None:
    clock.set(now - 3 * HOUR)
    for tenant in ("acme", "globex"):
        add(conn, f"{tenant}.sync", queue=f"{tenant}.mail", every=HOUR, starts_at=now - 2.5 * HOUR)
    clock.set(now - 2.4 * HOUR)
    for tenant in ("acme", "globex"):
        run(conn, queue=f"{tenant}.mail")
    clock.set(now)
    call(conn, "wall", principal="one_who_looks", queue_pattern="acme.*")

    page = look(reader, "/ui/schedules")
    assert [row["Name"] for row in page.table()] == ["acme.sync"]
    assert "1 succeeded" in page.text
    assert "globex" not in page.text
    page = look(reader, path_of("acme.sync"))
    assert [row["Outcome"] for row in runs(page)] == ["SUCCEEDED"]
    assert any(text.startswith("S") and "1 succeeded" in text for text, _ in page.links)
    missing = look(reader, path_of("globex.sync"), status=404)
    assert missing.text == look(reader, path_of("globex.none"), status=404).text.replace(
        "globex.none", "globex.sync"
    )


def test_names_of_any_characters_are_text_and_lead_to_their_pages(
    client: FlaskClient, conn: Connection
) -> None:
    for name in HOSTILE:
        _use(client, conn, name)


def _use(client: FlaskClient, conn: Connection, name: str) -> None:
    task = f"t{name}"[:200].replace("\u202e", "")
    add(conn, name, task=task, cron="30 2 * * *")
    call(conn, "trigger_schedule", name=name)
    run(conn, error=f"{name}\n{name}")

    listed = look(client, "/ui/schedules")
    assert listed.table()[0]["Name"] == " ".join(name.split())
    page = look(client, listed.link(name))
    assert page.title == name
    for shown in (listed, page):
        assert not list(shown.main.all("img", "script"))
    after = press(client, page.form("Pause"))
    assert after.said.startswith(f"{name} is paused")
    path = listed.link(name)
    assert press(client, look(client, path).form("Resume")).title == name
    after = press(client, look(client, path).form("Delete this schedule"), sure="yes")
    assert after.said == f"{name} is deleted."
    assert ESCAPED_SLASH not in after.text


def test_a_name_that_no_browser_asks_for_leads_to_its_job(
    client: FlaskClient, conn: Connection
) -> None:
    job_id = add(conn, "..")
    assert look(client, "/ui/schedules").link("..") == f"/ui/jobs/{job_id}"


NONSENSE = [
    "view=year",
    "from=yesterday&until=today",
    "from=2026-01-01T00:00:00Z",
    "backfill_from=2026-01-01T00:00",
    "backfill_from=2026-01-02T00:00&backfill_to=2026-01-01T00:00",
    "backfill_from=2026-01-02T00:00Z&backfill_to=2026-01-03T00:00Z",
    "backfill_from=0001-01-01T00:00&backfill_to=9999-12-31T00:00",
    "what=1",
    "view=week&view=week",
]


def test_queries_that_make_no_sense_are_refused_with_a_page(
    client: FlaskClient, conn: Connection
) -> None:
    add(conn)
    for query in NONSENSE:
        page = look(client, f"{path_of('nightly')}?{query}", status=422)
        assert "RTV01" in page.text
    for query in ("after=x", "after=-1", "after=99999999999999999999", "q=%00"):
        look(client, f"/ui/schedules?{query}", status=422)


def test_times_at_the_edges_of_the_calendar_of_years_break_nothing(
    client: FlaskClient, conn: Connection
) -> None:
    add(conn, starts_at=datetime(9998, 1, 1, tzinfo=UTC))
    add(conn, "old", every=DAY, starts_at=datetime(1, 1, 2, tzinfo=UTC))
    for name in ("nightly", "old"):
        look(client, path_of(name))
        look(client, f"{path_of(name)}?view=months")
        years = "from=0001-01-01T00:00:00Z&until=9999-12-31T00:00:00Z"
        look(client, f"{path_of(name)}?{years}")


def test_a_page_is_the_same_while_nothing_changes(client: FlaskClient, conn: Connection) -> None:
    add(conn, starts_at=datetime(2040, 1, 1, tzinfo=UTC))
    first: Callable[[], str] = lambda: client.get(path_of("nightly")).headers["ETag"]  # noqa: E731
    assert first() == first()
