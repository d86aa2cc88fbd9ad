"""Three PostgreSQL servers under Patroni, with etcd and HAProxy, all on loopback.

Patroni is real and in an environment of its own (``make ha`` makes it), etcd and HAProxy are the
system's. A fault befalls processes by their ids; nothing here ends a process by its name.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import psycopg

from rota.db.embedded import binaries
from tests.conftest import SERVER_VERSION
from tests.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
PATRONI = Path(os.environ.get("ROTA_PATRONI", REPOSITORY / ".venv" / "patroni"))
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
SYSTEM_USER = "pgserver"  # who runs the servers when we are root, as of db/embedded.py

# As in docs/availability.md, but for the shortest time to live that Patroni takes.
TTL, LOOP_WAIT, RETRY_TIMEOUT = 20, 3, 4
FAILED_OVER_WITHIN = 60.0  # seconds, on a busy machine
HEALTHY_WITHIN = 90.0

PARAMETERS = {
    "hot_standby": "on",
    "max_connections": 100,
    "max_wal_size": "512MB",
    "shared_buffers": "64MB",
    "wal_keep_size": "128MB",
    "wal_level": "replica",
    "wal_log_hints": "on",
}

HAPROXY = """\
global
    maxconn 500
defaults
    mode tcp
    retries 2
    timeout connect 3s
    timeout check 2s
    timeout client 30m
    timeout server 30m
listen primary
    bind 127.0.0.1:{front}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
