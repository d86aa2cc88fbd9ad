"""The embedded server: it keeps its data, and comes up again whatever ended it."""

import os
import signal
from pathlib import Path
from urllib.parse import unquote

import psutil
import psycopg
import pytest

from rota.db.embedded import Cluster, ClusterError
from tests.conftest import SERVER_VERSION, TEST_SETTINGS


@pytest.fixture
def cluster_of(server_folder: Path):
    """Make clusters on one data directory; all are stopped at the end."""
    made = []

    def make(name: str = "pg", **options) -> Cluster:
        cluster = Cluster(server_folder / name, SERVER_VERSION, TEST_SETTINGS, **options)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.stop()


def table(cluster: Cluster) -> str | None:
    with psycopg.connect(cluster.url()) as conn:
        return conn.execute("select to_regclass('kept')::text").fetchone()[0]


def create_table(cluster: Cluster) -> None:
    with psycopg.connect(cluster.url()) as conn:
        conn.execute("create table kept ()")


@pytest.mark.parametrize("end", [Cluster.stop, lambda c: c.stop("immediate"), Cluster.kill])
def test_data_outlives_a_stop_and_a_crash(cluster_of, end):
    cluster = cluster_of()
    cluster.start()
    create_table(cluster)

    end(cluster)
    cluster.start()

    assert table(cluster) == "kept"


def test_a_server_that_a_killed_owner_left_is_replaced(cluster_of):
    orphan = cluster_of()
    orphan.start()
    create_table(orphan)
    left = psutil.Process(orphan.pid)
    os.close(orphan._lock)  # what the owner's death does
    orphan._lock = None

    cluster = cluster_of()
    cluster.start()

    assert table(cluster) == "kept"
    assert cluster.pid != left.pid
    assert not left.is_running()


def test_a_pid_file_that_names_another_program_does_no_harm(cluster_of, server_folder):
    cluster = cluster_of()
    cluster.start()
    pid_file = cluster.data_dir / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    cluster.stop("immediate")
    pid_file.write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n")

    cluster.start()

    assert table(cluster) is None
    assert psutil.pid_exists(os.getppid())


def test_two_owners_of_one_data_directory_are_refused(cluster_of):
    cluster_of().start()

    with pytest.raises(ClusterError, match="another process"):
        cluster_of().start()


def test_data_of_another_version_is_refused_and_left_alone(cluster_of):
    cluster = cluster_of()
    cluster.start()
    cluster.stop()
    (cluster.data_dir / "PG_VERSION").write_text("9\n")

    with pytest.raises(ClusterError, match="holds data of PostgreSQL 9"):
        cluster.start()


def test_a_server_that_cannot_start_shows_its_log(server_folder):
    cluster = Cluster(server_folder / "pg", SERVER_VERSION, {"shared_buffers": "nonsense"})

    with pytest.raises(ClusterError, match="shared_buffers"):
        cluster.start()

    cluster.settings = TEST_SETTINGS
    cluster.start()
    cluster.stop()


def test_a_long_name_with_odd_characters_does_no_harm(cluster_of):
    cluster = cluster_of('o\'clock, said the "data folder" ' + "x" * 90)

    cluster.start()

    create_table(cluster)
    assert table(cluster) == "kept"


def test_others_on_this_machine_cannot_reach_the_socket(cluster_of):
    cluster = cluster_of()
    cluster.start()

    host = unquote(cluster.url().partition("host=")[2])
    assert Path(host).stat().st_mode & 0o077 == 0
    with psycopg.connect(cluster.url()) as conn:
        assert conn.execute("show listen_addresses").fetchone() == ("",)


def test_ctrl_c_of_the_terminal_does_not_reach_the_server(cluster_of):
    cluster = cluster_of()
    cluster.start()

    assert os.getsid(cluster.pid) != os.getsid(0)
    os.kill(cluster.pid, signal.SIGINT)
    assert cluster._server.wait(60) == 0
    assert cluster.poll() == 0
