"""A server of a newer major version takes over: by pg_upgrade, and by logical replication."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from rota.db.deploy import deploy
from rota.db.embedded import Cluster, binaries
from rota.db.gateway import call
from tests.conftest import TEST_SETTINGS
from tests.test_copies import catch_up, contents, create, go_on, restore, work
from tests.waiting import wait_until

OLD, NEW = 16, 18  # the two that come bundled, of about the same day
SETTINGS = {**TEST_SETTINGS, "wal_level": "logical", "max_connections": "50"}

PUBLISH = """
    select format(
        'create publication rota_moves for table %s with (publish_via_partition_root = true)',
        string_agg(c.oid::regclass::text, ', ')
    )
    from pg_class as c
    where c.relnamespace = 'rota'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
"""


@pytest.fixture
def old(server_folder: Path) -> Iterator[Cluster]:
    """A server of the older version, with Rota on it, and jobs in each state."""
    for version in (OLD, NEW):
        if binaries(version) is None:
            pytest.skip(f"PostgreSQL {version} is not installed")
    server_folder.chmod(0o755)
    with Cluster(server_folder / "old", OLD, SETTINGS) as cluster:
        deploy(create(cluster, "jobs"), report=lambda line: None)
        yield cluster


@pytest.fixture
def new(server_folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(server_folder / "new", NEW, SETTINGS)
    cluster.start()
    yield cluster
    cluster.stop()


def ids_of(rows: list[tuple]) -> int:
    return max(row[1] for row in rows)


def goes_on(cluster: Cluster, highest: int) -> None:
    """Deploy, and see that all works as before."""
    url = cluster.url("jobs")
    deploy(url, report=lambda line: None)
    with psycopg.connect(url, autocommit=True) as conn:
        [made] = call(conn, "enqueue_job", task="work")
        assert made["job_id"] > highest
        work(conn, "after")
        go_on(conn, "before")
        call(conn, "maintain")
        assert call(conn, "check_invariants") == []


def test_pg_upgrade_takes_everything_along(old: Cluster, new: Cluster):
    with psycopg.connect(old.url("jobs"), autocommit=True) as conn:
        work(conn, "before")
        expected = contents(conn)
    old.stop()
    new.stop()

    upgrade = subprocess.run(
        [
            new.bin / "pg_upgrade",
            *("--old-bindir", old.bin, "--new-bindir", new.bin),
            *("--old-datadir", old.data_dir, "--new-datadir", new.data_dir),
            *("--username", "postgres", "--link", "--socketdir", new.data_dir),
        ],
        capture_output=True,
        text=True,
        **new._as_system_user(new.data_dir) | {"cwd": new.data_dir},
    )

    assert upgrade.returncode == 0, upgrade.stdout
    new.start()
    with psycopg.connect(new.url("jobs"), autocommit=True) as conn:
        assert contents(conn) == expected
        assert call(conn, "check_invariants") == []
    goes_on(new, ids_of(expected))


def test_a_newer_server_that_subscribes_takes_over(old: Cluster, new: Cluster):
    url = old.url("jobs")
    with psycopg.connect(url, autocommit=True) as conn:
        work(conn, "before")
        conn.execute(conn.execute(PUBLISH).fetchone()[0])
    roles = subprocess.run(
        [new.bin / "pg_dumpall", "--roles-only", "--dbname", old.url()],
        capture_output=True,
        check=True,
    ).stdout
    schema = subprocess.run(
        [new.bin / "pg_dump", "--schema-only", "--no-publications", url],
        capture_output=True,
        check=True,
    ).stdout
    target = create(new, "jobs")
    complaints = restore(new, target, roles)
    assert all('role "postgres" already exists' in line for line in complaints), complaints
    assert restore(new, target, schema) == []

    with (
        psycopg.connect(url, autocommit=True) as before,
        psycopg.connect(target, autocommit=True) as after,
    ):
        after.execute(
            f"create subscription rota_moves connection 'host={old.data_dir} user=postgres"
            " dbname=jobs' publication rota_moves"
        )
        ready = "select bool_and(srsubstate = 'r') from pg_subscription_rel"
        wait_until(lambda: after.execute(ready).fetchone()[0])
        # A partition of which the subscriber knows nothing.
        before.execute(
            "create table rota.new_week partition of rota.attempts"
            " for values from ('2001-01-01') to ('2001-01-08')"
        )
        before.execute(
            "insert into rota.attempts (job_id, run, attempt, outcome, scheduled_for,"
            " finished_at, job_state) values (1, 1, 0, 'SKIPPED', now(), '2001-01-02', 'FAILED')"
        )
        work(before, "late")
        expected = contents(before)
        catch_up(before, "rota_moves")
        wait_until(lambda: contents(after) == expected)
        after.execute("drop subscription rota_moves")

    goes_on(new, ids_of(expected))
