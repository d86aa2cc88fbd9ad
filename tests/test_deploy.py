"""Deploying: by anybody who owns the database, any number of times, several at once."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.deploy import DEPLOY_LOCK, FOLDER, ROLES, DeployError, checkout_version, deploy
from tests.waiting import wait_until

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
    for name in ("views.sql", "grants.sql"):
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


def test_deploy_again_changes_nothing(empty_db):
    deploy(empty_db)
    with psycopg.connect(empty_db) as conn:
        first = conn.execute(SNAPSHOT).fetchall()

    deploy(empty_db)

    with psycopg.connect(empty_db) as conn:
        assert conn.execute(SNAPSHOT).fetchall() == first
        assert len(first) > 50


def test_four_deploys_at_once_all_succeed(empty_db):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(deploy, [empty_db] * 4))

    with psycopg.connect(empty_db) as conn:
        assert one(conn, "select rota.version()") == checkout_version()
        assert one(conn, "select count(*) from rota._yoyo_migration") == len(
            list((FOLDER / "migrations").glob("*.sql"))
        )


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
    with (folder / "functions" / "_now.sql").open("a") as file:
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


def test_the_command_line_says_in_one_line_what_failed(empty_db):
    with psycopg.connect(empty_db) as conn:
        conn.execute("create schema rota")
        conn.execute("create function rota.stray() returns integer return 1")

    process = subprocess.run(
        [sys.executable, "-m", "db.deploy", empty_db],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
    )

    assert process.returncode == 1
    assert process.stderr.startswith("deploy failed: drop these functions")
    assert len(process.stderr.splitlines()) == 1
