"""Reading from a standby: what a GET asks for, where DATABASE_READ_URL names one.

A standby tells what was so a moment ago, so each answer says how old that may be. It may also end a
query that stands in the way of what it has to replay, not know yet of a job or a token that the
primary has just been given, or be gone. So only what it answers is taken from it: where it fails,
or knows nothing, the primary is asked, once.

What is about this very moment, or would tell of the server that it runs on, is asked of the primary
at once: why a job does not run, the doctor, the metrics, and requests that wait or that say
``Cache-Control: no-cache``.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from flask import Flask, Response, current_app, g, request

from rota.app.database import Database, ForeignRoleError, Session
from rota.app.errors import RequestError, status_of
from rota.db.session import READABLE

VARIABLE = "DATABASE_READ_URL"
AGE = "Rota-Data-Age"  # the header that says how old an answer may be, in seconds
OF_THE_PRIMARY = {
    "jobs.explain_job",
    "doctor.examine",
    "metrics.scrape",
    "ui.job.show",  # has why it does not run
    "ui.doctor.show",
}

PAUSE = 5.0  # seconds for which one that could not be reached is not asked
LONGEST_ELSEWHERE = 60.0  # seconds that a connection to a primary is kept, for want of a standby

# What was committed on the primary until then is here. There may have been nothing since, or it may
# not have come: nobody here can tell, so it is an upper bound. Workers write every few seconds.
BEHIND = """
    select
        case
            when pg_is_in_recovery() then coalesce(
                extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8,
                'infinity'
            )
        end
"""

TOOK_TOO_LONG = "57014"  # here, and so it would there
Answer = TypeVar("Answer")


class Standby:
    """The server that is read from.

    Args:
        url: its connection string. Of several servers, or if it leads to several, one that is a
            standby is taken, or else any.

    Raises:
        ValueError: it cannot be read.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url, READABLE, VARIABLE)
        self._away_until = 0.0

    @property
    def is_away(self) -> bool:
        """Whether it could not be reached a moment ago."""
        return time.monotonic() < self._away_until

    def note(self, error: Exception) -> None:
        """Leave it alone for a while if that error says that it cannot be reached."""
        if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            self._away_until = time.monotonic() + PAUSE

    @contextmanager
    def transaction(self, token_hash: bytes | None, own: bool = False) -> Iterator[Session]:
        """Lend a connection for one transaction, and note how old may be what it shows.

        Raises:
            psycopg.Error, ForeignRoleError: as of ``Database.transaction``.
        """
        with self.database.transaction(token_hash, own=own) as conn:
            [behind] = conn.execute(BEHIND).fetchone() or (None,)
            if behind is None:
                conn.kept_until = min(conn.kept_until, time.monotonic() + LONGEST_ELSEWHERE)
            else:
                note_age(behind)
            yield conn


def init_app(app: Flask, url: str | None) -> None:
    """Have GETs answered by the standby that a URL names; by the primary if there is none."""
    app.extensions["standby"] = Standby(url) if url else None

    @app.after_request
    def tell_age(response: Response) -> Response:
        age = g.get("data_age")
        if age is not None:
            response.headers[AGE] = f"{age:.3f}" if math.isfinite(age) else "unknown"
        return response


def note_age(seconds: float | None) -> None:
    """Note how old may be what the current request is answered with."""
    if seconds is not None:
        g.data_age = max(0.0, seconds, g.get("data_age") or 0.0)


def ask_the_primary() -> None:
    """Have the rest of the current request read from the primary."""
    g.standby = g.data_age = None


def answered(answer: Callable[[], Answer]) -> Answer:
    """Answer a request, by the standby if that may do it and can."""
    standby: Standby | None = current_app.extensions["standby"]
    if standby is None or standby.is_away or not _may_be_a_moment_old():
        return answer()
    g.standby = standby
    try:
        return answer()
    except (psycopg.Error, ForeignRoleError, RequestError) as error:
        if g.standby is None or not _may_be_otherwise(error):
            raise
        standby.note(error)
    ask_the_primary()
    return answer()


def _may_be_a_moment_old() -> bool:
    return (
        request.method in ("GET", "HEAD")
        and request.endpoint not in OF_THE_PRIMARY
        and "wait" not in request.args
        and not _asks_for_what_is_so_now()
    )


def _asks_for_what_is_so_now() -> bool:
    """Tell whether a client does; a browser says so of each page that a script of ours renews."""
    is_page = (request.endpoint or "").startswith("ui.")
    return bool(request.cache_control.no_cache) and not is_page


def _may_be_otherwise(error: Exception) -> bool:
    """Tell whether the primary may answer where the standby gave this error."""
    match error:
        case RequestError():
            return error.status in (401, 404)
        case psycopg.Error():
            return status_of(error) in (401, 404, 503) and error.sqlstate != TOOK_TOO_LONG
        case _:
            return True
