"""Several databases behind one address: an application for each, and which of them answers.

A request may name the database with ``?shard=``, or has an id, a name or a key that tells. Where
none of these does, a list is of shard 0, a new job goes wherever, a claim looks everywhere, and
what changes settings is refused until it names one. Each answer says who gave it: ``Rota-Shard``.
"""

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from io import BytesIO
from itertools import count
from typing import Any

import psycopg
from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect
from werkzeug.wrappers import Request

from rota.app import create_app
from rota.app.database import Database
from rota.app.errors import REFUSAL, RequestError, invalid
from rota.app.health import VERSION, commit_a_write, look
from rota.app.inputs import MAX_BODY_BYTES
from rota.app.paths import PAGES
from rota.app.probe import PATIENCE
from rota.app.repeats import KEY
from rota.app.server import LANES, lane_of, most_of_a_path
from rota.app.standby import VARIABLE
from rota.app.waiting import UNDELIVERED, WAITS_FOR, Wait
from rota.db.session import name_of, split_urls
from rota.shards import MOST_SHARDS, one_shard_twice, shard_of, shard_of_id

COOKIE = "rota_shard"  # of which database the pages are
ANSWERED_BY = "rota.answered_by"  # in the environment of a request: the shard that has answered
AGAIN = 1.0  # seconds before a database that is away is looked for again
SILENT = 5.0  # seconds without an answer,
MOST_SILENT = 3  # and of so many requests, after which the next ones are refused at once
# One database leaves a thread to the others, also of those that requests for one path may have. If
# none of its own returns for so many seconds, its next ones are refused.
MOST_OF_LANE = {name: max(1, most_of_a_path(threads) - 1) for name, threads in LANES.items()}
STANDSTILL = 1.0
LONGEST_LOOK = 2.0  # seconds for all databases to say how they are
AWAY = 2.0  # seconds for which a new job that may go anywhere passes one that is away by
SHORTEST = 100  # characters of a name that is repeated in a message

# What changes nothing that is one database's alone, or is not about any.
ANYWHERE = {"schedules.preview_schedule", "health.live", "health.ready"}
ANSWERED_AT_ONCE = ("docs.", "flasgger.", "health.")
CLAIMS = {"work.claim_from_queue", "work.claim_jobs"}
OF_MANY_JOBS = {"work.finish_jobs", "work.heartbeat_jobs"}
NEW_JOBS = {"jobs.enqueue_jobs", "workflows.enqueue_workflow"}

log = logging.getLogger("rota.api")

Answer = tuple[str, list[tuple[str, str]], bytes]


def create(urls: list[str] | None = None) -> "Flask | Front":
    """Build the application of one database, or of several.

    Args:
        urls: connection strings; those of ``DATABASE_URL`` when left out. ``DATABASE_READ_URL``
            has those of their standbys.

    Raises:
        ValueError: there is none, one cannot be read, or two are one database.
    """
    found = urls or split_urls(os.environ.get("DATABASE_URL", ""))
    named = os.environ.get(VARIABLE)
    standbys = [url or None for url in split_urls(named)] if named else [None] * len(found)
    if len(standbys) != len(found):
        raise ValueError(
            f"{VARIABLE} must name a standby for each of {len(found)} databases, in their order,"
            f" and names {len(standbys)}"
        )
    if len(found) == 1:
        return create_app(found[0], standbys[0])
    return Front(found, standbys)


def apps_of(app: "Flask | Front") -> list[Flask]:
    """Return the application of each database."""
    return [app] if isinstance(app, Flask) else [shard.app for shard in app.shards]


