"""A tenant with a login of its own in psql, who tries to get round its walls.

Its session is its own from the beginning (``set session authorization``), so it may set each role
that it is a member of, as anybody may who has been given rota_operator.
"""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import Connection, errors, sql
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.waiting import wait_until

SCOPES = ("rota_producer", "rota_worker", "rota_operator", "rota_reader")
HOUR = timedelta(hours=1)
START = datetime(2030, 1, 7, tzinfo=UTC)
PREFIX = f"rota_test_{os.getpid()}_hostile"
ACME, GLOBEX = f"{PREFIX}_acme", f"{PREFIX}_globex"
ABOUT = {"host": "h", "pid": 1, "concurrency": 1, "version": "v"}


@pytest.fixture(scope="module")
def tenants(new_role) -> None:
    for name in (ACME, GLOBEX):
        new_role(name, *SCOPES)


@pytest.fixture
def house(conn, tenants) -> Connection:
    """Somebody without walls, in a house with two tenants."""
    call(conn, "wall", principal=ACME, queue_pattern="acme.*")
    call(conn, "wall", principal=GLOBEX, queue_pattern="globex.*")
    return conn


@pytest.fixture
def log_in(house, connect) -> Any:
    """Open a session of a role, which can leave that role for others that it may set."""

    def open_session(name, **options) -> Connection:
        one = connect(prepare_threshold=None, **options)
        one.execute(sql.SQL("set session authorization {}").format(sql.Identifier(name)))
        return one

    return open_session


def enqueue(conn, queue, **arguments):
    return call(conn, "enqueue_job", **{"task": "t", "queue": queue, **arguments})[0]["job_id"]


def claim(conn, queue, **arguments):
    (job,) = call(conn, "claim_next_job", queues=[queue], **arguments)
    return {"job_id": job["id"], "token": job["token"]}


def refusal(conn, function, **arguments):
    with pytest.raises(psycopg.Error) as refused:
        call(conn, function, **arguments)
    return refused.value.sqlstate, refused.value.diag.message_primary


def queues_seen(conn):
    return [queue for (queue,) in conn.execute("select distinct queue from rota.jobs order by 1")]


# -- other roles -------------------------------------------------------------------------------


@pytest.mark.parametrize("group", SCOPES)
def test_a_role_of_a_tenant_s_role_does_not_get_it_out(house, log_in, group):
    enqueue(house, "globex.mail"), enqueue(house, "acme.mail")
    acme = log_in(ACME)

    acme.execute(f"set role {group}")

    assert call(house, "visible_queues") == [{"visible_queues": None}]
    if group in ("rota_operator", "rota_reader"):
        assert queues_seen(acme) == ["acme.mail"]
        assert acme.execute("select principal from rota.walls").fetchall() == [(ACME,)]
    if group == "rota_operator":
        for function in ("wall", "unwall"):
            pattern = {"principal": ACME, "queue_pattern": "acme.*"}
            assert refusal(acme, function, **pattern)[0] == "42501"
        assert refusal(acme, "pause_queue", queue="globex.mail")[0] == "42501"
    if group == "rota_producer":
        assert refusal(acme, "enqueue_job", task="t", queue="globex.mail")[0] == "42501"
    if group == "rota_worker":
        assert call(acme, "claim_next_job", queues=["globex.mail"]) == []
    acme.execute("reset role")
    assert queues_seen(acme) == ["acme.mail"]


def test_nor_does_a_role_that_lies_two_steps_away_or_is_set_by_a_function(house, new_role, log_in):
    enqueue(house, "globex.mail")
    team = new_role(f"{PREFIX}_team", "rota_reader")
    member = new_role(f"{PREFIX}_far", team, ACME)
    call(house, "wall", principal=member, queue_pattern="acme.*")
    one = log_in(member)

    one.execute(f"set role {team}")
    assert queues_seen(one) == []
    one.execute("set role rota_reader")
    assert queues_seen(one) == []
    one.execute("select set_config('role', 'rota_operator', false)")
    assert queues_seen(one) == []
    one.execute("reset role")
    one.execute(
        """
        create function pg_temp.peep() returns bigint language sql
        set role = rota_operator as 'select count(*) from rota.jobs'
        """
    )
    assert one.execute("select pg_temp.peep()").fetchone() == (0,)
    call(house, "unwall", principal=member, queue_pattern="acme.*")


