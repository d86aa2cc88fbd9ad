"""What workers say of themselves, and what operators see of them."""

from datetime import timedelta

import psycopg
import pytest
from psycopg.rows import dict_row

from rota.db.gateway import call


def test_a_worker_shows_itself_and_its_stop(conn, clock):
    arguments = {
        "worker": "w1",
        "host": "here",
        "pid": 7,
        "queues": ["mail"],
        "concurrency": 4,
        "version": "abc",
    }
    call(conn, "announce_worker", **arguments)
    clock.advance(timedelta(seconds=30))
    call(conn, "announce_worker", **arguments)
    call(conn, "enqueue_job", task="a", queue="mail")
    call(conn, "claim_next_job", queues=["mail"], worker="w1")

    cursor = conn.cursor(row_factory=dict_row)
    (seen,) = cursor.execute("select * from rota.worker_status").fetchall()
    call(conn, "dismiss_worker", worker="w1")
    (stopped,) = cursor.execute("select * from rota.worker_status").fetchall()

    assert (seen["queues"], seen["running"], seen["stopped_at"]) == (["mail"], 1, None)
    assert seen["last_seen_at"] - seen["started_at"] >= timedelta(seconds=29)
    assert stopped["stopped_at"] is not None


def test_a_worker_shows_its_tasks_its_overrun_places_and_its_clock(conn, clock):
    about = {"worker": "w1", "host": "here", "pid": 7, "queues": ["mail"], "concurrency": 4}
    (now,) = conn.execute("select rota._now()").fetchone()
    ahead = now + timedelta(seconds=90)
    query = "select tasks, overrun, clock_difference from rota.worker_status"
    clock.set(now)

    call(conn, "announce_worker", **about, version="1", tasks=["b", "a"], overrun=3, clock=ahead)
    told = conn.execute(query).fetchall()
    clock.advance(timedelta(seconds=10))
    call(conn, "announce_worker", **about, version="1", tasks=["c"], overrun=0, clock=ahead)
    later = conn.execute(query).fetchall()
    call(conn, "dismiss_worker", worker="w1")
    stopped = conn.execute(query).fetchall()
    call(conn, "announce_worker", **about, version="of before")
    untold = conn.execute(query).fetchall()

    assert [row[:2] for row in told + later] == [(["b", "a"], 3), (["c"], 0)]
    assert [round(row[2].total_seconds()) for row in told + later] == [90, 80]
    assert stopped == [(["c"], 0, None)]
    assert untold == [(None, None, None)]


@pytest.mark.parametrize(("name", "value"), [("overrun", -1), ("clock", "infinity")])
def test_a_worker_cannot_announce_what_no_view_could_show(conn, name, value):
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(
            f"""
            select rota.announce_worker(
                'w', 'h', 1, '{{a}}', 1, '1', {name} => '{value}'
            )
            """
        )

    assert caught.value.sqlstate == "RTV01"


def test_a_worker_without_a_name_is_refused(conn):
    with pytest.raises(psycopg.Error) as caught:
        call(
            conn,
            "announce_worker",
            worker="",
            host="h",
            pid=1,
            queues=["a"],
            concurrency=1,
            version="v",
        )

    assert caught.value.sqlstate == "RTV01"


def test_what_a_worker_announced_last_holds(conn):
    first = {"host": "a", "pid": 1, "queues": ["mail"], "concurrency": 1, "version": "1"}
    last = {"host": "b", "pid": 2, "queues": ["web", "x"], "concurrency": 2, "version": "2"}
    query = "select host, pid, queues, concurrency, version, started_at from rota.worker_status"
    call(conn, "announce_worker", worker="w", **first)
    (before,) = conn.execute(query).fetchall()

    call(conn, "announce_worker", worker="w", **last)

    (after,) = conn.execute(query).fetchall()
    assert before == (*first.values(), before[-1])
    assert after == (*last.values(), before[-1])


def test_a_worker_was_started_once_and_comes_back_after_a_stop(conn, clock):
    cursor = conn.cursor(row_factory=dict_row)
    arguments = {
        "host": "here",
        "pid": 7,
        "queues": ["mail"],
        "concurrency": 4,
        "version": "abc",
    }
    for worker in ("w1", "w2"):
        call(conn, "announce_worker", worker=worker, **arguments)

    def seen():
        rows = cursor.execute("select * from rota.worker_status order by worker").fetchall()
        return {row["worker"]: row for row in rows}

    first = seen()
    assert first["w1"] | arguments == first["w1"]
    assert first["w1"]["running"] == 0
    clock.advance(timedelta(minutes=1))
    call(conn, "dismiss_worker", worker="w1")
    gone = seen()
    assert gone["w1"]["stopped_at"] >= gone["w1"]["last_seen_at"] > first["w1"]["last_seen_at"]
    clock.advance(timedelta(minutes=1))
    call(conn, "announce_worker", worker="w1", **arguments)
    back = seen()

    assert back["w1"] == first["w1"] | {"last_seen_at": back["w1"]["last_seen_at"]}
    assert back["w1"]["last_seen_at"] > gone["w1"]["last_seen_at"]
    assert first["w2"] == gone["w2"] == back["w2"]
