"""The wheel, installed into an empty environment beside a project with names like our folders'."""

import json
import os
import subprocess
import sys
import time
import tomllib
import urllib.request
import venv
import zipfile
from pathlib import Path

import psycopg
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_compose import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]

PROJECT = {
    "app/__init__.py": "",
    "app/tasks.py": """
from rota import Job, task
import db, tasks, worker

@task("greet", max_retries=0)
def greet(job: Job, name: str) -> str:
    return f"{tasks.GREETING}, {name}"
""",
    "tasks.py": "GREETING = 'good morning'\n",
    "db.py": "",
    "worker.py": "",
    "demo.py": "",
    "produce.py": """
import os
import psycopg
import db, demo, worker
from app.tasks import greet

with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
    print(greet.enqueue(conn, name="Ann").job_id)
""",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, source)
    (built,) = folder.glob("rota-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An environment with nothing in it but Rota and what that needs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    pip(folder / "bin" / "python", "install", wheel)
    return folder


def pip(python, *arguments) -> None:
    done = subprocess.run(
        [python, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
    )
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"pip cannot do this here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(tmp_path) -> Path:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def command(environment, project, empty_db):
    """Run a command of the environment in the project's folder."""

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [environment / "bin" / arguments[0], *arguments[1:]],
            cwd=project,
            env={"PATH": "/usr/bin:/bin", "DATABASE_URL": empty_db},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


def test_the_wheel_takes_no_name_but_rota(wheel):
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"rota"}
    for part in ("db/functions/claim/claim_next_job.sql", "db/migrations/0001_types.sql"):
        assert f"rota/{part}" in names
    shipped = {name.removeprefix("rota/") for name in names}
    for folder in ("app", "db", "demo", "rota", "worker"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".sql", ".yaml", ".html", ".css", ".js"):
                name = path.relative_to(ROOT).as_posix().removeprefix("rota/")
                assert name in shipped or "__pycache__" in name, name


def test_what_we_pin_is_within_the_ranges_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        canonicalize_name(requirement.name): str(next(iter(requirement.specifier)).version)
        for name in ("requirements.txt", "requirements-dev.txt")
        for line in (ROOT / name).read_text().splitlines()
        if line and not line.startswith(("#", "-"))
        for requirement in [Requirement(line)]
    }
    extras = project["optional-dependencies"]
    ranges = [*project["dependencies"], *extras["server"], *extras["otel"]]
    for wanted in map(Requirement, ranges):
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), wanted


def test_a_project_with_names_like_our_folders_deploys_enqueues_and_works(
    command, environment, project, empty_db
):
    deployed = command("rota", "deploy")
    assert "is deployed to database" in deployed.stdout
    version = command("rota", "version").stdout.split()
    assert version[:2] == ["rota", "0.9.0,"]
    with psycopg.connect(empty_db) as conn:
        assert conn.execute("select rota.version()").fetchone()[0].startswith(version[-1])
    job_id = int(command("python", "produce.py").stdout)
    log = (project / "worker.log").open("w")
    port = free_port()
    running = [
        subprocess.Popen(
            [environment / "bin" / "rota", *arguments],
            cwd=project,
            env={"PATH": "/usr/bin:/bin", "DATABASE_URL": empty_db, "PORT": str(port)},
            stderr=log,
        )
        for arguments in (["worker", "--tasks", "app.tasks"], ["api"])
    ]
    try:
        with psycopg.connect(empty_db, autocommit=True) as conn:
            query = "select state, result from rota.jobs where id = %s"
            wait_until(lambda: conn.execute(query, [job_id]).fetchone()[0] == "COMPLETED")
            assert conn.execute(query, [job_id]).fetchone()[1] == "good morning, Ann"
        wait_until(lambda: answers(port))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/apidocs/", timeout=10) as page:
            assert b"swagger" in page.read().lower()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/jobs/{job_id}", timeout=10) as page:
            assert json.load(page)["state"] == "COMPLETED"
    finally:
        for process in running:
            process.terminate()
        codes = [process.wait(60) for process in running]
        log.close()
    assert codes == [0, 0], (project / "worker.log").read_text()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=10):
            return True
    except OSError:
        time.sleep(0.1)
        return False


def test_every_command_says_what_it_does_and_a_mistake_is_told(command):
    listed = command("rota").stdout
    for word in ("deploy", "worker", "api", "run", "demo", "version"):
        assert f"  {word} " in listed
        if word != "version":
            assert command("rota", word, "--help").stdout.startswith(f"usage: rota {word}")
    assert command("python", "-m", "rota.worker", "--help").stdout.startswith("usage: rota worker")
    mistake = command("rota", "work", check=False)
    assert mistake.returncode == 2
    assert "there is no command 'work'" in mistake.stderr


def test_without_its_extra_there_is_no_server_of_its_own(environment, project):
    done = subprocess.run(
        [environment / "bin" / "rota", "run"],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "set DATABASE_URL, or run pip install 'rota[server]'" in done.stderr
