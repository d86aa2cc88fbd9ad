"""Deploying: by anybody who owns the database, any number of times, several at once."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import rota.db.deploy
from rota.db.deploy import DEPLOY_LOCK, ROLES, DeployError, deploy
from rota.db.version import FOLDER, checkout_version
from tests.waiting import wait_until

pytestmark = pytest.mark.on_first_server

SNAPSHOT = """
    select 'function', p.oid::regprocedure::text, md5(pg_get_functiondef(p.oid)), p.proacl::text
    from pg_proc as p
    where p.pronamespace = 'rota'::regnamespace
    union all
    select
        'relation',
        c.oid::regclass::text,
        c.relkind::text,
        coalesce(
            c.relacl,
            acldefault((case c.relkind when 'S' then 's' else 'r' end)::"char", c.relowner)
        )::text
    from pg_class as c
    where c.relnamespace = 'rota'::regnamespace
    order by 1, 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of db/ that a test may change."""
    for name in ("migrations", "functions"):
        shutil.copytree(FOLDER / name, tmp_path / name)
    for name in ("views.sql", "settings.sql", "triggers.sql", "grants.sql"):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path


@pytest.fixture
def as_role(
    empty_db: str, administrate: Callable, request: pytest.FixtureRequest
) -> Iterator[Callable[..., str]]:
    """Make a login role that owns the empty database, or not; return its URL."""
    database = conninfo_to_dict(empty_db)["dbname"]
    made = []

    def make(name: str, options: str = "", owner: bool = True) -> str:
        try:
            administrate(f"create role {{}} login password 'secret' {options}", name)
        except errors.InsufficientPrivilege:
            pytest.skip("the role of TEST_DATABASE_URL may not create roles")
        administrate("grant {} to current_user", name)
        made.append(name)
        if owner:
            administrate("alter database {} owner to {}", database, name)
        return make_conninfo(empty_db, user=name, password="secret")

    yield make
    administrate("alter database {} owner to current_user", database)
    with psycopg.connect(empty_db, autocommit=True) as conn:
        for name in made:
            conn.execute(f"drop owned by {name} cascade")
    for name in made:
        administrate("drop role {}", name)


@pytest.fixture
def roles_away(administrate: Callable) -> Iterator[None]:
    """Let the server have none of our group roles for as long as the test runs."""
    if "TEST_DATABASE_URL" in os.environ:
        pytest.skip("the roles of a server that others use stay as they are")
    for role in ROLES:
        administrate("drop role if exists {}", f"{role}_away")
        administrate("alter role {} rename to {}", role, f"{role}_away")
    yield
    for role in ROLES:
        administrate("drop role if exists {}", role)
        administrate("alter role {} rename to {}", f"{role}_away", role)


def one(conn: psycopg.Connection, query: str) -> object:
    row = conn.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_deploy_makes_the_checkout_usable(empty_db):
    deploy(empty_db)

    with psycopg.connect(empty_db) as conn:
        assert one(conn, "select rota.version()") == checkout_version()
        assert one(conn, "select count(*) from enqueue_job('echo')") == 1


@pytest.mark.on_every_server
def test_deploy_again_changes_nothing(empty_db):
    deploy(empty_db)
    with psycopg.connect(empty_db) as conn:
        first = conn.execute(SNAPSHOT).fetchall()

    deploy(empty_db)

    with psycopg.connect(empty_db) as conn:
        assert conn.execute(SNAPSHOT).fetchall() == first
        assert len(first) > 50


@pytest.mark.on_every_server
def test_four_deploys_at_once_all_succeed(empty_db):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(deploy, [empty_db] * 4))

    with psycopg.connect(empty_db) as conn:
        assert one(conn, "select rota.version()") == checkout_version()
        assert one(conn, "select count(*) from rota._yoyo_migration") == len(
            list((FOLDER / "migrations").glob("*.sql"))
        )


def test_four_deploys_at_once_of_what_is_deployed_all_succeed(empty_db):
    deploy(empty_db)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(deploy, [empty_db] * 4))


def test_first_deploys_and_later_ones_at_once_all_succeed(empty_db):
    """The later ones wait for a table, the first for an advisory lock; all for each other."""
    with ThreadPoolExecutor(6) as pool:
        first = [pool.submit(deploy, empty_db) for _ in range(3)]
        with psycopg.connect(empty_db, autocommit=True) as watcher:
            wait_until(lambda: one(watcher, "select to_regprocedure('rota.version()')"))
        later = [pool.submit(deploy, empty_db) for _ in range(3)]
        for deployed in first + later:
            deployed.result(timeout=120)


def test_who_waits_for_the_first_deploy_for_long_does_not_hold_it_up(empty_db, tmp_path):
    """It builds an index concurrently, and who has waited for longer than that takes has an older
    snapshot: that one waits for this, and this for that."""
    folder = tmp_path / "db"
    shutil.copytree(FOLDER, folder)
    slow = folder / "migrations" / "0085_queue_walls.sql"
    slow.write_text(slow.read_text() + "\nselect pg_sleep(3);\n")

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(deploy, empty_db, folder) for _ in range(2)]
        for deployed in both:
            deployed.result(timeout=50)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let deploys wait for each other for half a second."""
    monkeypatch.setattr(rota.db.deploy, "NOTICEABLE", 0.2)
    monkeypatch.setattr(rota.db.deploy, "PATIENCE", 0.3)


