"""With which databases a worker may work: they are of its version, and its login has the rights."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg

from rota.db.session import name_of
from rota.db.version import checkout_version, is_outlived
from rota.shards import one_shard_twice
from rota.worker.link import (
    MEND,
    MISSING_RIGHT,
    NO_SCHEMA,
    SHIFTING,
    Connection,
    GaveUp,
    Link,
    Pause,
    advice,
    passes,
)
from rota.worker.log import log

# What a worker cannot do without; for the rest it logs, and goes on.
NEEDED = (
    "claim_next_job",
    "finish_job",
    "finish_jobs",
    "heartbeat_job",
    "heartbeat_jobs",
    "release_job",
)

LACKING = """
    select p.proname
    from pg_catalog.pg_proc as p
    where p.pronamespace = 'rota'::pg_catalog.regnamespace
        and p.proname = any(%s)
        and not pg_catalog.has_function_privilege(p.oid, 'execute')
    order by p.proname
"""


class CannotStart(Exception):  # noqa: N818
    """The worker cannot start; the message says what to do."""


class Entrance:
    """Lets a worker's databases in.

    Args:
        urls: connection strings.
        give_up: once set, none is waited for.

    Raises:
        CannotStart: one cannot be read, or stands twice.
    """

    def __init__(self, urls: list[str], give_up: threading.Event) -> None:
        try:
            self.names = {url: name_of(url) for url in urls}
        except ValueError as error:
            raise CannotStart(str(error)) from None
        if len(self.names) < len(urls):
            raise CannotStart("a database is named twice")
        self._give_up = give_up
        self._shards: dict[int, str] = {}  # whose number it is
        self._noting = threading.Lock()

    def first(self) -> list[str]:
        """Return the databases to begin with, once there is one: the others are away.

        Raises:
            CannotStart: one that is there is not fit, or is the same as another.
            GaveUp: the worker stops.
        """
        if len(self.names) == 1:
            [url] = self.names
            self.admit(url)
            return [url]
        pause = Pause()
        while True:
            with ThreadPoolExecutor(len(self.names)) as pool:
                found = list(pool.map(self._is_there, self.names))
            if any(found):
                return [url for url, is_there in zip(self.names, found, strict=True) if is_there]
            if self._give_up.wait(pause.next()):
                raise GaveUp("version")

    def admit(self, url: str) -> None:
        """Wait until a database is there, and make sure that we can work with it.

        Raises:
            CannotStart: it has other functions, or they are not ours to call.
            GaveUp: the worker stops.
        """

        def patiently(link: Link, work: Callable[[Connection], object]) -> object:
            return link.run(work, unless=(*SHIFTING, NO_SCHEMA, MISSING_RIGHT))

        self._check(url, patiently)

    def _is_there(self, url: str) -> bool:
        try:
            self._check(url, Link.once)
        except psycopg.Error as error:
            fields = {"database": self.names[url], "error": str(error).strip()}
            log.warning("a database is away, the others begin without it", extra={"fields": fields})
            return False
        return True

    def _check(
        self, url: str, ask: Callable[[Link, Callable[[Connection], object]], object]
    ) -> None:
        is_one_of_several = len(self.names) > 1
        try:
            name = self.names[url] if is_one_of_several else ""
            link = Link(url, "version", self._give_up, 10.0, 10.0, database=name)
        except ValueError as error:
            raise CannotStart(str(error)) from None
        try:
            ours = checkout_version()
            found = ask(link, _version)
            is_known = found == ours or ask(link, lambda conn: is_outlived(conn, ours))
            lacking = ask(link, _lacking) if is_known else ()
            shard = ask(link, _shard) if is_known and is_one_of_several else None
        except psycopg.Error as error:
            if ask == Link.once and passes(error):
                raise
            raise CannotStart(f"{name}: " * bool(name) + advice(error, link.user)) from error
        finally:
            link.close()
        of_it = f" {name}" if name else ""
        if not is_known:
            raise CannotStart(
                f"the database{of_it} holds other functions than this checkout: {MEND}"
            )
        if lacking:
            raise CannotStart(
                f"permission denied for function rota.{', rota.'.join(lacking)}: the login"
                f" {link.user} lacks the rights of a worker; grant rota_worker to {link.user}"
            )
        if found != ours:
            log.warning(
                f"the database{of_it} holds later functions: restart from the version that was"
                " deployed"
            )
        if is_one_of_several:
            self._note(url, shard)

    def _note(self, url: str, shard: object) -> None:
        name = self.names[url]
        if not isinstance(shard, int):
            raise CannotStart(f"{name} has no number as a shard: name all databases to rota deploy")
        with self._noting:
            other = self._shards.setdefault(shard, url)
        if other != url:
            raise CannotStart(one_shard_twice([self.names[other], name], shard))


def _version(conn: Connection) -> str:
    row = conn.execute("select rota.version()").fetchone()
    return row[0] if row else ""


def _lacking(conn: Connection) -> list[str]:
    return [name for (name,) in conn.execute(LACKING, [list(NEEDED)]).fetchall()]


def _shard(conn: Connection) -> int | None:
    row = conn.execute("select s.shard from rota.shard() as s").fetchone()
    return row[0] if row else None
