"""What others make of the document: a validator of it, and the client that a generator writes."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator
from psycopg import Connection

from rota.db.gateway import call
from tests.api.conftest import Server
from tests.api.documentation import OPERATIONS

PACKAGE = "client_of_rota"
WITHOUT_BODY = {204, 304}  # the generator has no other word for what is not there than Any


@pytest.fixture
def token(conn: Connection) -> Iterator[str]:
    conn.execute("create role somebody_generated")
    conn.execute("grant rota_producer, rota_worker, rota_operator to somebody_generated")
    yield call(conn, "create_token", principal="somebody_generated")[0]["token"]
    conn.execute("drop role somebody_generated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


@pytest.fixture
def package(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client that is generated from the document of a running API, by the first who asks."""
    monkeypatch.syspath_prepend(str(folder))
    if (folder / PACKAGE).exists():
        return folder / PACKAGE
    (folder / "config.yaml").write_text("post_hooks: []\n")
    outcome = subprocess.run(
        [
            *(sys.executable, "-m", "openapi_python_client", "generate"),
            *("--url", f"{server.url}/apispec.json", "--meta", "none", "--fail-on-warning"),
            *("--config", "config.yaml", "--output-path", PACKAGE),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return folder / PACKAGE


class Api:
    """The generated client: its operations and its models by their names."""

    def __init__(self, package: Path, server: Server, token: str) -> None:
        self._modules = {path.stem: path.parent.name for path in package.glob("api/*/*.py")}
        self.models = importlib.import_module(f"{PACKAGE}.models")
        self.client = importlib.import_module(PACKAGE).AuthenticatedClient(server.url, token)

    def ask(self, operation: str, *arguments: Any, **named: Any) -> Any:
        tag = self._modules[operation]
        module = importlib.import_module(f"{PACKAGE}.api.{tag}.{operation}")
        return module.sync_detailed(*arguments, client=self.client, **named)


@pytest.fixture
def api(package: Path, server: Server, token: str) -> Api:
    return Api(package, server, token)


def test_the_document_is_valid_openapi(server: Server) -> None:
    document = server.request("GET", "/apispec.json").json

    assert document["openapi"].startswith("3.0.")
    assert list(OpenAPIV30SpecValidator(document).iter_errors()) == []


def test_no_body_of_the_generated_client_is_any(package: Path) -> None:
    found = {path for path in package.glob("api/*/*.py") if path.stem != "__init__"}

    assert len(found) == len(OPERATIONS)
    for path in found:
        tree = ast.parse(path.read_text())
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for argument in functions["sync_detailed"].args.kwonlyargs:
            assert "Any" not in ast.unparse(argument.annotation), (path.stem, argument.arg)
        (parse,) = (node for node in tree.body if getattr(node, "name", "") == "_parse_response")
        for branch in (node for node in ast.walk(parse) if isinstance(node, ast.If)):
            test = ast.unparse(branch.test)
            if "status_code ==" in test and "Any" in ast.unparse(branch):
                assert int(test.rpartition(" ")[2]) in WITHOUT_BODY, (path.stem, test)


def test_the_generated_client_works_from_a_job_s_creation_to_its_end(api: Api) -> None:
    models = api.models

    created = api.ask(
        "enqueue_job", body=models.OneTimeJob(task="echo", payload={"a": [1, None]})
    ).parsed
    assert (type(created), created.created) == (models.CreatedJob, True)
    job = api.ask("get_job", created.job_id).parsed
    assert (type(job), job.state, job.payload) == (models.Job, "SCHEDULED", {"a": [1, None]})
    claimed = api.ask("claim_from_queue", "default", body=models.Claim(worker="generated")).parsed
    (mine,) = claimed.jobs
    assert (type(mine), mine.id, mine.task) == (models.ClaimedJob, job.id, "echo")
    held = {"token": mine.token}
    lease = api.ask("heartbeat_job", mine.id, body=models.Heartbeat(**held, progress=0.5)).parsed
    assert (lease.cancel_requested, lease.lease_until > datetime.now(UTC)) == (False, True)
    following = models.ClaimNext(queues=["default"])
    finish = models.Finish(**held, result={"sent": 3}, claim_next=following)
    finished = api.ask("finish_job", mine.id, body=finish).parsed
    assert (finished.state, finished.claimed) == ("COMPLETED", [])

    ended = api.ask("get_job", mine.id, wait=1).parsed
    assert (ended.result, ended.executions[0].worker) == ({"sent": 3}, "generated")
    assert type(ended.finished_at) is datetime
    nothing = api.ask("claim_jobs", body=models.ClaimFromQueues(queues=["default", "mail"]))
    assert (nothing.status_code, nothing.parsed) == (204, None)
    counts = api.ask("count_jobs", state=[models.State.COMPLETED]).parsed
    assert (counts.counts.completed, counts.complete) == (1, True)


def test_the_generated_client_schedules_and_lists(api: Api) -> None:
    models = api.models

    nightly = models.NewCronSchedule(name="a/b", task="echo", cron="30 2 * * *")
    saved = api.ask("save_schedule", body=nightly, idempotency_key="once")
    again = api.ask("save_schedule", body=nightly, idempotency_key="once")
    assert (saved.status_code, again.parsed.job_id) == (201, saved.parsed.job_id)
    assert again.headers["Idempotency-Replayed"] == "true"
    shown = api.ask("get_schedule", "a/b").parsed
    assert (shown.cron, shown.overlap, shown.state) == ("30 2 * * *", "coalesce", "SCHEDULED")
    assert api.ask("pause_schedule", "a/b").parsed.run_at is None
    starts_at = datetime(2030, 1, 1, tzinfo=UTC)
    days = models.Range(starts_at=starts_at, ends_at=starts_at + timedelta(days=2))
    filled = api.ask("backfill_schedule", "a/b", body=days).parsed
    assert [job.created for job in filled.jobs] == [True, True]

    (schedule,) = api.ask("list_schedules").parsed.schedules
    assert (schedule.name, type(schedule.paused_at)) == ("a/b", datetime)
    listed = api.ask("list_jobs", state=[models.State.SCHEDULED], limit=2).parsed
    assert (len(listed.jobs), type(listed.next_)) == (2, str)
    (queue,) = api.ask("list_queues").parsed.queues
    assert (queue.queue, queue.scheduled) == ("default", 3)
    changed = api.ask("configure_queue", "default", body=models.QueueSettings(max_retries=1)).parsed
    assert (changed.max_retries, changed.timeout_seconds) == (1, None)
    dry = api.ask(
        "cancel_jobs", body=models.BulkCancellation(filter_=models.CancelFilter(queue="default"))
    ).parsed
    assert (dry.matched, dry.changed) == (2, 0)
    assert api.ask("delete_schedule", "a/b").parsed.state == "CANCELLED"
    assert api.ask("list_workers").parsed.workers == []


def test_the_generated_client_has_errors_as_objects(api: Api) -> None:
    missing = api.ask("get_job", 7)
    refused = api.ask("enqueue_job", body=api.models.OneTimeJob(task="x", priority=1000))

    assert (missing.status_code, missing.parsed.code) == (404, "RTN01")
    assert (refused.status_code, refused.parsed.code) == (422, "RTV01")
    assert "priority" in refused.parsed.message
    api.client = importlib.import_module(PACKAGE).AuthenticatedClient(
        api.client._base_url, "rota_wrong"
    )
    unknown = api.ask("list_jobs")
    assert (unknown.status_code, unknown.parsed.code) == (401, "HTTP401")