def test_a_first_deploy_that_waits_in_vain_names_who_holds_the_lock(empty_db, as_role, impatient):
    outsider = as_role("rota_test_outsider", owner=False)
    lines: list[str] = []
    with psycopg.connect(outsider, application_name="mischief", autocommit=True) as holder:
        holder.execute("select pg_advisory_lock(%s)", [DEPLOY_LOCK])
        who = rf"pid {holder.info.backend_pid} \(user rota_test_outsider, application 'mischief'\)"

        with pytest.raises(DeployError, match=rf"held for 0.3 s by {who}.*pg_terminate_backend"):
            deploy(empty_db, report=lines.append)

    assert [re.search(who, line) is not None for line in lines] == [True]


def test_no_outsider_can_hold_up_the_deploy_of_what_is_deployed(empty_db, as_role, impatient):
    outsider = as_role("rota_test_outsider", owner=False)
    deploy(empty_db)
    with psycopg.connect(outsider, autocommit=True) as holder:
        holder.execute("select pg_advisory_lock(%s)", [DEPLOY_LOCK])
        with pytest.raises(errors.InsufficientPrivilege), holder.transaction():
            holder.execute("lock table rota.yoyo_lock in access share mode")

        deploy(empty_db)


def test_a_later_deploy_waits_for_another_deploy_and_names_it(empty_db, impatient):
    deploy(empty_db)
    with psycopg.connect(empty_db, application_name="rota deploy") as other:
        other.execute("lock table rota.yoyo_lock in share update exclusive mode")

        with pytest.raises(DeployError, match=rf"pid {other.info.backend_pid} .*'rota deploy'"):
            deploy(empty_db)


def test_an_older_checkout_waits_for_a_deploy_of_this_one(empty_db, folder):
    deploy(empty_db, folder)
    (folder / "migrations" / "9000_slow.sql").write_text("select pg_sleep(0.5);\n")
    with psycopg.connect(empty_db, autocommit=True) as older, ThreadPoolExecutor(1) as pool:
        deployed = pool.submit(deploy, empty_db, folder)
        sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
        wait_until(lambda: one(older, sleeps))

        assert one(older, f"select pg_try_advisory_lock({DEPLOY_LOCK})") is False
        deployed.result(timeout=60)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_a_database_that_does_not_hold_every_character_is_refused(
    cluster, administrate, new_name, encoding
):
    name = new_name()
    administrate(
        f"create database {{}} template template0 encoding {encoding} lc_collate 'C' lc_ctype 'C'",
        name,
    )

    with pytest.raises(DeployError, match=rf"encoding {encoding}, .* UTF8.*createdb --encoding"):
        deploy(cluster.url(name))

    with psycopg.connect(cluster.url(name)) as conn:
        assert one(conn, "select to_regnamespace('rota') is null")
    administrate("drop database {} with (force)", name)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_of_another_encoding_that_has_jobs_already_is_deployed_and_told(
    cluster, administrate, new_name, encoding, monkeypatch
):
    name = new_name()
    administrate(
        f"create database {{}} template template0 encoding {encoding} lc_collate 'C' lc_ctype 'C'",
        name,
    )
    with monkeypatch.context() as patched:
        patched.setattr(rota.db.deploy, "_check_encoding", lambda *_: None)  # as it was
        deploy(cluster.url(name))
    lines: list[str] = []

    deploy(cluster.url(name), report=lines.append)

    assert encoding in lines[0] and "createdb" in lines[0]
    administrate("drop database {} with (force)", name)


