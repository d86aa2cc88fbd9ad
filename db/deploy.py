"""Bring a database to the state of this checkout: ``rota deploy [URL ...]``.

The steps, one deploy of a database at a time, so that any number may be started at once:

1. the schema ``rota`` and the group roles;
2. the pending migrations of ``db/migrations`` (yoyo);
3. in one transaction every file of ``db/functions``, the views, ``db/settings.sql``, the grants,
   ``rota.version()``, and a check that the schema holds no function without a file;
4. the triggers of ``db/triggers.sql``, and away with indexes that only the functions of before
   needed;
5. ``rota`` on the database's search path, the sequence of ids ahead of every job, and the first
   round of upkeep.

The command goes on with a token of the API, where ROTA_TOKEN has one (rota/tokens.py). Several
databases are deployed one after the other, and then each gets its number (docs/scale.md).

Running it again changes nothing, except that it heals functions and grants patched by hand.
The URL must lead to the server itself or to a pooler in session mode. What the database, the role
or the URL say of styles and timeouts does not matter here (db/session.py).
"""

import argparse
import contextlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from itertools import count
from pathlib import Path
from typing import TypeVar

import psycopg
from psycopg import Connection, errors, sql
from psycopg.pq import TransactionStatus
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, default_migration_table

from rota.db.session import name_of, settle, split_urls, writable
from rota.db.version import FOLDER, checkout_version, function_files
from rota.db.watch import Watch
from rota.shards import MOST_SHARDS, one_shard_twice
from rota.terminal import Progress, printable
from rota.tokens import TokenError, ensure_token

ROLES = ("rota_producer", "rota_worker", "rota_operator", "rota_reader", "rota_api")
OLDEST_SERVER = 150000

DEPLOY_LOCK = 0x726F7461  # "rota", the advisory lock of the first deploy of a database
PATIENCE = 600.0  # seconds to wait for another deploy
NOTICEABLE = 1.0  # seconds; a wait of that length is reported
OUTLIVED_FUNCTIONS = ("_pass_turn",)  # whose files are gone: else they would be strays
# It tells whether calls may be under way that need an old view (db/views.sql).
FUNCTION_OF_BEFORE = """
    select min(p.prosrc)
    from pg_proc as p
    where p.pronamespace = 'rota'::regnamespace and p.proname = '_past_ending'
"""
LOCK_TIMEOUT = "100ms"  # how long one statement may hold up the queue behind a table's lock
ATTEMPTS = 40  # in about forty seconds
LONGEST_PAUSE = 1.0  # seconds between two of them
SMALL = 32 * 2**20  # bytes of a table that is read in a moment
LONGEST_CALL = 10.0  # seconds
DROP_PATIENCE = 30.0  # seconds in which drops wait for old transactions, all of them together
BUILD_PATIENCE = 60.0  # seconds in which builds wait for old transactions, all of them together

# The last id that a database gave while its ids did not tell which it is.
GIVEN_BEFORE = """
    select coalesce(s.ids_before, i.last_value - (not i.is_called)::integer)
    from rota.settings as s
    cross join rota.job_ids as i
"""

Result = TypeVar("Result")


class DeployError(Exception):
    """The database cannot be brought to this checkout's state; the message says what to do."""


