"""Bring a database to the state of this checkout: ``python -m db.deploy [URL]``.

The steps, under one advisory lock, so that any number of deploys may run at once:

1. the schema ``rota`` and the four group roles;
2. the pending migrations of ``db/migrations`` (yoyo);
3. in one transaction the views, every file of ``db/functions``, the grants, ``rota.version()``, and
   a check that the schema holds no function without a file;
4. ``rota`` on the database's search path, and the first round of upkeep.

Running it again changes nothing, except that it heals functions and grants patched by hand.
The URL must lead to the server itself or to a pooler in session mode.
"""

import argparse
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psycopg
from psycopg import Connection, errors, sql
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import default_migration_table

FOLDER = Path(__file__).parent
ROLES = ("rota_producer", "rota_worker", "rota_operator", "rota_reader")
OLDEST_SERVER = 150000

DEPLOY_LOCK = 0x726F7461  # "rota", the advisory lock of all deploys of one database
PATIENCE = "10min"  # how long to wait for another deploy
LOCK_TIMEOUT = "3s"  # how long one statement may hold up the queue behind a table's lock
ATTEMPTS = 10
LONGEST_CALL = 10.0  # seconds

Result = TypeVar("Result")


class DeployError(Exception):
    """The database cannot be brought to this checkout's state; the message says what to do."""


def deploy(url: str, folder: Path = FOLDER, report: Callable[[str], None] = print) -> None:
    """Deploy the schema ``rota``; safe to repeat, and to run several times at once.

    Args:
        url: a libpq connection string of a role that owns the database, or is superuser.
        folder: where ``migrations``, ``functions`` and ``grants.sql`` are.
        report: takes each line about what was done, or could not be.

    Raises:
        DeployError: the database is not fit, or its schema holds something foreign.
        psycopg.Error: the server refused a statement.
    """
    with psycopg.connect(url, autocommit=True, application_name="rota deploy") as conn:
        if conn.info.server_version < OLDEST_SERVER:
            raise DeployError(f"PostgreSQL 15 or later is needed, this is {_version(conn)}")
        conn.execute("select set_config('lock_timeout', %s, false)", [PATIENCE])
        try:
            conn.execute("select pg_advisory_lock(%s)", [DEPLOY_LOCK])
        except errors.LockNotAvailable as error:
            raise DeployError(f"another deploy has held the lock for {PATIENCE}") from error
        conn.execute("select set_config('lock_timeout', %s, false)", [LOCK_TIMEOUT])

        _create_schema(conn)
        _create_roles(conn, report)
        applied = _patiently(lambda: _migrate(url, folder / "migrations"))
        functions = _patiently(lambda: _replace_functions(conn, folder))
        _extend_search_path(conn, report)
        _patiently(lambda: conn.execute("select rota.maintain()"))
        report(
            f"rota {checkout_version(folder)[:12]} is deployed to database {conn.info.dbname}"
            f" (PostgreSQL {_version(conn)}): {applied} new migrations, {functions} functions"
        )


def checkout_version(folder: Path = FOLDER) -> str:
    """Return what ``rota.version()`` answers when the database matches this checkout."""
    digest = hashlib.sha256()
    for path in _function_files(folder):
        digest.update(f"{path.name}\0{path.read_text()}\0".encode())
    return digest.hexdigest()


def _version(conn: Connection) -> str:
    return conn.info.parameter_status("server_version") or "unknown"


def _function_files(folder: Path) -> list[Path]:
    """Return the views, the functions, helpers (``_…``) first, and the grants."""
    files = sorted((folder / "functions").glob("*.sql"), key=lambda path: path.name)
    helpers = [path for path in files if path.name.startswith("_")]
    doors = [path for path in files if not path.name.startswith("_")]
    return [folder / "views.sql", *helpers, *doors, folder / "grants.sql"]


