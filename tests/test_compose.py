"""The compose file: accepted, without default secrets, and every command in it does its work."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db.embedded import Cluster
from tests.conftest import SERVER_VERSION, TEST_SETTINGS
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
SECRETS = {"POSTGRES_PASSWORD": "p", "API_PASSWORD": "a", "WORKER_PASSWORD": "w"}


def config(environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess:
    """Let docker-compose read the file, with this environment and no .env."""
    if shutil.which("docker-compose") is None:
        if os.environ.get("CI"):
            pytest.fail("docker-compose is not installed")
        pytest.skip("docker-compose is not installed")
    return subprocess.run(
        ["docker-compose", "--project-directory", folder, "--file", "docker-compose.yml", "config"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def services(tmp_path: Path) -> dict[str, Any]:
    """The services as docker-compose understands them."""
    process = config(SECRETS, tmp_path)
    assert process.returncode == 0, process.stderr
    return yaml.safe_load(process.stdout)["services"]


@pytest.fixture
def server(server_folder: Path) -> Iterator[Cluster]:
    """A server of its own, for its roles are made by the stack's own script."""
    with Cluster(server_folder / "pg", SERVER_VERSION, TEST_SETTINGS) as cluster:
        yield cluster


@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_has_a_default(secret, tmp_path):
    process = config({name: value for name, value in SECRETS.items() if name != secret}, tmp_path)

    assert process.returncode != 0
    assert "set it in .env" in process.stderr


def test_the_example_environment_names_every_variable_and_holds_no_secret():
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )

    assert example == {**dict.fromkeys(SECRETS, ""), "ROTA_PORT": "5000"}


def test_images_are_pinned_and_run_by_an_ordinary_user(services):
    dockerfile = (ROOT / "Dockerfile").read_text().splitlines()

    assert services["postgres"]["image"].startswith("postgres:18.")
    assert [line for line in dockerfile if line.startswith("FROM python:3.")]
    assert "USER rota" in dockerfile
    assert dockerfile.index("USER rota") > max(
        number for number, line in enumerate(dockerfile) if line.startswith(("RUN", "COPY"))
    )


def test_only_the_api_is_published_and_only_here(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert list(published) == ["api"]
    assert all(str(port).startswith("127.0.0.1:") for port in published["api"])
    assert not [name for name, service in services.items() if "container_name" in service]


def test_the_api_and_the_worker_wait_for_the_deploy_and_it_for_the_database(services):
    assert services["deploy"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker"):
        assert services[name]["depends_on"] == {
            "deploy": {"condition": "service_completed_successfully"}
        }


def test_every_service_does_its_work_by_its_own_command(services, server):
    psql = [server.bin / "psql", "--no-psqlrc", server.url("rota"), "--file=db/logins.sql"]
    environments = {
        name: {
            **os.environ,
            **{key: str(value) for key, value in service["environment"].items()},
        }
        for name, service in services.items()
    }
    port = free_port()
    host = conninfo_to_dict(server.url())["host"]
    for name in ("deploy", "api", "worker"):
        environments[name]["DATABASE_URL"] = make_conninfo(
            services[name]["environment"]["DATABASE_URL"], host=host
        )
    environments["api"] |= {"PORT": str(port), "HOST": "127.0.0.1"}
    api = f"http://127.0.0.1:{port}"

    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute("create database rota")
    subprocess.run(psql, cwd=ROOT, env=environments["postgres"], check=True)
    subprocess.run(
        here(services["deploy"]["command"]), cwd=ROOT, env=environments["deploy"], check=True
    )
    running = [
        subprocess.Popen(here(services[name]["command"]), cwd=ROOT, env=environments[name])
        for name in ("api", "worker", "worker")
    ]
    try:
        wait_until(lambda: status(f"{api}/health/ready") == 200)
        job = fetch(f"{api}/jobs", {"task": "echo", "payload": {"say": "hello"}})
        wait_until(lambda: fetch(f"{api}/jobs/{job['job_id']}")["state"] == "COMPLETED")
        workers = fetch(f"{api}/workers")
        healthcheck = subprocess.run(
            here(services["api"]["healthcheck"]["test"][1:]), env=environments["api"]
        )
        for process in running:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(60) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()

    assert healthcheck.returncode == 0
    assert len(workers["workers"]) == 2
    assert codes == [0, 0, 0]


def here(command: list[str]) -> list[str]:
    """Return a container's command, run by this Python."""
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def status(url: str) -> int | None:
    """Return an answer's status, None if nobody answers."""
    try:
        with OPENER.open(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def fetch(url: str, body: dict[str, Any] | None = None) -> Any:
    """Get a URL, or post a body to it; return the answer."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with OPENER.open(request, timeout=10) as answer:
        return json.load(answer)


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
