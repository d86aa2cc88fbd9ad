"""The compose file: accepted, without default secrets, and every command in it does its work.

There is no container engine here. What the services would do is done by their own commands, and
``docker-entrypoint.sh``, which belongs to PostgreSQL's image, is one that tells its environment.
"""

import contextlib
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
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rota.db.embedded import Cluster
from tests.conftest import SERVER_VERSION, TEST_SETTINGS
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
SECRETS = {"POSTGRES_PASSWORD": "p", "API_PASSWORD": "a", "WORKER_PASSWORD": "w"}
TOKEN = "a-token-that-somebody-chose-0123456789"
URL = {"DATABASE_URL": "postgresql://postgres:postgres@postgres:5432/jobs_db"}
ODD_URL = {"DATABASE_URL": "postgres://o%27er:p%40s%2Fs%3Aw%22%5C%25d%20%C3%BC@postgres/j%20b"}
OUTSIDE = {"DATABASE_URL": "postgresql://u:p@db.example:5432/jobs_db"}


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


def postgres(
    folder: Path, environment: dict[str, str], mode: str = "start", **options: Any
) -> subprocess.CompletedProcess:
    """Run the command of the service postgres, which goes on to what its image does."""
    for name in ("docker-entrypoint.sh", "pg_isready"):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho {name} "$@"\nenv -0\n')
        program.chmod(0o755)
    return subprocess.run(
        ["bash", ROOT / "db" / "postgres.sh", mode],
        env={"PATH": f"{folder}:{os.environ['PATH']}", "LANG": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        **options,
    )


def made_of(process: subprocess.CompletedProcess) -> tuple[str, str, str]:
    """Return the user, the password and the database that the image makes."""
    _, _, variables = process.stdout.partition("\n")
    environment = dict(line.split("=", 1) for line in variables.split("\0") if line)
    return tuple(environment[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))


@pytest.mark.parametrize("environment", [{}, SECRETS, URL, ODD_URL, OUTSIDE, SECRETS | URL])
def test_every_form_of_the_environment_is_accepted(environment, tmp_path):
    process = config(environment, tmp_path)

    assert process.returncode == 0, process.stderr
    services = yaml.safe_load(process.stdout)["services"]
    for name in ("deploy", "api", "worker") if "DATABASE_URL" in environment else ():
        assert services[name]["environment"]["DATABASE_URL"] == environment["DATABASE_URL"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("missing", [None, ""])
def test_no_secret_has_a_default_and_nothing_starts_without_one(secret, missing, tmp_path):
    environment = {name: value for name, value in SECRETS.items() if name != secret}
    if missing is not None:
        environment |= {secret: missing, "DATABASE_URL": ""}

    process = postgres(tmp_path, environment)

    assert process.returncode != 0
    assert f"{secret} is missing: set it in .env" in process.stderr
    assert "docker-entrypoint" not in process.stdout


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL["DATABASE_URL"], ("postgres", "postgres", "jobs_db")),
        (ODD_URL["DATABASE_URL"], ("o'er", 'p@s/s:w"\\%d ü', "j b")),
        ("postgresql://u:p@postgres", ("u", "p", "u")),
        ("postgresql://u:p@postgres/", ("u", "p", "u")),
        ("postgresql://u:p?x@postgres/d?sslmode=prefer", ("u", "p?x", "d")),
        ("postgresql://u:a:b@postgres:5432/d", ("u", "a:b", "d")),
        ("postgresql://postgres/d?user=u&password=a%26b", ("u", "a&b", "d")),
        ("postgresql:///d?host=postgres&user=u&password=p", ("u", "p", "d")),
        ("postgresql://u:p@postgres/d?dbname=e", ("u", "p", "e")),
    ],
)
def test_the_database_is_made_as_the_url_says(url, expected, tmp_path):
    process = postgres(tmp_path, {"DATABASE_URL": url})
    ready = postgres(tmp_path, {"DATABASE_URL": url}, "ready")

    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("docker-entrypoint.sh postgres\n")
    assert made_of(process) == expected
    read = conninfo_to_dict(url)  # as libpq reads it
    assert (read["user"], read["password"], read.get("dbname", read["user"])) == expected
    assert ready.stdout.startswith("pg_isready --host=127.0.0.1 ")


@pytest.mark.parametrize(
    "url", ["postgresql://u@postgres/d", "postgresql://postgres/d", "host=postgres user=u", "x"]
)
def test_a_url_that_says_too_little_is_refused(url, tmp_path):
    process = postgres(tmp_path, {"DATABASE_URL": url})

    assert process.returncode != 0
    assert "DATABASE_URL" in process.stderr


