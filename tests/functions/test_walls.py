"""Walls between tenants: a role behind one sees, touches and learns of its own queues only."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import Connection, errors, sql
from psycopg.types.json import Jsonb

from rota.db.deploy import ROLES, deploy
from rota.db.gateway import call
from tests.waiting import wait_until
from tests.walls import BEHIND_A_WALL, CHORE, EMPTY, MISSING, NOTHING, OWN, REFUSED, TOKEN

HOUR = timedelta(hours=1)
START = datetime(2030, 1, 7, tzinfo=UTC)
NO_JOB = 999_999_999
PREFIX = f"rota_test_{os.getpid()}"
ACME, GLOBEX = f"{PREFIX}_acme", f"{PREFIX}_globex"
SCOPES = [role for role in ROLES if role != "rota_api"]  # which stands for everybody
# Who calls as the neighbour: the tenant with all rights, and one with those of each role alone.
NEIGHBOURS = {ACME: SCOPES} | {f"{ACME}_{role.removeprefix('rota_')}": [role] for role in ROLES}


@pytest.fixture(scope="module")
def tenants(new_role) -> None:
    for name, roles in {GLOBEX: SCOPES, **NEIGHBOURS}.items():
        new_role(name, *roles)


@pytest.fixture
def house(conn, tenants) -> Connection:
    """Somebody without walls, in a house with two tenants."""
    for name in NEIGHBOURS:
        call(conn, "wall", principal=name, queue_pattern="acme.*")
    call(conn, "wall", principal=GLOBEX, queue_pattern="globex.*")
    conn.execute("alter sequence rota.job_ids restart 700001")  # like no other number
    return conn


@pytest.fixture
def acme(house, connect) -> Connection:
    return connect(role=ACME, prepare_threshold=None)


@pytest.fixture
def globex(house, connect) -> Connection:
    return connect(role=GLOBEX, prepare_threshold=None)


def enqueue(conn, queue, **arguments):
    return call(conn, "enqueue_job", **{"task": "t", "queue": queue, **arguments})[0]["job_id"]


class Belongings:
    """One of everything that a tenant may have; what is missing has the same names and no rows."""

    def __init__(self, name, suffix=""):
        self.name = name
        self.queue, self.schedule = f"{name}.mail{suffix}", f"{name}.nightly{suffix}"
        self.worker, self.key = f"{name}.worker{suffix}", f"{name}.key{suffix}"
        self.request, self.event = f"{name}.request{suffix}", f"{name}.paid{suffix}"
        self.waiting = self.running = self.failed = self.done = NO_JOB
        self.sleeping = self.child = self.workflow = NO_JOB
        self.token: UUID = uuid4()
        self.token_id = NO_JOB

    @property
    def ids(self):
        return [self.waiting, self.running, self.failed, self.done, self.sleeping, self.child]


def furnish(conn, name):
    """Make one of everything, as the tenant."""
    has = Belongings(name)
    about = {"host": name, "pid": 1, "concurrency": 1, "version": name, "tasks": ["unknown"]}
    call(conn, "announce_worker", worker=has.worker, queues=[has.queue], **about)
    claims = {"queues": [has.queue], "worker": has.worker}
    has.done = enqueue(conn, has.queue, payload=Jsonb(name))
    (job,) = call(conn, "claim_next_job", **claims)
    call(conn, "finish_job", job_id=job["id"], token=job["token"], result=Jsonb(name))
    has.failed = enqueue(conn, has.queue, payload=Jsonb(name))
    (job,) = call(conn, "claim_next_job", **claims)
    call(conn, "finish_job", job_id=job["id"], token=job["token"], error=name, retry=False)
    unhandled = enqueue(conn, has.queue, task="unhandled", payload=Jsonb(name))
    (job,) = call(conn, "claim_next_job", **claims)
    pair = {"job_ids": [unhandled], "tokens": [job["token"]]}
    call(conn, "release_unhandled_jobs", **pair, delay=HOUR, reason=name)
    has.sleeping = enqueue(conn, has.queue, payload=Jsonb(name))
    (job,) = call(conn, "claim_next_job", **claims)
    pair = {"job_id": job["id"], "token": job["token"]}
    call(conn, "record_step", **pair, step="one", result=Jsonb(name))
    call(conn, "await_event", **pair, step="two", event=has.event, timeout=10 * HOUR)
    call(conn, "emit_event", event=f"{name}.shipped", payload=Jsonb(name))
    has.running = enqueue(conn, has.queue, payload=Jsonb(name))
    (job,) = call(conn, "claim_next_job", **claims, lease=10 * HOUR)
    call(conn, "heartbeat_job", job_id=job["id"], token=job["token"], progress=Jsonb(name))
    has.waiting = enqueue(conn, has.queue, unique_key=has.key, key=has.key, payload=Jsonb(name))
    enqueue(conn, has.queue, payload=Jsonb(name), run_at=datetime.now(UTC) + HOUR / 2)
    parts = [{"task": "t", "queue": has.queue, "node": name, "depends_on": [has.running]}] * 2
    parts[1] = {**parts[0], "node": f"{name}.2", "depends_on": "previous"}
    (child, _) = call(conn, "enqueue_workflow", jobs=Jsonb(parts), name=f"{name}.workflow")
    has.child, has.workflow = child["job_id"], child["workflow_id"]
    call(conn, "schedule_job", task="t", every=HOUR, name=has.schedule, queue=has.queue)
    call(conn, "configure_queue", queue=f"{name}.settings", max_retries=7)
    call(conn, "configure_key", queue=f"{name}.settings", key=has.key, max_running=7)
    call(conn, "begin_request", key=has.request, fingerprint="f")
    call(conn, "end_request", key=has.request, status=201, answer=name)
    principal = {"acme": ACME, "globex": GLOBEX}[name]
    has.token_id = call(conn, "create_token", principal=principal, note=name)[0]["token_id"]
    return has


def put_limits_in_force(house):
    """Chores do, whoever calls them, as soon as nobody is open who may not know of a limit."""

    def are_in_force():
        call(house, "do_chores")
        return not house.execute(
            "select from rota.flow_locks where number = -1 and not settled"
        ).fetchall()

    wait_until(are_in_force)


def count_all(house):
    """Have statistics of everybody."""
    house.execute("update rota.chores set took = '0'")
    call(house, "take_census", older_than=timedelta(0))
    house.execute(
        """
        insert into rota.minutes
        select
            date_trunc('minute', f.finished_at, 'UTC'), 60, f.queue, f.task, 'SUCCEEDED', 1, 0, 1,
            1, 1, array_fill(0, '{14}'), array_fill(0, '{14}')
        from rota.finished_jobs as f
        on conflict do nothing
        """
    )
    house.execute(
        """
        insert into rota.totals
        select
            f.queue, f.task, 'SUCCEEDED', 1, 0, 1, 1, 1, array_fill(0, '{14}'),
            array_fill(0, '{14}')
        from rota.finished_jobs as f
        on conflict do nothing
        """
    )


def cut_short(of, **more):
    return {"job_id": of.running, "token": of.token, **more}


def pairs(of, **more):
    return {"job_ids": of.ids, "tokens": [of.token] * len(of.ids), **more}


ABOUT = {"host": "h", "pid": 1, "concurrency": 1, "version": "v"}
STEP = {"step": "one", "event": "acme.own", "timeout": HOUR}
OWN_QUEUE = {"task": "t", "queue": "acme.own"}
SLOTS = {"starts_at": START, "ends_at": START + 2 * HOUR}

BULKS: list[Any] = [
    lambda of: {"filter": Jsonb({"queue": of.queue})},
    lambda of: {"filter": Jsonb({"queue": of.queue}), "dry_run": False},
    lambda of: {"filter": Jsonb({"ids": of.ids}), "dry_run": False},
    lambda of: {"filter": Jsonb({"unique_key": of.key}), "dry_run": False},
    lambda of: {"filter": Jsonb({"ids": of.ids, "queue": of.queue}), "max_jobs": 1},
]

# Each function, called with what belongs to somebody else, in every way that might tell of it.
PROBES: dict[str, list[Any]] = {
    "enqueue_job": [
        lambda of: {"task": "t", "queue": of.queue},
        lambda of: {"task": "t", "queue": of.queue, "unique_key": of.key},
        lambda of: {"task": "t", "queue": f"{of.queue}.new"},
        lambda of: {"task": "t", "queue": "acme.own", "unique_key": of.key},
    ],
    "enqueue_jobs": [
        lambda of: {"jobs": Jsonb([{"task": "t", "queue": of.queue}])},
        lambda of: {"jobs": Jsonb([{"task": "t", "queue": of.queue, "unique_key": of.key}])},
        lambda of: {"jobs": Jsonb([{"task": "t", "queue": q} for q in ("acme.a", of.queue)])},
        lambda of: {"jobs": Jsonb([{"task": "t", "queue": "acme.own", "unique_key": of.key}])},
    ],
    "enqueue_many": [
        lambda of: {"task": "t", "payloads": Jsonb([1]), "queue": of.queue},
        lambda of: {"task": "t", "payloads": Jsonb([]), "queue": of.queue},
    ],
    "enqueue_workflow": [
        lambda of: {"jobs": Jsonb([{"task": "t", "queue": of.queue}])},
        lambda of: {"jobs": Jsonb([{"task": "t", "queue": of.queue, "unique_key": of.key}])},
        lambda of: {
            "jobs": Jsonb([{"task": "t", "queue": of.queue, "depends_on": [of.running, 7]}])
        },
        *(
            lambda of, n=n: {"jobs": Jsonb([OWN_QUEUE | {"depends_on": [of.ids[n]]}])}
            for n in range(6)
        ),
        lambda of: {"jobs": Jsonb([OWN_QUEUE | {"unique_key": of.key}]), "name": of.schedule},
    ],
    "cancel_workflow": [
        lambda of: {"workflow_id": of.workflow},
        lambda of: {"workflow_id": of.child, "reason": "x"},
    ],
    "retry_workflow": [lambda of: {"workflow_id": of.workflow}],
    "parent_results": [lambda of, n=n: {"job_id": of.ids[n]} for n in range(6)],
    "recorded_steps": [lambda of, n=n: {"job_id": of.ids[n]} for n in range(6)],
    "record_step": [lambda of: cut_short(of, step="one", result=Jsonb(1))],
    "sleep_job": [lambda of: cut_short(of, step="one", delay=HOUR)],
    "await_event": [
        lambda of: cut_short(of, **STEP | {"event": of.event}),
        lambda of: cut_short(of, **STEP),
    ],
    "emit_event": [
        lambda of: {"event": of.event},
        lambda of: {"event": of.event, "payload": Jsonb(1)},
        lambda of: {"event": f"{of.event}.new"},
    ],
    "schedule_job": [
        lambda of: {"task": "t", "every": HOUR, "queue": of.queue},
        lambda of: {"task": "t", "every": HOUR, "queue": of.queue, "name": "acme.new"},
        lambda of: {"task": "t", "every": HOUR, "queue": "acme.mail", "name": of.schedule},
        lambda of: {"task": "t", "cron": "@daily", "queue": "acme.mail", "name": of.schedule},
    ],
    "claim_next_job": [
        lambda of: {"queues": [of.queue]},
        lambda of: {"queues": [of.queue, f"{of.queue}.new"], "max_jobs": 1000},
        lambda of: {"queues": [of.queue], "worker": of.worker, "max_bytes": 1},
        lambda of: {"queues": ["acme.empty", of.queue], "worker": of.worker},
    ],
    "finish_job": [
        cut_short,
        lambda of: cut_short(of, error="x"),
        lambda of: {"job_id": of.done, "token": of.token},
        lambda of: cut_short(of, next=Jsonb([{"task": "t", "queue": of.queue}])),
        *(
            lambda of, n=n: cut_short(of, next=Jsonb([{"task": "t", "depends_on": [of.ids[n]]}]))
            for n in range(6)
        ),
    ],
    "finish_jobs": [pairs, lambda of: pairs(of, errors=["x"] * 6)],
    "heartbeat_job": [cut_short, lambda of: cut_short(of, progress=Jsonb(1))],
    "heartbeat_jobs": [pairs],
    "release_job": [cut_short, lambda of: {"job_id": of.waiting, "token": of.token}],
    "release_unhandled_jobs": [pairs],
    "hold_lease": [cut_short],
    "begin_sleep": [lambda of: {"queues": [of.queue]}],
    "end_sleep": [lambda of: {"queues": [of.queue]}],
    "announce_worker": [
        lambda of: {"worker": of.worker, "queues": ["acme.mail"], **ABOUT},
        lambda of: {"worker": "acme.worker", "queues": [of.queue], **ABOUT},
        lambda of: {"worker": of.worker, "queues": [of.queue], **ABOUT},
    ],
    "dismiss_worker": [lambda of: {"worker": of.worker}],
    "next_due_in": [lambda of: {"queues": [of.queue], "within": HOUR}],
    "bring_forward_jobs": [lambda of: {"queues": [of.queue], "tasks": ["unhandled", "t"]}],
    "do_chores": [lambda of: {}],
    "recover_jobs": [lambda of: {}],
    "recover_workers": [lambda of: {}],
    "maintain": [lambda of: {}],
    "take_census": [lambda of: {}, lambda of: {"older_than": timedelta(0), "force": True}],
    "roll_up": [lambda of: {}],
    "statistics_age": [lambda of: {}],
    "shard": [lambda of: {}],
    "shard_of": [lambda of: {"key": "k", "n": 4}],
    "cancel_job": [
        *(lambda of, n=n: {"job_id": of.ids[n]} for n in range(6)),
        lambda of: {"job_id": of.waiting, "reason": "x"},
    ],
    "retry_job": [lambda of, n=n: {"job_id": of.ids[n]} for n in range(6)],
    "cancel_jobs": BULKS,
    "retry_jobs": BULKS,
    "begin_request": [
        lambda of: {"key": of.request, "fingerprint": "f"},
        lambda of: {"key": of.request, "fingerprint": "another"},
    ],
    "end_request": [lambda of: {"key": of.request, "status": 200, "answer": "{}"}],
    "ended_jobs": [lambda of: {"job_ids": of.ids}],
    "doctor": [lambda of: {}],
    "explain_job": [lambda of, n=n: {"job_id": of.ids[n]} for n in range(6)],
    "create_token": [
        lambda of: {"principal": "nobody"},
        lambda of: {"principal": "nobody", "note": of.name},
    ],
    "binding_principals": [lambda of: {}],
    "revoke_token": [lambda of: {"token_id": of.token_id}],
    "authenticate_token": [lambda of: {"hash": b"?" * 32}],
    "principal_of": [lambda of: {"hash": b"?" * 32}],
    "needs_token": [lambda of: {}],
    "pause_queue": [lambda of: {"queue": of.queue}],
    "resume_queue": [lambda of: {"queue": of.queue}],
    "delete_queue": [lambda of: {"queue": of.queue}],
    "configure_queue": [
        lambda of: {"queue": of.queue, "max_retries": 1},
        lambda of: {"queue": of.queue, "unset": ["timeout"]},
        lambda of: {"queue": of.queue, "key_max_running": 1},
    ],
    "configure_key": [
        lambda of: {"queue": of.queue, "key": of.key, "max_running": 1},
        lambda of: {"queue": of.queue, "key": of.key, "unset": ["max_running"]},
    ],
    "pause_schedule": [lambda of: {"name": of.schedule}],
    "resume_schedule": [lambda of: {"name": of.schedule}],
    "trigger_schedule": [lambda of: {"name": of.schedule}],
    "delete_schedule": [lambda of: {"name": of.schedule}],
    "backfill_schedule": [lambda of: {"name": of.schedule, **SLOTS}],
    "configure_retention": [lambda of: {"retention": timedelta(days=8)}],
    "check_invariants": [lambda of: {}],
    "wall": [lambda of: {"principal": ACME, "queue_pattern": of.queue}],
    "unwall": [
        lambda of: {"principal": ACME, "queue_pattern": "acme.*"},
        lambda of: {"principal": GLOBEX, "queue_pattern": of.queue},
    ],
    "visible_queues": [lambda of: {}],
    "version": [lambda of: {}],
    "was_deployed": [lambda of: {"version": of.name}],
    "next_run": [lambda of: {"cron": "@daily", "time_zone": "UTC", "after": START}],
    "preview_schedule": [lambda of: {"every": HOUR, "n": 2, "from_time": START}],
}


def doors(conn):
    """Return each function and view that a role of ours may use."""
    return {
        kind: {name for _, name in rows}
        for kind in ("function", "view")
        if (
            rows := conn.execute(
                """
                select distinct a.kind, a.name
                from (
                    select 'function', p.proname::text, p.oid, null::oid
                    from pg_proc as p
                    where p.pronamespace = 'rota'::regnamespace
                        and p.proname <> '_lane' -- which a view calls
                    union all
                    select 'view', c.relname::text, null, c.oid
                    from pg_class as c
                    where c.relnamespace = 'rota'::regnamespace and c.relkind in ('v', 'm')
                ) as a (kind, name, function, relation)
                cross join unnest(%s::text[]) as r (role)
                where a.kind = %s
                    and coalesce(
                        has_function_privilege(r.role, a.function, 'execute'),
                        has_table_privilege(r.role, a.relation, 'select')
                    )
                """,
                [list(ROLES), kind],
            ).fetchall()
        )
    }


def answer(conn, function, arguments, of):
    """Return what a call answered, and the same without names and ids of whose things it is."""
    try:
        rows = call(conn, function, **arguments)
    except psycopg.Error as error:
        said = error.diag
        told = (error.sqlstate, said.message_primary, said.message_hint, said.message_detail)
        about = (*told, said.context, said.table_name, said.constraint_name)
    else:
        about = told = tuple(tuple(row.values()) for row in rows)
    text = repr(about)
    for job_id in sorted({*of.ids, of.workflow}, reverse=True):
        text = re.sub(rf"\b{job_id}\b", "ID", text)
    text = re.sub(r"\b7\d{5}\b", "NEW", text)
    text = text.replace(f"no token {of.token_id}'", "no token ID'")
    for name in (of.queue, of.schedule, of.worker, of.key, of.event):
        text = text.replace(name, "NAME")
    return told, text.replace(of.name, "TENANT")


def everything_of(conn, name):
    """Return every row that is of a tenant, from all tables."""
    tables = [
        table
        for (table,) in conn.execute(
            "select relname from pg_class where relnamespace = 'rota'::regnamespace"
            " and relkind in ('r', 'p') and not relispartition and relname not like '%yoyo%'"
        )
    ]
    ids = [
        job_id
        for (job_id,) in conn.execute("select id from rota.jobs where queue like %s", [f"{name}.%"])
    ]
    found = {}
    for table in sorted(tables):
        query = sql.SQL("select t::text from rota.{} as t").format(sql.Identifier(table))
        rows = [row for (row,) in conn.execute(query)]
        found[table] = sorted(
            row
            for row in rows
            if name in row or any(re.match(rf"\({job_id},", row) for job_id in ids)
        )
    return found


def test_every_door_is_probed_and_said_what_it_does_behind_a_wall(conn):
    there = doors(conn)

    assert set(PROBES) == there["function"]
    assert set(BEHIND_A_WALL) == there["function"] | there["view"]
    assert {name for name, kind in BEHIND_A_WALL.items() if kind == OWN} == (
        there["view"]
        | {
            "visible_queues",
            "binding_principals",
            "cancel_jobs",
            "retry_jobs",
            "ended_jobs",
            "explain_job",
        }
    )


def test_what_a_neighbour_has_answers_as_what_there_is_not(house, globex, connect):
    """While its owner holds every row of it locked, and the caller may wait for no lock at all."""
    has = furnish(globex, "globex")
    has_not = [Belongings("absent"), Belongings("globex", "2"), Belongings("globex.mail")]
    holder = connect(autocommit=False)
    for table in (
        *("live_jobs", "finished_jobs", "schedules", "queues", "workers", "requests"),
        *("job_waits", "job_dependencies", "workflows", "workflow_jobs", "events", "event_waits"),
    ):
        holder.execute(f"select from rota.{table} for update")
    for name in NEIGHBOURS:
        neighbour = connect(role=name, prepare_threshold=None)
        neighbour.execute("set lock_timeout = '1ms'")
        neighbour.autocommit = False

        for function, probes in PROBES.items():
            is_granted = may_call(house, name, function)
            for number, probe in enumerate(probes):
                told, about_it = answer(neighbour, function, probe(has), has)
                neighbour.rollback()
                for nothing in has_not:
                    _, about_nothing = answer(neighbour, function, probe(nothing), nothing)
                    neighbour.rollback()
                    assert about_it == about_nothing, (name, function, number)
                if not is_granted:
                    denied = ("42501", f"permission denied for function {function}")
                    assert told[:2] == denied, (name, function)
                elif "acme.own" not in str(probe(has).values()):
                    check_kind(function, told)


def may_call(conn, role, function):
    query = "select has_function_privilege(%s, %s::regproc, 'execute')"
    return conn.execute(query, [role, f"rota.{function}"]).fetchone()[0]


def check_kind(function, told):
    kind = BEHIND_A_WALL[function]
    if kind == REFUSED:
        assert told[0] == "42501", (function, told)
    elif kind == MISSING:
        assert told[0] == "RTN01" and re.match("there is no (job|workflow) ", told[1]), told
    elif kind == TOKEN:
        assert told[:1] == ("RTC02",) or all(row[-1] == "LEASE_LOST" for row in told), function
    elif kind == EMPTY:
        assert told in ((), ((None,),), ((0,),), ((True,),), (("",),), ((b"",),)), (function, told)
    else:
        assert kind in (NOTHING, CHORE, OWN)
        assert told[:1] != ("42501",), (function, told)


def test_nothing_that_a_neighbour_calls_changes_anything(house, globex, connect):
    has = furnish(globex, "globex")
    put_limits_in_force(house)
    count_all(house)
    keeper = connect(autocommit=False)  # or statistics go on, as they may
    keeper.execute("select from rota.chores where chore in ('take_census', 'roll_up') for update")
    before = everything_of(house, "globex")
    assert sum(map(len, before.values())) > 15
    assert all(before[table] for table in ("live_jobs", "finished_jobs", "attempts", "schedules"))
    assert all(before[table] for table in ("requests", "api_tokens", "workers", "action_log"))
    assert all(before[table] for table in ("workflows", "workflow_jobs", "job_waits", "events"))
    assert all(before[table] for table in ("job_dependencies", "event_waits", "job_steps"))
    counts = {view: seen(globex, view) for view in doors(house)["view"]}

    for name in NEIGHBOURS:
        neighbour = connect(role=name, prepare_threshold=None)
        for function, probes in PROBES.items():
            for probe in probes:
                answer(neighbour, function, probe(has), has)

    after = everything_of(house, "globex")
    assert {table: set(rows) - set(after[table]) for table, rows in before.items()} == {
        table: set() for table in before
    }
    new = {row for table, rows in after.items() for row in set(rows) - set(before[table])}
    assert all("acme" in row for row in new), new  # it used the neighbour's names for its own
    assert {view: seen(globex, view) for view in counts} == counts


def test_no_view_shows_a_neighbour_in_rows_or_numbers(house, acme, globex, connect):
    furnish(acme, "acme")
    count_all(house)
    alone = {view: seen(acme, view) for view in doors(house)["view"]}
    assert all(rows for rows in alone.values())

    has = furnish(globex, "globex")
    count_all(house)

    call(globex, "enqueue_many", task="t", payloads=Jsonb([1] * 10), queue="globex.mail")

    for view, rows in alone.items():
        assert seen(acme, view) == rows, view
        assert "globex" not in repr(rows)
        count = sql.SQL("select count(*) from rota.{}").format(sql.Identifier(view))
        (number,) = acme.execute(count).fetchone()
        assert number == len(rows)
    assert all(seen(globex, view) for view in alone)
    unwalled = connect(role="rota_reader")
    for job_id in has.ids:
        for view, column in (("jobs", "id"), ("executions", "job_id")):
            query = f"select from rota.{view} where {column} = {job_id}"
            assert acme.execute(query).fetchall() == []
            assert unwalled.execute(query).fetchall() or job_id in (has.waiting, has.child)
    assert call(acme, "visible_queues") == [{"visible_queues": ["acme.mail", "acme.settings"]}]
    assert call(unwalled, "visible_queues") == [{"visible_queues": None}]


def seen(conn, view):
    query = sql.SQL("select v::text from rota.{} as v").format(sql.Identifier(view))
    return sorted(conn.execute(query).fetchall())


def test_what_a_reader_s_own_conditions_call_sees_no_row_of_a_neighbour(house, acme, globex):
    furnish(globex, "globex")
    furnish(acme, "acme")
    count_all(house)
    told = []
    acme.execute("set client_min_messages = notice")
    acme.add_notice_handler(lambda notice: told.append(notice.message_primary))
    acme.execute(
        """
        create function pg_temp.peep(seen text) returns boolean language plpgsql cost 0.0000001
        as 'begin raise notice ''seen %'', seen; return true; end'
        """
    )

    for view in doors(house)["view"]:
        columns = [
            name
            for (name,) in house.execute(
                "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0",
                [f"rota.{view}"],
            )
        ]
        every = ", ".join(f"v.{column}::text" for column in columns)
        acme.execute(f"select from rota.{view} as v where pg_temp.peep(concat_ws(' ', {every}))")

    assert any("acme" in text for text in told)
    assert not [text for text in told if "globex" in text]


def kinds_of_views(conn):
    """Return what each view is that is of one kind or the other."""
    rows = conn.execute(
        """
        select c.relname, case
                when strpos(pg_get_viewdef(c.oid), '_walled_' || c.relname) > 0 then 'walled'
                when strpos(pg_get_viewdef(c.oid), '_all_' || c.relname) > 0 then 'all'
            end
        from pg_class as c
        where c.relnamespace = 'rota'::regnamespace and c.relkind = 'v'
            and c.relname in ('jobs', 'executions', 'job_executions')
        """
    ).fetchall()
    assert len(rows) == 3
    return {kind for _, kind in rows}


def test_every_view_is_a_barrier_while_there_are_walls(house):
    (open_ones,) = house.execute(
        """
        select array_agg(c.relname::text order by c.relname) from pg_class as c
        where c.relnamespace = 'rota'::regnamespace and c.relkind = 'v'
            and left(c.relname, 5) <> '_all_'
            and 'security_barrier=true' <> all(coalesce(c.reloptions, '{}'))
        """
    ).fetchone()

    assert open_ones == ["executions", "job_executions", "jobs"]
    assert kinds_of_views(house) == {"walled"}


def test_the_views_ask_for_walls_from_the_first_to_the_last(conn):
    assert kinds_of_views(conn) == {"all"}
    for pattern in ("a", "b.*"):
        call(conn, "wall", principal="rota_reader", queue_pattern=pattern)
        assert kinds_of_views(conn) == {"walled"}
    call(conn, "unwall", principal="rota_reader", queue_pattern="a")
    assert kinds_of_views(conn) == {"walled"}
    call(conn, "unwall", principal="rota_reader", queue_pattern="b.*")
    assert kinds_of_views(conn) == {"all"}


def test_the_views_ask_for_walls_also_where_whoever_builds_them_has_all_names_quoted(conn):
    conn.execute("set quote_all_identifiers = on")
    call(conn, "wall", principal="rota_reader", queue_pattern="a")
    conn.execute("set quote_all_identifiers = off")

    assert kinds_of_views(conn) == {"walled"}


@pytest.mark.parametrize("way", ["rows", "rows of a subscription"])
def test_the_views_follow_the_rows_however_these_come(conn, way):
    if way == "rows of a subscription":
        conn.execute("set session_replication_role = replica")

    conn.execute("insert into rota.queue_walls values ('rota_reader', 'a')")
    assert kinds_of_views(conn) == {"walled"}
    conn.execute("delete from rota.queue_walls")
    assert kinds_of_views(conn) == {"all"}
    with conn.cursor().copy("copy rota.queue_walls (principal, queue_pattern) from stdin") as rows:
        rows.write_row(("rota_reader", "b"))
    assert kinds_of_views(conn) == {"walled"}
    conn.execute("truncate rota.queue_walls")
    assert kinds_of_views(conn) == {"all"}


def test_the_triggers_that_have_the_views_follow_are_of_rows_and_always_on(db, conn):
    """A subscription's worker fires no others; a restore may have turned them off and on."""
    looks = """
        select tgname, tgtype & 1, tgenabled::text from pg_trigger
        where tgrelid = 'rota.queue_walls'::regclass order by tgname
    """
    always = [("wall_changed", 1, "A"), ("walls_emptied", 0, "A")]
    assert conn.execute(looks).fetchall() == always

    conn.execute("alter table rota.queue_walls disable trigger all")
    conn.execute("alter table rota.queue_walls enable trigger all")
    deploy(db, report=lambda line: None)

    assert conn.execute(looks).fetchall() == always


