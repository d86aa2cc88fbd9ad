"""What enqueue_job and enqueue_jobs accept, refuse, and leave behind."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

from rota.db.gateway import call
from tests.functions.views import job


def count_jobs(conn):
    return conn.execute("select count(*) from rota.jobs").fetchone()[0]


def test_a_job_gets_the_defaults_that_the_signature_states(conn):
    (row,) = call(conn, "enqueue_job", task="greet")

    found = job(conn, row["job_id"])
    assert row["created"] is True
    assert found["state"] == "SCHEDULED"
    assert found["schedule_type"] == "ONE_TIME"
    assert (found["payload"], found["queue"], found["priority"]) == ({}, "default", 0)
    assert (found["max_retries"], found["timeout"], found["attempt"]) == (3, None, 0)
    assert abs(found["run_at"] - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_queue_s_settings_are_defaults_that_a_job_may_override(conn):
    call(conn, "configure_queue", queue="mail", max_retries=9, timeout=timedelta(minutes=2))

    (plain,) = call(conn, "enqueue_job", task="send", queue="mail")
    (own,) = call(
        conn, "enqueue_job", task="send", queue="mail", max_retries=0, timeout=timedelta(seconds=5)
    )
    (bulk,) = call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "send", "queue": "mail"}]))

    for row, expected in (
        (plain, (9, timedelta(minutes=2))),
        (own, (0, timedelta(seconds=5))),
        (bulk, (9, timedelta(minutes=2))),
    ):
        found = job(conn, row["job_id"])
        assert (found["max_retries"], found["timeout"]) == expected


def test_a_second_enqueue_of_a_live_key_returns_the_first_job(conn):
    (first,) = call(conn, "enqueue_job", task="sync", unique_key="customer 7")

    (second,) = call(conn, "enqueue_job", task="sync", unique_key="customer 7")

    assert second == {"job_id": first["job_id"], "created": False}
    assert count_jobs(conn) == 1


def test_a_key_is_free_again_when_its_job_has_ended(conn):
    (first,) = call(conn, "enqueue_job", task="sync", unique_key="customer 7")
    (claimed,) = call(conn, "claim_next_job")
    call(conn, "finish_job", job_id=claimed["id"], token=claimed["token"])

    (second,) = call(conn, "enqueue_job", task="sync", unique_key="customer 7")

    assert second["created"] is True
    assert second["job_id"] != first["job_id"]


def test_a_running_job_still_holds_its_key(conn):
    (first,) = call(conn, "enqueue_job", task="sync", unique_key="customer 7")
    call(conn, "claim_next_job")

    (second,) = call(conn, "enqueue_job", task="sync", unique_key="customer 7")

    assert second == {"job_id": first["job_id"], "created": False}


def test_a_bulk_answers_in_order_and_finds_held_keys(conn):
    (held,) = call(conn, "enqueue_job", task="a", unique_key="held")

    rows = call(
        conn,
        "enqueue_jobs",
        jobs=Jsonb(
            [
                {"task": "a"},
                {"task": "b", "unique_key": "new"},
                {"task": "c", "unique_key": "held"},
                {"task": "d", "unique_key": "new"},
                {"task": "e", "priority": 7, "run_at": "2031-01-01T00:00:00+02:00"},
            ]
        ),
    )

    assert [row["created"] for row in rows] == [True, True, False, False, True]
    assert rows[2]["job_id"] == held["job_id"]
    assert rows[3]["job_id"] == rows[1]["job_id"]
    assert [job(conn, row["job_id"])["task"] for row in rows] == ["a", "b", "a", "b", "e"]
    last = job(conn, rows[4]["job_id"])
    assert (last["priority"], last["run_at"]) == (7, datetime(2030, 12, 31, 22, tzinfo=UTC))


def test_an_empty_bulk_adds_nothing(conn):
    assert call(conn, "enqueue_jobs", jobs=Jsonb([])) == []


def test_a_rolled_back_enqueue_leaves_nothing_and_burns_no_key(connect):
    conn = connect(autocommit=False)
    call(conn, "enqueue_job", task="sync", unique_key="k", queue="new queue")
    conn.rollback()

    (row,) = call(conn, "enqueue_job", task="sync", unique_key="k", queue="new queue")
    conn.commit()

    assert row["created"] is True
    assert len(call(conn, "claim_next_job", queues=["new queue"])) == 1
    conn.commit()


def test_an_enqueue_rolled_back_to_a_savepoint_leaves_nothing(connect):
    conn = connect(autocommit=False)
    call(conn, "enqueue_job", task="kept")
    with pytest.raises(ZeroDivisionError), conn.transaction():
        call(conn, "enqueue_job", task="dropped")
        raise ZeroDivisionError
    conn.commit()

    assert [row[0] for row in conn.execute("select task from rota.jobs")] == ["kept"]
    conn.commit()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_enqueue_works_at_every_isolation_level(connect, level):
    conn = connect(autocommit=False)
    conn.execute(f"set transaction isolation level {level}")
    call(conn, "enqueue_job", task="a", unique_key="k")
    call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "b"}]))
    conn.commit()

    assert count_jobs(conn) == 2
    conn.commit()


def test_enqueue_works_in_a_trigger_with_an_exception_block(conn):
    conn.execute(
        """
        create table orders (id integer primary key);
        create function ship() returns trigger language plpgsql as $$
        begin
            begin
                perform rota.enqueue_job('ship', jsonb_build_object('order', new.id));
            exception when others then
                raise warning 'not shipped';
            end;
            return new;
        end $$;
        create trigger ship after insert on orders for each row execute function ship();
        insert into orders values (1), (2);
        """
    )

    assert {row[0]["order"] for row in conn.execute("select payload from rota.jobs")} == {1, 2}


BAD_ARGUMENTS = [
    ({"task": ""}, "task"),
    ({"task": "x" * 10_000}, "task"),
    ({"task": None}, "task"),
    ({"task": "a\nb"}, "task"),
    ({"task": "a", "payload": None}, "payload"),
    ({"task": "a", "queue": ""}, "queue"),
    ({"task": "a", "queue": "q" * 101}, "queue"),
    ({"task": "a", "priority": 101}, "priority"),
    ({"task": "a", "priority": -101}, "priority"),
    ({"task": "a", "max_retries": -1}, "max_retries"),
    ({"task": "a", "max_retries": 1001}, "max_retries"),
    ({"task": "a", "timeout": timedelta(0)}, "timeout"),
    ({"task": "a", "timeout": timedelta(seconds=-1)}, "timeout"),
    ({"task": "a", "run_at": "infinity"}, "run_at"),
    ({"task": "a", "run_at": "-infinity"}, "run_at"),
    ({"task": "a", "run_at": "99999-01-01"}, "run_at"),
    ({"task": "a", "unique_key": ""}, "unique_key"),
    ({"task": "a", "unique_key": "k" * 501}, "unique_key"),
]


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(("arguments", "named"), BAD_ARGUMENTS)
def test_enqueue_names_what_was_wrong_and_leaves_nothing(conn, arguments, named):
    with pytest.raises(psycopg.Error, match=named) as caught:
        call(conn, "enqueue_job", **arguments)

    assert caught.value.sqlstate == "RTV01"
    assert count_jobs(conn) == 0
    assert conn.execute("select count(*) from rota.lanes").fetchone()[0] == 0


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"tsk": "a"}, "tsk"),
        ({"task": "a", "prio": 1}, "prio"),
        ({}, "task"),
        ({"task": "a", "priority": 101}, "priority"),
        ({"task": "a", "priority": "high"}, "priority"),
        ({"task": "a", "priority": 1.5}, "priority"),
        ({"task": "a", "priority": 10**30}, "priority"),
        ({"task": "a", "max_retries": True}, "max_retries"),
        ({"task": "a", "run_at": "tomorrowish"}, "run_at"),
        ({"task": "a", "run_at": "infinity"}, "run_at"),
        ({"task": "a", "run_at": {}}, "run_at"),
        ({"task": "a", "timeout": "a while"}, "timeout"),
        ({"task": "a", "timeout": "-1 second"}, "timeout"),
        (3, "object"),
        (None, "object"),
        ([], "object"),
        (["task"], "object"),
        ("task", "object"),
    ],
)
def test_a_bulk_names_the_job_and_the_key_and_adds_nothing(conn, bad, named):
    with pytest.raises(psycopg.Error, match=named) as caught:
        call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "good", "unique_key": "k"}, bad]))

    assert caught.value.sqlstate == "RTV01"
    assert "jobs[1]" in str(caught.value)
    assert count_jobs(conn) == 0


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("jobs", [{"task": "a"}, "a", None, 1])
def test_a_bulk_must_be_an_array(conn, jobs):
    with pytest.raises(psycopg.Error, match="array") as caught:
        call(conn, "enqueue_jobs", jobs=Jsonb(jobs))

    assert caught.value.sqlstate == "RTV01"


def test_a_nul_in_a_payload_is_refused_by_its_type(conn):
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("select rota.enqueue_job('a', %s::jsonb)", ['{"text": "\\u0000"}'])

    assert caught.value.sqlstate == "22P05"
    assert count_jobs(conn) == 0


def test_a_hundred_thousand_jobs_fit_into_one_bulk(conn):
    rows = conn.execute(
        """
        select count(*), count(distinct e.job_id) from rota.enqueue_jobs((
            select jsonb_agg(jsonb_build_object('task', 'a', 'payload', g))
            from generate_series(1, 100000) as g
        )) as e
        """
    ).fetchone()

    assert rows == (100_000, 100_000)


def test_a_bulk_names_the_first_of_several_faults(conn):
    for jobs, named in (
        ([{"task": "a"}, {"task": "a", "zzz": 1, "aaa": 1}, {"task": "a", "bbb": 1}], "[1]: aaa"),
        ([{"task": "a"}, {"task": ""}, {"task": "a", "queue": ""}], "[1]: task"),
        ([{"task": "a"}, {"task": "a", "priority": "x"}, {"task": "a", "run_at": "x"}], "[1]: pri"),
    ):
        with pytest.raises(psycopg.Error) as caught:
            call(conn, "enqueue_jobs", jobs=Jsonb(jobs))
        assert named in str(caught.value)


def test_a_bulk_numbers_its_jobs_in_its_order(conn):
    rows = call(conn, "enqueue_jobs", jobs=Jsonb([{"task": str(n)} for n in range(100)]))

    ids = [row["job_id"] for row in rows]
    assert ids == sorted(ids)
    assert [job(conn, job_id)["task"] for job_id in ids[:12]] == [str(n) for n in range(12)]


def test_a_payload_that_is_null_is_kept_apart_from_none(conn):
    rows = call(
        conn,
        "enqueue_jobs",
        jobs=Jsonb(
            [
                {"task": "t", "payload": None},
                {"task": "t"},
                {"task": "t", "payload": None, "unique_key": "k"},
                {"task": "t", "unique_key": "l"},
                {"task": "t", "payload": {"payload": None}},
            ]
        ),
    )

    payloads = [job(conn, row["job_id"])["payload"] for row in rows]
    assert payloads == [None, {}, None, {}, {"payload": None}]
    assert conn.execute("select count(*) from rota.jobs where payload = 'null'").fetchone() == (2,)


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("run_at", "31/12/2030 10:00", "run_at must be a time"),
        ("run_at", "2030-01-01T00:00:00+99:99", "run_at must be a time"),
        ("run_at", "300000-01-01", "run_at must be a time"),
        ("priority", "1.5", "priority must be an integer"),
        ("max_retries", 10**12, "max_retries must be an integer"),
        ("timeout", "soon", "timeout must be an interval"),
        ("timeout", "999999999 years", "timeout must be an interval"),
    ],
)
def test_a_value_of_a_bulk_that_does_not_convert_is_named_in_words_of_ours(
    conn, option, value, said
):
    with pytest.raises(psycopg.Error, match=rf"jobs\[1\]: {said}") as caught:
        call(conn, "enqueue_jobs", jobs=Jsonb([{"task": "t"}, {"task": "t", option: value}]))

    assert caught.value.sqlstate == "RTV01"
    assert caught.value.diag.message_hint is None
    assert count_jobs(conn) == 0


def test_many_jobs_of_one_task_come_in_the_order_of_their_payloads(conn):
    payloads = [{"n": n} for n in range(1000)] + [None, [1], "text", 7]

    rows = call(conn, "enqueue_many", task="t", payloads=Jsonb(payloads), queue="mail", priority=5)

    ids = [row["job_id"] for row in rows]
    assert ids == sorted(ids)
    assert conn.execute(
        "select id, payload from rota.live_jobs where queue = 'mail' and priority = 5 order by id"
    ).fetchall() == list(zip(ids, payloads, strict=True))
    claimed = call(conn, "claim_next_job", queues=["mail"], max_jobs=3)
    assert [row["payload"] for row in claimed] == payloads[:3]


def test_no_payloads_are_no_jobs_and_no_queue(conn):
    assert call(conn, "enqueue_many", task="t", payloads=Jsonb([]), queue="never") == []

    assert conn.execute("select count(*) from rota.lanes").fetchone() == (0,)


def test_one_that_cannot_be_stored_undoes_them_all(conn):
    with pytest.raises(psycopg.Error):
        conn.execute("""select rota.enqueue_many('t', '[1, "\\u0000"]')""")

    assert count_jobs(conn) == 0
