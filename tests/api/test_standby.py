"""Reading from a standby: DATABASE_READ_URL."""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import Connection

from rota.app import standby
from rota.app.standby import AGE
from rota.app.ui.frame import SAID
from rota.db.deploy import deploy
from tests.api.conftest import Server
from tests.standby import Pair
from tests.waiting import wait_until

FRESH = {"Cache-Control": "no-cache"}
AWAY = (("GET", None), ("POST", {"task": "lost"}))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A server with Rota on it, and its standby, that goes on unless a test holds it up."""
    folder = tmp_path_factory.mktemp("pair")
    for parent in (folder, *folder.parents):
        if not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 1)
    pair = Pair(folder)
    pair.primary.start()
    try:
        deploy(pair.primary.url(), report=lambda line: None)
        pair.join()
        yield pair
    finally:
        pair.stop()


@pytest.fixture
def primary(pair: Pair) -> Iterator[Connection]:
    with psycopg.connect(pair.primary.url(), autocommit=True) as conn:
        yield conn


@pytest.fixture
def behind(pair: Pair) -> Iterator[Connection]:
    """A connection to the standby."""
    with psycopg.connect(pair.standby.url(), autocommit=True) as conn:
        yield conn
        if conn.execute("select pg_is_in_recovery()").fetchone() == (True,):
            conn.execute("select pg_wal_replay_resume()")


def both(pair: Pair) -> str:
    """Return a connection string that names both, the primary first."""
    return f"postgresql://postgres@/postgres?host={pair.primary.data_dir},{pair.standby.data_dir}"


@pytest.fixture
def server(pair: Pair, start_server: Callable[..., Server]) -> Server:
    """An API that reads from the standby."""
    return start_server(both(pair), DATABASE_READ_URL=both(pair))


def catch_up(primary: Connection, behind: Connection) -> None:
    """Wait until the standby has all that there is."""
    [position] = primary.execute("select pg_current_wal_insert_lsn()").fetchone()
    wait_until(
        lambda: (
            behind.execute("select pg_last_wal_replay_lsn() >= %s", [position]).fetchone()
            == (True,)
        )
    )


def hold(primary: Connection, behind: Connection) -> None:
    """Have the standby replay nothing from now on."""
    catch_up(primary, behind)
    behind.execute("select pg_wal_replay_pause()")
    paused = "select pg_get_wal_replay_pause_state()"
    primary.execute("select pg_logical_emit_message(true, 'test', '')")
    wait_until(lambda: behind.execute(paused).fetchone() == ("paused",))


def tasks(server: Server, **headers: str) -> list[str]:
    return [job["task"] for job in server.request("GET", "/jobs", **headers).json["jobs"]]


def test_gets_and_pages_are_of_the_standby_and_say_how_old_they_may_be(
    server: Server, primary: Connection, behind: Connection
) -> None:
    server.request("POST", "/jobs", {"task": "before"})
    hold(primary, behind)

    made = server.request("POST", "/jobs", {"task": "after"})
    time.sleep(0.2)
    listed = server.request("GET", "/jobs")
    page = server.request("GET", "/ui/queues/default", **FRESH)  # as a script of it asks

    assert made.status == 201
    assert listed.json["jobs"][0]["task"] == "before"
    assert 0.2 <= float(listed.headers[AGE]) < 60
    assert page.status == 200 and b"Read from a standby, at most" in page.body
    assert 0.2 <= float(page.headers[AGE]) < 60
    behind.execute("select pg_wal_replay_resume()")
    catch_up(primary, behind)
    assert tasks(server)[0] == "after"


def test_what_must_be_of_this_moment_is_asked_of_the_primary(
    server: Server, primary: Connection, behind: Connection
) -> None:
    known = server.request("POST", "/jobs", {"task": "old", "queue": "served"}).json["job_id"]
    catch_up(primary, behind)
    hold(primary, behind)
    job = server.request("POST", "/jobs", {"task": "new", "queue": "served"}).json["job_id"]

    asked = {
        path: server.request("GET", path)
        for path in (
            f"/jobs/{job}",  # which the standby does not know
            f"/jobs/{job}/why",
            f"/jobs/{known}?wait=0",
            f"/ui/jobs/{job}",
            "/doctor",
            "/metrics",
            "/health/ready",
        )
    }

    assert {path: (it.status, it.headers.get(AGE)) for path, it in asked.items()} == dict.fromkeys(
        asked, (200, None)
    )
    codes = {reason["code"] for reason in asked[f"/jobs/{job}/why"].json["reasons"]}
    assert "READ_ONLY" not in codes
    assert tasks(server)[:1] != ["new"]
    assert tasks(server, **FRESH)[:1] == ["new"]


def test_what_was_done_on_a_page_is_shown_by_the_page_after_it(
    server: Server, primary: Connection, behind: Connection
) -> None:
    primary.execute("select rota.configure_queue('mail')")
    hold(primary, behind)
    primary.execute("select rota.pause_queue('mail')")
    said = base64.urlsafe_b64encode(json.dumps(["Queue mail is paused.", False]).encode()).decode()

    after = server.request("GET", "/ui/queues/mail", Cookie=f"{SAID}={said}")
    later = server.request("GET", "/ui/queues/mail")

    assert b"Queue mail is paused." in after.body and AGE not in after.headers
    assert AGE in later.headers


def test_a_token_that_the_standby_does_not_know_yet_is_good(
    pair: Pair, start_server: Callable[..., Server], primary: Connection, behind: Connection
) -> None:
    hold(primary, behind)
    primary.execute("create role new_reader nologin in role rota_reader")
    [token] = primary.execute("select token from rota.create_token('new_reader')").fetchone()
    server = start_server(both(pair), DATABASE_READ_URL=both(pair))
    try:
        early = server.request("GET", "/queues", Authorization=f"Bearer {token}")
        behind.execute("select pg_wal_replay_resume()")
        catch_up(primary, behind)
        late = server.request("GET", "/queues", Authorization=f"Bearer {token}")
        none = server.request("GET", "/queues")
    finally:
        primary.execute("delete from rota.api_tokens")
        primary.execute("drop role new_reader")
        catch_up(primary, behind)

    assert (early.status, early.headers.get(AGE)) == (200, None)
    assert late.status == 200 and AGE in late.headers
    assert none.status == 401


def test_a_query_that_stands_in_the_way_of_replay_is_repeated_on_the_primary(
    server: Server, primary: Connection, behind: Connection
) -> None:
    primary.execute("alter function rota.visible_queues rename to visible_queues_at_once")
    primary.execute(
        """
        create function rota.visible_queues() returns text[] language plpgsql as $$
        begin
            if pg_is_in_recovery() then
                perform pg_sleep(5);
            end if;
            return null;
        end
        $$
        """
    )
    behind.execute("alter system set max_standby_streaming_delay = 0")
    behind.execute("select pg_reload_conf()")
    conflicts = "select sum(confl_lock) from pg_stat_database_conflicts"
    [before] = behind.execute(conflicts).fetchone()
    asleep = "select from pg_stat_activity where wait_event = 'PgSleep'"
    catch_up(primary, behind)
    answers = []
    try:
        asking = threading.Thread(
            target=lambda: answers.append(server.request("GET", "/jobs?queue=default"))
        )
        asking.start()
        wait_until(lambda: behind.execute(asleep).rowcount == 1)
        with primary.transaction():
            primary.execute("lock table rota.live_jobs in access exclusive mode")
        asking.join(20)
    finally:
        primary.execute("drop function rota.visible_queues")
        primary.execute("alter function rota.visible_queues_at_once rename to visible_queues")
        behind.execute("alter system reset max_standby_streaming_delay")
        behind.execute("select pg_reload_conf()")
        catch_up(primary, behind)

    assert [(it.status, it.headers.get(AGE)) for it in answers] == [(200, None)]
    wait_until(lambda: behind.execute(conflicts).fetchone()[0] > before)


def test_a_primary_is_read_from_where_no_standby_is_to_be_had(
    pair: Pair, start_server: Callable[..., Server]
) -> None:
    gone = Path(os.devnull)
    url = f"postgresql://postgres@/postgres?host={gone},{pair.primary.data_dir}"

    for read_url in (url, f"postgresql://postgres@/postgres?host={gone}"):
        server = start_server(both(pair), DATABASE_READ_URL=read_url)
        answers = [server.request("GET", path) for path in ("/queues", "/ui/") * 2]
        assert [(it.status, it.headers.get(AGE)) for it in answers] == [(200, None)] * 4
        assert server.stop() == 0


@pytest.mark.parametrize("standbys", [["standby"], ["standby", "primary"]])
def test_of_several_servers_a_person_is_told_what_the_primary_knows(
    pair: Pair, server: Server, standbys: list[str]
) -> None:
    job = server.request("POST", "/jobs", {"task": "asked", "queue": "elsewhere"}).json["job_id"]
    hosts = ",".join(str(getattr(pair, name).data_dir) for name in standbys)
    url = f"postgresql://postgres@/postgres?host={hosts}"

    def said() -> str:
        command = [sys.executable, "-m", "rota", "why", str(job)]
        environment = os.environ | {"DATABASE_URL": url}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        return ran.stdout + ran.stderr

    wait_until(lambda: "NO_WORKER" in said(), 10)
    assert ("READ_ONLY" in said()) == (standbys == ["standby"])


@pytest.mark.parametrize("longest", [-1.0, 60.0])
def test_a_connection_to_a_primary_is_not_kept_for_long(
    db: str, monkeypatch: pytest.MonkeyPatch, longest: float
) -> None:
    monkeypatch.setattr(standby, "LONGEST_ELSEWHERE", longest)
    reader = standby.Standby(db)

    with reader.transaction(None, own=True) as conn:
        assert not conn.closed

    assert conn.closed == (longest < 0)
    reader.database.close()


def test_a_read_url_that_cannot_be_read_is_named(
    pair: Pair, start_server: Callable[..., Server]
) -> None:
    server = start_server(both(pair), wait=False, DATABASE_READ_URL="no=such thing")

    assert server.process.wait(30) == 1
    assert server.log_lines()[-1]["message"].startswith("DATABASE_READ_URL is not a")


def test_gets_go_on_while_there_is_no_primary_and_return_to_the_standby(
    server_folder: Path, start_server: Callable[..., Server]
) -> None:
    server_folder.chmod(0o755)
    pair = Pair(server_folder)
    pair.primary.start()
    try:
        deploy(pair.primary.url(), report=lambda line: None)
        pair.join()
        url = both(pair)
        server = start_server(url, DATABASE_READ_URL=url)
        assert AGE in server.request("GET", "/queues").headers

        pair.primary.kill()
        away = [server.request(method, "/jobs", body) for method, body in AWAY]
        pair.standby.stop()
        nobody = server.request("GET", "/jobs")
        pair.standby.start()
        wait_until(lambda: server.request("GET", "/jobs").status == 200, 20)
        again = server.request("GET", "/jobs")
    finally:
        pair.stop()

    assert [answer.status for answer in away] == [200, 503]
    assert AGE in away[0].headers and AGE in again.headers
    assert nobody.status == 503