def test_a_deploy_finds_the_views_guarded_and_leaves_them_so(db, conn):
    call(conn, "wall", principal="rota_reader", queue_pattern="a")

    deploy(db, report=lambda line: None)

    assert kinds_of_views(conn) == {"walled"}


def test_a_wall_that_is_undone_leaves_the_views_as_they_were(connect):
    conn, other = connect(autocommit=False), connect()
    call(conn, "wall", principal="rota_reader", queue_pattern="a")
    conn.rollback()

    assert kinds_of_views(other) == {"all"}


def test_the_last_wall_is_taken_away_while_another_is_made(connect):
    maker, taker, other = connect(autocommit=False), connect(), connect()
    call(taker, "wall", principal="rota_reader", queue_pattern="a")
    call(maker, "wall", principal="rota_reader", queue_pattern="b")
    with ThreadPoolExecutor() as pool:
        taken = pool.submit(call, taker, "unwall", principal="rota_reader", queue_pattern="a")
        blocking = "select cardinality(pg_blocking_pids(%s)) > 0"
        wait_until(lambda: other.execute(blocking, [taker.info.backend_pid]).fetchone()[0])
        maker.commit()
        taken.result(timeout=30)

    assert kinds_of_views(other) == {"walled"}
    assert call(other, "unwall", principal="rota_reader", queue_pattern="b")
    assert kinds_of_views(other) == {"all"}