class Shard:
    """One database, and the application that answers for it."""

    def __init__(self, url: str, read_url: str | None) -> None:
        self.app = create_app(url, read_url)
        self.name = name_of(url)
        self.number: int | None = None  # not known while it was never reached
        self.ids_from = 0
        self.ids_before = 0  # up to this one they do not tell whose they are
        self.away_until = 0.0
        self._under_way: dict[object, tuple[str, float]] = {}  # requests, their lanes, since when
        self._stood_still = 0.0  # since when, for all that is known: it has not answered since
        self._changed = threading.Condition()
        # Of health, without a write and with one; each may take long.
        self.looks: dict[bool, Future[dict[str, Any]]] = {}

    @property
    def is_silent(self) -> bool:
        """Tell whether it leaves requests without an answer, so that no more are to be added."""
        since = time.monotonic() - SILENT
        under_way = list(self._under_way.values())
        return sum(began < since for _, began in under_way) >= MOST_SILENT

    def let_in(self, request: object, lane: str) -> bool:
        """Let a request have its thread, and tell so; the others are to have theirs.

        One that would take too many threads of a lane waits for another to end, and is not let in
        where none does for a while.
        """
        with self._changed:
            while self._number_in(lane) >= MOST_OF_LANE[lane]:
                left = self._stood_still + STANDSTILL - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            self._under_way[request] = lane, time.monotonic()
            if self._number_in(lane) == MOST_OF_LANE[lane]:
                self._stood_still = time.monotonic()
            return True

    def _number_in(self, lane: str) -> int:
        return sum(lane == its for its, _ in self._under_way.values())

    def let_out(self, request: object) -> None:
        """Say that a request has ended that was let in."""
        with self._changed:
            del self._under_way[request]
            self._stood_still = time.monotonic()
            self._changed.notify_all()

    @property
    def database(self) -> Database:
        """Its connections."""
        return self.app.extensions["database"]

    def learn(self) -> None:
        """Ask which shard it is.

        Raises:
            ValueError: it is none.
            psycopg.Error: it cannot be asked.
        """
        with self.database.own_transaction() as conn:
            row = conn.execute("select shard, ids_from, ids_before from rota.shard()").fetchone()
        if row is None:
            raise ValueError(
                f"{self.name} has no number as a shard: name all databases to rota deploy"
            )
        self.number, self.ids_from, self.ids_before = row


