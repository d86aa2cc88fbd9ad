"""The API on a database whose defaults are as hostile as they can be."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from rota.app import create_app

HOSTILE = {
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kolkata",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "search_path": "hostile, pg_catalog",
    "lock_timeout": "1ms",
    "statement_timeout": "500ms",
    "idle_in_transaction_session_timeout": "500ms",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "jit": "on",
    "jit_above_cost": "0",
    "enable_indexscan": "off",
    "plan_cache_mode": "force_generic_plan",
    "transaction_timeout": "500ms",  # 17 and later
}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")


@pytest.fixture
def hostile(db: str) -> Iterator[FlaskClient]:
    """A client of the API on a database with these defaults."""
    name = conninfo_to_dict(db)["dbname"]
    with psycopg.connect(db, autocommit=True) as conn:
        conn.execute("create schema hostile")
        conn.execute(
            """
            create function hostile.set_config(text, text, boolean) returns text
            language sql return 'hijacked'
            """
        )
        known = {row[0] for row in conn.execute("select name from pg_settings")}
        for setting, value in HOSTILE.items():
            if setting in known:
                conn.execute(
                    sql.SQL("alter database {} set {} = {}").format(
                        sql.Identifier(name),
                        sql.Identifier(setting),
                        sql.SQL(value) if setting == "search_path" else sql.Literal(value),
                    )
                )
        conn.execute("grant usage on schema hostile to public")
    app = create_app(db)
    yield app.test_client()
    app.extensions["database"].close()
    with psycopg.connect(db, autocommit=True) as conn:
        conn.execute(sql.SQL("alter database {} reset all").format(sql.Identifier(name)))


def moments(value: Any, found: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return whatever stands in an answer under a name that ends like that of a moment."""
    found = {} if found is None else found
    if isinstance(value, dict):
        for name, member in value.items():
            if name.endswith(("_at", "_for", "_until")) and member is not None:
                found[name] = member
            moments(member, found)
    elif isinstance(value, list):
        for member in value:
            moments(member, found)
    return found


def test_answers_are_the_same_whatever_the_database_says(hostile: FlaskClient, db: str) -> None:
    made = hostile.post(
        "/jobs",
        json={
            "task": "café ✓ €",
            "payload": {"€": [0.1, "✓", None]},
            "run_at": "2030-02-01T09:00:00.5+01:00",
            "timeout_seconds": 86400.25,
        },
    )
    assert made.status_code == 201, made.text
    job = hostile.get("/jobs/1").json
    assert (job["task"], job["payload"]) == ("café ✓ €", {"€": [0.1, "✓", None]})
    assert job["run_at"] == "2030-02-01T08:00:00.500000+00:00"
    assert job["timeout_seconds"] == 86400.25

    bulk = hostile.post(
        "/jobs/bulk",
        json={"jobs": [{"task": "a", "run_at": "2030-02-01T00:00:00Z", "timeout_seconds": 90}]},
    )
    assert bulk.status_code == 201, bulk.text
    assert hostile.get("/jobs/2").json["run_at"] == "2030-02-01T00:00:00.000000+00:00"

    schedule = {"task": "a", "every": "P1M2DT3H", "starts_at": "2030-03-02T00:00:00Z"}
    assert hostile.put("/schedules/s", json=schedule).status_code == 201
    saved = hostile.get("/schedules/s").json
    assert (saved["every"], saved["starts_at"]) == ("P1M2DT3H", "2030-03-02T00:00:00.000000+00:00")
    paused = hostile.post("/schedules/s/pause")
    assert paused.status_code == 200, paused.text
    backfilled = hostile.post(
        "/schedules/s/backfill",
        json={"starts_at": "2030-03-01T00:00:00Z", "ends_at": "2030-05-01T00:00:00Z"},
    )
    assert backfilled.status_code == 201, backfilled.text
    preview = hostile.post("/schedules/preview", json={"cron": "0 9 1 2 *", "n": 2})
    settings = hostile.patch("/queues/q", json={"timeout_seconds": 1.5, "max_retries": None})
    assert settings.json["timeout_seconds"] == 1.5
    wrong = hostile.post("/jobs", json={"task": "a", "timeout_seconds": 40000000})
    assert wrong.status_code == 422
    assert wrong.json["message"].endswith("at most 366 days, not 462 days 23:06:40")

    answers = [job, saved, preview.json, paused.json, settings.json]
    answers += [hostile.get(path).json for path in ("/jobs", "/schedules", "/queues", "/workers")]
    found = moments(answers)
    assert found
    assert {name: text for name, text in found.items() if not MOMENT.fullmatch(text)} == {}


def test_links_to_the_next_page_lead_on(hostile: FlaskClient, db: str) -> None:
    with psycopg.connect(db, autocommit=True) as conn:
        conn.execute("reset all; set search_path = rota; set lock_timeout = 0")
        conn.execute("set transaction_isolation = 'read committed'")
        conn.execute("set default_transaction_isolation = 'read committed'")
        conn.execute("select enqueue_job('a', max_retries => 9)")
        for _ in range(5):
            [(token,)] = conn.execute("select token from claim_next_job()").fetchall()
            conn.execute("select finish_job(1, %s, error => 'x', retry_in => '0')", [token])
        conn.execute("select token from claim_next_job()")

    seen, url = [], "/jobs/1/executions?limit=2"
    while url:
        answer = hostile.get(url)
        assert answer.status_code == 200, answer.text
        seen += [execution["attempt"] for execution in answer.json["executions"]]
        url = answer.json["next"]

    assert seen == [6, 5, 4, 3, 2, 1]


def test_an_old_link_with_another_spelling_of_the_time_still_leads_on(
    hostile: FlaskClient,
) -> None:
    hostile.post("/jobs", json={"task": "a"})

    answer = hostile.get("/jobs/1/executions?before=2030-01-01T00:00:00%2B00:00,1,1,FAILED")

    assert answer.status_code == 200


def test_moments_have_six_digits_whatever_they_are(client: FlaskClient) -> None:
    for digits in ("", ".5", ".000001", ".123456"):
        made = client.post("/jobs", json={"task": "a", "run_at": f"2030-01-01T00:00:00{digits}Z"})
        job = client.get(made.headers["Location"]).json
        expected = f"2030-01-01T00:00:00.{digits[1:]:0<6}+00:00"
        listed = client.get("/jobs?limit=1").json["jobs"][0]
        assert (job["run_at"], listed["run_at"]) == (expected, expected)
        cancelled = client.post(f"/jobs/{job['id']}/cancel")
        retried = client.post(f"/jobs/{job['id']}/retry").json
        assert cancelled.status_code == 200
        assert MOMENT.fullmatch(retried["run_at"])