def test_who_reads_a_view_keeps_the_first_wall_off_for_a_moment_and_no_longer(connect):
    reader, conn = connect(autocommit=False), connect()
    reader.execute("select from rota.jobs")

    with pytest.raises(psycopg.errors.LockNotAvailable):
        call(conn, "wall", principal="rota_reader", queue_pattern="a")
    assert conn.execute("select from rota.queue_walls").rowcount == 0
    reader.commit()
    call(conn, "wall", principal="rota_reader", queue_pattern="a")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_walls_are_changed_at_read_committed(conn, level):
    conn.execute(f"set default_transaction_isolation = '{level}'")

    for function in ("wall", "unwall"):
        with pytest.raises(psycopg.Error, match="READ COMMITTED") as caught:
            call(conn, function, principal="rota_reader", queue_pattern="a")
        assert caught.value.sqlstate == "RTC04"


def test_no_function_of_the_house_reads_a_view_that_shows_its_caller_s_queues_only(conn):
    """But for such as have asked whether the job is the caller's: upkeep is upkeep of all."""
    names = "|".join(doors(conn)["view"])
    reading = {
        name
        for name, body in conn.execute(
            "select proname, prosrc from pg_proc where pronamespace = 'rota'::regnamespace"
        )
        if re.search(rf"\brota\.({names})\b", re.sub(r"--.*", "", body))
    }

    assert reading == {"retry_job", "parent_results", "recorded_steps"}