class Front:
    """A WSGI application that asks the one of a database, or those of several.

    Args:
        urls: connection strings of all of them.
        read_urls: of a standby of each, if there is one that is to be read from.

    Raises:
        ValueError: one cannot be read, or two are one database.
    """

    def __init__(self, urls: list[str], read_urls: list[str | None]) -> None:
        os.environ.setdefault("ROTA_SECRET_KEY", secrets.token_urlsafe(32))  # one for all of them
        self.shards = [Shard(*both) for both in zip(urls, read_urls, strict=True)]
        if len({shard.name for shard in self.shards}) < len(urls):
            raise ValueError("DATABASE_URL names a database twice")
        self._turns = count()
        for shard in self.shards:
            shard.app.extensions["front"] = self
        self.extensions = {"waiting": _Waiting(self)}
        self.wsgi_app = self
        for shard in self.shards:
            self._learn(shard)
        self._check_numbers()
        if self._unknown():
            threading.Thread(target=self._learn_later, daemon=True).start()

    @property
    def numbers(self) -> list[int]:
        """The numbers of those that are known."""
        return sorted(shard.number for shard in self.shards if shard.number is not None)

    def number_of(self, app: Flask) -> int | None:
        """Return the number of the database for which an application answers."""
        return next(s.number for s in self.shards if s.app.extensions is app.extensions)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request."""
        status, headers, body = self._answer(environ)
        start_response(status, headers)
        return [body]

    def readiness(self, write: bool) -> dict[str, Any]:
        """Say which databases are there.

        Args:
            write: whether one that commits no write counts as one that cannot be worked with.

        Raises:
            RequestError: 503, none is.
        """
        until = time.monotonic() + LONGEST_LOOK + (PATIENCE if write else 0)
        for shard in self.shards:
            if write not in shard.looks or shard.looks[write].done():
                shard.looks[write] = _begin_look(shard, write)
        states = [
            _in_time(shard, write, max(0.0, until - time.monotonic())) for shard in self.shards
        ]
        if not any(state["status"] == "ready" for state in states):
            raise RequestError(503, "none of the databases can be worked with")
        return {"status": "ready", "version": VERSION, "shards": states}

    # Which database.

    def _answer(self, environ: dict[str, Any]) -> Answer:
        if environ.get(UNDELIVERED):  # what a claim brought is to be handed back
            return self._ask(environ[ANSWERED_BY], environ)
        asked = Request(environ, populate_request=False)
        body = _keep_body(environ)
        explicit = asked.args.get("shard")
        try:
            endpoint, arguments = self._match(environ)
            if endpoint is None or endpoint.startswith(ANSWERED_AT_ONCE):
                return self._ask(self._nearest(), environ)
            if explicit is not None:
                chosen = [self._of_text(explicit)]
            elif endpoint in CLAIMS:
                return self._ask_in_turn(environ)
            elif endpoint == "steps.emit_event":
                return self._tell_all(environ)
            elif endpoint.startswith("schedules.") and "name" in arguments and not body.get("key"):
                return self._ask_until_found(self._of_key(arguments["name"]), environ)
            else:
                chosen = [self._choose(asked, endpoint, arguments, body)]
        except RequestError as refusal:
            environ[REFUSAL] = refusal
            return self._ask(self._nearest(), environ)
        status, headers, answered = self._ask(chosen[0], environ)
        if explicit is not None and endpoint.startswith("ui."):
            cookie = f"{COOKIE}={chosen[0].number}; Path={PAGES}; HttpOnly; SameSite=Strict"
            headers.append(("Set-Cookie", cookie))
        return status, headers, answered

    def _match(self, environ: dict[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
        """Return whose a path is, and what stands in it; nothing where it is nobody's."""
        app = self.shards[0].app
        adapter = app.create_url_adapter(app.request_class(environ, populate_request=False))
        try:
            return adapter.match()
        except (HTTPException, RequestRedirect):
            return None, {}

    def _choose(
        self,
        asked: Request,
        endpoint: str,
        arguments: Mapping[str, Any],
        body: dict[str, Any],
    ) -> Shard:
        for name in ("job_id", "workflow_id"):
            if name in arguments:
                return self._of_id(arguments[name], name)
        if endpoint.startswith("ui."):
            known = {str(shard.number): shard for shard in self.shards}
            return known.get(asked.cookies.get(COOKIE, "0")) or self._of(0)
        repeat = asked.headers.get(KEY)
        if endpoint == "jobs.enqueue_job":
            return self._of_new([(body, "")], repeat)
        if endpoint in NEW_JOBS:
            jobs = body.get("jobs")
            items = jobs if isinstance(jobs, list) else []
            return self._of_new([(job, f"jobs[{n}].") for n, job in enumerate(items)], repeat)
        if endpoint in OF_MANY_JOBS:
            return self._of_held(body.get("jobs"))
        if endpoint in ("schedules.save_schedule", "schedules.put_schedule"):
            return self._of_new([(body, "")], repeat)
        if "key" in arguments:
            return self._of_key(arguments["key"])
        if asked.method in ("GET", "HEAD", "OPTIONS") or endpoint in ANYWHERE:
            return self._of(0)
        raise invalid(
            "shard",
            "is required: settings and many jobs at once are changed in one database at a time",
            hint=f"Add ?shard= to the path, with one of {self._listed()}.",
        )

    def _of_new(self, jobs: list[tuple[Any, str]], repeat: str | None) -> Shard:
        """Return where new jobs belong, all together."""
        found: dict[int, str] = {}
        for job, where in jobs:
            if not isinstance(job, dict):
                continue
            for name in ("key", "unique_key", "name"):
                if isinstance(job.get(name), str):
                    shard = self._of_key(job[name])
                    found.setdefault(self.shards.index(shard), f"{where}{name}")
                    break
            parents = job.get("depends_on")
            for parent in parents if isinstance(parents, list) else []:
                if type(parent) is int and 0 < parent < 2**63:
                    shard = self._of_id(parent, "depends_on")
                    found.setdefault(self.shards.index(shard), f"{where}depends_on")
        if len(found) > 1:
            (one, first), (other, second), *_ = found.items()
            raise invalid(
                second,
                f"belongs to shard {self.shards[other].number}, and {first} to shard"
                f" {self.shards[one].number}: what is added together is in one database",
                hint="Send a request for each, or say with ?shard= where all of it is to be.",
            )
        if found:
            return self.shards[next(iter(found))]
        return self._of_key(repeat) if repeat is not None else self._any()

    def _of_held(self, jobs: Any) -> Shard:
        if not isinstance(jobs, list):
            return self._nearest()  # who says what is wrong
        ids = [job.get("job_id") for job in jobs if isinstance(job, dict)]
        shards = [self._of_id(it, "job_id") for it in ids if type(it) is int and 0 < it < 2**63]
        for place, shard in enumerate(shards):
            if shard is not shards[0]:
                raise invalid(
                    f"jobs[{place}].job_id",
                    f"is of shard {shard.number}, and jobs[0] of shard {shards[0].number}",
                    hint="Send a request for the jobs of each.",
                )
        return shards[0] if shards else self._nearest()

    def _of_id(self, job_id: int, name: str) -> Shard:
        """Return who has an id: its number tells, unless it is of before there were shards."""
        number = shard_of_id(job_id)
        before = [s for s in self.shards if s.number is not None and job_id <= s.ids_before]
        if not before:
            before = [s for s in self.shards if s.number == number and job_id >= s.ids_from]
        if len(before) > 1:
            raise invalid(
                name,
                f"{job_id} was given by more than one database before they were shards",
                hint=f"Name it with ?shard=, one of {self._listed()}.",
            )
        if before:
            return before[0]
        if number < len(self.shards):
            return self._of(number)
        return self._nearest()  # who says that there is no such job

    def _of_key(self, key: str) -> Shard:
        try:
            return self._of(shard_of(key, len(self.shards)))
        except UnicodeEncodeError:  # half of a character
            return self._nearest()

    def _of_text(self, text: str) -> Shard:
        is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_SHARDS))
        if not is_number or int(text) >= len(self.shards):
            raise invalid(
                "shard",
                f"there is no shard {text[:SHORTEST]}",
                hint=f"There are {self._listed()}.",
            )
        return self._of(int(text))

    def _of(self, number: int) -> Shard:
        for shard in self.shards:
            if shard.number == number:
                return shard
        raise RequestError(503, f"shard {number} is away")

    def _any(self) -> Shard:
        """Return one that is there, another each time."""
        now = time.monotonic()
        known = [shard for shard in self.shards if shard.number is not None] or self.shards
        here = [shard for shard in known if shard.away_until < now] or known
        return here[next(self._turns) % len(here)]

    def _nearest(self) -> Shard:
        return min(self.shards, key=lambda s: MOST_SHARDS if s.number is None else s.number)

    def _listed(self) -> str:
        return ", ".join(map(str, range(len(self.shards))))

    # What they answer.

    def _ask(self, shard: Shard, environ: dict[str, Any]) -> Answer:
        began: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
            began[:] = [status, list(headers)]

        environ[ANSWERED_BY] = shard
        environ["wsgi.input"].seek(0)
        request = object()
        lane = lane_of(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
        has_place = REFUSAL not in environ and not shard.is_silent and shard.let_in(request, lane)
        if not has_place:
            silent = RequestError(503, f"shard {shard.number} does not answer")
            environ.setdefault(REFUSAL, silent)
        try:
            answered = shard.app.wsgi_app(environ, start)
            try:
                body = b"".join(answered)
            finally:
                if hasattr(answered, "close"):
                    answered.close()
        finally:
            if has_place:
                shard.let_out(request)
        status, headers = began
        if REFUSAL in environ:
            del environ[REFUSAL]
            return status, headers, body
        if (wait := environ.get(WAITS_FOR)) is not None:
            wait.shard = self.shards.index(shard)
        shard.away_until = time.monotonic() + AWAY if status.startswith("503") else 0.0
        if shard.number is not None:
            headers.append(("Rota-Shard", str(shard.number)))
        return status, headers, body

    def _ask_in_turn(self, environ: dict[str, Any]) -> Answer:
        """Claim from the first that has something; who waits hears of one, and looks at all."""
        turn = next(self._turns)
        answer: Answer | None = None
        for place in range(len(self.shards)):
            shard = self.shards[(turn + place) % len(self.shards)]
            its = self._ask(shard, environ)
            if its[0].startswith("200"):
                environ.pop(WAITS_FOR, None)
                return its
            if answer is None or answer[0].startswith("503"):
                answer = its
        assert answer is not None, "there are several"
        return answer

    def _ask_until_found(self, first: Shard, environ: dict[str, Any]) -> Answer:
        """Ask for a schedule by its name: one that has a key is where that is."""
        answer = self._ask(first, environ)
        for shard in self.shards:
            if not answer[0].startswith("404"):
                break
            if shard is not first:
                its = self._ask(shard, environ)
                answer = its if not its[0].startswith("503") else answer
        return answer

    def _tell_all(self, environ: dict[str, Any]) -> Answer:
        """Emit an event everywhere; who is told that it failed can say it again.

        That changes nothing where it is known.
        """
        woken = 0
        failure: Answer | None = None
        for shard in self.shards:
            status, headers, body = answer = self._ask(shard, environ)
            if not status.startswith("200"):
                failure = answer if failure is None or failure[0].startswith("503") else failure
                continue
            woken += json.loads(body)["woken"]
            kept = status, headers
        if failure is not None:
            return failure
        status, headers = kept
        body = json.dumps({"woken": woken}).encode() + b"\n"
        given = {"content-length", "rota-shard"}
        headers = [header for header in headers if header[0].lower() not in given]
        return status, [*headers, ("Content-Length", str(len(body)))], body

    # Who is who.

    def _unknown(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.number is None]

    def _learn(self, shard: Shard) -> None:
        try:
            shard.learn()
        except psycopg.Error as error:
            fields = {"database": shard.name, "reason": str(error).strip().partition("\n")[0]}
            log.warning("a database is away, the others are served", extra={"fields": fields})

    def _check_numbers(self) -> None:
        known = {}
        for shard in self.shards:
            if shard.number is None:
                continue
            if shard.number >= len(self.shards):
                raise ValueError(
                    f"{shard.name} is shard {shard.number}, and DATABASE_URL names only"
                    f" {len(self.shards)}: all of them are needed to find a key"
                )
            other = known.setdefault(shard.number, shard)
            if other is not shard:
                raise ValueError(one_shard_twice([other.name, shard.name], shard.number))

    def _learn_later(self) -> None:
        while unknown := self._unknown():
            time.sleep(AGAIN)
            for shard in unknown:
                try:
                    shard.learn()
                    self._check_numbers()
                except psycopg.Error:
                    continue
                except ValueError as error:
                    shard.number = None
                    log.critical(str(error))
                    time.sleep(10 * AGAIN)
                else:
                    log.info("a database has come", extra={"fields": {"database": shard.name}})


def _keep_body(environ: dict[str, Any]) -> dict[str, Any]:
    """Return what a body says, as far as it says something; it can be read again afterwards."""
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        return {}
    data = environ["wsgi.input"].read(int(length))
    environ["wsgi.input"] = BytesIO(data)
    if "json" not in environ.get("CONTENT_TYPE", ""):
        return {}
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):  # which the application refuses in its words
        return {}
    return body if isinstance(body, dict) else {}


