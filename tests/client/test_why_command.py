"""The commands that ask what is the matter: ``rota why`` and ``rota doctor``."""

import contextlib
import json
import os
import struct
import subprocess
import sys

import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import make_conninfo

from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from tests.conftest import SERVER_VERSION
from tests.docs.pages import ROOT


@pytest.fixture
def rota(db):
    """Run the command ``rota`` as a person does."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "rota", *arguments],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": db, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def enqueue(conn, **arguments):
    return call(conn, "enqueue_job", **{"task": "t", **arguments})[0]["job_id"]


def test_why_prints_each_reason_with_its_remedy_and_what_blocks_first(conn, rota):
    job_id = enqueue(conn, run_at="2040-01-01")
    call(conn, "pause_queue", queue="default")

    told = rota("why", str(job_id))

    assert told.returncode == 0 and told.stderr == ""
    lines = told.stdout.splitlines()
    assert lines[0].startswith("BLOCKS    TIME: It is to start at 2040-01-01 00:00:00+00")
    assert lines[1].startswith("BLOCKS    QUEUE_PAUSED: Its queue default was paused")
    assert lines[2] == "          -> select resume_queue('default')"


def test_why_answers_programs_in_json(conn, rota):
    job_id = enqueue(conn, run_at="2040-01-01")

    told = rota("why", str(job_id), "--json")

    assert json.loads(told.stdout) == call(conn, "explain_job", job_id=job_id)


def test_what_would_steer_a_terminal_is_not_printed(conn, rota):
    job_id = enqueue(conn)
    (job,) = call(conn, "claim_next_job")
    error = "x\x1b]0;owned\x07\u202eevil \xe9"
    call(conn, "finish_job", job_id=job_id, token=job["token"], error=error, retry=False)

    told = rota("why", str(job_id), PYTHONIOENCODING="ascii:strict")

    assert told.returncode == 0, told.stderr
    assert told.stdout.isascii()
    assert not {"\x1b", "\x07"} & set(told.stdout)
    assert "x ]0;owned  evil \\xe9" in told.stdout


def test_a_job_that_there_is_not_is_told_as_such(conn, rota):
    told = rota("why", "4711")

    assert told.returncode == 0
    assert "UNKNOWN: There is no job 4711" in told.stdout


@pytest.mark.parametrize("word", ["why", "doctor"])
def test_whoever_cannot_ask_is_told_why_not(db, rota, word):
    arguments = [word, "1"] if word == "why" else [word]
    code = {"why": 1, "doctor": 2}[word]
    for url, words in [
        ("", "DATABASE_URL is not set"),
        ("nonsense", "not a PostgreSQL connection string"),
        ("postgresql:///x?host=/nowhere", "/nowhere"),
    ]:
        told = rota(*arguments, DATABASE_URL=url)
        assert (told.returncode, told.stdout) == (code, "")
        assert told.stderr.startswith(f"rota {word}: ") and words in told.stderr
        assert "Traceback" not in told.stderr


@pytest.mark.parametrize("job_id", ["x", str(2**63)])
def test_what_is_no_id_is_refused(rota, job_id):
    told = rota("why", job_id)

    assert told.returncode == 2 and "usage: rota why" in told.stderr


@pytest.fixture
def durable(server_folder):
    """A database on a server as it is delivered; that of the tests is not durable, on purpose."""
    with Cluster(server_folder / "pg", SERVER_VERSION) as server:
        deploy(server.url())
        with psycopg.connect(server.url(), autocommit=True) as conn:
            yield server.url(), conn


def test_the_doctor_tells_probes_by_its_exit_code_how_bad_it_is(durable, rota):
    url, conn = durable
    told = rota("doctor", DATABASE_URL=url)
    assert (told.returncode, told.stdout, told.stderr) == (0, "nothing is wrong\n", "")

    call(conn, "configure_queue", queue="mail", max_retries=1)
    call(conn, "pause_queue", queue="mail")
    told = rota("doctor", DATABASE_URL=url)
    assert told.returncode == 0
    head, remedy = told.stdout.splitlines()
    assert head.startswith("NOTE      paused queue: Queue mail was paused ")
    assert remedy == "          -> select resume_queue('mail')"

    worker = {"worker": "w", "host": "h", "pid": 1, "concurrency": 1, "version": "v"}
    call(conn, "announce_worker", queues=["mail"], **worker)
    told = rota("doctor", DATABASE_URL=url)
    assert (told.returncode, told.stdout.split(":")[0]) == (1, "WARNING   version")

    conn.execute("alter table rota.live_jobs set (autovacuum_enabled = off)")
    told = rota("doctor", DATABASE_URL=url)
    assert (told.returncode, told.stdout.split(":")[0]) == (2, "CRITICAL  autovacuum")


def test_the_doctor_names_the_standby_and_the_slot_that_keep_dead_rows(durable):
    """Both hear what a standby says with hot_standby_feedback, by which it keeps what it reads."""
    url, conn = durable
    conn.execute("select pg_create_physical_replication_slot('of_a_standby')")
    (oldest,) = conn.execute("select pg_current_xact_id()::text::integer").fetchone()
    conn.execute("set synchronous_commit = off")
    with replicate(url, "", oldest), replicate(url, "SLOT of_a_standby", oldest):
        conn.execute(
            "do $$ begin for v in 1..1000001 loop"
            " perform pg_current_xact_id(); commit; end loop; end $$"
        )
        told = {row["finding"].split(" has kept")[0]: row for row in call(conn, "doctor")}

    assert set(told) == {"The standby reports", "The replication slot of_a_standby"}
    assert {(row["severity"], row["check"]) for row in told.values()} == {
        ("warning", "old snapshot")
    }
    assert "pg_drop_replication_slot('of_a_standby')" in repr(told)


@contextlib.contextmanager
def replicate(url, slot, oldest):
    """Stream as a standby does that needs all from this transaction on."""
    standby = pq.PGconn.connect(
        make_conninfo(url, replication="true", application_name="reports").encode()
    )
    try:
        began = standby.exec_(f"START_REPLICATION {slot} PHYSICAL 0/1000000".encode())
        assert began.status == pq.ExecStatus.COPY_BOTH, standby.error_message
        standby.put_copy_data(struct.pack(">cqIIII", b"h", 0, oldest, 0, 0, 0))
        standby.flush()
        yield
    finally:
        standby.finish()


def test_the_doctor_answers_programs_in_json(conn, rota):
    call(conn, "configure_queue", queue="mail", max_retries=1)

    told = rota("doctor", "--json")

    assert json.loads(told.stdout) == call(conn, "doctor")