def test_upkeep_that_a_tenant_calls_keeps_what_is_of_others(house, acme, globex):
    has = furnish(globex, "globex")

    call(acme, "maintain")

    (schedule,) = globex.execute("select name, cron from rota.schedule_status").fetchall()
    assert schedule == (has.schedule, None)


def test_a_tenant_does_all_it_could_before_in_its_own_queues(house, acme):
    has = furnish(acme, "acme")

    call(acme, "pause_schedule", name=has.schedule)
    call(acme, "resume_schedule", name=has.schedule)
    call(acme, "schedule_job", task="u", every=2 * HOUR, name=has.schedule, queue="acme.other")
    call(acme, "trigger_schedule", name=has.schedule)
    assert len(call(acme, "backfill_schedule", name=has.schedule, **SLOTS)) == 1
    call(acme, "delete_schedule", name=has.schedule)
    call(acme, "retry_job", job_id=has.failed)
    call(acme, "cancel_job", job_id=has.waiting)
    call(acme, "pause_queue", queue=has.queue)
    assert call(acme, "claim_next_job", queues=[has.queue]) == []
    call(acme, "resume_queue", queue=has.queue)
    assert call(acme, "bring_forward_jobs", queues=[has.queue], tasks=["unhandled"]) == [
        {"bring_forward_jobs": 1}
    ]
    jobs = call(acme, "claim_next_job", queues=[has.queue, "globex.mail"], max_jobs=10)
    assert {job["id"] for job in jobs} >= {has.failed}
    ended = call(
        acme, "finish_jobs", job_ids=[j["id"] for j in jobs], tokens=[j["token"] for j in jobs]
    )
    assert {row["outcome"] for row in ended} == {"COMPLETED"}
    call(acme, "delete_queue", queue="acme.settings")
    call(acme, "dismiss_worker", worker=has.worker)
    (stopped,) = acme.execute("select stopped_at is not null from rota.worker_status").fetchone()
    assert stopped