def _begin_look(shard: Shard, write: bool) -> Future[dict[str, Any]]:
    """Have a thread look how a database is, for which nobody waits at the end."""
    look: Future[dict[str, Any]] = Future()

    def work() -> None:
        try:
            look.set_result(_state(shard, write))
        except Exception as error:
            look.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return look


def _in_time(shard: Shard, write: bool, seconds: float) -> dict[str, Any]:
    """Return how a database is, as far as it says so in time; one look at a time is under way."""
    try:
        return shard.looks[write].result(seconds)
    except TimeoutError:
        return {"shard": shard.number, "status": "away"}


def _state(shard: Shard, write: bool) -> dict[str, Any]:
    try:
        if write:
            commit_a_write(shard.app.extensions["probe"])
        difference, missing = look(shard.database)
    except RequestError as error:
        return {"shard": shard.number, "status": "unfit", "message": str(error)}
    except psycopg.Error:
        return {"shard": shard.number, "status": "away"}
    if difference is not None:
        return {"shard": shard.number, "status": "unfit", "message": difference}
    rights = {"missing_rights": missing} if missing else {}
    return {"shard": shard.number, "status": "ready"} | rights


class _Waiting:
    """Those that wait, each at its database."""

    def __init__(self, front: Front) -> None:
        self._all = [shard.app.extensions["waiting"] for shard in front.shards]

    def add(self, wait: Wait) -> None:
        self._all[wait.shard].add(wait)

    def forget(self, wait: Wait) -> None:
        self._all[wait.shard].forget(wait)

    def done(self, wait: Wait) -> None:
        self._all[wait.shard].done(wait)

    def stop(self) -> None:
        for waiting in self._all:
            waiting.stop()
