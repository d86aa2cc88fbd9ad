"""Sessions for tests about two or more of them."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.concurrency.sessions import Session


@pytest.fixture
def session(connect: Callable[..., psycopg.Connection]) -> Iterator[Callable[[], Session]]:
    """Open sessions; one connection watches over all of them."""
    observer = connect()
    opened: list[Session] = []

    def open_session() -> Session:
        opened.append(Session(connect(), observer))
        return opened[-1]

    yield open_session
    for one in opened:
        one.close()