@pytest.mark.parametrize(
    "url",
    [
        OUTSIDE["DATABASE_URL"],
        "postgresql://u:p@postgres.example/d",
        "postgresql://u@[::1]/d",
        "postgresql://u:p@db1:5432,db2:5433,postgres/d",
    ],
)
def test_the_bundled_server_stays_off_where_the_url_names_another(url, tmp_path):
    ready = postgres(tmp_path, {"DATABASE_URL": url}, "ready")
    with subprocess.Popen(
        ["bash", ROOT / "db" / "postgres.sh", "start"],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said = process.stdout.readline()
            process.terminate()
            code = process.wait(10)
        finally:
            with contextlib.suppress(ProcessLookupError):  # where nothing is left of it
                os.killpg(process.pid, signal.SIGKILL)

    assert ready.returncode == 0 and "pg_isready" not in ready.stdout
    assert "this one stays off" in said
    assert code == 0


def test_the_example_environment_names_every_variable_and_holds_no_secret(tmp_path):
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )

    assert example == {
        **dict.fromkeys(SECRETS, ""),
        "ROTA_TOKEN": "",
        "DATABASE_URL": "",
        "ROTA_PORT": "5000",
    }
    assert postgres(tmp_path, example).returncode != 0


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


@pytest.mark.parametrize(
    ("form", "to_strangers"),
    [
        (SECRETS, 200),
        (SECRETS | {"ROTA_TOKEN": TOKEN}, 401),
        (URL, 200),
        (ODD_URL | {"ROTA_TOKEN": TOKEN}, 401),
    ],
    ids=["secrets", "secrets and token", "URL", "odd URL and token"],
)
def test_every_service_does_its_work_by_its_own_command(form, to_strangers, tmp_path, server):
    services = yaml.safe_load(config(form, tmp_path).stdout)["services"]
    environments = {
        name: {
            **{key: value for key, value in os.environ.items() if key != "DATABASE_URL"},
            **{key: str(value) for key, value in service["environment"].items()},
        }
        for name, service in services.items()
    }
    made = postgres(tmp_path, {k: str(v) for k, v in services["postgres"]["environment"].items()})
    user, password, database = made_of(made)
    port = free_port()
    host = conninfo_to_dict(server.url())["host"]
    for name in ("deploy", "api", "worker"):
        environments[name]["DATABASE_URL"] = make_conninfo(
            services[name]["environment"]["DATABASE_URL"], host=host, port=""
        )
    environments["api"] |= {"PORT": str(port), "HOST": "127.0.0.1"}
    api = f"http://127.0.0.1:{port}"
    token = form.get("ROTA_TOKEN")

    with psycopg.connect(server.url(), autocommit=True) as conn:  # as PostgreSQL's image does
        if user != "postgres":
            conn.execute(
                sql.SQL("create role {} superuser login password {}").format(
                    sql.Identifier(user), password
                )
            )
        conn.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
    psql = [server.bin / "psql", "--no-psqlrc", "--file=db/logins.sql"]
    address = make_conninfo(server.url(), user=user, dbname=database)
    subprocess.run([*psql, address], cwd=ROOT, env=environments["postgres"], check=True)
    subprocess.run(
        here(services["deploy"]["command"]), cwd=ROOT, env=environments["deploy"], check=True
    )
    running = [
        subprocess.Popen(here(services[name]["command"]), cwd=ROOT, env=environments[name])
        for name in ("api", "worker", "worker")
    ]
    try:
        wait_until(lambda: status(f"{api}/health/ready") == 200)
        job = fetch(f"{api}/jobs", {"task": "echo", "payload": {"say": "hello"}}, token)
        wait_until(
            lambda: fetch(f"{api}/jobs/{job['job_id']}", token=token)["state"] == "COMPLETED"
        )
        wait_until(lambda: len(fetch(f"{api}/workers", token=token)["workers"]) == 2)
        page = status(f"{api}/apidocs/")
        stranger = status(f"{api}/jobs")
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

    assert (healthcheck.returncode, page, stranger) == (0, 200, to_strangers)
    assert codes == [0, 0, 0]


def here(command: list[str]) -> list[str]:
    """Return a container's command, run by this Python."""
    program = {"python": [sys.executable], "rota": [sys.executable, "-m", "rota"]}
    return [*program[command[0]], *command[1:]]


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


def fetch(url: str, body: dict[str, Any] | None = None, token: str | None = None) -> Any:
    """Get a URL, or post a body to it; return the answer."""
    data = json.dumps(body).encode() if body else None
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data, headers)
    with OPENER.open(request, timeout=10) as answer:
        return json.load(answer)


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