def test_who_does_not_inherit_is_bound_in_each_role_that_is_reached_through_a_walled_one(
    house, new_role, log_in, administrate
):
    enqueue(house, "globex.mail"), enqueue(house, "acme.mail")
    is_16 = house.info.server_version >= 160000
    option = " with inherit false" * is_16
    through = new_role(f"{PREFIX}_through", options="" if is_16 else "noinherit")
    beside = new_role(f"{PREFIX}_beside", options="" if is_16 else "noinherit")
    for name in (through, beside):
        administrate("grant {} to {}" + option, ACME, name)
    administrate("grant rota_reader to {}" + option, beside)

    one = log_in(through)
    one.execute("set role rota_reader")
    assert queues_seen(one) == ["acme.mail"]

    other = log_in(beside)  # has it from the house, too
    other.execute("set role rota_reader")
    assert queues_seen(other) == ["acme.mail", "globex.mail"]
    other.execute(f"set role {ACME}")
    assert queues_seen(other) == ["acme.mail"]
    other.execute("set role rota_operator")  # only by way of the tenant
    assert queues_seen(other) == ["acme.mail"]


def test_who_inherits_from_a_walled_role_is_bound_whatever_role_is_set(house, new_role, log_in):
    enqueue(house, "globex.mail"), enqueue(house, "acme.mail")
    heir = log_in(new_role(f"{PREFIX}_heir", ACME, "rota_operator"))

    heir.execute("set role rota_operator")

    assert queues_seen(heir) == ["acme.mail"]


def test_the_login_of_the_api_is_bound_by_the_role_that_it_sets_alone(
    house, new_role, log_in, administrate
):
    """Also where it inherits, as every member did before PostgreSQL 16."""
    enqueue(house, "globex.mail"), enqueue(house, "acme.mail")
    front = log_in(new_role(f"{PREFIX}_front", "rota_api", ACME, GLOBEX))

    for name, seen in ((ACME, ["acme.mail"]), (GLOBEX, ["globex.mail"])):
        front.execute(f"set role {name}")
        assert queues_seen(front) == seen
    front.execute("set role rota_operator")  # a token may stand for it: then it was made for that
    assert queues_seen(front) == ["acme.mail", "globex.mail"]


# -- the house is not locked out ----------------------------------------------------------------


@pytest.fixture
def new_front(new_role, administrate) -> Iterator[Any]:
    """Make logins of the API; a house without them takes its owner for it."""
    made = []

    def create(name, *groups, options="login"):
        made.append(new_role(name, "rota_api", *groups, options=options))
        return made[-1]

    yield create
    for name in made:
        administrate("revoke rota_api from {}", name)


@pytest.fixture(scope="module")
def owning_role(tenants, new_role) -> str:
    return new_role(f"{PREFIX}_owner", ACME, "rota_operator", options="login")


@pytest.fixture
def owner(house, owning_role) -> Iterator[str]:
    """A login that owns the schema without being a superuser, and inherits from a tenant."""
    owned = "select nspowner::regrole::text from pg_namespace where nspname = 'rota'"
    (before,) = house.execute(owned).fetchone()
    house.execute(f"alter schema rota owner to {owning_role}")
    yield owning_role
    house.execute(f"alter schema rota owner to {before}")


def test_the_owner_of_the_schema_is_never_bound_but_by_a_role_that_it_sets(house, owner, log_in):
    enqueue(house, "globex.mail"), enqueue(house, "acme.mail")
    one = log_in(owner)

    assert queues_seen(one) == ["acme.mail", "globex.mail"]
    call(one, "wall", principal=ACME, queue_pattern="acme.post")
    call(one, "unwall", principal=ACME, queue_pattern="acme.post")
    one.execute(f"set role {ACME}")
    assert queues_seen(one) == ["acme.mail"]