# What no deploy must be stopped or led astray by.
HOSTILE = {
    "statement_timeout": "100ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "50ms",
    "idle_session_timeout": "500ms",  # a busy machine takes 50 ms from connect to the first word
    "transaction_timeout": "100ms",
    "default_transaction_isolation": "serializable",
    "standard_conforming_strings": "off",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Australia/Lord_Howe",
    "client_encoding": "LATIN1",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "check_function_bodies": "off",
    "search_path": "trap, public",
}


@pytest.mark.on_every_server
@pytest.mark.parametrize("where", ["role", "url"])
def test_settings_of_the_role_or_the_url_stop_no_deploy(
    empty_db, as_role, folder, where, administrate
):
    url = as_role("rota_test_owner", "nosuperuser createrole")
    with psycopg.connect(empty_db, autocommit=True) as conn:
        known = {name for (name,) in conn.execute("select lower(name) from pg_settings")}
    hostile = {name: value for name, value in HOSTILE.items() if name.lower() in known}
    if where == "role":
        for name, value in hostile.items():
            quoted = value if name == "search_path" else f"'{value}'"
            administrate(f"alter role {{}} set {name} = {quoted}", "rota_test_owner")
    else:
        options = " ".join(
            f"-c {name}={value}".replace(", ", ",") for name, value in hostile.items()
        )
        url = make_conninfo(url, options=options)
    for number in (1, 2):
        (folder / "migrations" / f"900{number}_slow.sql").write_text("select pg_sleep(0.15);\n")

    deploy(url, folder)

    with psycopg.connect(empty_db) as conn:
        assert one(conn, "select count(*) from enqueue_job('echo')") == 1


def test_what_is_planted_in_a_schema_of_the_search_path_is_not_called(
    empty_db, as_role, administrate
):
    """Not even where pg_catalog comes last, as somebody may have set it."""
    url = as_role("rota_test_owner", "nosuperuser createrole")
    database = conninfo_to_dict(empty_db)["dbname"]
    with psycopg.connect(empty_db, autocommit=True) as conn:
        for name, arguments, answer in (
            ("set_config", "text, text, boolean", "text"),
            ("unnest", "text[]", "setof text"),
            ("pg_get_userbyid", "oid", "name"),
            ("current_database", "", "name"),
            ("pg_advisory_lock", "bigint", "void"),
            ("pg_advisory_lock", "integer", "void"),
            ("to_regprocedure", "text", "regprocedure"),
            ("substr", "text, integer", "text"),
            ("format", "text, variadic text[]", "text"),
        ):
            conn.execute(
                f"create function public.{name}({arguments}) returns {answer} language plpgsql"
                f" as $$ begin raise exception 'trapped: {name}'; end $$"
            )
        for left in ("name", "text", "oid"):
            conn.execute(
                f"create function public.same_{left}({left}, {left}) returns boolean"
                " language plpgsql as $$ begin raise exception 'trapped: ='; end $$"
            )
            conn.execute(
                f"create operator public.= (leftarg = {left}, rightarg = {left},"
                f" function = public.same_{left})"
            )
    administrate("alter database {} set search_path = public, pg_catalog", database)

    deploy(url)
    deploy(url)


def test_deploy_waits_for_another_deploy(empty_db):
    with psycopg.connect(empty_db, autocommit=True) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("select pg_advisory_lock(%s)", [DEPLOY_LOCK])
        deployed = pool.submit(deploy, empty_db)
        wait_until(
            lambda: one(
                holder,
                """
                select count(*)
                from pg_locks as l
                join pg_database as d on d.oid = l.database
                where d.datname = current_database() and l.locktype = 'advisory' and not l.granted
                """,
            )
        )
        assert one(holder, "select to_regnamespace('rota') is null")

        holder.execute("select pg_advisory_unlock(%s)", [DEPLOY_LOCK])

        deployed.result(timeout=60)


