"""Health: is this process alive, and can it do its work."""

from typing import Any

import psycopg
from flask import Blueprint, current_app

from rota.app.database import Database, database
from rota.app.errors import RequestError, status_of
from rota.app.inputs import Field, read_query
from rota.app.probe import PATIENCE, WriteProbe
from rota.db.gateway import call
from rota.db.version import checkout_version, is_outlived

blueprint = Blueprint("health", __name__)

# What this process was started from, whatever happens to the files while it runs.
VERSION = checkout_version()


# What the API needs rights to. Some may be missing on purpose, for one that only reads.
FUNCTIONS = [
    "enqueue_job",
    "enqueue_jobs",
    "enqueue_workflow",
    "emit_event",
    "begin_request",
    "end_request",
    "claim_next_job",
    "finish_job",
    "finish_jobs",
    "heartbeat_job",
    "heartbeat_jobs",
    "release_job",
    "record_step",
    "recorded_steps",
    "sleep_job",
    "await_event",
    "parent_results",
    "announce_worker",
    "do_chores",
    "maintain",
    "begin_sleep",
    "end_sleep",
    "ended_jobs",
    "explain_job",
    "doctor",
    "statistics_age",
    "cancel_job",
    "retry_job",
    "cancel_jobs",
    "retry_jobs",
    "cancel_workflow",
    "retry_workflow",
    "schedule_job",
    "preview_schedule",
    "pause_schedule",
    "resume_schedule",
    "trigger_schedule",
    "backfill_schedule",
    "delete_schedule",
    "pause_queue",
    "resume_queue",
    "configure_queue",
    "configure_key",
    "delete_queue",
]
VIEWS = [
    "jobs",
    "executions",
    "workflow_status",
    "workflow_nodes",
    "open_dependencies",
    "schedule_status",
    "queue_status",
    "key_limits",
    "worker_status",
    "queue_census",
    "worker_census",
    "queue_heads",
    "queue_depths",
    "attempt_minutes",
    "attempt_totals",
    "actions",
]
MISSING_RIGHTS = """
    select f.name
    from unnest(%(functions)s::text[]) with ordinality as f(name, place)
    where not exists (
        select from pg_proc as p
        where p.pronamespace = 'rota'::regnamespace and p.proname = f.name
            and has_function_privilege(p.oid, 'execute')
    )
    union all
    select v.name
    from unnest(%(views)s::text[]) as v(name)
    where not exists (
        select from pg_class as c
        where c.relnamespace = 'rota'::regnamespace and c.relname = v.name
            and has_table_privilege(c.oid, 'select')
    )
"""
GRANT_API = "grant it rota_api, and each principal that has a token"
MAY_LOOK_UP = """
    select rota.needs_token(), has_function_privilege(p.oid, 'execute')
    from pg_proc as p
    where p.pronamespace = 'rota'::regnamespace and p.proname = 'authenticate_token'
"""
GRANT = "grant it rota_producer and rota_operator, and rota_worker for work over HTTP"


def look(database: Database) -> tuple[str | None, list[str]]:
    """Say what keeps the API from working and what to do, or None; and to what it has no rights.

    Raises:
        psycopg.OperationalError: the database cannot be reached.
    """
    try:
        with database.own_transaction() as conn:
            deployed = call(conn, "version")[0]["version"]
            is_known = deployed == VERSION or is_outlived(conn, VERSION)
            if is_known:
                needs_token, may_look_up = conn.execute(MAY_LOOK_UP).fetchone() or (False, False)
                needed = {"functions": FUNCTIONS, "views": VIEWS}
                missing = [name for (name,) in conn.execute(MISSING_RIGHTS, needed)]
    except psycopg.errors.InsufficientPrivilege:
        return f"this login has no rights to the schema rota: {GRANT}", []
    except psycopg.Error as error:
        if status_of(error) == 503:
            raise
        return "the database has no schema rota for this user; run: rota deploy", []
    if not is_known:
        return (
            f"the database has version {deployed[:12]}, this checkout is {VERSION[:12]};"
            " run: rota deploy"
        ), []
    if needs_token:  # requests run with the rights of their principals, not with ours
        return (None if may_look_up else f"this login may not look up tokens: {GRANT_API}"), []
    if len(missing) == len(FUNCTIONS) + len(VIEWS):
        return f"this login may do nothing that the API is for: {GRANT}", missing
    return None, missing


@blueprint.get("/health/live")
def live() -> dict[str, str]:
    """Tell that this process answers.

    ---
    tags: [health]
    operationId: getLiveness
    responses:
      200:
        description: It does.
        json: Alive
    """
    return {"status": "alive"}


@blueprint.get("/health/ready")
def ready() -> dict[str, Any]:
    """Tell whether requests can be answered.

    The database can be reached and has the version of the schema that belongs to this process, or a
    later one, and its login has rights to some of it. What it has no rights to is listed: such
    requests fail. With `write` a write was committed, too, within two seconds, where a synchronous
    standby has confirmed it: a server may answer every question while nothing commits. Of several
    databases one is enough, and how each of them is stands in `shards`.
    ---
    tags: [health]
    operationId: getReadiness
    parameters:
      - name: write
        in: query
        description: 1 to have a write committed; it changes no table.
        schema: {type: integer, enum: [0, 1]}
    responses:
      200:
        description: They can.
        json: Ready
      422: {code: RTV01, message: "write: must be 0 or 1"}
      503:
        code: HTTP503
        message: "the database has no schema rota for this user; run: rota deploy"
    """
    write = bool(read_query({"write": Field(_zero_or_one)}).get("write"))
    front = current_app.extensions.get("front")
    if front is not None:
        return front.readiness(write)
    if write:
        commit_a_write(current_app.extensions["probe"])  # first: it is over in two seconds
    difference, missing = look(database())
    if difference is not None:
        raise RequestError(503, difference)
    return {"status": "ready", "version": VERSION} | (
        {"missing_rights": missing} if missing else {}
    )


def _zero_or_one(value: str) -> bool:
    if value not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return value == "1"


def commit_a_write(probe: WriteProbe) -> None:
    """Have a write committed.

    Raises:
        RequestError: 503, it did not in time, or the login may not.
        psycopg.Error: the database cannot be reached, or refuses it.
    """
    try:
        probe.write()
    except TimeoutError:
        raise RequestError(
            503,
            f"a write did not commit within {PATIENCE:.0f} seconds",
            hint="Is the synchronous standby there? Or is this a primary that was left behind?",
        ) from None
    except psycopg.errors.InsufficientPrivilege:
        raise RequestError(
            503, "this login may not call pg_logical_emit_message: grant it that"
        ) from None
