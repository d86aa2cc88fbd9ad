"""Databases that are shards of one another."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from rota.db.deploy import number


@contextmanager
def shards(
    how_many: int,
    new_db: Callable[[], str],
    url_of: Callable[[str], str],
    drop: Callable[[str], None],
) -> Iterator[list[str]]:
    """Make so many databases with Rota, each with its number; give their URLs in that order."""
    with ExitStack() as undo:
        urls = []
        for _ in range(how_many):
            name = new_db()
            undo.callback(drop, name)
            urls.append(url_of(name))
        number(urls, report=lambda line: None)
        yield urls
        for url in urls:
            with psycopg.connect(url) as conn:
                assert conn.execute("select * from rota.check_invariants()").fetchall() == []
