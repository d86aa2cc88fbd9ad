"""The sequence of job ids: always ahead of every id, also after a restore or a switch-over."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rota.db.gateway import call
from tests.waiting import wait_until

LAST = 2**63 - 1


def put_behind(conn, value=1):
    conn.execute("select setval('rota.job_ids', %s)", [value])


def enqueue(conn, number=1):
    return [call(conn, "enqueue_job", task="work")[0]["job_id"] for _ in range(number)]


def last_value(conn):
    return conn.execute("select last_value, is_called from rota.job_ids").fetchone()


def finish_all(conn):
    for job in call(conn, "claim_next_job", max_jobs=100):
        call(conn, "finish_job", job_id=job["id"], token=job["token"])


def fail_all_and_forget_the_jobs(conn):
    for job in call(conn, "claim_next_job", max_jobs=100):
        call(conn, "finish_job", job_id=job["id"], token=job["token"], error="x", retry=False)
    conn.execute("delete from rota.finished_jobs")


def end_a_schedule(conn):
    call(conn, "schedule_job", task="work", name="s", every="1 hour")
    conn.execute("delete from rota.live_jobs where name = 's'")


@pytest.mark.parametrize(
    "fates",
    [(), (finish_all,), (fail_all_and_forget_the_jobs,), (finish_all, end_a_schedule)],
    ids=["live", "finished", "only in executions", "only a schedule"],
)
def test_a_sequence_that_lies_behind_is_named_and_put_right_by_maintain(conn, fates):
    enqueue(conn, 5)
    for fate in fates:
        fate(conn)
    highest = last_value(conn)[0]
    put_behind(conn)

    broken = call(conn, "check_invariants")
    call(conn, "maintain")

    assert [row["invariant"] for row in broken if "sequence" in row["invariant"]] == [
        "E9: the sequence is ahead of every id"
    ]
    assert broken[0]["job_id"] == highest
    assert enqueue(conn) == [highest + 1]


def test_a_sequence_that_is_ahead_is_left_alone(conn):
    conn.execute("alter sequence rota.job_ids restart with 7")

    call(conn, "maintain")
    assert last_value(conn) == (7, False)

    enqueue(conn, 3)
    conn.execute("delete from rota.live_jobs")
    call(conn, "maintain")
    assert last_value(conn) == (9, True)


def test_a_shard_keeps_its_ids(conn):
    conn.execute("alter sequence rota.job_ids increment by 16 restart with 3")
    ids = enqueue(conn, 4)
    put_behind(conn, 19)
    conn.execute("update rota.live_jobs set id = 60 where id = %s", [ids[-1]])  # of another shard

    call(conn, "maintain")

    assert enqueue(conn, 2) == [67, 83]
    assert conn.execute(
        "select seqincrement, seqcycle from pg_sequence where seqrelid = 'rota.job_ids'::regclass"
    ).fetchone() == (16, False)


def test_the_first_id_of_a_new_sequence_is_given_if_it_is_free(conn):
    conn.execute("alter sequence rota.job_ids restart with 5")
    call(conn, "enqueue_job", task="work")
    conn.execute("alter sequence rota.job_ids restart with 5")

    call(conn, "maintain")

    assert enqueue(conn) == [6]


def test_ids_that_are_given_meanwhile_are_never_given_again(conn, connect):
    """The sequence passes the highest id, by an enqueue that maintain waits for."""
    enqueue(conn, 3)
    put_behind(conn, 1)
    conn.execute("delete from rota.live_jobs where id = 2")
    producer, other = connect(autocommit=False), connect()
    with ThreadPoolExecutor(1) as pool:
        assert enqueue(producer) == [2]
        healed = pool.submit(lambda: other.execute("select rota._heal_job_ids()").fetchone())
        wait_until(
            lambda: (
                conn.execute(
                    "select from pg_locks where relation = 'rota.job_ids'::regclass and not granted"
                ).rowcount
            )
        )
        producer.execute("select nextval('rota.job_ids') from generate_series(1, 40)")
        producer.commit()
        assert healed.result(30) == (None,)

    assert enqueue(conn)[0] > 42


def test_an_id_at_the_end_of_the_numbers_stops_nothing(conn):
    job_id = enqueue(conn)[0]
    conn.execute("update rota.live_jobs set id = %s where id = %s", [LAST, job_id])

    call(conn, "maintain")

    assert enqueue(conn) == [job_id + 1]
    conn.execute("delete from rota.live_jobs where id = %s", [LAST])


@pytest.mark.parametrize("options", ["increment by -1", "cycle"])
def test_a_sequence_of_another_kind_is_left_alone(conn, options):
    enqueue(conn, 3)
    conn.execute(f"alter sequence rota.job_ids {options}")
    put_behind(conn, 1)

    call(conn, "maintain")

    assert last_value(conn) == (1, True)


def test_the_look_costs_no_more_where_an_old_snapshot_pins_what_was_deleted(conn, connect):
    """It starts beyond the sequence, where no dead row can be."""
    call(conn, "enqueue_jobs", jobs="[" + ", ".join(['{"task": "t"}'] * 5000) + "]")
    watcher = connect(autocommit=False)
    watcher.execute("set transaction isolation level repeatable read")
    watcher.execute("select count(*) from rota.live_jobs")
    conn.execute("delete from rota.live_jobs")

    conn.execute("select rota._id_ahead()")  # which loads the catalogue
    plan = conn.execute(
        "explain (analyze, buffers, format json) select rota._id_ahead()"
    ).fetchone()[0]

    assert plan[0]["Plan"]["Shared Hit Blocks"] < 100


def begin_a_timeline(conn):
    """Have the ids be of another timeline than the server's, as a standby finds them."""
    conn.execute("select setval('rota.id_timeline', 77)")


