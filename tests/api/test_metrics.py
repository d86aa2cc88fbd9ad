"""What Prometheus is told: what is so, at little cost, and nothing that breaks its format."""

import re
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as plain_text
from psycopg.types.json import Jsonb

from rota.app import create_app
from rota.app.families import MOST_PAIRS, MOST_QUEUES, House
from rota.app.shared import Shared
from rota.db.gateway import call
from rota.exposition import BOUNDS
from tests.waiting import wait_until

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOON = (datetime.now(UTC) + DAY).replace(hour=12, minute=0, second=0, microsecond=0)
HOSTILE = ['"', "\\", 'a"} 1\n', "{x=}", "\\n", "#", "‮abc", "é\u2028", "other", "' or 1=1"]

# What each has for labels; nobody's name or id is among them.
METRICS = {
    "rota_jobs": {"queue", "state"},
    "rota_queue_oldest_due_seconds": {"queue"},
    "rota_queue_paused": {"queue"},
    "rota_attempts_total": {"queue", "task", "outcome"},
    "rota_jobs_failed_total": {"queue", "task"},
    "rota_run_duration_seconds": {"queue", "task"},
    "rota_wait_duration_seconds": {"queue"},
    "rota_workers": {"state"},
    "rota_worker_places": {"queue"},
    "rota_version_mismatch_workers": set(),
    "rota_findings": {"severity", "check"},
    "rota_findings_age_seconds": set(),
    "rota_table_dead_rows": {"table"},
    "rota_oldest_snapshot_seconds": set(),
    "rota_census_age_seconds": set(),
    "rota_rollup_age_seconds": set(),
}