def test_the_login_of_the_api_acts_for_all_while_it_is_nobody_yet(house, new_front, log_in):
    """Which queues wake it, and which jobs have ended, it asks for all whom it serves."""
    job = enqueue(house, "globex.mail", run_at=datetime.now(UTC) + timedelta(seconds=30))
    front = log_in(new_front(f"{PREFIX}_waiter", ACME))
    ask = {"queues": ["globex.mail"], "within": HOUR}

    (due,) = call(front, "next_due_in", **ask)
    assert due["next_due_in"] is not None
    assert call(front, "ended_jobs", job_ids=[job]) == []
    front.execute(f"set role {ACME}")
    assert call(front, "next_due_in", **ask) == [{"next_due_in": None}]


@pytest.mark.parametrize("who", ["itself", "inherited", "rota_operator"])
def test_nobody_builds_a_wall_around_himself(house, new_role, log_in, who):
    group = new_role(f"{PREFIX}_around_{who}")
    boss = new_role(f"{PREFIX}_boss_{who}", group, "rota_operator")
    principal = {"itself": boss, "inherited": group}.get(who, who)
    one = log_in(boss)

    for role in (boss, "rota_operator"):
        one.execute(f"set role {role}")
        state, message = refusal(one, "wall", principal=principal, queue_pattern="a.*")
        assert state == "RTV01" and "would be behind its walls, too" in message
    assert call(one, "visible_queues") == [{"visible_queues": None}]
    call(one, "wall", principal=ACME, queue_pattern="acme.post")


def test_no_wall_is_built_that_could_hold_nobody_or_would_hold_the_api(
    house, new_role, new_front, log_in, owner, administrate
):
    one = log_in(new_role(f"{PREFIX}_builder", "rota_operator"))
    api = new_front(f"{PREFIX}_web", options="login noinherit")
    heir = new_role(f"{PREFIX}_deputy", owner)
    shared = new_role(f"{PREFIX}_shared")
    administrate("grant {} to rota_api", shared)
    for principal, reason in {
        owner: "can be the owner of the schema rota",
        heir: "can be the owner of the schema rota",
        api: "is a login of the API",
        "rota_api": "role rota_api has the rights of role rota_api",
        shared: "role rota_api has the rights of role",
    }.items():
        for caller in (one, house):
            state, message = refusal(caller, "wall", principal=principal, queue_pattern="a.*")
            assert state == "RTV01" and reason in message


def test_who_is_told_how_to_make_tokens_for_a_tenant_is_not_behind_its_walls_then(
    house, new_role, log_in, administrate
):
    boss = new_role(f"{PREFIX}_chief", "rota_operator")
    one = log_in(boss)
    with pytest.raises(psycopg.Error) as refused:
        call(one, "create_token", principal=ACME)
    if house.info.server_version < 160000:  # where a membership cannot say so
        return

    house.execute(refused.value.diag.message_hint.removeprefix("Who may: "))

    assert call(one, "create_token", principal=ACME)[0]["token"]
    assert call(one, "visible_queues") == [{"visible_queues": None}]


# -- tokens ------------------------------------------------------------------------------------


def test_a_tenant_makes_no_token_that_sees_more_than_it_does(house, new_role, log_in):
    acme = log_in(ACME)
    group = new_role(f"{PREFIX}_group", "rota_operator")
    member = new_role(f"{PREFIX}_member", ACME)
    one = log_in(new_role(f"{PREFIX}_both", ACME, group))

    for principal in ("rota_operator", "rota_reader", "rota_producer"):
        state, message = refusal(acme, "create_token", principal=principal)
        assert (state, "is not behind the walls of" in message) == ("RTP01", True)
    assert refusal(one, "create_token", principal=group)[0] == "RTP01"
    assert refusal(acme, "create_token", principal=member)[0] == "RTP01"
    acme.execute("set role rota_operator")
    assert refusal(acme, "create_token", principal="rota_operator")[0] == "RTP01"
    acme.execute("reset role")

    assert call(acme, "create_token", principal=ACME)[0]["token"]