def _patiently(step: Callable[[], Result]) -> Result:
    """Take a step again while a lock is refused to it.

    A statement that waits for a table's lock holds up everybody who comes after it. So it gives
    way soon, and comes back after a pause that lets them through.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return step()
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if attempt == ATTEMPTS:
                raise
            time.sleep(random.uniform(0.1, 0.2) * attempt)
    raise AssertionError("unreachable")


def _create_schema(conn: Connection) -> None:
    """Create the schema; refuse one that somebody else has made, for it may hold traps."""
    schema = conn.execute(
        """
        select pg_get_userbyid(n.nspowner) = current_user, pg_get_userbyid(n.nspowner)
        from pg_namespace as n
        where n.nspname = 'rota'
        """
    ).fetchone()
    if schema is None:
        conn.execute("create schema rota")
    elif not schema[0]:
        raise DeployError(f"schema rota belongs to {schema[1]}: deploy as its owner")


def _create_roles(conn: Connection, report: Callable[[str], None]) -> None:
    """Create the group roles that are missing; report those that we may not create.

    Roles belong to the whole cluster, so that a deploy to another of its databases may be
    creating the same one.
    """
    missing = []
    for role in ROLES:
        if conn.execute("select from pg_roles where rolname = %s", [role]).rowcount:
            continue
        try:
            conn.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
        except (errors.DuplicateObject, errors.UniqueViolation):
            continue
        except errors.InsufficientPrivilege:
            missing.append(role)
    if missing:
        report(
            f"Missing roles: {conn.info.user} may not create {', '.join(missing)}. Until they"
            " exist, only the owner can use Rota. Have an administrator run this, then deploy"
            " again:\n" + "\n".join(f"    create role {role} nologin;" for role in missing)
        )


class _Backend(PostgresqlPsycopgBackend):
    """yoyo's connection to PostgreSQL, which gives way to others as the rest of the deploy does."""

    def init_connection(self, connection: Connection) -> None:
        """Set up a new connection, and one that was rolled back."""
        super().init_connection(connection)
        connection.execute("select set_config('lock_timeout', %s, false)", [LOCK_TIMEOUT])


def _migrate(url: str, folder: Path) -> int:
    """Apply the migrations that this database has not seen; return their number."""
    target = DatabaseURI(
        scheme="postgresql+psycopg",
        username=None,
        password=None,
        hostname=None,
        port=None,
        database=None,
        args={"conninfo": url, "schema": "rota", "application_name": "rota deploy"},
    )
    migrations = read_migrations(str(folder))
    with _Backend(target, default_migration_table) as backend:
        backend.init_database()
        backend.break_lock()  # we hold the lock of all deploys: whoever left this one is gone
        known = {migration.hash for migration in migrations}
        if not known.issuperset(backend.get_applied_migration_hashes()):
            raise DeployError(
                "this database has migrations that this checkout does not know:"
                " deploy a checkout at least as new as the last one"
            )
        with backend.lock():
            pending = backend.to_apply(migrations)
            backend.apply_migrations(pending)
        if backend.to_apply(migrations):
            raise DeployError(f"not every migration of {folder} was applied, see the log")
        return len(pending)


def _replace_functions(conn: Connection, folder: Path) -> int:
    """Replace all views, functions and grants in one transaction; return the number of functions.

    Functions are born executable by PUBLIC. Nobody sees them before the commit, and by then the
    right is gone.
    """
    with conn.transaction():
        views, *functions, grants = _function_files(folder)
        names = {path.stem for path in functions} | {"version"}
        conn.execute("set local search_path = pg_catalog, pg_temp")
        _refuse_strays(conn, names)
        conn.execute(
            sql.SQL(
                """
                create or replace function rota.version()
                    returns text
                    language sql
                    stable
                    parallel safe
                as $$
                    select {version}
                $$;

                comment on function rota.version is
                    'Tell which functions are deployed: a fingerprint of their files.';
                """
            ).format(version=checkout_version(folder))
        )
        _run_file(conn, views)
        for check in ("off", "on"):  # a body can only be checked when all that it calls is there
            conn.execute("select set_config('check_function_bodies', %s, true)", [check])
            for path in functions:
                _run_file(conn, path)
        _run_file(conn, grants)
        _refuse_strays(conn, names)
        created = {
            name
            for (name,) in conn.execute(
                "select proname from pg_proc where pronamespace = 'rota'::regnamespace"
            )
        }
        if missing := sorted(names - created):
            raise DeployError(f"db/functions/{missing[0]}.sql does not create rota.{missing[0]}")
    if _has_old_view(conn):
        _outlast_calls(conn)
        return _replace_functions(conn, folder)
    return len(names)