def test_deploy_heals_what_was_patched_by_hand(empty_db):
    deploy(empty_db)
    with psycopg.connect(empty_db) as conn:
        first = conn.execute(SNAPSHOT).fetchall()
        conn.execute(
            """
            create or replace function rota._now() returns timestamptz language sql as
                $$ select timestamptz '2000-01-01' $$
            """
        )
        conn.execute("grant execute on function rota.claim_next_job to public, rota_reader")
        conn.execute("grant insert on rota.live_jobs to rota_worker")

    deploy(empty_db)

    with psycopg.connect(empty_db) as conn:
        assert conn.execute(SNAPSHOT).fetchall() == first


def test_a_function_without_a_file_fails_the_deploy_and_is_named(empty_db):
    deploy(empty_db)
    with psycopg.connect(empty_db) as conn:
        conn.execute("create function rota.stray(x integer) returns integer return x")

    with pytest.raises(DeployError, match=r"drop these functions.*rota\.stray\(integer\)"):
        deploy(empty_db)


def test_an_overload_fails_the_deploy_and_is_named(empty_db):
    deploy(empty_db)
    with psycopg.connect(empty_db) as conn:
        conn.execute("create function rota.version(x integer) returns integer return x")

    with pytest.raises(DeployError, match=r"only one.*rota\.version\(integer\)"):
        deploy(empty_db)


def test_a_file_that_does_not_create_its_function_fails_the_deploy(empty_db, folder):
    (folder / "functions" / "zzz.sql").write_text("select 1;")

    with pytest.raises(DeployError, match=r"zzz\.sql"):
        deploy(empty_db, folder)


def test_a_broken_function_is_named_with_its_line_and_nothing_changes(empty_db, folder):
    deploy(empty_db, folder)
    (folder / "functions" / "_broken.sql").write_text("\n\ncreate fnction rota._broken();\n")

    with pytest.raises(errors.SyntaxError) as caught:
        deploy(empty_db, folder)

    assert caught.value.__notes__ == ["in _broken.sql:3"]
    with psycopg.connect(empty_db) as conn:
        assert one(conn, "select rota.version()") == checkout_version()


def test_a_changed_function_changes_the_version(empty_db, folder):
    with (folder / "functions" / "time" / "_now.sql").open("a") as file:
        file.write("-- a remark\n")

    deploy(empty_db, folder)

    with psycopg.connect(empty_db) as conn:
        assert one(conn, "select rota.version()") == checkout_version(folder)
        assert checkout_version(folder) != checkout_version()


def test_a_checkout_older_than_the_database_is_refused(empty_db, folder):
    deploy(empty_db, folder)
    with psycopg.connect(empty_db) as conn:
        conn.execute(
            """
            insert into rota._yoyo_migration (migration_hash, migration_id, applied_at_utc)
            values ('f00', '9999_from_the_future', now())
            """
        )

    with pytest.raises(DeployError, match="at least as new"):
        deploy(empty_db, folder)


def test_migrations_survive_being_run_twice(empty_db):
    deploy(empty_db)
    with psycopg.connect(empty_db) as conn:
        first = conn.execute(SNAPSHOT).fetchall()
        conn.execute("delete from rota._yoyo_migration")

    deploy(empty_db)

    with psycopg.connect(empty_db) as conn:
        assert conn.execute(SNAPSHOT).fetchall() == first


def test_a_lock_that_a_dead_deploy_left_is_broken(empty_db):
    deploy(empty_db)
    with psycopg.connect(empty_db) as conn:
        conn.execute("insert into rota.yoyo_lock (locked, ctime, pid) values (1, now(), 1)")

    deploy(empty_db)

    with psycopg.connect(empty_db) as conn:
        assert one(conn, "select count(*) from rota.yoyo_lock") == 0


def test_a_schema_of_somebody_else_is_refused(empty_db, as_role):
    url = as_role("rota_test_victim")
    with psycopg.connect(empty_db) as conn:
        conn.execute("create schema rota")

    with pytest.raises(DeployError, match="deploy as its owner"):
        deploy(url)


@pytest.mark.on_every_server
def test_an_owner_who_is_not_superuser_deploys(empty_db, as_role):
    url = as_role("rota_test_owner", "nosuperuser createrole")

    deploy(url)

    with psycopg.connect(url) as conn:
        assert one(conn, "select count(*) from enqueue_job('echo')") == 1
        assert one(
            conn,
            "select has_function_privilege('rota_worker', oid, 'execute')"
            " from pg_proc where proname = 'claim_next_job'",
        )


