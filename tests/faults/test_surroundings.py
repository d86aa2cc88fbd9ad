"""What surrounds the server: its disk, its clock, a pooler, a standby that takes over."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from rota.app.database import Database
from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from tests.conftest import SERVER_VERSION
from tests.faults.conftest import SETTINGS
from tests.faults.harness import House, only_long
from tests.standby import Pair
from tests.waiting import wait_until

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
FILLER = "0123456789abcdef" * 64


@pytest.fixture
def settle(tmp_path: Path, seed: int) -> Iterator[Callable[[Cluster], House]]:
    """Build a house on a server of the test's own."""
    houses: list[House] = []

    def build(cluster: Cluster) -> House:
        with psycopg.connect(cluster.url(), autocommit=True) as conn:
            conn.execute("create database house")
        deploy(cluster.url("house"))
        houses.append(House(cluster, "house", tmp_path, seed))
        return houses[-1]

    yield build
    for house in houses:
        house.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a small disk in memory, where that is allowed."""
    folder.mkdir(parents=True)
    options = f"size={megabytes}m,mode=0755"
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"no disk may be mounted here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte; return the file that does it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return ballast


@pytest.mark.parametrize("what", ["data", pytest.param("wal", marks=only_long)])
def test_f14_a_full_disk_delays_and_loses_nothing(
    server_folder: Path, settle: Callable[[Cluster], House], what: str
):
    settings = SETTINGS | {"min_wal_size": "32MB", "max_wal_size": "48MB"}
    elsewhere = server_folder / f"beside-{what}"
    elsewhere.mkdir()
    with small_disk(server_folder / f"disk-{what}", 128) as disk:
        data, wal = (disk, elsewhere) if what == "data" else (elsewhere, disk)
        cluster = Cluster(data / "pg", SERVER_VERSION, settings)
        cluster.start()
        cluster.stop()
        shutil.move(data / "pg" / "pg_wal", wal / "pg_wal")
        (data / "pg" / "pg_wal").symlink_to(wal / "pg_wal")
        owner = (data / "pg").stat()
        for path in [wal / "pg_wal", *(wal / "pg_wal").rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid)
        elsewhere.chmod(0o755)
        with cluster:
            house = settle(cluster)
            house.worker()
            with (
                house.producing(300, pause=0.02, payload={"filler": FILLER, "fail": 0.2}),
                house.fault(f"disk full: {what}", "server"),
            ):
                wait_until(lambda: house.effects("done") > 10)
                ballast = fill(disk)
                if what == "data":
                    history = house.folder / "history.jsonl"
                    wait_until(lambda: '"sqlstate": "53100"' in history.read_text())
                    time.sleep(2)  # how long it stays full
                else:
                    with pytest.raises(psycopg.Error):
                        for _ in range(1000):
                            house.execute("select pg_switch_wal()")
                            house.execute("select pg_logical_emit_message(true, '', 'x')")
                ballast.unlink()
                wait_until(lambda: cluster.poll() is not None or house.live() < sys.maxsize)
                if cluster.poll() is not None:
                    cluster.stop()
                    cluster.start()

            house.decide(jobs=100)


def test_f23_a_server_whose_clock_jumps_runs_nothing_under_two_leases(
    server_folder: Path, settle: Callable[[Cluster], House], monkeypatch: pytest.MonkeyPatch
):
    if not FAKETIME.exists():
        pytest.skip("libfaketime is not installed")
    cluster = Cluster(server_folder / "clock", SERVER_VERSION, SETTINGS)
    cluster.start()
    cluster.stop()
    offset = server_folder / "offset"
    offset.write_text("+0")
    offset.chmod(0o644)
    server_folder.chmod(0o755)
    with monkeypatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(FAKETIME))
        environment.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
        environment.setenv("FAKETIME_NO_CACHE", "1")
        environment.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        cluster.start()
    try:
        house = settle(cluster)
        for _ in range(2):
            house.worker()
        with house.producing(120, pause=0.03, payload={"seconds": 0.5}):
            wait_until(lambda: house.effects("start") >= 4)
            for jump in ("+3600", "-86400", "+0", "+86400"):
                with house.fault(f"clock at {jump} s", "server", clock=True):
                    offset.write_text(jump)
                    shift = (
                        house.value("select extract(epoch from clock_timestamp())::float8")
                        - time.time()
                    )
                    assert abs(shift - float(jump)) < 60
                    # Each clock is looked at, as by workers every few seconds.
                    house.execute("select rota.recover_jobs(), rota.roll_up()")
                    time.sleep(1)
                    house.execute("select rota.roll_up()")

        report = house.decide(jobs=120, late=1)
        assert report.figures.duplicates_explained >= 1
    finally:
        cluster.stop()


def test_f29_behind_a_pooler_everything_works_but_notifications(house: House, tmp_path: Path):
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    port = free_port()
    data = house.cluster.data_dir
    settings = tmp_path / "pgbouncer.ini"
    settings.write_text(
        f"""
        [databases]
        {house.dbname} = host={data} user=postgres
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = any
        pool_mode = transaction
        default_pool_size = 2
        """.replace("        ", "")
    )
    for folder in [tmp_path, *tmp_path.parents]:
        if not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 1)
    settings.chmod(0o644)
    owner = data.stat()
    identity = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with (tmp_path / "pgbouncer.log").open("wb") as log:
        pooler = subprocess.Popen([program, settings], stdout=log, stderr=log, **identity)
    try:
        url = f"postgresql://postgres@127.0.0.1:{port}/{house.dbname}?sslmode=disable"
        wait_until(lambda: pooler.poll() is not None or socket_answers(port))
        workers = [house.worker(url) for _ in range(3)]
        with house.producing(120, pause=0.02, payload={"seconds": 0.05, "fail": 0.2}):
            wait_until(lambda: house.effects("done") > 10)
            house.kill(workers[0])
        report = house.decide(jobs=120)
        assert "there are no notifications: polling" in workers[1].log.read_text()
        assert report.figures.attempts > 120
        assert house.value("select count(*) from pg_locks where locktype = 'advisory'") == 0
        assert house.execute("select distinct backend from rota.workers") == [(None,)]
    finally:
        pooler.terminate()
        pooler.wait(30)


def socket_answers(port: int) -> bool:
    """Tell whether something listens on that port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def build_pair(server_folder: Path, tmp_path: Path) -> Iterator[Callable[[bool], Pair]]:
    """Build pairs of servers and stop them."""
    pairs: list[Pair] = []

    def build(synchronous: bool) -> Pair:
        folder = server_folder / f"pair-{len(pairs)}-{os.urandom(3).hex()}"
        folder.mkdir()
        folder.chmod(0o755)
        pairs.append(Pair(folder, synchronous))
        pairs[-1].primary.start()
        return pairs[-1]

    yield build
    for pair in pairs:
        pair.stop()


