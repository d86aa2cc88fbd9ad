"""What many ask for is made once."""

import threading

import pytest

from rota.app.ui.frame import Shared
from tests.waiting import wait_until


def test_what_is_asked_for_while_it_is_made_is_made_once() -> None:
    shared, go_on, made, got = Shared(), threading.Event(), [], []

    def make() -> int:
        made.append(1)
        assert go_on.wait(30)
        return len(made)

    threads = [
        threading.Thread(target=lambda: got.append(shared.get("page", 60, make))) for _ in range(9)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: made)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert got == [1] * 9
    assert shared.get("page", 60, make) == 1
    assert shared.get("another", 60, make) == 2


def test_what_is_over_is_made_anew_and_forgotten() -> None:
    shared = Shared()
    assert [shared.get("page", 0, iter([number]).__next__) for number in (1, 2)] == [1, 2]
    for number in range(1000):
        shared.get(number, 0, lambda: "x" * 1000)
    assert len(shared._entries) <= 101


def test_an_error_is_for_those_who_waited_and_nobody_else() -> None:
    shared = Shared()

    def fail() -> None:
        raise RuntimeError("once")

    with pytest.raises(RuntimeError, match="once"):
        shared.get("page", 60, fail)
    assert shared.get("page", 60, lambda: "made") == "made"
