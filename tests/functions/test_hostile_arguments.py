"""No argument, however odd, reaches a constraint or a conversion: each is refused by name."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from rota.db.gateway import call

CALLS = 4000

VALUES = {
    "text": [
        None,
        "",
        "a",
        "s",
        "default",
        "x" * 1001,
        "a\nb",
        "a,b",
        " ",
        "once",
        "all",
        "UTC",
        "0 4 * * *",
        "0 0 30 2 *",
        "Europe/Berlin",
        "Mars/X",
        "coalesce",
        "\u3000",
    ],
    "bigint": [None, 0, 1, -1, 2**63 - 1, -(2**63)],
    "integer": [None, 0, 1, -1, 100, 1000, 1001, 2**31 - 1, -(2**31)],
    "boolean": [None, True, False],
    "timestamp with time zone": [
        None,
        "now",
        "infinity",
        "-infinity",
        "0001-01-01",
        "2035-01-01",
        "4713-01-01 BC",
        "294276-12-31",
        "9998-12-30",
    ],
    "interval": [
        None,
        "0",
        "-1 day",
        "1 second",
        "1 hour",
        "366 days",
        "367 days",
        "100 years",
        "1 microsecond",
        "1 month -29 days",
        "178000000 years",
        "-178000000 years",
    ],
    "jsonb": [
        None,
        "null",
        "{}",
        "[]",
        "[{}]",
        "[null]",
        "5",
        '[{"task": "a", "priority": 1e10}]',
        '[{"task": "a", "run_at": "294277-01-01"}]',
        '[{"task": "a", "timeout": "1 fortnight"}]',
        '[{"task": "a", "queue": 5, "max_retries": 1.5}]',
        '[{"task": "a", "payload": null}]',
        '[{"task": "a", "timeout": "1 month -29 days"}]',
        '[{"task": null, "run_at": "infinity"}]',
    ],
    "bytea": [None, b"", b"\0", b"x" * 31, b"x" * 32, b"x" * 1_000_000],
    "uuid": [None, "00000000-0000-4000-8000-000000000000"],
    "text[]": [None, "{}", "{default}", "{NULL}", "{a,b}", "{{a,b},{c,d}}", "[5:6]={a,b}"],
    "bigint[]": [None, "{}", "{1}", "{1,NULL}", "{{1,2}}", "[3:3]={1}"],
    "uuid[]": [None, "{}", "{00000000-0000-4000-8000-000000000000}", "{NULL}"],
    "jsonb[]": [None, "{}", "{null}", "{NULL}"],
}


def signatures(conn: psycopg.Connection) -> Iterator[tuple[str, list[str], list[str], int]]:
    """Return each door: its name, its parameters, their types, how many have defaults."""
    return conn.execute(
        """
        select p.proname, p.proargnames[1:p.pronargs], p.proargtypes::oid[]::regtype[]::text[],
            p.pronargdefaults
        from pg_proc as p
        where p.pronamespace = 'rota'::regnamespace and p.proname !~ '^_' and p.pronargs > 0
        order by p.proname
        """
    ).fetchall()


@pytest.mark.parametrize("seed", range(2))
def test_every_odd_argument_is_refused_with_a_code_of_ours(conn, seed):
    pick = random.Random(seed)
    conn.execute("set quote_all_identifiers = off")  # for the names of types
    doors = signatures(conn)
    conn.execute("select rota.schedule_job('t', every => '1 hour', name => 's')")
    conn.execute("set statement_timeout = '10s'")
    refused = 0
    for _ in range(CALLS):
        name, parameters, types, defaults = pick.choice(doors)
        given = [
            (parameter, kind)
            for place, (parameter, kind) in enumerate(zip(parameters, types, strict=True))
            if place < len(parameters) - defaults or pick.random() < 0.3
        ]
        values = [pick.choice(VALUES[kind]) for _, kind in given]
        arguments = sql.SQL(", ").join(
            sql.SQL("{} => %s::{}").format(sql.Identifier(parameter), sql.SQL(kind))
            for parameter, kind in given
        )
        query = sql.SQL("select rota.{}({})").format(sql.Identifier(name), arguments)
        try:
            conn.execute(query, values)
        except psycopg.Error as error:
            assert (error.sqlstate or "").startswith("RT"), (str(error), query, values)
            refused += 1

    assert CALLS / 4 < refused < CALLS


# PostgreSQL compares intervals by months of 30 days, and adds them by the calendar. '1 month -29
# days' is a day by comparison; added to a day in February it leads back to January.
FEBRUARY = datetime(2027, 2, 10, 12, tzinfo=UTC)
DECEITFUL = "1 month -29 days -23:59:59"  # a second by comparison, 1 day 23:59:59 back in February


@pytest.fixture
def february(clock):
    clock.set(FEBRUARY)


def test_a_lease_is_never_born_expired(conn, february):
    call(conn, "enqueue_job", task="t")

    try:
        claimed = call(conn, "claim_next_job", lease=DECEITFUL)
    except psycopg.Error as error:
        assert error.sqlstate == "RTV01"
    else:
        assert claimed[0]["lease_until"] > FEBRUARY


@pytest.mark.parametrize("delay", [DECEITFUL, "1 month -30 days"])
@pytest.mark.parametrize(
    ("function", "argument"), [("finish_job", "retry_in"), ("release_job", "delay")]
)
def test_a_delay_never_leads_back(conn, february, function, argument, delay):
    call(conn, "enqueue_job", task="t")
    (claimed,) = call(conn, "claim_next_job")
    arguments = {"job_id": claimed["id"], "token": claimed["token"], argument: delay}
    if function == "finish_job":
        arguments["error"] = "boom"

    try:
        (told,) = call(conn, function, **arguments)
    except psycopg.Error as error:
        assert error.sqlstate == "RTV01"
    else:
        assert told["run_at"] > FEBRUARY


def test_a_timeout_has_not_passed_when_the_attempt_begins(conn, february):
    try:
        call(conn, "enqueue_job", task="t", timeout=DECEITFUL)
    except psycopg.Error as error:
        assert error.sqlstate == "RTV01"
    else:
        (claimed,) = call(conn, "claim_next_job")
        assert FEBRUARY + claimed["timeout"] > FEBRUARY
        call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"], error="boom")
        ((outcome,),) = conn.execute("select outcome from rota.executions").fetchall()
        assert outcome == "FAILED"


def test_a_month_is_a_lease_like_any_other(conn):
    call(conn, "enqueue_job", task="t")

    (claimed,) = call(conn, "claim_next_job", lease="1 month")

    assert claimed["lease_until"] > datetime.now(UTC) + timedelta(days=27)