def _has_old_view(conn: Connection) -> bool:
    """Tell whether a view is still as the functions before this deploy needed it (db/views.sql)."""
    return bool(
        conn.execute(
            """
            select from pg_attribute
            where attrelid = 'rota.job_executions'::regclass and attname = 'token'
            """
        ).rowcount
    )


def _outlast_calls(conn: Connection) -> None:
    """Wait until the calls under way have ended: a function runs on as it was when it was called.

    What is open for longer than any call of ours takes is not waited for.
    """
    deadline = time.monotonic() + LONGEST_CALL
    open_now = _open_transactions(conn)
    while time.monotonic() < deadline and open_now & _open_transactions(conn):
        time.sleep(0.02)


def _open_transactions(conn: Connection) -> set[str]:
    return {
        transaction
        for (transaction,) in conn.execute(
            """
            select l.virtualtransaction
            from pg_locks as l
            join pg_stat_activity as a on a.pid = l.pid
            where l.locktype = 'virtualxid'
                and a.datname = current_database()
                and a.application_name <> 'rota deploy'
                and l.pid <> pg_backend_pid()
            """
        )
    }


def _run_file(conn: Connection, path: Path) -> None:
    """Run a file of SQL; name it, and the line, in the error that it raises."""
    text = path.read_text()
    try:
        conn.execute(text.encode())
    except psycopg.Error as error:
        position = int(error.diag.statement_position or 0)
        place = f"{path.name}:{text.count(chr(10), 0, position) + 1}" if position else path.name
        error.add_note(f"in {place}")
        raise


def _refuse_strays(conn: Connection, names: set[str]) -> None:
    """Refuse a function that no file creates, or a second one of a name: it might be called."""
    strays = conn.execute(
        """
        select p.proname, p.oid::regprocedure::text
        from pg_proc as p
        where p.pronamespace = 'rota'::regnamespace
            and (
                p.proname <> all(%s)
                or exists (
                    select
                    from pg_proc as q
                    where q.pronamespace = p.pronamespace and q.proname = p.proname
                        and q.oid <> p.oid
                )
            )
        order by 2
        """,
        [list(names)],
    ).fetchall()
    if strays:
        raise DeployError(
            "drop these functions, or give each a file in db/functions; there may be only one of a"
            f" name: {', '.join(function for _, function in strays)}"
        )


def _extend_search_path(conn: Connection, report: Callable[[str], None]) -> None:
    """Append rota to the database's search path, so that psql needs no prefix."""
    row = conn.execute(
        """
        select substr(c.setting, length('search_path=') + 1)
        from pg_db_role_setting as s
        join pg_database as d on d.oid = s.setdatabase
        cross join unnest(s.setconfig) as c (setting)
        where d.datname = current_database()
            and s.setrole = 0
            and c.setting like 'search_path=%'
        """
    ).fetchone()
    search_path = row[0] if row else '"$user", public'
    if "rota" in (entry.strip(' "') for entry in search_path.split(",")):
        return
    try:
        conn.execute(
            sql.SQL("alter database {} set search_path = {}").format(
                sql.Identifier(conn.info.dbname),
                sql.SQL(f"{search_path}, rota" if search_path.strip() else "rota"),
            )
        )
    except errors.InsufficientPrivilege:
        report(
            f"Not on the search path: {conn.info.user} does not own database"
            f" {conn.info.dbname}, so that functions are called as rota.<name>"
        )


def main() -> int:
    """Deploy to the URL on the command line, or to DATABASE_URL; say in one line what failed."""
    parser = argparse.ArgumentParser(prog="python -m db.deploy", description="Deploy Rota.")
    parser.add_argument(
        "url",
        nargs="?",
        default=os.environ.get("DATABASE_URL"),
        help="a libpq connection string; DATABASE_URL if left out",
    )
    url = parser.parse_args().url
    if not url:
        parser.error("give the database's URL as an argument or in DATABASE_URL")
    try:
        deploy(url)
    except (DeployError, psycopg.Error) as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        print(f"deploy failed: {' '.join(str(error).split())}{notes}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