def test_a_key_is_unique_per_queue_and_tells_nothing_of_another_s(house, acme, globex, connect):
    theirs = enqueue(globex, "globex.mail", unique_key="order-7")
    writer = connect(role=GLOBEX, autocommit=False)
    call(writer, "enqueue_job", task="t", queue="globex.mail", unique_key="order-8")
    acme.execute("set lock_timeout = '1ms'")

    for key in ("order-7", "order-8"):
        (mine,) = call(acme, "enqueue_job", task="t", queue="acme.mail", unique_key=key)
        assert mine["created"] and mine["job_id"] != theirs
        (again,) = call(acme, "enqueue_job", task="u", queue="acme.mail", unique_key=key)
        assert again == {"job_id": mine["job_id"], "created": False}
        (other,) = call(acme, "enqueue_job", task="t", queue="acme.post", unique_key=key)
        assert other["created"]
    writer.commit()


def test_a_retry_is_refused_by_the_key_of_its_own_queue_only(house, acme, globex):
    enqueue(globex, "globex.mail", unique_key="k")
    job = enqueue(acme, "acme.mail", unique_key="k")
    call(acme, "cancel_job", job_id=job)

    call(acme, "retry_job", job_id=job)
    call(acme, "cancel_job", job_id=job)
    enqueue(acme, "acme.mail", unique_key="k")
    with pytest.raises(errors.Error, match="its unique_key") as refused:
        call(acme, "retry_job", job_id=job)
    assert refused.value.sqlstate == "RTC03"


