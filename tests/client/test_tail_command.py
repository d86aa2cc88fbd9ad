"""``rota tail``: each attempt as it ends, none missed, none twice."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from rota import tail as tail_module
from rota.db.deploy import deploy
from rota.db.embedded import Cluster
from rota.db.gateway import call
from rota.tail import Tail
from rota.terminal import columns
from tests.conftest import SERVER_VERSION, roomy_memory
from tests.docs.pages import ROOT
from tests.functions.test_plans import HISTORY, rows_read
from tests.waiting import wait_until

HOSTILE = "x\nboom\x1b]0;owned\x07\u202eevil " + "\u6f22" * 90


def enqueue(conn, **arguments):
    return call(conn, "enqueue_job", **{"task": "t", **arguments})[0]["job_id"]


def claim(conn):
    (job,) = call(conn, "claim_next_job")
    return {"job_id": job["id"], "token": job["token"]}


def run_job(conn, error=None, **arguments):
    job_id = enqueue(conn, **arguments)
    queue = arguments.get("queue", "default")
    (job,) = call(conn, "claim_next_job", queues=[queue])
    outcome = {} if error is None else {"error": error, "retry": False}
    call(conn, "finish_job", job_id=job_id, token=job["token"], **outcome)
    return job_id


def ended(attempts):
    return [(one["job_id"], one["attempt"], one["outcome"]) for one in attempts]


@pytest.fixture
def follow(db, monkeypatch):
    """Follow what ends, a look at a time, with no slack but what is proven."""
    monkeypatch.setenv("DATABASE_URL", db)
    monkeypatch.setattr(tail_module, "SLACK", timedelta(0))
    followed = []

    def start(**wanted):
        followed.append(Tail(**wanted))
        followed[-1].look()
        return followed[-1]

    yield start
    for one in followed:
        one.close()


@pytest.fixture
def started(db):
    """Start the command, on a terminal of so many columns or on pipes; wait until it follows."""
    processes = []

    def start(*arguments, width=None, url=db, **environment):
        inner, outer = None, subprocess.PIPE
        if width:
            inner, outer = pty.openpty()
            fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "rota", "tail", *arguments],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url, "TERM": "xterm", **environment},
            stdout=outer,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        if width:
            os.close(outer)
            process.stdout = os.fdopen(inner, newline="")
            assert process.stdout.readline().split()[:2] == ["ended", "job"]
        else:
            with psycopg.connect(url, autocommit=True) as conn:
                wait_until(lambda: is_following(conn))
        return process

    yield start
    for process in processes:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


def is_following(conn):
    return conn.execute(
        "select from pg_stat_activity where datname = current_database()"
        " and application_name = 'rota tail' and state = 'idle' and query like '%%executions%%'"
    ).rowcount


def test_each_attempt_is_told_once(conn, follow):
    run_job(conn)
    tail = follow()
    job_id = enqueue(conn, max_retries=1)
    call(conn, "release_job", **claim(conn))
    looks = [tail.look()]
    call(conn, "release_job", **claim(conn))
    call(conn, "finish_job", error="no", retry_in="0", **claim(conn))
    looks.append(tail.look())
    call(conn, "finish_job", **claim(conn))
    looks.append(tail.look())

    assert [ended(look) for look in looks] == [
        [(job_id, 1, "RELEASED")],
        [(job_id, 1, "RELEASED"), (job_id, 1, "FAILED")],
        [(job_id, 2, "SUCCEEDED")],
    ]
    assert tail.look() == []


def test_what_ended_long_before_its_commit_is_told(conn, connect, follow):
    tail = follow()
    late = connect(autocommit=False)
    job_id = enqueue(conn)
    call(late, "finish_job", **claim(conn))
    others = []
    for _ in range(3):
        others.append((run_job(conn), 1, "SUCCEEDED"))
        assert ended(tail.look()) == others[-1:]

    late.commit()

    assert ended(tail.look()) == [(job_id, 1, "SUCCEEDED")]
    assert tail.look() == []


def test_a_finish_that_waits_for_its_job_is_told_though_it_has_read_the_clock(
    conn, connect, follow
):
    tail = follow()
    job_id = enqueue(conn)
    held = claim(conn)
    holder = connect(autocommit=False)
    holder.execute("select from rota.live_jobs for update")
    waiting = connect()
    finish = threading.Thread(target=call, args=(waiting, "finish_job"), kwargs=held)
    finish.start()
    wait_until(
        lambda: (
            conn.execute(
                "select from pg_stat_activity where pid = %s and wait_event_type = 'Lock'",
                [waiting.info.backend_pid],
            ).rowcount
        )
    )
    assert (tail.look(), tail.look()) == ([], [])

    holder.commit()
    finish.join()

    assert ended(tail.look()) == [(job_id, 1, "SUCCEEDED")]


def test_a_clock_that_is_put_back_hides_nothing(conn, connect, follow, monkeypatch):
    ahead = tail_module.MOMENT.replace("else clock", "else interval '1 hour' + clock")
    with monkeypatch.context() as patch:
        patch.setattr(tail_module, "MOMENT", ahead)
        tail = follow()
        tail.look()

    job_id = run_job(conn)
    late = connect(autocommit=False)
    late_id = enqueue(conn)
    call(late, "finish_job", **claim(conn))

    assert ended(tail.look()) == [(job_id, 1, "SUCCEEDED")]
    assert tail.look() == []
    late.commit()
    assert ended(tail.look()) == [(late_id, 1, "SUCCEEDED")]
    assert tail.look() == []


def test_a_transaction_that_stays_open_for_too_long_is_named_once(
    conn, connect, follow, monkeypatch, capsys
):
    monkeypatch.setattr(tail_module, "LONGEST", timedelta(seconds=0.5))
    tail = follow()
    late = connect(autocommit=False)
    enqueue(late)

    def is_named():
        tail.look()
        return f"of pid {late.info.backend_pid} has been open for more" in capsys.readouterr().err

    wait_until(is_named)
    tail.look()

    assert capsys.readouterr().err == ""


def test_only_what_is_asked_for_is_told(conn, follow):
    tails = [
        *(follow(task="a"), follow(queue="mail"), follow(failed=True), follow(key="acme")),
        follow(),
    ]
    jobs = [
        *(run_job(conn, task="a"), run_job(conn, queue="mail"), run_job(conn, error="no")),
        run_job(conn, key="acme"),
    ]

    told = [[one["job_id"] for one in tail.look()] for tail in tails]

    assert told == [*([job_id] for job_id in jobs), jobs]


def test_behind_a_wall_only_its_queues_are_seen(conn, db, follow, monkeypatch):
    call(conn, "wall", principal="rota_reader", queue_pattern="mine")
    monkeypatch.setenv("DATABASE_URL", f"{db}&options=-crole%3Drota_reader")
    tail = follow()
    run_job(conn, queue="other")
    job_id = run_job(conn, queue="mine")

    assert ended(tail.look()) == [(job_id, 1, "SUCCEEDED")]


def test_a_look_reads_what_is_new_and_no_history(conn):
    """However many weeks there are, with walls and without."""
    conn.execute(HISTORY)
    conn.execute("analyze")
    conn.execute("select setval('rota.job_ids', 70000)")
    conn.execute(
        "select brin_summarize_new_values(c.oid) from pg_class as c"  # as autovacuum does
        " join pg_am as m on m.oid = c.relam where m.amname = 'brin' and c.relkind = 'i'"
    )
    ids = [run_job(conn) for _ in range(20)]
    for name, value in tail_module.SETTINGS.items():
        conn.execute("select set_config(%s, %s, false)", [name, value])
    for principal in (None, "rota_operator", "rota_reader"):  # no walls, another's, one's own
        if principal:
            call(conn, "wall", principal=principal, queue_pattern="default")
        for outcomes in (None, tail_module.FAILURES):
            for look in (tail_module.ENDED, tail_module.JOBS):
                with conn.transaction(force_rollback=True):
                    conn.execute("set local role rota_reader")
                    ((plan,),) = conn.execute(
                        f"explain (analyze, timing off, format json) {look}",
                        {
                            "since": conn.execute("select now() - interval '1 min'").fetchone()[0],
                            "ids": ids,
                            "task": None,
                            "queue": None,
                            "key": None,
                            "outcomes": outcomes,
                        },
                        prepare=False,
                    )
                most = 2_000 if look is tail_module.ENDED else 100  # a range of BRIN, and its end
                assert rows_read(plan[0]["Plan"]) <= most, (principal, outcomes, look, plan)
    conn.execute("truncate rota.finished_jobs, rota.attempts")


def test_programs_get_an_object_a_line(conn, started):
    process = started("--json")
    job_id = run_job(
        conn, error="Traceback\n  x\nValueError: no\n", queue="q", max_retries=2, key="k"
    )

    told = json.loads(process.stdout.readline())

    assert {**told, "worker": "", "job_id": job_id} == told | {"worker": ""}
    assert (told["task"], told["queue"], told["attempt"], told["max_retries"]) == ("t", "q", 1, 2)
    assert told["key"] == "k"
    assert (told["outcome"], told["job_state"], told["error"]) == (
        "FAILED", "FAILED", "ValueError: no"
    )  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.?\d*\+00:00", told["finished_at"])


def test_ctrl_c_ends_it_and_so_does_a_reader_who_has_enough(conn, started):
    process = started()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "") and process.returncode == 0

    process = started()
    process.stdout.close()
    run_job(conn)
    assert process.wait(30) == 0 and process.stderr.read() == ""


@pytest.mark.parametrize("width, plain", [(80, False), (120, True)], ids=["colours", "none"])
def test_a_terminal_gets_lines_that_fit_and_nothing_that_steers_it(conn, started, width, plain):
    process = started(width=width, **({"NO_COLOR": "1"} if plain else {"NO_COLOR": ""}))
    job_id = run_job(conn, task="\u202e\u6f22" * 30, error=HOSTILE)

    lines = [process.stdout.readline().rstrip("\r\n") for _ in range(2)]

    red, normal = ("", "") if plain else ("\x1b[31m", "\x1b[0m")
    for line in lines:
        assert line.startswith(red) and line.endswith(normal)
        text = line.removeprefix(red).removesuffix(normal)
        assert text.isprintable() and columns(text) <= width
    assert f" {job_id} " in lines[0] and "FAILED" in lines[0]
    assert "boom ]0;owned  evil" in lines[1] and "\u2026" in lines[1]


def test_where_no_terminal_is_nothing_is_cut_or_coloured(conn, started):
    process = started(PYTHONIOENCODING="ascii:strict")
    run_job(conn, task="t" * 90, queue="mail", key="acme\n" * 20, error=HOSTILE)

    line = process.stdout.readline()

    assert (
        "t" * 90 in line
        and "  mail/acme acme " in line
        and line.endswith("\\u6f22\n")
        and line.rstrip("\n").isprintable()
    )


@pytest.fixture(scope="module")
def server():
    """A server of the module's own, to be stopped, and on which transactions may be prepared."""
    settings = {"fsync": "off", "max_prepared_transactions": "1"}
    with (
        tempfile.TemporaryDirectory(prefix="rota-test-", dir=roomy_memory()) as folder,
        Cluster(Path(folder) / "pg", SERVER_VERSION, settings) as server,
    ):
        deploy(server.url(), report=lambda line: None)
        yield server


def test_what_a_prepared_transaction_ended_is_told_when_it_is_committed(
    server, follow, monkeypatch
):
    monkeypatch.setenv("DATABASE_URL", server.url())
    tail = follow()
    with psycopg.connect(server.url(), autocommit=True) as conn:
        job_id = enqueue(conn)
        held = claim(conn)
        conn.execute("begin")
        call(conn, "finish_job", **held)
        assert (tail.look(), tail.look()) == ([], [])

        conn.execute("prepare transaction 'late'")
        assert (tail.look(), tail.look()) == ([], [])
        conn.execute("commit prepared 'late'")

    assert ended(tail.look()) == [(job_id, 1, "SUCCEEDED")]


def test_it_says_that_the_database_is_away_and_goes_on(server, started):
    process = started(url=server.url())

    server.stop()
    assert "terminating connection" in process.stderr.readline()
    assert "does not answer" in process.stderr.readline()
    server.start()
    with psycopg.connect(server.url(), autocommit=True) as conn:
        job_id = run_job(conn)

    assert f" {job_id} " in process.stdout.readline()
    assert "answers again" in process.stderr.readline()