def test_f11_f13_a_synchronous_standby_that_takes_over_has_lost_nothing(
    build_pair: Callable[[bool], Pair], settle: Callable[[Cluster], House]
):
    pair = build_pair(True)
    house = settle(pair.primary)
    pair.join()
    house.worker(pair.url("house"))
    early = house.worker(pair.standby.url("house"))  # which cannot be written to yet
    with house.producing(150, url=pair.url("house"), pause=0.03, payload={"seconds": 0.1}):
        wait_until(lambda: "trying again" in early.log.read_text())
        wait_until(lambda: house.effects("done") > 10)
        with house.fault("failover, synchronous", "server"):
            house.cluster = pair.fail_over()

    report = house.decide(jobs=100)

    assert "started" in early.log.read_text()
    print(report.figures.line())


def test_f13_a_standby_that_comes_first_in_the_url_is_passed_by_and_costs_no_lease_when_frozen(
    build_pair: Callable[[bool], Pair], settle: Callable[[Cluster], House]
):
    pair = build_pair(True)
    house = settle(pair.primary)
    pair.join()
    hosts = f"{pair.standby.data_dir},{pair.primary.data_dir}"
    url = f"postgresql://postgres@/house?host={hosts}"

    deploy(url, report=lambda line: None)  # else "cannot execute … in a read-only transaction"
    database = Database(url)
    with database.transaction(own=True) as conn:
        assert conn.execute("select pg_is_in_recovery()").fetchone() == (False,)
    database.close()

    house.worker(url, lease=2)
    with psycopg.connect(pair.standby.url("house"), autocommit=True) as behind:
        row = behind.execute("select pid from pg_stat_wal_receiver").fetchone()
    house.produce(1, payload={"seconds": 6})
    wait_until(lambda: house.effects("start") == 1)
    with house.fault("synchronous standby frozen", "server"):
        os.kill(row[0], signal.SIGSTOP)
        try:
            time.sleep(6)  # three leases
        finally:
            os.kill(row[0], signal.SIGCONT)

    report = house.decide(jobs=1)

    assert report.figures.attempts == 1
    assert "heartbeat" not in house.workers[0].log.read_text()  # nor was the connection cut


def test_f12_an_asynchronous_standby_that_takes_over_hands_out_no_second_live_lease(
    build_pair: Callable[[bool], Pair], settle: Callable[[Cluster], House]
):
    pair = build_pair(False)
    house = settle(pair.primary)
    pair.join()
    house.produce(8, url=pair.url("house"), payload={"seconds": 2})
    with psycopg.connect(pair.standby.url("house"), autocommit=True) as behind:
        wait_until(lambda: behind.execute("select count(*) from rota.live_jobs").fetchone() == (8,))
        behind.execute("alter system set primary_conninfo = ''")
        behind.execute("select pg_reload_conf()")
        wait_until(
            lambda: behind.execute("select count(*) from pg_stat_wal_receiver").fetchone() == (0,)
        )
    workers = [house.worker(pair.url("house"), lease=5) for _ in range(2)]
    house.produce(20, url=pair.url("house"), payload={"seconds": 2})
    wait_until(lambda: house.effects("start") >= 8)
    with house.fault("failover, asynchronous", "server"):
        house.cluster = pair.fail_over()
    with psycopg.connect(pair.standby.url("house")) as ahead:
        # The standby does not know of the last 20 ids: they must not be given out again.
        first = ahead.execute("select job_id from rota.enqueue_job('work')")
        assert first.fetchone()[0] > 2**30
        ahead.rollback()
    wait_until(lambda: any("LEASE_LOST" in worker.log.read_text() for worker in workers))

    report = house.decide(jobs=28, late=1, lossy=True)

    assert house.value("select count(*) from rota.jobs") < 28  # the standby never had the others
    assert report.figures.late_finishes_refused >= 1