def samples(text, parse=plain_text):
    """Return the values by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


@pytest.fixture
def scrape(db):
    """Scrape, each time by an API that has kept nothing."""
    apps = []

    def once(**headers):
        app = create_app(db)
        apps.append(app)
        answer = app.test_client().get("/metrics", headers=headers)
        assert answer.status_code == 200, answer.text
        return samples(answer.text)

    yield once
    for app in apps:
        app.extensions["database"].close()


def run(conn, clock, task="t", queue="default", seconds=0.0, error=None):
    """Run a job in no time, or so many seconds, and have it fail for good with an error."""
    call(conn, "enqueue_job", task=task, queue=queue)
    (job,) = call(conn, "claim_next_job", queues=[queue], lease=DAY)
    clock.advance(timedelta(seconds=seconds))
    pair = {"job_id": job["id"], "token": job["token"]}
    call(conn, "finish_job", **pair, error=error, retry=False)


def count_all(conn, clock):
    clock.advance(2 * MINUTE)
    call(conn, "roll_up")
    wait_until(lambda: call(conn, "roll_up")[0]["roll_up"])


def value(found, name, **labels):
    return found[(name, *sorted(labels.items()))]


def test_counters_are_what_history_has(scrape, conn, clock):
    clock.set(NOON)
    call(conn, "maintain")
    for seconds, error in ((0.5, None), (20, None), (100, "x")):
        run(conn, clock, seconds=seconds, error=error)
    run(conn, clock, task="u", queue="mail")

    count_all(conn, clock)
    found = scrape()

    pair = {"queue": "default", "task": "t"}
    assert value(found, "rota_attempts_total", **pair, outcome="SUCCEEDED") == 2
    assert value(found, "rota_attempts_total", **pair, outcome="FAILED") == 1
    assert value(found, "rota_jobs_failed_total", **pair) == 1
    assert value(found, "rota_jobs_failed_total", queue="mail", task="u") == 0
    ran = {
        bound: value(found, "rota_run_duration_seconds_bucket", **pair, le=bound)
        for bound in ("0.256", "1.024", "16.384", "65.536", "262.144", "+Inf")
    }
    assert list(ran.values()) == [0, 1, 1, 2, 3, 3]
    assert 120.5 <= value(found, "rota_run_duration_seconds_sum", **pair) < 125
    assert value(found, "rota_run_duration_seconds_count", **pair) == 3
    assert value(found, "rota_wait_duration_seconds_count", queue="default") == 3
    recount = conn.execute(
        """
        select j.queue, j.task, e.outcome::text, count(*)::float8
        from rota.job_executions as e join rota.jobs as j on j.id = e.job_id
        group by 1, 2, 3
        """
    ).fetchall()
    told = {name[1:]: number for name, number in found.items() if name[0] == "rota_attempts_total"}
    assert told == {
        (("outcome", outcome), ("queue", queue), ("task", task)): number
        for queue, task, outcome, number in recount
    }


def test_counters_stay_when_history_goes(scrape, conn, clock):
    clock.set(NOON)
    run(conn, clock, error="x")
    run(conn, clock)
    count_all(conn, clock)
    before = scrape()

    clock.advance(120 * DAY)
    call(conn, "maintain")
    after = scrape()

    assert conn.execute("select count(*) from rota.jobs").fetchone() == (0,)
    counted = [name for name in before if re.search("_(total|bucket|sum|count)$", name[0])]
    assert len(counted) > 2 * (len(BOUNDS) + 1)
    assert all(after[name] == before[name] for name in counted)


def test_every_metric_has_its_labels_and_no_other(scrape, conn, clock):
    call(conn, "announce_worker", worker="w", host="h", pid=1, queues=["default", "mail"],
         concurrency=3, version="of yesterday")  # fmt: skip
    call(conn, "announce_worker", worker="v", queues=["mail"], host="h", pid=1, concurrency=4,
         version=call(conn, "version")[0]["version"])  # fmt: skip
    call(conn, "announce_worker", worker="gone", queues=["mail"], host="h", pid=1, concurrency=9,
         version="v")  # fmt: skip
    conn.execute(
        "update rota.workers set last_seen_at = now() - interval '91 s' where worker = 'gone'"
    )
    run(conn, clock)
    call(conn, "pause_queue", queue="default")
    call(conn, "take_census")
    count_all(conn, clock)
    call(conn, "enqueue_job", task="t")
    call(conn, "take_census", older_than=timedelta(0), force=True)

    found = scrape()

    labels = {}
    for name, *pairs in found:
        family = re.sub("_(bucket|sum|count)$", "", name)
        labels.setdefault(family, set()).update(dict(pairs).keys() - {"le"})
    assert labels == METRICS
    assert value(found, "rota_queue_paused", queue="default") == 1
    assert value(found, "rota_workers", state="alive") == 2
    assert value(found, "rota_workers", state="silent") == 1
    assert value(found, "rota_worker_places", queue="mail") == 7
    assert value(found, "rota_version_mismatch_workers") == 1
    assert value(found, "rota_findings", severity="note", check="paused queue") == 1


def test_states_are_those_of_the_census(scrape, conn):
    for number in range(6):
        call(conn, "enqueue_job", task="t", run_at=datetime.now(UTC) + (number == 5) * HOUR)
    jobs = call(conn, "claim_next_job", max_jobs=3, lease=DAY)
    pair = {"job_id": jobs[0]["id"], "token": jobs[0]["token"]}
    call(conn, "finish_job", **pair, error="x", retry_in=HOUR)
    conn.execute(
        "update rota.live_jobs set lease_until = now() - interval '1 s' where id = %s",
        [jobs[1]["id"]],
    )
    waits = [{"task": "t", "depends_on": [jobs[1]["id"]]}]
    call(conn, "enqueue_workflow", jobs=Jsonb(waits))
    call(conn, "take_census")

    found = scrape()

    expected = {"scheduled": 4, "due": 2, "retrying": 1, "running": 2, "lost": 1, "waiting": 1}
    assert {s: value(found, "rota_jobs", queue="default", state=s) for s in expected} == expected


def test_the_oldest_due_job_is_looked_up_and_the_age_of_the_census_is_told(scrape, conn):
    call(conn, "take_census")
    call(conn, "enqueue_job", task="t", run_at=datetime.now(UTC) - HOUR)
    call(conn, "claim_next_job")
    call(conn, "enqueue_job", task="t", priority=5)
    call(conn, "enqueue_job", task="t", run_at=datetime.now(UTC) - 5 * MINUTE)
    call(conn, "enqueue_job", task="t", run_at=datetime.now(UTC) - 10 * MINUTE)
    call(conn, "enqueue_job", task="t", queue="idle", run_at=datetime.now(UTC) + HOUR)
    call(conn, "configure_queue", queue="unused", max_retries=1)
    call(conn, "configure_queue", queue="deleted", max_retries=1)
    call(conn, "delete_queue", queue="deleted")
    conn.execute("update rota.chores set ran_at = now() - interval '1 hour' where chore like '%c%'")
    before = conn.execute("select ran_at from rota.chores where chore = 'take_census'").fetchone()

    found = scrape()

    assert 600 <= value(found, "rota_queue_oldest_due_seconds", queue="default") < 660
    for queue in ("idle", "unused"):
        assert value(found, "rota_queue_oldest_due_seconds", queue=queue) == 0
    heads = conn.execute("select oldest_due_at from rota.queue_heads where queue = 'idle'")
    assert heads.fetchall() == [(None,)]
    queues = [dict(labels)["queue"] for name, *labels in found if name == "rota_queue_paused"]
    assert queues == ["default", "idle", "unused"]
    assert 3600 <= value(found, "rota_census_age_seconds") < 3660
    after = conn.execute("select ran_at from rota.chores where chore = 'take_census'").fetchone()
    assert after == before
    assert not [name for name in found if name[0] == "rota_jobs"]


def hurry(monkeypatch):
    for name in ("LONGEST_LOOK", "LONGEST_PROBE"):
        monkeypatch.setattr(f"rota.app.metrics.{name}", "set local statement_timeout = '300ms'")


def test_where_lanes_cannot_be_probed_in_time_there_is_the_census(
    scrape, connect, conn, monkeypatch
):
    hurry(monkeypatch)
    call(conn, "enqueue_job", task="t", run_at=datetime.now(UTC) - 10 * MINUTE)
    call(conn, "take_census")
    holder = connect(autocommit=False)
    holder.execute("lock table rota.lanes in access exclusive mode")

    found = scrape()

    assert 600 <= value(found, "rota_queue_oldest_due_seconds", queue="default") < 660
    assert not [name for name in found if name[0] == "rota_queue_paused"]


def test_hostile_names_arrive_as_they_are_in_either_format(client, conn):
    for place, name in enumerate(HOSTILE):
        conn.execute(
            """
            insert into rota.census (queue, task, priority, scheduled, due, retrying, running,
                lost, overdue)
            values (%s, %s, 0, %s, 0, 0, 0, 0, 0)
            """,
            [name, name, place],
        )

    plain = client.get("/metrics")
    accepted = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    other = client.get("/metrics", headers={"Accept": accepted})

    assert plain.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert other.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert other.vary.as_set() == plain.vary.as_set() == {"accept"}
    for found in (samples(plain.text), samples(other.text, open_metrics)):
        for place, name in enumerate(HOSTILE):
            assert value(found, "rota_jobs", queue=name, state="scheduled") == place
    check_by_promtool(plain.text)


def check_by_promtool(text):
    """Have Prometheus itself read it, where it is installed."""
    if promtool := shutil.which("promtool"):
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_fifty_scrapes_at_one_time_are_one_query_and_leave_room_for_others(db, connect, server):
    call(connect(), "take_census")
    holder = connect(autocommit=False)
    holder.execute("lock table rota.census in access exclusive mode")
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.request("GET", "/metrics")))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    watcher = connect()
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    wait_until(lambda: watcher.execute(waiting).fetchone() == (1,))

    assert server.request("GET", "/queues").status == 200
    assert watcher.execute(waiting).fetchone() == (1,)
    holder.rollback()
    for thread in threads:
        thread.join()

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1  # with ages to the microsecond


def test_a_scrape_that_waits_for_a_lock_ends_as_other_requests_do(client, connect, monkeypatch):
    hurry(monkeypatch)
    holder = connect(autocommit=False)
    holder.execute("lock table rota.totals in access exclusive mode")

    answer = client.get("/metrics")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    holder.rollback()
    assert client.get("/metrics").status_code == 200


def house(pairs):
    rows = [
        (queue, task, "SUCCEEDED", number, 0, 1.0, 1.0, [number] + 13 * [0], 14 * [0])
        for queue, task, number in pairs
    ]
    return House(
        census=[], totals=rows, workers=[], dead_rows=None, census_age=None, rollup_age=None
    )


def told(pairs):
    """Return the numbers by queue and task that a house of these pairs tells."""
    (ended,) = [family for family in house(pairs).collect() if family.name == "rota_attempts"]
    return {
        (sample.labels["queue"], sample.labels["task"]): sample.value for sample in ended.samples
    }


def test_more_pairs_than_there_may_be_become_other_and_no_counter_goes_down():
    pairs = [(f"q{number % 3}", f"t{number}", 1) for number in range(MOST_PAIRS + 100)]

    before = told(pairs)
    grown = told([*pairs[:-1], (*pairs[-1][:2], 1_000_000), ("q0", "new", 5)])

    assert len(before) == MOST_PAIRS + 3
    assert sum(before.values()) == len(pairs)
    assert before["q0", "other"] + before["q1", "other"] + before["q2", "other"] == 100
    assert grown.keys() == before.keys()
    assert all(grown[pair] >= before[pair] for pair in before)
    assert len(told([(f"q{number}", "t", 1) for number in range(MOST_QUEUES + 50)])) == (
        MOST_QUEUES + 1
    )


def test_who_was_counted_first_has_a_name_whoever_is_larger(scrape, conn, monkeypatch):
    monkeypatch.setattr("rota.app.families.MOST_PAIRS", 1)
    query = """
        insert into rota.{} (queue, task, outcome, ended, gave_up, ran_seconds, firsts,
            waited_seconds, ran_histogram, waited_histogram{})
        values ('q', %s, 'SUCCEEDED', %s, 0, 0, 0, 0, array_fill(0, '{{14}}'),
            array_fill(0, '{{14}}'){})
    """
    with conn.transaction():
        for number, task in enumerate(("z", "a")):
            counted = [task, 1000 * number + 1]
            when = ", minute, seconds", ", '2030-01-01', 60"
            conn.execute(query.format("minutes", *when), counted)
            conn.execute(query.format("totals", "", ""), counted)
    conn.execute(
        "update rota.totals set first_counted_at = first_counted_at - interval '1 s'"
        " where task = 'z'"
    )

    found = scrape()

    pair = {"queue": "q", "outcome": "SUCCEEDED"}
    assert value(found, "rota_attempts_total", **pair, task="z") == 1
    assert value(found, "rota_attempts_total", **pair, task="other") == 1001


def test_the_doctor_is_asked_once_in_half_a_minute(client, conn):
    scrapes = client.application.extensions["scrapes"]
    paused = ("rota_findings", ("check", "paused queue"), ("severity", "note"))
    first = samples(client.get("/metrics").text)
    call(conn, "configure_queue", queue="default")
    call(conn, "pause_queue", queue="default")

    scrapes.texts = Shared()
    second = samples(client.get("/metrics").text)
    scrapes.texts = Shared()
    client.application.extensions["diagnoses"].forget()
    third = samples(client.get("/metrics").text)

    assert paused not in first and paused not in second and third[paused] == 1
    ages = [value(found, "rota_findings_age_seconds") for found in (first, second)]
    assert ages[0] < ages[1] < 30