"""


class MissingError(Exception):
    """A part that a trio needs is not installed; the message says which."""


def free_ports(number: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def program(name: str) -> str:
    """Return the path of a program of the system.

    Raises:
        MissingError: it is not installed.
    """
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        raise MissingError(f"{name} is not installed")
    return found


def identity() -> dict[str, Any]:
    """Return the arguments that start a program as whoever may run PostgreSQL."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", SYSTEM_USER], check=True)
        user = pwd.getpwnam(SYSTEM_USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def patroni() -> tuple[list[str], dict[str, str]]:
    """Return the command that runs Patroni, and its environment.

    The Python of a virtual environment may lie where the system's user has no way to; the system's
    own Python can use its packages, too.

    Raises:
        MissingError: there is none that this user can run.
    """
    packages = next(PATRONI.glob("lib/python3*/site-packages"), None)
    if packages is None:
        raise MissingError(f"Patroni is not installed in {PATRONI}: make ha does that")
    plain = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8"}
    for python, environment in (
        (PATRONI / "bin" / "python", plain),
        (Path("/usr/bin/python3"), plain | {"PYTHONPATH": str(packages)}),
    ):
        with contextlib.suppress(OSError):
            command = [str(python), "-m", "patroni"]
            ran = subprocess.run(
                [*command, "--version"],
                env=environment,
                cwd="/",
                capture_output=True,
                **identity(),
            )
            if ran.returncode == 0:
                return command, environment
    raise MissingError(f"the user {SYSTEM_USER} cannot run the Patroni in {PATRONI}")


def server_binaries() -> Path:
    """Return the folder of the server's programs.

    Raises:
        MissingError: it is not installed, or without pg_rewind.
    """
    folder = binaries(SERVER_VERSION)
    if folder is None or not (folder / "pg_rewind").exists():
        raise MissingError(f"PostgreSQL {SERVER_VERSION} with pg_rewind is not installed")
    return folder


class Node:
    """One server and its Patroni."""

    def __init__(self, name: str, folder: Path, port: int, rest_port: int) -> None:
        self.name = name
        self.data = folder / name / "data"
        self.config = folder / f"{name}.json"
        self.log = folder / f"{name}.log"
        self.port = port
        self.rest_port = rest_port
        self.patroni: subprocess.Popen[bytes] | None = None

    @property
    def postmaster(self) -> psutil.Process | None:
        """Its postmaster, None where none runs."""
        with contextlib.suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            process = psutil.Process(pid)
            if process.cwd() == str(self.data):
                return process
        return None

    def processes(self) -> list[psutil.Process]:
        """Return all of its processes, Patroni first."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            if self.patroni is not None:
                found.append(psutil.Process(self.patroni.pid))
        postmaster = self.postmaster
        if postmaster is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [postmaster, *postmaster.children(recursive=True)]
        return found

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def ask(self, path: str, method: str = "GET", body: Any = None, timeout: float = 30) -> Any:
        """Ask its Patroni.

        Raises:
            OSError: it does not answer, or refuses.
        """
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.rest_port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text


class Trio:
    """Three nodes, one of which is the primary.

    Args:
        folder: where they keep all they have; every user must be let through to it.

    Raises:
        MissingError: something is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = server_binaries()
        self.etcd, self.haproxy = program("etcd"), program("haproxy")
        self.command, self.environment = patroni()
        self.etcd_port, self._peer_port, self.front_port, *ports = free_ports(9)
        self.nodes = [
            Node(f"n{number}", folder, *ports[2 * number - 2 : 2 * number])
            for number in range(1, 4)
        ]
        self._helpers: list[subprocess.Popen[bytes]] = []

    # -- starting and stopping -----------------------------------------------------------------

    def start(self) -> None:
        """Start everything, and wait until it is well."""
        owner = identity()
        for node in self.nodes:
            home = node.data.parent
            home.mkdir()
            if owner:
                os.chown(home, owner["user"], owner["group"])
            node.config.write_text(json.dumps(self._config(node)))
        store = self.folder / "etcd"
        store.mkdir(mode=0o700)
        if owner:
            os.chown(store, owner["user"], owner["group"])
        client, peer = (f"http://127.0.0.1:{it}" for it in (self.etcd_port, self._peer_port))
        self._help(
            "etcd",
            *(self.etcd, "--name", "e1", "--data-dir", str(store)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"e1={peer}"),
        )
        wait_until(lambda: answers(self.etcd_port))
        servers = "\n".join(
            f"    server {node.name} 127.0.0.1:{node.port} check port {node.rest_port}"
            for node in self.nodes
        )
        settings = self.folder / "haproxy.cfg"
        settings.write_text(HAPROXY.format(front=self.front_port, servers=servers))
        self._help("haproxy", self.haproxy, "-f", str(settings), "-db")
        for node in self.nodes:
            self.run(node)
            wait_until(self.primary, HEALTHY_WITHIN, every=0.2)
        self.wait_until_well()

    def stop(self) -> None:
        """End everything, whatever state it is in."""
        for node in self.nodes:
            node.signal(signal.SIGKILL)
            if node.patroni is not None:
                node.patroni.wait()
        for helper in self._helpers:
            helper.kill()
            helper.wait()

    def run(self, node: Node) -> None:
        """Start the Patroni of a node, which starts its server or finds it running."""
        with node.log.open("ab") as log:
            node.patroni = subprocess.Popen(
                [*self.command, str(node.config)],
                env=self.environment | {"HOME": str(node.data.parent)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **identity(),
            )

    def _help(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **identity(),
            )
        self._helpers.append(process)

    def _config(self, node: Node) -> dict[str, Any]:
        rest, server = (f"127.0.0.1:{port}" for port in (node.rest_port, node.port))
        return {
            "scope": "rota",
            "name": node.name,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"host": f"127.0.0.1:{self.etcd_port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL,
                    "loop_wait": LOOP_WAIT,
                    "retry_timeout": RETRY_TIMEOUT,
                    "maximum_lag_on_failover": 16 * 2**20,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "use_slots": True,
                        "parameters": PARAMETERS,
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": server,
                "connect_address": server,
                "data_dir": str(node.data),
                "bin_dir": str(self.bin),
                "pgpass": str(node.data.parent / "pgpass"),
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
                "authentication": {
                    "superuser": {"username": "postgres", "password": "x"},
                    "replication": {"username": "replicator", "password": "x"},
                    "rewind": {"username": "rewinder", "password": "x"},
                },
                "basebackup": [{"checkpoint": "fast"}],
                "parameters": {"unix_socket_directories": str(node.data.parent)},
            },
        }

    # -- looking -------------------------------------------------------------------------------

    def url(self, dbname: str = "postgres") -> str:
        """Return a connection string that finds whichever node can be written to."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://postgres@{hosts}/{dbname}?{ATTRIBUTES}&connect_timeout=2"

    def front_url(self, dbname: str = "postgres") -> str:
        """Return the one that leads through HAProxy."""
        return f"postgresql://postgres@127.0.0.1:{self.front_port}/{dbname}?connect_timeout=2"

    def members(self) -> list[dict[str, Any]]:
        """Return what the first Patroni that answers says of all of them."""
        for node in self.nodes:
            with contextlib.suppress(OSError, HTTPException):
                return node.ask("/cluster", timeout=3)["members"]
        return []

    def in_role(self, *roles: str) -> Node | None:
        """Return the first node that is said to have one of these roles."""
        names = {it["name"] for it in self.members() if it["role"] in roles}
        return next((node for node in self.nodes if node.name in names), None)

    def primary(self) -> Node | None:
        """Return the node that is said to be the primary."""
        return self.in_role("leader", "primary")

    def synchronous_standby(self) -> Node | None:
        """Return the node for which commits wait."""
        return self.in_role("sync_standby")

    def is_well(self) -> bool:
        """Tell whether all follow one primary, and one of them is waited for if that is wanted."""
        members = self.members()
        leaders = [it for it in members if it["role"] in ("leader", "primary")]
        standbys = [it for it in members if it["state"] == "streaming"]
        if len(leaders) != 1 or leaders[0]["state"] != "running" or len(standbys) != 2:
            return False
        if len({it.get("timeline") for it in members}) != 1:
            return False
        wanted = bool(self.nodes[0].ask("/config", timeout=3).get("synchronous_mode"))
        if wanted != any(it["role"] == "sync_standby" for it in members):
            return False
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.url()) as conn:
            return conn.execute("select 1").fetchone() == (1,)
        return False

    def wait_until_well(self) -> None:
        """Wait until all follow one primary.

        Raises:
            AssertionError: they did not within a minute and a half; with what their logs say last.
        """

        def look() -> bool:
            with contextlib.suppress(OSError, HTTPException):
                return self.is_well()
            return False

        try:
            wait_until(look, HEALTHY_WITHIN, every=0.3)
        except AssertionError:
            logs = [f"{node.name}: {node.log.read_text()[-1500:]}" for node in self.nodes]
            raise AssertionError("\n".join([f"not well: {self.members()}", *logs])) from None

    def wait_for_another(self, old: Node) -> None:
        """Wait until another node than this is the primary."""
        wait_until(
            lambda: (now := self.primary()) is not None and now is not old,
            FAILED_OVER_WITHIN,
            every=0.2,
        )

    def be_synchronous(self, wanted: bool) -> None:
        """Have commits wait for a standby, or not, from now on."""
        self.nodes[0].ask("/config", "PATCH", {"synchronous_mode": wanted})
        self.wait_until_well()

    # -- faults: each is over when it returns ----------------------------------------------------

    def switch_over(self) -> None:
        """Have another node be the primary, in good order."""
        old = self.primary()
        new = self.synchronous_standby() or next(it for it in self.nodes if it is not old)
        old.ask("/switchover", "POST", {"leader": old.name, "candidate": new.name}, timeout=60)
        self.wait_for_another(old)

    def kill_primary(self) -> None:
        """Kill the primary and its Patroni, as a machine that loses its power, and bring it back.

        It comes back when another has taken its place.
        """
        old = self.primary()
        old.signal(signal.SIGKILL)
        old.patroni.wait()
        self.wait_for_another(old)
        self.run(old)

    def kill_patroni(self) -> None:
        """Kill the Patroni of the primary alone: that goes on, and another takes its place."""
        old = self.primary()
        old.patroni.kill()
        old.patroni.wait()
        self.wait_for_another(old)
        time.sleep(3)  # for which there are two
        self.run(old)

    def kill_postmaster(self) -> None:
        """Kill the postmaster of the primary alone; its Patroni starts it again, or gives way."""
        postmaster = self.primary().postmaster
        postmaster.kill()
        psutil.wait_procs([postmaster], timeout=10)
        wait_until(lambda: (now := self.primary()) and now.postmaster, FAILED_OVER_WITHIN)

    @contextlib.contextmanager
    def frozen(self, node: Node) -> Iterator[None]:
        """Have a node stand still during the block."""
        node.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            node.signal(signal.SIGCONT)

    def freeze_primary(self) -> None:
        """Have the primary stand still until another has taken its place, and a while longer."""
        old = self.primary()
        with self.frozen(old):
            self.wait_for_another(old)
            time.sleep(3)

    def freeze_synchronous_standby(self) -> None:
        """Have the standby that commits wait for stand still until another is waited for."""
        old = self.synchronous_standby()
        with self.frozen(old):
            wait_until(
                lambda: (now := self.synchronous_standby()) is not None and now is not old,
                FAILED_OVER_WITHIN,
                every=0.2,
            )


ATTRIBUTES = "target_session_attrs=read-write"


def answers(port: int) -> bool:
    """Tell whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    try:
        server_binaries(), program("etcd"), program("haproxy"), patroni()
    except MissingError as error:
        print(f"the drill cannot run here: {error}")
        sys.exit(1)