def test_the_token_of_a_job_is_the_proof_whatever_walls_come(conn, tenants, connect):
    """Who held a job when the wall was built may finish it; nobody else has its token."""
    worker = connect(role=ACME)
    enqueue(conn, "mail")
    (job,) = call(worker, "claim_next_job", queues=["mail"])

    call(conn, "wall", principal=ACME, queue_pattern="acme.*")

    pair = {"job_id": job["id"], "token": job["token"]}
    call(worker, "heartbeat_job", **pair)
    assert call(worker, "finish_job", **pair)[0]["state"] == "COMPLETED"
    assert call(worker, "finish_job", **pair)[0]["state"] == "COMPLETED"


def test_a_wall_holds_from_its_commit_on_in_open_transactions_too(conn, tenants, connect):
    caller, builder = connect(role=ACME, autocommit=False), connect(autocommit=False)
    job = enqueue(conn, "mail")
    enqueue(caller, "mail")

    call(builder, "wall", principal=ACME, queue_pattern="acme.*")
    assert len(call(caller, "claim_next_job", queues=["mail"])) == 1
    builder.commit()

    assert caller.execute("select count(*) from rota.jobs").fetchone() == (0,)
    assert call(caller, "claim_next_job", queues=["mail"]) == []
    caller.commit()
    with pytest.raises(errors.InsufficientPrivilege):
        enqueue(caller, "mail")
    caller.rollback()
    with pytest.raises(errors.Error, match=f"there is no job {job}"):
        call(caller, "cancel_job", job_id=job)
    caller.rollback()
    call(conn, "unwall", principal=ACME, queue_pattern="acme.*")
    assert caller.execute("select count(*) from rota.jobs").fetchone() == (2,)