@pytest.mark.on_every_server
def test_an_owner_who_may_not_create_roles_is_told_which_are_missing(
    template, roles_away, empty_db, as_role
):
    url = as_role("rota_test_plain_owner", "nosuperuser nocreaterole")
    lines: list[str] = []

    deploy(url, report=lines.append)

    report = "\n".join(lines)
    assert all(f"create role {role} nologin;" in report for role in ROLES)
    with psycopg.connect(url) as conn:
        assert one(conn, "select count(*) from enqueue_job('echo')") == 1


def test_roles_that_two_databases_create_at_once_do_no_harm(
    template, roles_away, empty_db, cluster, administrate, new_name
):
    other = new_name()
    administrate("create database {}", other)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(deploy, [empty_db, cluster.url(other)]))

    with psycopg.connect(empty_db) as conn:
        found = conn.execute("select rolname from pg_roles where rolname = any(%s)", [[*ROLES]])
        assert found.rowcount == len(ROLES)
    administrate("drop database {} with (force)", other)


def test_who_does_not_own_the_database_is_told_about_the_search_path(
    empty_db, as_role, administrate
):
    url = as_role("rota_test_guest", "createrole", owner=False)
    database = conninfo_to_dict(empty_db)["dbname"]
    administrate("grant create on database {} to {}", database, "rota_test_guest")
    lines: list[str] = []

    deploy(url, report=lines.append)

    assert any("search path" in line for line in lines)
    with psycopg.connect(url) as conn:
        assert one(conn, "select count(*) from rota.enqueue_job('echo')") == 1


def test_the_search_path_of_the_database_is_kept_and_extended(empty_db, administrate):
    database = conninfo_to_dict(empty_db)["dbname"]
    administrate('alter database {} set search_path = "My schema", public', database)

    deploy(empty_db)
    deploy(empty_db)

    with psycopg.connect(empty_db) as conn:
        assert one(conn, "show search_path") == '"My schema", public, rota'


def test_deploy_gives_way_to_a_table_that_is_in_use(empty_db, folder):
    deploy(empty_db, folder)
    (folder / "migrations" / "9000_widen.sql").write_text(
        "alter table rota.live_jobs add column if not exists extra integer;\n"
    )
    gave_way = threading.Event()

    with psycopg.connect(empty_db) as user, psycopg.connect(empty_db, autocommit=True) as watcher:
        user.execute("select count(*) from rota.live_jobs")
        with ThreadPoolExecutor(1) as pool:
            deployed = pool.submit(deploy, empty_db, folder)
            blocked = """
                select count(*)
                from pg_locks
                where relation = 'rota.live_jobs'::regclass and not granted
            """
            wait_until(lambda: one(watcher, blocked) == 1)
            wait_until(lambda: one(watcher, blocked) == 0)
            gave_way.set()
            assert not deployed.done()
            user.rollback()

            deployed.result(timeout=60)


def test_who_works_while_a_deploy_waits_for_a_table_is_held_up_for_moments(empty_db, folder):
    """A report that reads the table has it open, and all who come after the deploy would queue."""
    deploy(empty_db, folder)
    (folder / "migrations" / "9000_widen.sql").write_text(
        "alter table rota.live_jobs add column if not exists extra integer;\n"
    )
    waited = []

    with psycopg.connect(empty_db) as report, psycopg.connect(empty_db, autocommit=True) as worker:
        report.execute("select count(*) from rota.live_jobs")
        with ThreadPoolExecutor(1) as pool:
            deployed = pool.submit(deploy, empty_db, folder)
            until = time.monotonic() + 5
            while time.monotonic() < until:
                began = time.monotonic()
                worker.execute("select rota.enqueue_job('t')")
                waited.append(time.monotonic() - began)
            assert not deployed.done()
            report.rollback()

            deployed.result(timeout=60)

    assert max(waited) > 0.05  # somebody stood behind the deploy
    assert max(waited) < 1


def test_the_command_line_says_in_one_line_what_failed(empty_db):
    with psycopg.connect(empty_db) as conn:
        conn.execute("create schema rota")
        conn.execute("create function rota.stray() returns integer return 1")

    process = subprocess.run(
        [sys.executable, "-m", "rota.db.deploy", empty_db],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
    )

    assert process.returncode == 1
    assert process.stderr.startswith("deploy failed: drop these functions")
    assert len(process.stderr.splitlines()) == 1