def test_tokens_of_the_house_and_of_roles_that_are_gone_are_not_there_for_a_tenant(
    house, new_role, log_in, administrate
):
    gone = new_role(f"{PREFIX}_gone")
    foreign = [
        call(house, "create_token", principal=principal, note="secret")[0]["token_id"]
        for principal in ("rota_operator", GLOBEX, gone)
    ]
    administrate("drop role {}", gone)
    acme = log_in(ACME)
    own = call(acme, "create_token", principal=ACME)[0]["token_id"]

    for role in (ACME, "rota_operator", "rota_operator"):
        acme.execute(f"set role {role}")
        seen = acme.execute("select token_id from rota.tokens").fetchall()
        assert seen == ([(own,)] if role == ACME else [])
        for token_id in foreign:
            told = refusal(acme, "revoke_token", token_id=token_id)
            assert told == ("RTN05", f"there is no token {token_id}")
    valid = "select count(*) from rota.tokens where revoked_at is null"
    assert house.execute(valid).fetchone() == (4,)


# -- workers -----------------------------------------------------------------------------------


def test_a_worker_without_queues_is_nobody_s_neighbour(house, log_in):
    acme, name = log_in(ACME), str(uuid4())
    call(house, "announce_worker", worker=name, queues=[], **ABOUT, tasks=["secret"])
    before = house.execute("select * from rota.workers").fetchall()

    assert acme.execute("select from rota.worker_status").fetchall() == []
    call(acme, "announce_worker", worker=name, queues=[], **ABOUT, tasks=["mine"])
    call(acme, "dismiss_worker", worker=name)

    assert house.execute("select * from rota.workers").fetchall() == before


def test_who_announces_a_neighbour_s_worker_and_dies_takes_no_job_from_it(house, log_in, clock):
    """A name that was learned, of a worker that never announced itself."""
    name = str(uuid4())
    enqueue(house, "globex.mail"), enqueue(house, "acme.mail")
    theirs = claim(log_in(GLOBEX), "globex.mail", worker=name, lease=HOUR)
    acme = log_in(ACME)
    mine = claim(acme, "acme.mail", worker=name, lease=HOUR)
    call(acme, "announce_worker", worker=name, queues=["acme.mail"], **ABOUT, attends=True)
    backend = acme.info.backend_pid
    acme.close()
    gone = "select not exists (select from pg_stat_activity where pid = %s)"
    wait_until(lambda: house.execute(gone, [backend]).fetchone()[0])
    clock.advance(timedelta(seconds=1))
    call(house, "recover_workers")
    clock.advance(timedelta(seconds=2))
    call(house, "recover_workers")

    assert call(house, "recover_jobs") == [{"recover_jobs": 1}]
    query = "select id from rota.jobs where state = 'RUNNING'"
    assert house.execute(query).fetchall() == [(theirs["job_id"],)]
    assert mine["job_id"] != theirs["job_id"]


def test_a_worker_s_tasks_clear_no_marks_of_a_neighbour(house, log_in, clock):
    enqueue(house, "globex.mail", task="unhandled")
    held = claim(house, "globex.mail")
    pair = {"job_ids": [held["job_id"]], "tokens": [held["token"]]}
    call(house, "release_unhandled_jobs", **pair, delay=timedelta(seconds=1))
    clock.advance(HOUR)

    for queues in (["acme.mail"], ["globex.mail"]):
        call(log_in(ACME), "bring_forward_jobs", queues=queues, tasks=["unhandled"])

    assert house.execute("select count(*) from rota.unhandled_jobs").fetchone() == (1,)


# -- names that look like one's own ------------------------------------------------------------

LOOKALIKES = [
    "acme", "acme.", "acmex", "acme*", "acme.*", "ACME.mail", "Acme.mail", "\u0430cme.mail",
    "acme\u2024mail", "acme\uff0email", "acme\u200b.mail", "\uff41cme.mail", " acme.mail", "acme..",
    "*", ".*", "%.mail", "acm_.mail", "", ".", "globex.acme.mail", "globex.mail",
]  # fmt: skip
OUTSIDE = [name for name in LOOKALIKES if not name.startswith("acme.")]


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_only_looks_like_the_wall_s_prefix_lies_outside(house, log_in, name):
    acme = log_in(ACME)
    refused = {"42501", "RTV01"}

    assert refusal(acme, "enqueue_job", task="t", queue=name)[0] in refused
    for function in ("pause_queue", "resume_queue", "delete_queue", "configure_queue"):
        assert refusal(acme, function, queue=name)[0] in refused
    jobs = Jsonb([{"task": "t", "queue": queue} for queue in ("acme.a", name)])
    assert refusal(acme, "enqueue_jobs", jobs=jobs)[0] in refused
    assert refusal(acme, "schedule_job", task="t", every=HOUR, queue=name)[0] in refused
    schedule = {"task": "t", "every": HOUR, "queue": "acme.a", "name": name}
    assert refusal(acme, "schedule_job", **schedule)[0] in refused
    assert refusal(acme, "announce_worker", worker=name, queues=["acme.a"], **ABOUT)[0] in refused
    assert refusal(acme, "announce_worker", worker="acme.w", queues=[name], **ABOUT)[0] in refused
    assert refusal(acme, "trigger_schedule", name=name)[0] == "42501"
    assert house.execute("select count(*) from rota.live_jobs").fetchone() == (0,)
    assert house.execute("select count(*) from rota.workers").fetchone() == (0,)