def test_a_wall_binds_whoever_has_the_role_s_rights(house, new_role, connect, administrate):
    enqueue(house, "acme.mail"), enqueue(house, "globex.mail")
    everything = "select count(*) from rota.jobs"

    member = connect(role=new_role(f"{PREFIX}_member", ACME))
    assert member.execute(everything).fetchone() == (1,)
    with pytest.raises(errors.InsufficientPrivilege):
        enqueue(member, "globex.mail")

    one = connect()
    has_own_rights = one.info.server_version >= 160000  # of a membership, not a role
    beside = new_role(f"{PREFIX}_beside", options="" if has_own_rights else "noinherit")
    administrate("grant rota_reader to {}", beside)
    administrate("grant {} to {}" + " with inherit false" * has_own_rights, ACME, beside)
    one.execute(f"set session authorization {beside}")
    if not has_own_rights:
        one.execute("set role rota_reader")
    assert one.execute(everything).fetchone() == (2,)
    one.execute(f"set role {ACME}")
    assert one.execute(everything).fetchone() == (1,)


def test_of_two_walled_roles_both_must_let_a_queue_through(house, new_role, connect):
    enqueue(house, "acme.mail"), enqueue(house, "acme.post"), enqueue(house, "globex.mail")
    both = connect(role=new_role(f"{PREFIX}_both", ACME, GLOBEX))
    narrow = new_role(f"{PREFIX}_narrow", ACME)

    assert both.execute("select count(*) from rota.jobs").fetchone() == (0,)
    for pattern in ("acme.mail", "globex.*"):
        call(house, "wall", principal=narrow, queue_pattern=pattern)

    reader = connect(role=narrow)
    assert reader.execute("select queue from rota.jobs").fetchall() == [("acme.mail",)]


def test_a_superuser_is_never_bound(house):
    enqueue(house, "acme.mail"), enqueue(house, "globex.mail")

    assert house.execute("select count(*) from rota.jobs").fetchone() == (2,)
    (user,) = house.execute("select session_user").fetchone()
    with pytest.raises(errors.Error, match="superuser") as refused:
        call(house, "wall", principal=user, queue_pattern="a.*")
    assert refused.value.sqlstate == "RTV01"


def test_an_exact_pattern_is_that_queue_and_names_with_a_colon(conn, tenants, connect):
    for pattern in ("mail", "mail"):
        call(conn, "wall", principal=ACME, queue_pattern=pattern)
    one = connect(role=ACME)
    for queue in ("mail.out", "mails", "mai", "", "acme.mail"):
        with pytest.raises(psycopg.Error) as refused:
            enqueue(one, queue)
        assert refused.value.sqlstate in ("42501", "RTV01")

    enqueue(one, "mail")
    call(one, "schedule_job", task="t", every=HOUR, queue="mail", name="mail:daily")
    call(one, "schedule_job", task="t", every=HOUR, queue="mail")
    for name in ("mail.daily", "mail", "daily", ""):
        with pytest.raises(psycopg.Error) as refused:
            call(one, "schedule_job", task="t", every=HOUR, queue="mail", name=name)
        assert refused.value.sqlstate in ("42501", "RTV01")
    assert one.execute("select principal, queue_pattern from rota.walls").fetchall() == [
        (ACME, "mail")
    ]


def test_a_prefix_is_taken_letter_by_letter(conn, tenants, connect):
    call(conn, "wall", principal=ACME, queue_pattern="a_m%.*")
    one = connect(role=ACME)

    enqueue(one, "a_m%.x")
    for queue in ("acme.x", "a_mm.x", "A_M%.x", "a_m%", "a_m%x"):
        with pytest.raises(errors.InsufficientPrivilege):
            enqueue(one, queue)
    enqueue(conn, "acme.x")
    assert one.execute("select queue from rota.jobs").fetchall() == [("a_m%.x",)]


def test_a_schedule_that_somebody_put_elsewhere_is_neither_shown_nor_changed(house, acme):
    call(house, "schedule_job", task="theirs", every=HOUR, name="acme.odd", queue="globex.mail")

    with pytest.raises(errors.InsufficientPrivilege, match="is not for role"):
        call(acme, "schedule_job", task="mine", every=HOUR, name="acme.odd", queue="acme.mail")
    with pytest.raises(errors.Error, match="there is no live schedule") as refused:
        call(acme, "delete_schedule", name="acme.odd")
    assert refused.value.sqlstate == "RTN02"
    assert acme.execute("select from rota.schedule_status").fetchall() == []
    assert house.execute("select task from rota.schedule_status").fetchall() == [("theirs",)]


def test_a_worker_has_a_name_of_the_wall_s_or_a_uuid(house, acme, globex):
    name = str(uuid4())
    call(acme, "announce_worker", worker=name, queues=["acme.mail"], **ABOUT)
    call(globex, "announce_worker", worker=name, queues=["globex.mail"], **ABOUT, tasks=["x"])
    call(globex, "dismiss_worker", worker=name)

    rows = house.execute("select queues, tasks, stopped_at from rota.worker_status").fetchall()
    assert rows == [(["acme.mail"], None, None)]
    assert globex.execute("select from rota.worker_status").fetchall() == []


