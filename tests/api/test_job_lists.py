"""Lists of jobs: every filter, each page a bounded piece of work, and nothing left out."""

from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.app import jobs
from rota.app.jobs import page_of_jobs

LOOK = 400
LIVE, ENDED = 4_000, 16_000

# Half a year of history in its weeks, and in live jobs those that run are the oldest, as they are.
ROWS = f"""
    select rota._make_partition('finished_jobs', now() - w * interval '7 days')
    from generate_series(1, 25) as w;

    insert into rota.finished_jobs (
        id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
        attempt, max_retries, created_at, finished_at
    )
    select
        g,
        case when g % 5000 = 7 then 'rare' else 'task ' || g % 3 end,
        '{{}}',
        case when g % 4000 = 9 then 'small' else 'queue ' || g % 4 end,
        0,
        case g % 20 when 0 then 'FAILED' when 1 then 'CANCELLED' else 'COMPLETED' end,
        case g % 20 when 1 then 'CRON' else 'ONE_TIME' end,
        now(), now(), 1, 1, 3, now(),
        now() - interval '170 days' + g * interval '15 minutes'
    from generate_series(1, {ENDED}) as g;

    insert into rota.live_jobs (
        id, task, payload, queue, priority, state, run_at, scheduled_for, attempt, max_retries,
        token, worker, lease_until, started_at, created_at
    )
    select
        {ENDED} + g,
        case when g % 1500 = 7 then 'rare' else 'task ' || g % 3 end,
        '{{}}',
        case when g % 1500 = 9 then 'small' else 'queue ' || g % 4 end,
        0,
        case when r.runs then 'RUNNING' else 'SCHEDULED' end,
        now(), now(), r.runs::integer, 3,
        case when r.runs then gen_random_uuid() end,
        case when r.runs then 'w' end,
        case when r.runs then now() + interval '1 hour' end,
        case when r.runs then now() end,
        now()
    from generate_series(1, {LIVE}) as g
    cross join lateral (select g < 100) as r(runs)
"""  # noqa: S608

STATES = [
    None,
    *(["SCHEDULED"], ["RUNNING"], ["COMPLETED"], ["FAILED"], ["CANCELLED"]),
    *(["CANCELLED", "FAILED"], ["RUNNING", "SCHEDULED"], ["FAILED", "RUNNING"]),
]
NAMES = ("state", "queue", "task", "schedule_type")
OTHERS = [  # each beside those
    {"unique_key": "k"},
    {"key": "k"},
    {"worker": "w"},
    {"created_since": "2020-01-01T00:00Z", "created_before": "2060-01-01T00:00Z"},
    {"finished_since": "2020-01-01T00:00Z", "finished_before": "2060-01-01T00:00Z"},
]
COMBINATIONS = [
    {name: value for name, value in zip(NAMES, values, strict=True) if value is not None}
    for values in product(
        STATES,
        [None, "queue 1", "small", "nobody's"],
        [None, "task 1", "rare"],
        [None, "ONE_TIME", "CRON"],
    )
] + OTHERS


@pytest.fixture(params=["never analyzed", "analyzed while empty", "analyzed"])
def history(request: pytest.FixtureRequest, conn: Connection) -> Iterator[Connection]:
    """A database with more jobs than one page may look at."""
    conn.execute("alter table rota.live_jobs set (autovacuum_enabled = off)")
    if request.param == "analyzed while empty":
        conn.execute("analyze")
    conn.execute(ROWS)
    if request.param == "analyzed":
        conn.execute("analyze")
    yield conn
    conn.execute("truncate rota.live_jobs, rota.finished_jobs")


@pytest.fixture(autouse=True)
def a_short_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOOK", LOOK)


def scanned(plan: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Tell of each scan of a table which one it is and how many rows it read."""
    if "Relation Name" in plan:
        rows = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        yield plan["Relation Name"], rows * plan["Actual Loops"]
    for part in plan.get("Plans", ()):
        yield from scanned(part)


def explain(conn: Connection, filters: dict[str, Any]) -> dict[str, Any]:
    """Make the page as the API does, and return what the plan did."""
    with conn.transaction():
        conn.execute("set local jit = off")
        if filters.get("state") != ["RUNNING"]:
            conn.execute("set local enable_sort = off")
        page = jobs.sql.SQL("explain (analyze, timing off, format json) {}").format(
            page_of_jobs(filters)
        )
        row = conn.execute(page, filters | {"rows": 51}).fetchone()
    assert row is not None
    return row[0][0]["Plan"]


def test_a_page_looks_at_no_more_jobs_than_it_may_whatever_it_lists(history: Connection) -> None:
    for filters, before in product(COMBINATIONS, [None, ENDED + 1000, 9_000]):
        question = filters | ({"before": before} if before else {})
        rows = dict.fromkeys(["live", "finished"], 0.0)
        for table, read in scanned(explain(history, question)):
            rows["live" if table.startswith("live") else "finished"] += read

        if question.get("state") == ["RUNNING"]:
            assert rows["live"] <= LIVE and rows["finished"] == 0, question
        else:
            weeks = 30  # whose first rows are read to be put in order, twice
            assert sum(rows.values()) <= 2 * (LOOK + weeks), (question, rows)


def test_the_pages_of_a_list_hold_every_job_that_it_is_about(
    history: Connection, client: FlaskClient
) -> None:
    for filters in COMBINATIONS[: -len(OTHERS) : 17]:
        others = {name: value for name, value in filters.items() if name != "state"}
        expected = [
            job_id
            for (job_id,) in history.execute(
                "select id from rota.jobs as j"
                " where to_jsonb(j) @> %s and state = any(%s) order by id desc",
                [jobs.Jsonb(others), filters.get("state", list(jobs.STATES))],
            )
        ]

        query = others | {"state": ",".join(filters["state"])} if "state" in filters else others
        found, url = [], f"/jobs?{urlencode({**query, 'limit': 200})}"
        while url:
            page = client.get(url).json
            assert len(page["jobs"]) <= 200
            found += [job["id"] for job in page["jobs"]]
            url = page["next"]

        assert found == expected, filters


def test_a_page_without_jobs_leads_on_to_those_that_lie_further_back(
    history: Connection, client: FlaskClient
) -> None:
    first = client.get("/jobs?state=COMPLETED&task=rare").json

    assert first["jobs"] == []
    assert first["next"].endswith(f"before={ENDED - LOOK + 1}")


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_what_failed_can_be_found_by_index_in_psql(history: Connection, state: str) -> None:
    history.execute("set enable_seqscan = off; set enable_sort = off")
    query = (
        "explain select * from rota.jobs where finished_at is not null and state = %s"
        " order by id desc limit 50"
    )

    plan = "\n".join(row[0] for row in history.execute(query, [state]))

    assert "Index Cond: ((state)::text = " in plan
    assert "Seq Scan" not in plan
    assert "live_jobs" not in plan