@pytest.mark.parametrize(
    "queues",
    [
        ["*"], [".*"], ["acme.*", "globex.*"], ["%"], ["globex.mail", None], [None], [],
        ["globex.mail"] * 1000, [["acme.mail", "globex.mail"], ["globex.mail", "acme.x"]],
    ],
)  # fmt: skip
def test_no_list_of_queues_reaches_further(house, log_in, queues):
    for number in range(3):
        enqueue(house, "globex.mail", unique_key=str(number))
    enqueue(house, "globex.mail", run_at=datetime.now(UTC) + timedelta(milliseconds=900))
    acme = log_in(ACME)
    array = {"queues": queues}

    assert call(acme, "claim_next_job", **array, max_jobs=1000) == []
    assert call(acme, "next_due_in", **array, within=HOUR) == [{"next_due_in": None}]
    assert call(acme, "bring_forward_jobs", **array, tasks=["t"]) == [{"bring_forward_jobs": 0}]
    call(acme, "begin_sleep", **array)
    held = "select count(*) from pg_locks where locktype = 'advisory' and pid = %s"
    own = {name for name in flat(queues) if name and name.startswith("acme.")}
    assert house.execute(held, [acme.info.backend_pid]).fetchone() == (len(own),)


def flat(queues):
    for name in queues:
        yield from flat(name) if isinstance(name, list) else [name]


@pytest.mark.parametrize("function", ["cancel_jobs", "retry_jobs"])
@pytest.mark.parametrize(
    "filter",
    [
        {}, {"queue": "globex.mail"}, {"queue": "*"}, {"queue": "globex.*"}, {"queue": ""},
        {"unique_key": "k"}, {"task": "t"}, {"schedule_type": "INTERVAL"},
        {"ids": list(range(1, 200))}, {"run_at_from": "-infinity"}, {"state": ["CANCELLED"]},
    ],
)  # fmt: skip
def test_no_filter_reaches_further(house, log_in, function, filter):
    enqueue(house, "globex.mail", unique_key="k")
    call(house, "cancel_job", job_id=enqueue(house, "globex.mail"))
    call(house, "schedule_job", task="t", every=HOUR, queue="globex.mail", name="globex.s")
    before = house.execute("select j::text from rota.jobs as j order by id").fetchall()
    actions = house.execute("select count(*) from rota.actions").fetchone()

    try:
        (outcome,) = call(log_in(ACME), function, filter=Jsonb(filter), dry_run=False)
    except psycopg.Error as error:
        assert error.sqlstate == "RTV01"
    else:
        assert (outcome["matched"], outcome["changed"], outcome["job_ids"]) == (0, 0, [])
    assert house.execute("select j::text from rota.jobs as j order by id").fetchall() == before
    assert house.execute("select count(*) from rota.actions").fetchone() == actions