def deploy(
    url: str,
    folder: Path = FOLDER,
    report: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> None:
    """Deploy the schema ``rota``; safe to repeat, and to run several times at once.

    Args:
        url: a libpq connection string of a role that owns the database, or is superuser.
        folder: where ``migrations``, ``functions`` and ``grants.sql`` are.
        report: takes each line about what was done, or could not be.
        progress: where a person sees what goes on meanwhile, None for nowhere.

    Raises:
        DeployError: the database is not fit, or its schema holds something foreign.
        psycopg.Error: the server refused a statement.
    """
    try:
        url = writable(url)
    except ValueError as error:
        raise DeployError(str(error)) from None
    with (
        _connect(url) as conn,
        _connect(url) as turn,
        closing(Watch(url)) as watch,
        progress.during(watch.tell) if progress else nullcontext(),
    ):
        report = progress.aside(report) if progress else report
        if conn.info.server_version < OLDEST_SERVER:
            raise DeployError(f"PostgreSQL 15 or later is needed, this is {_version(conn)}")
        has_schema = _has_schema(conn)
        _check_encoding(conn, has_schema, report)
        _wait_for_turn(turn, report)

        if not _has_schema(conn):
            conn.execute("create schema rota")
        _create_roles(conn, report)
        applied = _patiently(lambda: _migrate(url, folder / "migrations", watch))
        _take_turn(turn, report)
        watch.at("replacing views and functions")
        functions = _patiently(lambda: _replace_functions(conn, folder))
        watch.at("setting up triggers")
        _patiently(lambda: _run_file(conn, folder / "triggers.sql"))
        watch.at("dropping indexes that nobody looks at any more")
        _drop_outlived_indexes(conn, report)
        watch.at("indexing the weeks of history")
        _index_history(conn, report)
        watch.at("search path, ids and the first round of upkeep")
        _extend_search_path(conn, report)
        if (shard := _shard(conn)) is not None:
            _number(conn, shard, report)
        _heal_job_ids(conn, report)
        _patiently(lambda: conn.execute("select rota.maintain()"))
        report(
            f"rota {checkout_version(folder)[:12]} is deployed to database {conn.info.dbname}"
            f" (PostgreSQL {_version(conn)}): {applied} new migrations, {functions} functions"
        )


def number(urls: list[str], report: Callable[[str], None] = print) -> None:
    """Give each of several databases that are deployed its number; safe to repeat.

    A number once given is kept, in whatever order they are named later; those that have none get
    the lowest that are free.

    Args:
        urls: connection strings, as ``deploy`` takes them.
        report: takes each line about what was done.

    Raises:
        DeployError: two of them are one database, or say that they are the same shard.
        psycopg.Error: a server refused a statement.
    """
    with ExitStack() as opened:
        conns = [opened.enter_context(_connect(writable(url))) for url in urls]
        numbers = [_shard(conn) for conn in conns]
        before = max(conn.execute(GIVEN_BEFORE).fetchone()[0] for conn in conns)
        for place, conn in enumerate(conns):
            shard = _shard(conn)
            if shard != numbers[place] or (shard is not None and numbers.count(shard) > 1):
                same = [name_of(urls[p]) for p, other in enumerate(numbers) if other == shard]
                raise DeployError(one_shard_twice(same, shard))
            if shard is None:
                numbers[place] = min(set(range(MOST_SHARDS)) - set(numbers))
                _number(conn, numbers[place], report, before)
        report(
            "; ".join(
                f"shard {shard} is {name_of(url)}" for shard, url in zip(numbers, urls, strict=True)
            )
        )


def _connect(url: str) -> Connection:
    """Open a session that relies on nothing that is not its own."""
    conn = psycopg.connect(url, autocommit=True, application_name="rota deploy")
    try:
        _settle(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def _settle(conn: Connection, **limits: str) -> None:
    """Set a session up, so that it gives way to others and ends with this process.

    The server goes on with a statement for a process that was killed, an index for as long as it
    takes, and would be in the way of the next deploy. Not every system can tell it of that.
    """
    settle(conn, lock_timeout=LOCK_TIMEOUT, **limits)
    conn.execute(
        """
        do $$
        begin
            perform set_config('client_connection_check_interval', '1s', false);
        exception
            when invalid_parameter_value then
                null;
        end;
        $$
        """
    )


def _version(conn: Connection) -> str:
    return conn.info.parameter_status("server_version") or "unknown"


def _patiently(step: Callable[[], Result]) -> Result:
    """Take a step again while a lock is refused to it.

    A statement that waits for a table's lock holds up everybody who comes after it. So it gives
    way soon, and comes back after a pause that lets them through. It is taken again, too, if
    somebody who is no deploy changed the same object meanwhile (a grant by hand).
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return step()
        except (errors.LockNotAvailable, errors.DeadlockDetected, errors.InternalError_) as error:
            passes = error.sqlstate != "XX000" or "concurrently" in str(error)
            if attempt == ATTEMPTS or not passes:
                raise
            time.sleep(min(LONGEST_PAUSE, random.uniform(0.1, 0.2) * attempt))
    raise AssertionError("unreachable")


def _has_schema(conn: Connection) -> bool:
    """Tell whether the schema is there; refuse one of somebody else, for it may hold traps."""
    schema = conn.execute(
        """
        select pg_get_userbyid(n.nspowner) = current_user, pg_get_userbyid(n.nspowner)
        from pg_namespace as n
        where n.nspname = 'rota'
        """
    ).fetchone()
    if schema and not schema[0]:
        raise DeployError(f"schema rota belongs to {schema[1]}: deploy as its owner")
    return schema is not None


def _check_encoding(conn: Connection, has_schema: bool, report: Callable[[str], None]) -> None:
    """Refuse a database that cannot hold every character; who has jobs in one is only told."""
    encoding = conn.info.parameter_status("server_encoding")
    if encoding == "UTF8":
        return
    lack = (
        f"database {conn.info.dbname} has the encoding {encoding}, and Rota needs UTF8: a job may"
        " hold any character"
    )
    make = "createdb --encoding=UTF8 --template=template0 --locale=C NAME"
    if not has_schema:
        raise DeployError(f"{lack}. Create a database with: {make}")
    report(
        f"Wrong encoding: {lack}, and here a job with a character that {encoding} lacks is refused"
        f" or fails. Restore a dump of it into a database that is created with: {make}"
    )


def _wait_for_turn(turn: Connection, report: Callable[[str], None]) -> None:
    """Wait for other deploys of this database, and keep later ones waiting until the session ends.

    Once Rota is deployed, the turn is the lock of a table that belongs to nobody but its owner:
    an advisory lock can be held by any login, for ever. The first deploy has no table to lock yet.
    """
    if not _is_deployed(turn):
        _lock(turn, f"select pg_advisory_lock({DEPLOY_LOCK})", report)
        turn.execute("commit")  # the lock is the session's
    if _is_deployed(turn):
        _take_turn(turn, report)
        # A deploy of an older checkout waits for this one. Who holds it now is not waited for.
        # Without parameters: a statement with some keeps its snapshot while the transaction is
        # open, and an index that is built concurrently (0086) would wait for us, who wait for it.
        turn.execute(f"select pg_try_advisory_lock({DEPLOY_LOCK})")


def _take_turn(turn: Connection, report: Callable[[str], None]) -> None:
    """Lock yoyo's table against other deploys, if we have not; reads and writes go on."""
    if turn.info.transaction_status == TransactionStatus.IDLE:
        _lock(turn, "lock table rota.yoyo_lock in share update exclusive mode", report)


def _is_deployed(conn: Connection) -> bool:
    """Tell whether a deploy has come to its end: the version comes with the last migration."""
    return conn.execute("select to_regprocedure('rota.version()')").fetchone() != (None,)


def _lock(turn: Connection, statement: str, report: Callable[[str], None]) -> None:
    """Take a lock in a transaction that stays open; say who has it, if it must be waited for.

    It is waited for a moment at a time: while a statement waits it has a snapshot, and an index
    that another deploy builds concurrently (0086) waits for all that are older.
    """
    until = time.monotonic() + PATIENCE
    has_waited = False
    while True:
        turn.execute("begin")
        moment = f"{NOTICEABLE * 1000:.0f}ms"
        turn.execute("select set_config('lock_timeout', %s, true)", [moment])
        try:
            turn.execute(statement)
            return
        except errors.LockNotAvailable as error:
            turn.execute("rollback")
            holders = "; ".join(_holders(turn)) or "a session that has just ended"
            if time.monotonic() > until:
                raise DeployError(
                    f"the lock of deploys has been held for {PATIENCE:g} s by {holders}. If that is"
                    " no deploy, end it with pg_terminate_backend(pid), then deploy again"
                ) from error
            if not has_waited:
                report(f"Waiting up to {PATIENCE:g} s for another deploy: {holders}")
            has_waited = True


def _holders(turn: Connection) -> list[str]:
    """Describe the sessions that keep a deploy waiting."""
    return [
        f"pid {pid} (user {printable(user or '')}, application {application!r})"
        for pid, user, application in turn.execute(
            """
            select l.pid, a.usename, a.application_name
            from pg_locks as l
            join pg_database as d on d.oid = l.database
            left join pg_stat_activity as a on a.pid = l.pid
            where d.datname = current_database()
                and l.granted
                and l.pid <> pg_backend_pid()
                and (
                    l.locktype = 'advisory'
                        and (l.classid, l.objid, l.objsubid) = (0, %s, 1)
                        and to_regprocedure('rota.version()') is null
                    or l.locktype = 'relation'
                        and l.relation = to_regclass('rota.yoyo_lock')
                        and l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
                )
            order by l.pid
            """,
            [DEPLOY_LOCK],
        )
    ]


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

    tell: Callable[[str], None]  # is told of each migration

    def init_connection(self, connection: Connection) -> None:
        """Set up a new connection, and one that was rolled back; yoyo names no schema."""
        _settle(connection, search_path="rota, pg_temp")

    def apply_one(self, migration: Migration, force: bool = False, mark: bool = True) -> None:
        """Apply a migration, and say that it begins."""
        self.tell(migration.id)
        super().apply_one(migration, force, mark)


def _migrate(url: str, folder: Path, watch: Watch) -> int:
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
            numbers = count(1)
            backend.tell = lambda name: watch.at(
                f"migration {name} ({next(numbers)} of {len(pending)})"
            )
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
        views, *functions, settings, _, grants = function_files(folder)
        names = {path.stem for path in functions} | {"version"}
        conn.execute("set local search_path = pg_catalog, pg_temp")
        for name in OUTLIVED_FUNCTIONS:
            conn.execute(f"drop function if exists rota.{name}")
        _refuse_strays(conn, names)
        _note_versions(conn, checkout_version(folder))
        conn.execute(f"select set_config('rota.before', ({FUNCTION_OF_BEFORE}), true)")
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
        # A view is locked from when it is replaced until the end, so functions come before, but for
        # those that name what is new of a view. Bodies are checked when all they call is there.
        for check in ("off", "on"):
            conn.execute("select set_config('check_function_bodies', %s, true)", [check])
            late = [path for path in functions if not _can_run(conn, path)]
        _run_file(conn, views)
        for check in ("off", "on"):
            conn.execute("select set_config('check_function_bodies', %s, true)", [check])
            for path in late:
                _run_file(conn, path)
        _run_file(conn, settings)
        _run_file(conn, grants)
        _refuse_strays(conn, names)
        created = {
            name
            for (name,) in conn.execute(
                "select proname from pg_proc where pronamespace = 'rota'::regnamespace"
            )
        }
        if missing := sorted(names - created):
            raise DeployError(f"{missing[0]}.sql does not create rota.{missing[0]}")
    if _has_old_view(conn):
        _outlast_calls(conn)
        return _replace_functions(conn, folder)
    return len(names)


def _note_versions(conn: Connection, version: str) -> None:
    """Note which functions there will be, and which there were (db/version.py)."""
    if conn.execute("select to_regclass('rota.versions')").fetchone() == (None,):
        return  # what is deployed is of before this was noted
    versions = [version]
    if _is_deployed(conn):
        versions += conn.execute("select rota.version()").fetchone() or ()
    conn.execute(
        """
        insert into rota.versions (version, deployed_at)
        select distinct v.version, transaction_timestamp()
        from unnest(%s::text[]) as v(version)
        on conflict on constraint versions_pkey do nothing
        """,
        [versions],
    )


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


def _drop_outlived_indexes(conn: Connection, report: Callable[[str], None]) -> None:
    """Drop the indexes that only the functions before this deploy looked at, if others are there.

    One had unique keys unique in the whole database, and so refuses what the functions of now
    allow. Nor do they look at it: one of two calls of a key at the same instant may get 23505 by
    it. Two were of lanes, before there were keys and of all jobs; each write to a job pays for
    them. The last was of turns, and plans that read a whole lane for one key could use it.

    Beside them, as an index is built: transactions that have written to its table are waited for,
    which may be open for long, and nobody waits for the drop. One that stays open holds up every
    drop, so once all have waited long enough the rest hardly do. What a drop that gave up leaves is
    no longer valid, and goes with the next one.
    """
    costs = [  # of an index whose successor is there
        (
            "live_jobs_unique_key",
            "live_jobs_unique_key_of_queue",
            "no two queues can have a job of the same unique_key",
        ),
        ("live_jobs_by_lane", "live_jobs_in_lane", "each write to a job pays for it"),
        ("live_jobs_lane", "live_jobs_in_lane", "each write to a job pays for it"),
        ("turns_in_order", "turns_in_time", "each turn pays for it"),
    ]
    both = "select num_nonnulls(to_regclass(%s), to_regclass(%s)) = 2"
    outlived = [
        (index, cost)
        for index, successor, cost in costs
        if conn.execute(both, [f"rota.{index}", f"rota.{successor}"]).fetchone() == (True,)
    ]
    if not outlived:
        return
    _outlast_calls(conn)
    gives_up = time.monotonic() + DROP_PATIENCE
    for index, cost in outlived:
        try:
            with _waiting(conn, max(gives_up - time.monotonic(), 0.1)):
                conn.execute(f"drop index concurrently rota.{index}")
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            report(
                f"rota.{index} could not be dropped beside transactions that are open for long:"
                f" until the next deploy has done it, {cost}"
            )


def _index_history(conn: Connection, report: Callable[[str], None]) -> None:
    """Give the weeks that were there before 0100 the index that their parents have now.

    A small one is indexed at once. Whoever finishes a job would wait for a large one, so that is
    done beside them; it waits for transactions that are open, and nobody waits for it. One that
    stays open holds up every such build, so once all have waited long enough the rest hardly do.
    What a build that was cut off left goes first. As in a new week (_make_partition) pages that are
    not full yet are not described: whoever finishes a job would have to correct that.
    """
    patience = BUILD_PATIENCE
    for index, partition, size in conn.execute(
        """
        select i.indexrelid::regclass::text, p.relname, pg_relation_size(p.oid)
        from pg_index as i
        join pg_inherits as h on h.inhparent = i.indrelid
        join pg_class as p on p.oid = h.inhrelid
        where i.indexrelid in (
                'rota.finished_jobs_times'::regclass, 'rota.times_of_attempts'::regclass
            )
            and not exists (
                select
                from pg_inherits as a
                join pg_index as o on o.indexrelid = a.inhrelid
                where a.inhparent = i.indexrelid and o.indrelid = p.oid
            )
        order by p.relname
        """
    ).fetchall():
        name = f"{partition}_times"
        began = time.monotonic()
        try:
            _patiently(lambda name=name: conn.execute(f"drop index if exists rota.{name}"))
            _build_index(
                conn,
                f"{name} on rota.{partition} using brin (finished_at)"
                " with (pages_per_range = 32, autosummarize = on)",
                patience=patience if size > SMALL else None,
            )
            attach = f"alter index {index} attach partition rota.{name}"
            _patiently(lambda attach=attach: conn.execute(attach))
            conn.execute(
                "select brin_desummarize_range(%s::regclass, greatest(%s, 1) - 1)",
                [f"rota.{name}", size // 8192],
            )
        except errors.LockNotAvailable:
            patience -= time.monotonic() - began
            report(
                f"rota.{partition} is in use and could not be indexed by time: until the next"
                " deploy has done it, statistics read all of it once a minute"
            )


def _build_index(conn: Connection, index: str, *, patience: float | None) -> None:
    """Build an index; beside writers, if it may wait for so many seconds, or as for any lock."""
    if patience is None:
        _patiently(lambda: conn.execute(f"create index {index}"))
        return
    with _waiting(conn, patience + 1) if patience > 0 else nullcontext():
        conn.execute(f"create index concurrently {index}")


@contextlib.contextmanager
def _waiting(conn: Connection, seconds: float) -> Iterator[None]:
    """Have statements wait so long for locks: for those behind which nobody waits."""
    conn.execute("select set_config('lock_timeout', %s, false)", [f"{seconds:.3f}s"])
    try:
        yield
    finally:
        conn.execute("select set_config('lock_timeout', %s, false)", [LOCK_TIMEOUT])


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


def _can_run(conn: Connection, path: Path) -> bool:
    """Run a file of SQL, unless it names what is not there; tell whether it has run."""
    with contextlib.suppress(psycopg.ProgrammingError), conn.transaction():
        _run_file(conn, path)
        return True
    return False


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


def _shard(conn: Connection) -> int | None:
    # What is deployed may be of before there were shards, and have no such column.
    row = conn.execute(
        "select (to_jsonb(s) ->> 'shard')::integer from rota.settings as s"
    ).fetchone()
    return row[0] if row else None


def _number(conn: Connection, shard: int, report: Callable[[str], None], beyond: int = 0) -> None:
    """Have the ids of a database tell which of several it is."""
    query = "select rota._become_shard(%s, %s)"
    row = _patiently(lambda: conn.execute(query, [shard, beyond]).fetchone())
    if row and row[0]:
        report(f"Database {conn.info.dbname} is shard {shard} now: its ids go on at {row[0]}")


def _heal_job_ids(conn: Connection, report: Callable[[str], None]) -> None:
    """Put the sequence ahead of every id: a restore or a switch-over may have left it behind."""
    row = _patiently(lambda: conn.execute("select rota._heal_job_ids()").fetchone())
    if row and row[0]:
        report(f"Ids would have been given twice: rota.job_ids was behind, and goes on at {row[0]}")
    row = _patiently(lambda: conn.execute("select rota._note_server()").fetchone())
    if row and row[0]:
        report(
            "This database was on another server before, which may have given out more ids:"
            f" they go on after {row[0]}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Deploy to the URLs on the command line, or to DATABASE_URL; say in a line what failed."""
    parser = argparse.ArgumentParser(prog="rota deploy", description="Deploy Rota.")
    parser.add_argument(
        "urls",
        nargs="*",
        metavar="url",
        help="a libpq connection string, or several: each database is a shard then; DATABASE_URL"
        " if left out",
    )
    parser.add_argument(
        "--database", action="append", default=[], metavar="URL", help="the same; may be repeated"
    )
    options = parser.parse_args(arguments)
    named = [*options.urls, *options.database] or [os.environ.get("DATABASE_URL", "")]
    urls = [url for text in named for url in split_urls(text) if url]
    if not urls:
        parser.error("give the database's URL as an argument or in DATABASE_URL")
    try:
        names = [name_of(url) for url in urls] if len(urls) > 1 else [""]
    except ValueError as error:
        _complain(error)
        return 1
    failed = [url for url, name in zip(urls, names, strict=True) if not _deployed(url, name)]
    if failed or len(urls) == 1:
        return 1 if failed else 0
    try:
        number(urls)
    except (DeployError, ValueError, psycopg.Error) as error:
        _complain(error)
        return 1
    return 0


def _deployed(url: str, name: str) -> bool:
    """Deploy to a database, and say in one line what failed; return whether nothing did.

    Args:
        url: a connection string.
        name: of the database, where there are several.
    """
    try:
        deploy(url, progress=Progress())
        if token := os.environ.get("ROTA_TOKEN"):
            print(ensure_token(url, token))
    except (DeployError, TokenError, psycopg.Error) as error:
        _complain(error, f" of {name}" if name else "")
        return False
    return True


def _complain(error: Exception, place: str = "") -> None:
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    said = f"deploy{place} failed: {' '.join(str(error).split())}{notes}"
    print(printable(said, sys.stderr), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
