"""Run all of Rota on this machine until Ctrl-C: ``rota run``, or ``make run`` in a checkout.

A PostgreSQL server of our own (its data stays in ``.rota``) unless ``DATABASE_URL`` names one, the
deploy, the API and one worker. When one of them ends by itself, so does the run, with exit code 1.
``HOST`` and ``PORT`` say where the API answers, ``ROTA_STATE`` another folder for the data.
"""

import argparse
import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psycopg

from rota.db.deploy import DeployError, deploy
from rota.terminal import Progress

STATE = Path(os.environ.get("ROTA_STATE", ".rota"))
OWNER = "rota"  # owns the embedded database of the same name; not superuser
READY_TIMEOUT = 60.0  # seconds until the API must find the database in order
STOP_TIMEOUT = 60.0  # seconds that a child gets to end by itself


Parts = dict[str, Callable[[], int | None]]  # what runs, and its exit code once it has ended


class RunError(Exception):
    """Rota cannot run, or did not run on; the message says why."""


def main(arguments: list[str] | None = None) -> int:
    """Start everything, wait, stop everything; the last started stops first."""
    argparse.ArgumentParser(
        prog="rota run",
        description="Run PostgreSQL (unless DATABASE_URL names a server), the deploy, the API (on"
        " HOST and PORT) and one worker with the demo's tasks, until Ctrl-C. The data stays in"
        " ROTA_STATE, or else in the folder .rota.",
    ).parse_args(arguments)
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    try:
        with ExitStack() as stack:
            host, port = _address()
            parts: Parts = {}
            progress = Progress()
            with progress.waiting(_beginning()):
                url, psql = _database(stack, parts)
            deploy(url, progress=progress)
            _publish(stack, url)
            environment = os.environ | {"DATABASE_URL": url, "HOST": host, "PORT": str(port)}
            print("API and worker start …", flush=True)  # and write their logs from now on
            _start(stack, parts, "api", environment)
            _start(stack, parts, "worker", environment, "--tasks", "rota.demo.tasks")
            _wait_until_ready(host, port, parts, stop)
            if not stop.is_set():
                print(_welcome(host, port, psql), flush=True)
            while not stop.wait(0.2):
                _check(parts)
            print("Rota stops …", flush=True)
    except (DeployError, RunError, psycopg.Error) as error:
        print(f"rota run: {error}", file=sys.stderr)
        return 1
    return 0


def _address() -> tuple[str, int]:
    """Return where the API is to listen; refuse a place that is taken."""
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "5000"))
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise RunError(
                f"cannot listen on {host} port {port} ({error.strerror});"
                " choose another with PORT=…"
            ) from error
    return host, port


def _beginning() -> str:
    """Say what a person waits for before there is a database."""
    if (STATE / "pg18").exists():
        return "PostgreSQL starts"
    return f"PostgreSQL makes its files in {STATE / 'pg18'} and starts"


def _database(stack: ExitStack, parts: Parts) -> tuple[str, str]:
    """Return the database's URL, and a command line that leads a person to it."""
    if url := os.environ.get("DATABASE_URL"):
        return url, 'psql "$DATABASE_URL"'
    try:
        from rota.db.embedded import Cluster, ClusterError
    except ModuleNotFoundError as error:
        raise RunError(
            "set DATABASE_URL, or run pip install 'rota[server]' for a PostgreSQL server of its own"
        ) from error
    try:
        cluster = stack.enter_context(Cluster(STATE / "pg18"))
    except ClusterError as error:
        raise RunError(str(error)) from error
    parts["PostgreSQL"] = cluster.poll
    with psycopg.connect(cluster.url(), autocommit=True) as conn:
        if not conn.execute("select from pg_roles where rolname = %s", [OWNER]).rowcount:
            conn.execute(f"create role {OWNER} login createrole")
        conn.execute(f"grant pg_read_all_stats to {OWNER}")  # for its doctor
        if not conn.execute("select from pg_database where datname = %s", [OWNER]).rowcount:
            conn.execute(f"create database {OWNER} owner {OWNER}")
    url = cluster.url(OWNER, user=OWNER)
    program = "psql" if shutil.which("psql") else str(cluster.bin / "psql")
    return url, shlex.join([program, url])


def _publish(stack: ExitStack, url: str) -> None:
    """Leave the URL where ``make demo`` looks for it, for as long as we run."""
    STATE.mkdir(parents=True, exist_ok=True)
    path = STATE / "url"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(f"{url}\n")
    stack.callback(path.unlink, missing_ok=True)


def _start(
    stack: ExitStack, parts: Parts, name: str, environment: dict[str, str], *arguments: str
) -> None:
    """Start ``rota name`` out of the reach of this terminal's Ctrl-C.

    Where Linux's setpriv is at hand, the child is asked to end when we are killed ourselves.
    """
    leash = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    child = subprocess.Popen(
        [*leash, sys.executable, "-m", "rota", name, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    stack.callback(_end, child)
    parts[f"rota {name}"] = child.poll


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask a child to end; kill it when it takes too long, or when it is asked for once more."""
    signal.signal(signal.SIGINT, lambda *_: child.kill())
    child.terminate()
    try:
        child.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _wait_until_ready(host: str, port: int, parts: Parts, stop: threading.Event) -> None:
    """Wait until the API says that it and the database are ready."""
    address = "127.0.0.1" if host == "0.0.0.0" else host
    for _ in range(int(READY_TIMEOUT / 0.1)):
        _check(parts)
        connection = http.client.HTTPConnection(address, port, timeout=READY_TIMEOUT)
        try:
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass  # it does not listen yet
        finally:
            connection.close()
        if stop.wait(0.1):
            return
    raise RunError(f"the API was not ready after {READY_TIMEOUT:.0f} seconds")


def _check(parts: Parts) -> None:
    """Raise if a part has ended."""
    for name, poll in parts.items():
        code = poll()
        if code is not None:
            raise RunError(f"{name} ended by itself with code {code}; the rest is stopped")


def _welcome(host: str, port: int, psql: str) -> str:
    return f"""
Rota runs; Ctrl-C stops it.

    Dashboard http://{host}:{port}/ui/
    API       http://{host}:{port}/jobs
    Swagger   http://{host}:{port}/apidocs
    Health    http://{host}:{port}/health/ready
    psql      {psql}
    Demo      make demo or rota demo (in a second terminal)
"""


if __name__ == "__main__":
    sys.exit(main())