def test_a_worker_of_several_tenants_is_shown_to_none_and_counts_own_jobs(house, acme, globex):
    call(house, "announce_worker", worker="all", queues=["acme.a", "globex.a"], **ABOUT)
    call(acme, "announce_worker", worker="acme.w", queues=["acme.a"], **ABOUT)
    for queue in ("acme.a", "globex.a", "globex.a"):
        enqueue(house, queue)
    call(house, "claim_next_job", queues=["acme.a", "globex.a"], worker="acme.w", max_jobs=3)

    assert acme.execute("select worker, running from rota.worker_status").fetchall() == [
        ("acme.w", 1)
    ]
    assert house.execute("select sum(running) from rota.worker_status").fetchone() == (3,)


def test_a_sleeper_hears_only_of_its_own_queues(house, acme, globex, connect):
    call(acme, "begin_sleep", queues=["globex.mail", "acme.mail"])

    held = house.execute(
        "select count(*) from pg_locks where locktype = 'advisory' and pid = %s",
        [acme.info.backend_pid],
    ).fetchone()
    call(acme, "end_sleep", queues=["globex.mail", "acme.mail"])
    left = house.execute(
        "select count(*) from pg_locks where locktype = 'advisory' and pid = %s",
        [acme.info.backend_pid],
    ).fetchone()
    assert (held, left) == ((1,), (0,))


@pytest.mark.parametrize("pattern", ["*", ".*", "", "a*", "a.*.*", "a,b.*", " a", "a" * 101, None])
def test_a_pattern_is_a_name_or_the_beginning_of_names(conn, tenants, pattern):
    with pytest.raises(errors.Error, match="queue_pattern must be") as refused:
        call(conn, "wall", principal=ACME, queue_pattern=pattern)
    assert refused.value.sqlstate == "RTV01"


def test_a_wall_is_for_a_role_that_there_is_and_goes_once(conn, tenants):
    with pytest.raises(errors.Error, match="there is no role nobody") as refused:
        call(conn, "wall", principal="nobody", queue_pattern="a.*")
    assert refused.value.sqlstate == "RTN04"
    call(conn, "wall", principal=ACME, queue_pattern="a.*")

    call(conn, "unwall", principal=ACME, queue_pattern="a.*")

    with pytest.raises(errors.Error, match="has no wall") as refused:
        call(conn, "unwall", principal=ACME, queue_pattern="a.*")
    assert refused.value.sqlstate == "RTN06"


def test_two_that_build_the_same_wall_wait_for_each_other_and_both_have_it(conn, tenants, connect):
    first, second = connect(autocommit=False), connect(autocommit=False)
    call(first, "wall", principal=ACME, queue_pattern="a.*")
    second.execute("set local lock_timeout = '10s'")
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(call, second, "wall", principal=ACME, queue_pattern="a.*")
        wait_until(
            lambda: conn.execute(
                "select cardinality(pg_blocking_pids(%s)) > 0", [second.info.backend_pid]
            ).fetchone()[0]
        )
        first.commit()
        other.result()
    second.commit()

    assert conn.execute("select count(*) from rota.queue_walls").fetchone() == (1,)


def test_a_role_that_is_made_anew_is_walled_still(conn, new_role, administrate, connect):
    name = new_role(f"{PREFIX}_again", "rota_reader")
    call(conn, "wall", principal=name, queue_pattern="a.*")
    enqueue(conn, "b")
    administrate("drop role {}", name)
    administrate("create role {} in role rota_reader", name)

    assert connect(role=name).execute("select from rota.jobs").fetchall() == []
    administrate("drop role {}", name)
    call(conn, "unwall", principal=name, queue_pattern="a.*")


@pytest.mark.parametrize("who", ["without walls", "behind a wall"])
def test_conditions_on_id_state_and_time_reach_the_indexes_through_the_barrier(
    house, acme, connect, who
):
    house.execute(
        """
        insert into rota.finished_jobs (
            id, task, payload, queue, priority, state, schedule_type, run_at, scheduled_for, run,
            attempt, max_retries, created_at, finished_at
        )
        select 100000 + g, 't', '{}', 'globex.mail', 0, case g % 1000 when 0 then 'FAILED'
            else 'COMPLETED' end, 'ONE_TIME', now(), now(), 1, 0, 3, now(), now()
        from generate_series(1, 20000) as g
        """
    )
    call(house, "enqueue_many", task="t", payloads=Jsonb([1] * 5000), queue="globex.mail")
    call(house, "schedule_job", task="t", every=HOUR, name="globex.s", queue="globex.mail")
    house.execute("analyze")
    conn = acme if who == "behind a wall" else connect(role="rota_reader")

    for condition in (
        "id = 100005",
        "id = any('{100005, 6}')",
        "id = any(array(select 100005::bigint))",
        "finished_at is not null and state = 'FAILED' and id < 109000",
        "finished_at is null and name = 'globex.s'",
    ):
        read = scanned(conn, condition)
        assert read and not [part for part in read if part.startswith("Seq Scan")], condition
    for condition in ("finished_at < '2020-01-01'", "finished_at > '2100-01-01'"):
        read = scanned(conn, condition)
        assert len([part for part in read if "finished_jobs" in part]) <= 2, condition
    conn.execute("set enable_sort = off")  # as the API has it for its lists
    plan = explain(conn, "select * from rota.jobs where id < 109000 order by id desc limit 50")
    assert "Merge Append" in plan and "Sort  " not in plan
    house.execute("truncate rota.live_jobs, rota.finished_jobs")


def explain(conn, query):
    return "\n".join(line for (line,) in conn.execute(f"explain {query}"))


def scanned(conn, condition):
    """Return how each table with jobs in it is read; an empty partition is read in any way."""
    plan = explain(conn, f"select * from rota.jobs where {condition}")  # noqa: S608
    return re.findall(
        r"\w[\w ]* Scan (?:Backward )?(?:using \w+ )?on (?:live_jobs|finished_jobs)"
        r"\w*(?= \w+  \(cost=\S+ rows=(?!1 ))|(?:Index|Bitmap)[\w ]* Scan.*",
        plan,
    )
