"""What many ask for is made once."""

import threading

import pytest

from rota.app.shared import MOST_KEYS, Shared
from tests.waiting import wait_until


def test_what_is_asked_for_while_it_is_made_is_made_once() -> None:
    shared, go_on, made, got = Shared(), threading.Event(), [], []

    def make() -> tuple[int, float]:
        made.append(1)
        assert go_on.wait(30)
        return len(made), 60.0

    threads = [
        threading.Thread(target=lambda: got.append(shared.get("page", make))) for _ in range(9)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: made)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert got == [1] * 9
    assert shared.get("page", make) == 1
    assert shared.get("another", make) == 2


def test_what_is_over_is_made_anew_and_forgotten() -> None:
    shared = Shared()
    values = iter([(1, 0.0), (2, 0.0)])
    assert [shared.get("page", lambda: next(values)) for _ in range(2)] == [1, 2]
    for number in range(5 * MOST_KEYS):
        shared.get(number, lambda: ("x" * 1000, 0.0))
    assert len(shared._entries) == 1


def test_an_error_is_kept_for_nobody() -> None:
    shared = Shared()

    def fail() -> tuple[str, float]:
        raise RuntimeError("once")

    with pytest.raises(RuntimeError, match="once"):
        shared.get("page", fail)
    assert shared.get("page", lambda: ("made", 60.0)) == "made"


def test_what_is_over_is_shown_while_one_thread_makes_it_anew() -> None:
    shared, go_on = Shared(), threading.Event()
    assert shared.get("page", lambda: ("old", -1.0), 60) == "old"

    def make() -> tuple[str, float]:
        assert go_on.wait(30)
        return "new", 60.0

    assert [shared.get("page", make, 60) for _ in range(3)] == ["old"] * 3
    go_on.set()
    wait_until(lambda: shared.get("page", lambda: ("never", 60.0), 60) == "new")

    assert shared.get("another", lambda: ("old", -61.0), 60) == "old"
    assert shared.get("another", lambda: ("new", 60.0), 60) == "new"


def test_what_cannot_be_made_anew_is_tried_again() -> None:
    shared, tried = Shared(), []
    shared.get("page", lambda: ("old", -1.0), 60)

    def fail() -> tuple[str, float]:
        tried.append(1)
        raise RuntimeError

    assert shared.get("page", fail, 60) == "old"
    wait_until(lambda: tried)
    wait_until(lambda: shared.get("page", lambda: ("new", 60.0), 60) == "new")