# -- what lies beside functions and views --------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "select last_value from rota.job_ids",
        "select nextval('rota.job_ids')",
        "select currval('rota.job_ids')",
        "select lastval()",
        "select setval('rota.job_ids', 1)",
        "select * from rota.live_jobs",
        "select queue from rota.lanes",
        "select * from rota.action_log",
        "select * from rota.requests",
        "select * from rota.queue_walls",
        "table rota.settings",
        "delete from rota.jobs",
        "select from rota.jobs for update",
        "copy rota.queues to stdout",
        "select rota._end_attempts(array[1], array[gen_random_uuid()])",
        "select rota._binding_walls()",
        "select rota.authenticate_token('x')",
        "create function rota.f() returns void language sql as ''",
        "create view rota.v as select 1",
        "select stavalues1 from pg_statistic",
        "select pg_read_file('PG_VERSION')",
        "truncate rota.live_jobs",
        "vacuum full rota.live_jobs",
        "lock table rota.live_jobs",
        "lock table rota.jobs in exclusive mode",
        "set role postgres",
    ],
)
def test_nothing_beside_the_doors_is_open(house, log_in, statement):
    enqueue(house, "globex.mail")
    acme = log_in(ACME, autocommit=statement.startswith("vacuum"))
    acme.rollback() if not acme.autocommit else None
    if not acme.autocommit:
        acme.execute(sql.SQL("set session authorization {}").format(sql.Identifier(ACME)))
    enqueue(acme, "acme.mail")
    if statement.startswith("vacuum"):
        notices = []
        acme.execute("set client_min_messages = notice")
        acme.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        acme.execute(statement)
        assert re.search("permission denied|only table or database owner", notices[0])
        return

    with pytest.raises(psycopg.Error) as refused:
        acme.execute(statement)
    assert refused.value.sqlstate in ("42501", "22023", "55000", "42704")


def test_what_postgresql_sampled_is_not_shown(house, log_in):
    for number in range(300):
        enqueue(house, "globex.mail", task=f"secret-{number % 3}")
    house.execute("analyze rota.live_jobs")
    acme = log_in(ACME)

    for view in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"):
        rows = f"select from {view} where schemaname = 'rota'"
        assert acme.execute(rows).fetchall() == []
    assert house.execute("select from pg_stats where schemaname = 'rota'").fetchall()
    (value,) = acme.execute(
        "select last_value from pg_sequences where sequencename = 'job_ids'"
    ).fetchone()
    assert value is None


def test_a_view_that_is_read_by_several_processes_is_walled_in_each(house, log_in):
    for queue in ("acme.mail", "globex.mail"):
        call(house, "enqueue_many", task="t", payloads=Jsonb([1] * 500), queue=queue)
    house.execute("analyze rota.live_jobs")
    acme = log_in(ACME)
    is_16 = acme.info.server_version >= 160000
    acme.execute(f"set {'debug_parallel_query' if is_16 else 'force_parallel_mode'} = on")
    for setting in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
        acme.execute(f"set {setting} = 0")

    assert acme.execute("select queue, count(*) from rota.jobs group by 1").fetchall() == [
        ("acme.mail", 500)
    ]
    acme.execute("set role rota_reader")
    assert queues_seen(acme) == ["acme.mail"]


@pytest.mark.parametrize(
    "condition",
    [
        "queue ~ 'globex'",
        "queue like 'globex%'",
        "(payload ->> 'secret')::integer = 0",
        "1 / nullif(length(queue) - length('globex.mail'), 0) > 0",
        "('x' || (payload ->> 'word'))::integer > 0",
        "queue = 'globex.mail' and (payload ->> 'word')::integer > 0",
        "id in (select id from rota.jobs where (payload ->> 'word')::integer > 0)",
        "case when queue = 'globex.mail' then (payload ->> 'word')::integer > 0 end",
    ],
)
def test_no_condition_fails_on_a_row_of_a_neighbour(house, log_in, condition):
    enqueue(house, "globex.mail", payload=Jsonb({"word": "canary", "secret": "canary"}))
    enqueue(house, "globex.mail", payload=Jsonb({"word": "canary"}), run_at=START)
    done = claim(house, "globex.mail")
    call(house, "finish_job", **done)
    house.execute("analyze rota.live_jobs")

    for view in ("jobs",):
        assert log_in(ACME).execute(f"select from rota.{view} where {condition}").fetchall() == []


