"""Schedules over HTTP: what is posted is what the functions of the database make of it."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.db.gateway import call
from tests.api.test_jobs import pages

NIGHTLY = {"name": "nightly", "task": "echo", "cron": "30 2 * * *", "time_zone": "Europe/Berlin"}
ODD_NAMES = [
    "previews",
    "a/preview",
    "a/pause",
    "a/b/resume",
    "/leading",
    "trailing/",
    "//",
    "pause",
    "100 %",
    "?a=b&c#d",
    "%2F",
    "a+b;c",
    "ü \U0001f600 'quoted\" \\",
]


def url(name: str, verb: str = "") -> str:
    return f"/schedules/{quote(name, safe='')}{verb}"


def test_post_stores_every_field(client: FlaskClient) -> None:
    settings = {
        "task": "echo",
        "payload": {"a": [1, None]},
        "every": "P1M",
        "time_zone": "America/New_York",
        "starts_at": "2030-01-31T14:00:00.000000+00:00",
        "ends_at": "2040-01-31T14:00:00.000000+00:00",
        "max_runs": 7,
        "fixed_delay": False,
        "jitter_seconds": 30.5,
        "misfire": "all",
        "misfire_cap": 9,
        "max_lateness_seconds": 3600,
        "overlap": "catch_up",
        "queue": "mail",
        "priority": -5,
        "max_retries": 2,
        "timeout_seconds": 2.5,
    }

    answer = client.post("/schedules", json={"name": "month-end"} | settings)

    assert (answer.status_code, answer.json["created"]) == (201, True)
    assert answer.headers["Location"] == "/schedules/month-end"
    found = client.get("/schedules/month-end").json
    assert {name: found[name] for name in settings} == settings
    assert found["run_at"] >= found["scheduled_for"] == settings["starts_at"]
    assert (found["job_id"], found["schedule_type"]) == (answer.json["job_id"], "INTERVAL")
    assert (found["cron"], found["state"], found["run"]) == (None, "SCHEDULED", 1)


def test_what_is_read_can_be_saved_again(client: FlaskClient) -> None:
    client.post("/schedules", json=NIGHTLY)
    before = client.get("/schedules/nightly").json
    fields = client.get("/apispec.json").json["components"]["schemas"]["CronSettings"]
    settings = {name: before[name] for name in fields["properties"] if before.get(name) is not None}

    answer = client.put("/schedules/nightly", json=settings)

    assert answer.status_code == 200
    assert client.get("/schedules/nightly").json == before


def test_an_interval_in_seconds_or_words_is_read_in_iso_8601(client: FlaskClient) -> None:
    for number, (timing, every) in enumerate(
        [
            ({"interval_seconds": 90}, "PT1M30S"),
            ({"every": "1 day 12 hours"}, "P1DT12H"),
            ({"every": "P1Y2M"}, "P1Y2M"),
        ]
    ):
        name = f"s{number}"
        assert client.post("/schedules", json={"name": name, "task": "t"} | timing).json["created"]

        assert client.get(f"/schedules/{name}").json["every"] == every


def test_the_second_save_updates(client: FlaskClient) -> None:
    first = client.post("/schedules", json=NIGHTLY)

    second = client.post("/schedules", json=NIGHTLY | {"task": "other"})
    third = client.put("/schedules/nightly", json={"task": "third", "interval_seconds": 60})

    assert [first.status_code, second.status_code, third.status_code] == [201, 200, 200]
    assert first.json["job_id"] == second.json["job_id"] == third.json["job_id"]
    assert client.get("/schedules/nightly").json["task"] == "third"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_printable_name_is_within_reach(client: FlaskClient, name: str) -> None:
    settings = {"task": "echo", "interval_seconds": 3600}

    made = client.put(url(name), json=settings)

    assert made.status_code == 201, made.text
    assert client.get(made.headers["Location"]).json["name"] == name
    assert client.get(url(name)).json["name"] == name
    assert client.post("/schedules", json=settings | {"name": name}).status_code == 200
    assert client.post(url(name, "/pause")).json["run_at"] is None
    assert client.get(url(name)).json["paused_at"] is not None
    assert client.post(url(name, "/resume")).status_code == 200
    assert client.post(url(name, "/trigger")).json["state"] == "SCHEDULED"
    assert client.delete(url(name)).json["state"] == "CANCELLED"
    assert client.get(url(name)).status_code == 404


def test_preview_is_no_name_of_a_schedule_over_http(client: FlaskClient, conn: Connection) -> None:
    settings = {"task": "echo", "interval_seconds": 3600}

    shown = client.post("/schedules/preview", json={"cron": "@daily", "n": 2})
    saved = client.post("/schedules", json=settings | {"name": "preview"})
    put = client.put("/schedules/preview", json=settings)

    assert len(shown.json["runs"]) == 2
    assert (saved.status_code, "name" in saved.json["message"]) == (422, True)
    assert (put.status_code, put.headers["Allow"]) == (405, "POST")
    call(conn, "schedule_job", task="echo", name="preview", every="1 hour")
    assert client.post("/schedules/preview/pause").status_code == 200


def test_preview_marks_what_the_clocks_do(client: FlaskClient) -> None:
    body = {
        "cron": "0,30 2 * * *",
        "time_zone": "Europe/Berlin",
        "n": 2,
        "from_time": "2030-03-30T23:00:00Z",
    }

    runs = client.post("/schedules/preview", json=body).json["runs"]

    assert [run["run_at"] for run in runs] == [
        "2030-03-31T01:00:00.000000+00:00",
        "2030-04-01T00:00:00.000000+00:00",
    ]
    assert runs[0]["local_time"] == "2030-03-31 03:00:00+02:00"
    assert runs[0]["note"].startswith("merged: ")
    assert runs[1]["note"] is None


def test_steering_does_what_the_functions_do(client: FlaskClient, conn: Connection) -> None:
    client.post("/schedules", json=NIGHTLY)

    paused = client.post("/schedules/nightly/pause").json
    assert (paused["state"], paused["run_at"]) == ("SCHEDULED", None)
    assert client.post("/schedules/nightly/resume").json["run_at"] is not None
    client.post("/schedules/nightly/trigger")
    [job] = call(conn, "claim_next_job")
    assert job["id"] == paused["job_id"]
    assert client.delete("/schedules/nightly").json["state"] == "RUNNING"
    call(conn, "finish_job", job_id=job["id"], token=job["token"])
    assert client.get("/schedules/nightly").status_code == 404


def test_backfill_adds_a_job_for_each_slot_once(client: FlaskClient) -> None:
    client.post("/schedules", json=NIGHTLY)
    week = {"starts_at": "2030-01-01T00:00:00Z", "ends_at": "2030-01-08T00:00:00Z"}

    first = client.post("/schedules/nightly/backfill", json=week)
    again = client.post("/schedules/nightly/backfill", json=week)

    assert (first.status_code, again.status_code) == (201, 200)
    assert [job["created"] for job in first.json["jobs"]] == [True] * 7
    assert [job["created"] for job in again.json["jobs"]] == [False] * 7


def test_the_list_goes_on_page_by_page(client: FlaskClient, conn: Connection) -> None:
    names = [f"s{number}" for number in range(5)]
    for name in names:
        client.post("/schedules", json=NIGHTLY | {"name": name})
    call(conn, "schedule_job", task="without a name", every="1 hour")

    found = [row["name"] for row in pages(client, "/schedules?limit=2", "schedules")]

    assert found == [None, *reversed(names)]


def test_a_cron_job_is_a_kind_of_job(client: FlaskClient) -> None:
    answer = client.post(
        "/jobs",
        json={
            "task": "echo",
            "schedule_type": "CRON",
            "cron": "0 9 * * MON",
            "time_zone": "America/New_York",
            "run_at": "2030-01-01T00:00:00Z",
            "name": "mondays",
        },
    )

    assert answer.status_code == 201
    job = client.get(answer.headers["Location"]).json
    assert (job["schedule_type"], job["run_at"]) == ("CRON", "2030-01-07T14:00:00.000000+00:00")
    assert client.get("/schedules/mondays").json["job_id"] == job["id"]


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "cron or interval_seconds or every"),
        ({"cron": "@daily", "every": "1 day"}, "cron or every"),
        ({"every": "1 day", "interval_seconds": 5}, "interval_seconds or every"),
        ({"cron": None}, "cron"),
        ({"cron": "61 * * * *"}, "cron field minute"),
        ({"cron": "0 0 30 2 *"}, "never"),
        ({"cron": "@daily", "time_zone": "CET"}, "time_zone"),
        ({"cron": "@daily", "fixed_delay": "yes"}, "fixed_delay"),
        ({"cron": "@daily", "fixed_delay": True}, "fixed_delay"),
        ({"cron": "@daily", "misfire": "never"}, "misfire"),
        ({"cron": "@daily", "overlap": "allow"}, "overlap"),
        ({"cron": "@daily", "max_runs": 0}, "max_runs"),
        ({"cron": "@daily", "jitter_seconds": -1}, "jitter_seconds"),
        ({"cron": "@daily", "max_lateness_seconds": 0}, "max_lateness_seconds"),
        ({"cron": "@daily", "starts_at": "tomorrow"}, "starts_at"),
        ({"cron": "@daily", "colour": "red"}, "colour"),
        ({"every": "soon"}, "every"),
        ({"every": "P999999999999999Y"}, "every"),
        ({"every": "-1 day"}, "every"),
        ({"every": "infinity"}, "every"),
        ({"every": "1 day\0"}, "every"),
        ({"interval_seconds": 0}, "interval_seconds"),
        ({"interval_seconds": 1e-6}, "interval_seconds"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_and_nothing_is_saved(
    client: FlaskClient, body: dict[str, Any], named: str
) -> None:
    answer = client.post("/schedules", json={"name": "s", "task": "echo"} | body)

    assert answer.status_code == 422, answer.text
    assert answer.json["message"].startswith(named) or named == "never", answer.text
    assert client.get("/schedules").json["schedules"] == []


def test_a_name_is_needed_and_stands_in_one_place(client: FlaskClient) -> None:
    unnamed = {"task": "echo", "cron": "@daily"}

    assert client.post("/schedules", json=unnamed).json["message"] == "name: is required"
    assert client.put("/schedules/a", json=unnamed | {"name": "b"}).status_code == 422
    assert client.put(url("x" * 201), json=unnamed).status_code == 422
    assert client.get(url("a\0")).status_code in (404, 422)


@pytest.mark.parametrize("verb", ["/pause", "/resume", "/trigger", "/backfill", ""])
def test_a_schedule_that_is_not_there_is_not_found(client: FlaskClient, verb: str) -> None:
    moments = [datetime(2030, 1, day, tzinfo=UTC).isoformat() for day in (1, 2)]
    body = dict(zip(("starts_at", "ends_at"), moments, strict=True)) if "fill" in verb else None

    answer = client.open(url("no/body", verb), method="POST" if verb else "DELETE", json=body)

    assert (answer.status_code, answer.json["code"]) == (404, "RTN02")
    assert client.get("/schedules/nobody").json["code"] == "RTN02"