def test_ids_of_a_new_timeline_are_far_beyond_those_of_the_one_before(conn, connect):
    (last,) = enqueue(conn)
    begin_a_timeline(conn)

    sessions = [connect(), connect()]
    first = [enqueue(session)[0] for session in sessions]

    assert first == [last + 2**30 + 1, last + 2**30 + 2]  # and only once
    assert conn.execute("select * from rota.check_invariants()").fetchall() == []


def test_a_shards_increment_is_kept_by_a_jump(conn, connect):
    conn.execute("alter sequence rota.job_ids increment by 16 restart with 3")
    try:
        (last,) = enqueue(conn)
        begin_a_timeline(conn)

        assert enqueue(connect()) == [last + 16 * (2**30 + 1)]
    finally:
        conn.execute("alter sequence rota.job_ids increment by 1")


def test_nobody_waits_for_the_transaction_that_moved_the_ids(conn, connect):
    (last,) = enqueue(conn)
    begin_a_timeline(conn)
    slow, other = connect(autocommit=False), connect()
    other.execute("set lock_timeout = '2s'")

    first = enqueue(slow)
    second = enqueue(other)
    slow.rollback()

    assert (first, second) == ([last + 2**30 + 1], [last + 2**30 + 2])
    assert enqueue(connect()) == [last + 2**30 + 3]  # what is rolled back moves nothing back


def test_sessions_that_move_the_ids_at_once_get_no_id_twice(conn, connect):
    enqueue(conn)
    for _ in range(5):
        begin_a_timeline(conn)
        sessions = [connect() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            given = [ids[0] for ids in pool.map(enqueue, sessions)]

        assert len(set(given)) == 8
        assert max(given) - min(given) == 7  # one jump


def test_a_sequence_that_would_end_is_left_as_it_is(conn, connect):
    put_behind(conn, LAST - 5)
    begin_a_timeline(conn)

    assert enqueue(connect()) == [LAST - 4]


def test_a_deploy_to_another_server_moves_the_ids(conn):
    (last,) = enqueue(conn)
    conn.execute("update rota.settings set system_identifier = 5")

    moved = conn.execute("select rota._note_server()").fetchone()
    again = conn.execute("select rota._note_server()").fetchone()

    assert (moved, again) == ((last + 2**30,), (None,))
    assert enqueue(conn) == [last + 2**30 + 1]
