"""Pages of a large house read no table of jobs as a whole, and no week that they do not show."""

from collections import Counter
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from psycopg import Connection

from rota.db.gateway import call
from tests.functions.test_plans import HISTORY
from tests.ui.pages import look
from tests.ui.test_jobs import walled
from tests.ui.test_pages import PAGES

__all__ = ["walled"]

LIVE = """
    alter table rota.live_jobs set (autovacuum_enabled = off);
    insert into rota.lanes (queue, priority) select 'acme.' || q, 0 from generate_series(0, 9) as q;
    insert into rota.live_jobs (
        id, task, payload, queue, priority, run_at, scheduled_for, max_retries, created_at
    )
    select 100000 + n, 't', '{}', 'acme.' || n % 10, 0, now(), now(), 3, now()
    from generate_series(1, 30000) as n;
    select setval('rota.job_ids', 200000);
"""
FILTERS = [
    *(f"/ui/jobs?state={s}&task=none" for s in ("SCHEDULED", "RUNNING", "COMPLETED", "FAILED")),
    *(
        "/ui/jobs?queue=acme.1",
        "/ui/jobs?queue=none",
        "/ui/jobs?key=none",
        "/ui/jobs?unique_key=none",
        "/ui/jobs?name=none",
    ),
    *("/ui/jobs?payload=%7B%22a%22:1%7D", "/ui/jobs?error=none", "/ui/queues/acme.1?range=8w"),
]
READ = """
    select relname, seq_scan
    from pg_stat_user_tables
    where schemaname = 'rota' and (
        relname = 'live_jobs'
        or relname ~ '^(finished_jobs|attempts)_[0-9]'
            and to_timestamp(right(relname, 8), 'YYYYMMDD') < now() - interval '16 days'
    )
"""


@pytest.fixture
def large(conn: Connection) -> Iterator[Connection]:
    conn.execute(HISTORY)
    conn.execute(LIVE)
    conn.execute("analyze")
    # Autovacuum would come for them, and what its BRIN indexes do not know yet it reads as a whole.
    conn.execute("vacuum rota.finished_jobs, rota.attempts")
    call(conn, "take_census", older_than="0 seconds", force=True)
    conn.execute("select pg_stat_force_next_flush()")  # it would tell of these reads later
    yield conn
    conn.execute("truncate rota.live_jobs, rota.finished_jobs, rota.attempts, rota.lanes")


@pytest.mark.parametrize("through", ["no walls", "a wall"])
def test_no_page_reads_a_table_of_jobs_as_a_whole(
    large: Connection, client: FlaskClient, walled: str, through: str
) -> None:
    if through == "a wall":
        client.set_cookie("rota_token", walled, path="/ui")
    else:
        [made] = call(large, "create_token", principal="rota_operator")
        client.set_cookie("rota_token", made["token"], path="/ui")
    looks = [path for path in [*PAGES, *FILTERS] if "/login" not in path]

    wrong = {}
    for path in looks:
        before = read(client)
        client.get(path)
        if reads := read(client) - before:
            wrong[path] = reads

    assert wrong == {}
    assert "RUNNING" in look(client, "/ui/jobs?state=RUNNING").text


def read(client: FlaskClient) -> Counter[str]:
    """Return how often the live jobs, and each week that is over, were read as a whole."""
    database = client.application.extensions["database"]
    with database.own_transaction() as conn:  # the one that pages are read by
        conn.execute("select pg_stat_force_next_flush()")
    with database.own_transaction() as conn:
        return Counter(dict(conn.execute(READ).fetchall()))