def test_a_schedule_moves_only_within_the_walls(house, log_in):
    acme = log_in(ACME)
    schedule = {"task": "t", "every": HOUR, "name": "acme.s"}
    call(acme, "schedule_job", **schedule, queue="acme.mail")

    for queue in ("globex.mail", "default", "acme"):
        assert refusal(acme, "schedule_job", **schedule, queue=queue)[0] == "42501"
    assert refusal(acme, "schedule_job", **schedule)[0] == "42501"

    assert house.execute("select queue from rota.schedule_status").fetchall() == [("acme.mail",)]


def test_an_idempotency_key_of_another_is_a_new_one(house, log_in):
    globex, acme = log_in(GLOBEX, autocommit=False), log_in(ACME)
    globex.execute(sql.SQL("set session authorization {}").format(sql.Identifier(GLOBEX)))
    call(globex, "begin_request", key="k", fingerprint="f")
    acme.execute("set lock_timeout = '1ms'")

    for fingerprint in ("f", "g"):
        key = f"k{fingerprint}" if fingerprint == "g" else "k"
        (past,) = call(acme, "begin_request", key=key, fingerprint=fingerprint)
        assert past == {"status": None, "answer": None, "location": None}
    call(acme, "end_request", key="k", status=200, answer="mine")
    call(globex, "end_request", key="k", status=201, answer="theirs")
    globex.commit()

    assert call(acme, "begin_request", key="k", fingerprint="f")[0]["answer"] == "mine"
    rows = house.execute("select caller, answer from rota.requests where key = 'k' order by 1")
    assert rows.fetchall() == [(ACME, "mine"), (GLOBEX, "theirs")]


@pytest.mark.parametrize("door", ["cancel_job", "retry_job"])
def test_a_job_behind_a_wall_is_looked_for_as_often_as_one_that_is_missing(house, log_in, door):
    """Counted by what the server reads, for a clock would tell only now and then."""
    live = enqueue(house, "globex.mail")
    done = enqueue(house, "globex.mail", run_at=START)
    call(house, "cancel_job", job_id=done)
    acme = log_in(ACME)

    told = {job_id: scans_of_a_refusal(acme, door, job_id) for job_id in (live, done, 10**9)}

    assert sum(told[live].values()) > 5
    assert told[live] == told[done] == told[10**9]


def scans_of_a_refusal(conn, door, job_id):
    """Return how often each table was looked into; plans are those of a session that goes on."""
    for _ in range(8):
        refusal(conn, door, job_id=job_id)
    with conn.transaction():
        before = scans(conn)
        with pytest.raises(psycopg.Error), conn.transaction():
            call(conn, door, job_id=job_id)
        return {table: number - before[table] for table, number in scans(conn).items()}


def scans(conn):
    rows = conn.execute(
        """
        select relname, coalesce(idx_scan, 0) + seq_scan
        from pg_stat_xact_user_tables where schemaname = 'rota'
        """
    )
    return dict(rows.fetchall())


# -- while things change -------------------------------------------------------------------------


def test_a_role_that_is_taken_away_holds_no_longer_in_a_session_that_has_it_set(
    house, new_role, log_in, administrate
):
    name = new_role(f"{PREFIX}_left", "rota_reader")
    member = new_role(f"{PREFIX}_leaving")
    administrate("grant {} to {}", name, member)
    one = log_in(member)
    one.execute(f"set role {name}")
    enqueue(house, "globex.mail")
    assert queues_seen(one) == ["globex.mail"]

    administrate("revoke {} from {}", name, member)
    one.execute("reset role")
    with pytest.raises(errors.InsufficientPrivilege):
        one.execute(f"set role {name}")
    with pytest.raises(errors.InsufficientPrivilege):
        queues_seen(one)


def test_a_tenant_whose_role_is_dropped_gets_an_error_and_nothing_else(
    house, new_role, log_in, administrate
):
    name = new_role(f"{PREFIX}_dropped", "rota_reader", "rota_producer")
    call(house, "wall", principal=name, queue_pattern="a.*")
    enqueue(house, "globex.mail")
    one = log_in(name)
    administrate("drop role {}", name)

    for statement in (
        "select * from rota.jobs",
        "select rota.enqueue_job('t', queue => 'globex.mail')",
        "select rota.visible_queues()",
    ):
        with pytest.raises(psycopg.Error):
            one.execute(statement)
    call(house, "unwall", principal=name, queue_pattern="a.*")
