"""``make run``: everything starts, works, and stops in order."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.test_compose import ROOT, fetch, free_port, status
from tests.waiting import wait_until

Run = Callable[..., subprocess.Popen]


@pytest.fixture
def state(server_folder: Path) -> Path:
    """A folder for the data, with a name that is too long for a socket's path."""
    return server_folder / "a folder with spaces, and as long as a person's may well be" / "état"


@pytest.fixture
def run(state: Path) -> Iterator[Run]:
    """Start ``rota run`` on a free port, with its own data."""
    processes = []

    def start(port: int, **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "rota", "run"],
            cwd=ROOT,
            env={
                **{key: value for key, value in os.environ.items() if key != "DATABASE_URL"},
                "PORT": str(port),
                "ROTA_STATE": str(state),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def welcome(process: subprocess.Popen) -> str:
    """Wait until a run says that it is ready; return what it has said."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "make demo" in line:
            return "".join(lines)
    raise AssertionError(f"the run ended: {lines} {process.stderr.read()}")


def test_a_job_runs_and_ctrl_c_stops_everything_and_the_data_stays(run, state):
    port = free_port()
    for jobs in (1, 2):
        process = run(port)
        greeting = welcome(process)
        job = fetch(f"http://127.0.0.1:{port}/jobs", {"task": "echo"})
        url = f"http://127.0.0.1:{port}/jobs/{job['job_id']}"
        wait_until(lambda url=url: fetch(url)["state"] == "COMPLETED")
        with psycopg.connect((state / "url").read_text().strip()) as conn:
            assert conn.execute("select count(*) from jobs").fetchone() == (jobs,)
        family = psutil.Process(process.pid).children(recursive=True)

        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

        assert process.returncode == 0, errors
        assert f"http://127.0.0.1:{port}/apidocs" in greeting
        assert "API and worker start" in greeting.partition("Rota runs")[0]
        assert not [child for child in family if child.is_running()]
        assert not (state / "url").exists()


def test_the_printed_psql_line_works(run, state):
    [command] = re.findall(r"^ *psql +(psql .*)$", welcome(run(free_port())), re.M)

    answer = subprocess.run(
        f"{command} --no-psqlrc --tuples-only --no-align",
        shell=True,
        input="select job_id from enqueue_job('echo')",
        capture_output=True,
        text=True,
    )

    assert (answer.returncode, answer.stdout) == (0, "1\n"), answer.stderr


def test_a_part_that_dies_ends_the_run_and_is_named(run):
    port = free_port()
    process = run(port)
    welcome(process)
    family = psutil.Process(process.pid).children(recursive=True)
    [worker] = [child for child in family if child.cmdline()[1:4] == ["-m", "rota", "worker"]]

    worker.kill()
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "rota worker ended by itself" in errors
    assert not [child for child in family if child.is_running()]


def test_a_port_that_is_taken_is_named_at_once(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        _, errors = run(port).communicate(timeout=60)

    assert f"port {port}" in errors
    assert len(errors.splitlines()) == 1


def test_a_second_run_on_the_same_data_is_refused(run):
    welcome(run(free_port()))

    second = run(free_port())
    _, errors = second.communicate(timeout=60)

    assert second.returncode == 1
    assert "another process" in errors


def test_a_run_after_one_that_was_killed_finds_its_data(run, state):
    port = free_port()
    first = run(port)
    welcome(first)
    fetch(f"http://127.0.0.1:{port}/jobs", {"task": "echo", "queue": "nobody"})
    first.kill()
    first.communicate()
    if shutil.which("setpriv") is None:
        pytest.skip("without setpriv the API lives on and holds its port")

    wait_until(lambda: status(f"http://127.0.0.1:{port}/health/live") is None)
    welcome(run(port))

    with psycopg.connect((state / "url").read_text().strip()) as conn:
        assert conn.execute("select count(*) from jobs").fetchone() == (1,)


def test_a_database_of_ones_own_is_used(run, db, state):
    port = free_port()
    process = run(port, DATABASE_URL=db)
    welcome(process)

    job = fetch(f"http://127.0.0.1:{port}/jobs", {"task": "echo"})
    wait_until(
        lambda: fetch(f"http://127.0.0.1:{port}/jobs/{job['job_id']}")["state"] == "COMPLETED"
    )
    process.terminate()
    process.communicate(timeout=60)

    assert process.returncode == 0
    assert sorted(path.name for path in state.iterdir()) == []


def test_the_demo_looks_for_the_run_where_that_keeps_its_state(db, state):
    state.mkdir(parents=True)
    (state / "url").write_text(f"{db}\n")
    environment = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}

    demo = subprocess.run(
        [sys.executable, "-m", "rota.demo"],
        cwd=ROOT,
        env={**environment, "ROTA_STATE": str(state)},
        capture_output=True,
        text=True,
    )

    assert "No worker of the queue default knows" in demo.stdout, demo
