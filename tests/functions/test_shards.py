"""Several databases: which of them has a key, and how an id tells which has a job."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import rota
from rota.db.deploy import DeployError, deploy, main, number
from rota.db.gateway import call
from tests.waiting import wait_until

# What stands here never changes: producers and consumers of other versions rely on it.
VECTORS = [
    ("", 1, 0),
    ("", 7, 5),
    ("a", 2, 0),
    ("a", 4, 2),
    ("customer-42", 2, 0),
    ("customer-42", 16, 3),
    ("Grüße, 世界 🎉", 4, 1),
    ("Grüße, 世界 🎉", 1024, 574),
]
KEYS = [f"customer-{n}" for n in range(300)] + ["", " ", "ä", "🎉", "a" * 500, "1:2"]


def ids(conn, how_many=1):
    return [call(conn, "enqueue_job", task="work")[0]["job_id"] for _ in range(how_many)]


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(("key", "n", "shard"), VECTORS)
def test_a_key_is_where_it_always_was(conn, key, n, shard):
    assert rota.shard_of(key, n) == shard
    assert conn.execute("select rota.shard_of(%s, %s)", [key, n]).fetchone() == (shard,)


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("n", [1, 2, 3, 16, 64])
def test_sql_and_python_agree_on_where_a_key_is(conn, n):
    rows = conn.execute("select k, rota.shard_of(k, %s) from unnest(%s::text[]) as k", [n, KEYS])

    assert dict(rows.fetchall()) == {key: rota.shard_of(key, n) for key in KEYS}


def test_keys_are_spread_evenly_and_one_database_more_takes_its_part_of_them_only():
    keys = [f"key {n}" for n in range(10_000)]
    before = {key: rota.shard_of(key, 4) for key in keys}
    after = {key: rota.shard_of(key, 5) for key in keys}

    moved = [key for key in keys if before[key] != after[key]]

    assert all(2300 < count < 2700 for count in Counter(before.values()).values())
    assert 1800 < len(moved) < 2200
    assert {after[key] for key in moved} == {4}


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("n", [0, -1, 1025, None])
def test_there_are_1_to_1024_databases(conn, n):
    with pytest.raises(psycopg.DatabaseError, match="n must be from 1 to 1024") as error:
        conn.execute("select rota.shard_of('a', %s)", [n])

    assert error.value.sqlstate == "RTV01"
    if n is not None:
        with pytest.raises(ValueError, match="n must be from 1 to 1024"):
            rota.shard_of("a", n)


@pytest.fixture
def zero(two_shards):
    with psycopg.connect(two_shards[0], autocommit=True) as conn:
        yield conn


@pytest.fixture
def one(two_shards):
    with psycopg.connect(two_shards[1], autocommit=True) as conn:
        yield conn


def test_an_id_tells_its_shard(zero, one):
    assert ids(zero, 3) == [1024, 2048, 3072]
    assert ids(one, 3) == [1, 1025, 2049]
    assert call(zero, "shard") == [{"shard": 0, "ids_from": 1024, "ids_before": 0}]
    assert call(one, "shard") == [{"shard": 1, "ids_from": 1, "ids_before": 0}]


def test_a_database_that_is_alone_is_no_shard_and_counts_on(conn, db):
    deploy(db, report=lambda line: None)

    assert call(conn, "shard") == []
    assert ids(conn, 2) == [1, 2]


def test_a_database_that_has_jobs_goes_on_with_ids_that_are_its_own(conn, db):
    before = ids(conn, 5)
    number([db], report=lambda line: None)

    assert ids(conn, 2) == [1024, 2048]
    assert call(conn, "shard") == [{"shard": 0, "ids_from": 1024, "ids_before": 5}]
    assert call(conn, "claim_next_job")[0]["id"] == before[0]


@pytest.mark.parametrize("shard", [0, 1, 1023])
@pytest.mark.parametrize("last", [1, 1022, 1023, 1024, 1025, 123_456_789])
def test_ids_never_go_back_when_a_database_becomes_a_shard(conn, shard, last):
    conn.execute("select setval('rota.job_ids', %s)", [last])

    (moved,) = conn.execute("select rota._become_shard(%s)", [shard]).fetchone()
    again = conn.execute("select rota._become_shard(%s)", [shard]).fetchone()
    first, second = ids(conn, 2)

    assert again == (None,)
    assert last < first <= last + 1024
    assert (first, second % 1024, second - first) == (moved, shard, 1024)


def test_a_number_is_kept_for_good(two_shards, zero):
    with pytest.raises(psycopg.DatabaseError, match="is shard 0 already"):
        zero.execute("select rota._become_shard(1)")
    number(two_shards[::-1], report=lambda line: None)
    deploy(two_shards[0], report=lambda line: None)

    assert call(zero, "shard")[0]["shard"] == 0
    assert ids(zero) == [1024]


def test_the_shard_of_a_job_survives_a_new_timeline(zero, two_shards):
    (last,) = ids(zero)
    zero.execute("select setval('rota.id_timeline', 77)")

    with psycopg.connect(two_shards[0], autocommit=True) as session:
        (jumped,) = ids(session)

    assert jumped == last + 1024 * (2**30 + 1)
    assert jumped < 2**53


def test_a_sequence_that_was_reset_is_put_right_by_the_next_deploy(zero, two_shards):
    ids(zero, 3)
    zero.execute("alter sequence rota.job_ids increment by 1 restart with 7")

    number(two_shards, report=lambda line: None)
    deploy(two_shards[0], report=lambda line: None)

    assert ids(zero, 2) == [4096, 5120]


def test_a_parent_elsewhere_is_refused_by_its_shard(zero, one):
    (parent,) = ids(one)

    with pytest.raises(psycopg.DatabaseError) as error:
        call(
            zero,
            "enqueue_workflow",
            jobs=f'[{{"task": "child", "depends_on": [{parent}]}}]',
        )

    assert error.value.sqlstate == "RTN01"
    assert error.value.diag.message_primary == f"there is no job {parent} here: it is of shard 1"
    assert zero.execute("select count(*) from rota.jobs").fetchone() == (0,)


def test_an_id_of_before_there_were_shards_is_looked_for_here(conn, db):
    ids(conn, 5)
    number([db], report=lambda line: None)

    conn.execute("delete from rota.live_jobs where id = 3")

    with pytest.raises(psycopg.DatabaseError, match=r"^there is no job 3\n"):
        call(conn, "cancel_job", job_id=3)
    with pytest.raises(psycopg.DatabaseError, match="no job 5001 here: it is of shard 905"):
        call(conn, "cancel_job", job_id=5001)


def test_one_database_is_not_two_shards(two_shards):
    with pytest.raises(DeployError, match="say that they are shard 0: they are one database"):
        number([two_shards[0], two_shards[0]], report=lambda line: None)


def test_a_new_database_that_is_named_twice_is_refused(db, conn):
    with pytest.raises(DeployError, match="say that they are shard 0: they are one database"):
        number([db, db], report=lambda line: None)

    assert call(conn, "shard")[0]["shard"] == 0


def test_one_more_database_gets_the_next_number(two_shards, zero, conn, db):
    ids(zero, 9)
    number([db, *two_shards], report=lambda line: None)

    assert call(conn, "shard") == [{"shard": 2, "ids_from": 2, "ids_before": 0}]
    assert ids(conn) == [2]


def test_no_new_database_gives_an_id_that_another_gave_while_it_was_alone(
    conn, db, new_db, drop, cluster
):
    before = ids(conn, 3000)
    name = new_db()
    try:
        number([db, cluster.url(name)], report=lambda line: None)
        with psycopg.connect(cluster.url(name), autocommit=True) as other:
            first = ids(other)[0]

        assert first == 3073 > max(before)
    finally:
        drop(name)


def test_the_command_deploys_to_all_and_numbers_them(
    empty_db, new_db, drop, cluster, capsys, monkeypatch
):
    name = new_db()
    try:
        monkeypatch.setenv("DATABASE_URL", f"{empty_db}\n  {cluster.url(name)}")

        assert main([]) == 0
        said = capsys.readouterr().out.splitlines()
        again = main(["--database", empty_db, "--database", cluster.url(name)])

        assert again == 0
        assert said[-1].startswith("shard 0 is ")
        assert f"; shard 1 is {cluster.url(name).split('host=')[1]}/{name}" in said[-1]
    finally:
        drop(name)


def test_a_database_that_is_away_keeps_no_other_from_its_deploy(empty_db, capsys, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"postgresql://127.0.0.1:1/none {empty_db}")

    assert main([]) == 1

    assert "deploy of 127.0.0.1:1/none failed" in capsys.readouterr().err
    with psycopg.connect(empty_db, autocommit=True) as conn:
        assert call(conn, "shard") == []
        assert ids(conn) == [1]


def test_who_enqueues_meanwhile_waits_for_a_moment_and_gets_ids_of_either_kind(conn, connect):
    producer = connect(autocommit=False)
    before = ids(producer)
    other, third = connect(), connect()
    with ThreadPoolExecutor(2) as pool:
        moved = pool.submit(lambda: other.execute("select rota._become_shard(5)").fetchone())
        wait_until(
            lambda: (
                conn.execute(
                    "select from pg_locks where relation = 'rota.job_ids'::regclass and not granted"
                ).rowcount
            )
        )
        behind = pool.submit(ids, third)
        producer.commit()
        assert moved.result(30) == (5,)
        assert behind.result(30)[0] % 1024 == 5

    assert before == [1]
