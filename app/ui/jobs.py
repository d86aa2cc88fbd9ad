"""The list of jobs, by conditions; and what is done to many of them at once.

What a form says of "all that match" are those of a look at them: from a first to a last place in
the order in which they are searched. The form has both, so nothing that comes later is touched, and
one that is sent twice finds less.
"""

import time
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import psycopg
from flask import Blueprint, Response, redirect, render_template, request, url_for
from psycopg.types.json import Jsonb

from rota.app.errors import invalid
from rota.app.inputs import (
    Field,
    json_value,
    one_of,
    parse_fields,
    parse_json,
    read_query,
    row_id,
    text,
)
from rota.app.ui import door
from rota.app.ui.frame import act, page, reading, rows, say
from rota.app.ui.search import Found, Place, find_ended, find_known, find_live
from rota.app.ui.words import number
from rota.db.gateway import call

blueprint = Blueprint("jobs", __name__)

LIVE = {
    "": ["RUNNING", "SCHEDULED", "WAITING"],
    "LIVE": ["RUNNING", "SCHEDULED", "WAITING"],
    "WAITING": ["WAITING"],
    "SCHEDULED": ["SCHEDULED"],
    "RUNNING": ["RUNNING"],
}
ENDED = {
    "": ["CANCELLED", "COMPLETED", "FAILED"],
    "ENDED": ["CANCELLED", "COMPLETED", "FAILED"],
    "COMPLETED": ["COMPLETED"],
    "FAILED": ["FAILED"],
    "CANCELLED": ["CANCELLED"],
}
STATES = {
    "": "any",
    "LIVE": "waiting, scheduled or running",
    "WAITING": "WAITING",
    "SCHEDULED": "SCHEDULED",
    "RUNNING": "RUNNING",
    "ENDED": "ended",
    "COMPLETED": "COMPLETED",
    "FAILED": "FAILED",
    "CANCELLED": "CANCELLED",
}
SPANS = {
    "1h": ("1 hour", timedelta(hours=1)),
    "24h": ("24 hours", timedelta(hours=24)),
    "7d": ("7 days", timedelta(days=7)),
    "all": ("all that is kept", None),
}
USUAL_SPAN = "24h"


def json_text(value: str) -> Jsonb:
    """Take JSON, written into a field of a form."""
    return json_value(parse_json(value))


CONDITIONS = {
    "queue": Field(text),
    "task": Field(text),
    "name": Field(text),
    "key": Field(text),
    "unique_key": Field(text),
    "error": Field(text),
    "payload": Field(json_text),
}
FILTERS = {
    "state": Field(one_of(*filter(None, STATES))),
    "within": Field(one_of(*SPANS)),
    **CONDITIONS,
}
# As the functions name what they know of, to be looked at again under the locks.
KNOWN = ("queue", "task", "key", "unique_key")

PAGE = 50
HALF_PAGE = 20  # of either half, where both are shown
SECONDS = 0.12  # that a page searches, and half as long again at most
MOST_AT_ONCE = 5_000  # that one confirmation is about
COUNT_SECONDS = 1.5
BATCH = 1000  # jobs of one transaction
REQUEST_SECONDS = 4.0  # that one request goes on with batches
FIRST = 10  # that are shown before anything is done

# What is in use at the moment, to choose from.
NAMES = """
    select array(
            select distinct queue from rota.queue_census order by queue limit 100
        ) as queues,
        array(select distinct task from rota.queue_census order by task limit 100) as tasks
"""

DONE = {"retry": "retried", "cancel": "cancelled"}


@blueprint.get("/jobs")
def index() -> Response:
    """List jobs."""
    if "" in request.args.values():  # of fields of the form that were left empty
        kept = urlencode({name: value for name, value in request.args.items() if value})
        return redirect(f"{request.path}?{kept}" if kept else request.path)
    given = read_query(FILTERS | {"id": Field(row_id), "before": Field(Place.parse)})
    if "id" in given:
        return redirect(url_for(".show", job_id=given["id"]))
    before = given.pop("before", None)
    state = given.get("state", "")
    if before is not None and state not in (ENDED if before.at else LIVE):
        raise invalid("before", "is a place among jobs of another state")
    return page("jobs.html", lambda conn: _read(conn, given, before))


@blueprint.get("/jobs/<any(retry, cancel):what>")
def look(what: str) -> Response:
    """Show which jobs all are that match, before anything is done to them."""
    given = read_query(FILTERS | {"before": Field(Place.parse)})
    before = given.pop("before", None)
    _check_state(what, given)
    if before is not None and bool(before.at) != (what == "retry"):
        raise invalid("before", "is a place among jobs of another state")
    return page("jobs_many.html", lambda conn: _look(conn, what, given, before))


@blueprint.post("/jobs/<any(retry, cancel):what>")
def go_on(what: str) -> Response | str:
    """Retry or cancel those that were shown, for a few seconds; then tell how many are left."""
    sent = {name: value for name, value in request.form.items() if value and name != "form"}
    given = {name: sent.pop(name) for name in list(sent) if name in FILTERS}
    filters = parse_fields(given, FILTERS)
    _check_state(what, filters)
    form = parse_fields(
        sent,
        {
            "first": Field(Place.parse, required=True),
            "last": Field(Place.parse, required=True),
            "total": Field(row_id, required=True),
            "done": Field(row_id),
            "passed": Field(row_id),
            "words": Field(text),
            "reason": Field(text),
        },
        "this form",
    )
    total = form["total"]
    if form.get("words", "").strip().casefold() != f"{what} {total}":
        return say(
            f"Nothing was {DONE[what]}: what was typed is not “{what} {total}”.",
            url_for(".look", what=what, **given),
            is_bad=True,
        )
    done, passed, place = _run(
        what, filters, form["first"], form["last"], form.get("reason") or None
    )
    done += form.get("done", 0)
    passed += form.get("passed", 0)
    if place is None:
        return say(_told(what, done, passed), url_for(".index", **given))
    return render_template(
        "jobs_left.html",
        what=what,
        done_word=DONE[what],
        given=given,
        form_values=sent | {"first": str(place), "done": done, "passed": passed},
        total=total,
        done=done,
        passed=passed,
        left=max(total - done - passed, 1),
    )


@blueprint.post("/jobs/selected")
def act_on_selected() -> Response:
    """Retry or cancel the jobs that are checked."""
    what = request.form.get("do")
    if what not in DONE:
        raise invalid("do", "must be retry or cancel")
    target = door.own_target(request.form.get("to", ""))
    try:
        places = [Place.parse(value) for value in request.form.getlist("job")[: 2 * PAGE]]
    except ValueError as error:
        raise invalid("job", str(error)) from None
    if not places:
        return say("No job is selected: nothing was done.", target, is_bad=True)
    wanted = [place for place in places if bool(place.at) == (what == "retry")]
    changed = _change(what, {}, wanted, None) if wanted else 0
    return say(_told(what, changed, len(places) - changed), target)


def _read(conn: psycopg.Connection, given: dict[str, Any], before: Place | None) -> dict[str, Any]:
    state = given.get("state", "")
    span = given.get("within", USUAL_SPAN)
    filters = _values(given)
    has_live = state in LIVE and not (before and before.at)
    has_ended = state in ENDED and (before is None or before.at is not None)
    both = has_live and has_ended
    seconds, most = (SECONDS / 2, HALF_PAGE) if both else (SECONDS, PAGE)
    parts = []
    if has_live:
        found = find_live(conn, filters, LIVE[state], most, seconds, before)
        if state == "RUNNING" and found.stopped_at is not None:
            found.jobs += find_known(conn, filters, found.more, most - len(found.jobs))
        parts.append(_part("live", found, state or "LIVE"))
    if has_ended:
        within = SPANS[span][1]
        found = find_ended(conn, filters, ENDED[state], most, seconds, before, within=within)
        parts.append(_part("ended", found, state or "ENDED"))
    [names] = rows(conn, NAMES)
    raw = {name: value for name, value in request.args.items() if name != "before"}
    return {
        "given": raw,
        "parts": parts,
        "names": names,
        "states": STATES,
        "spans": SPANS,
        "span": span,
        "is_first": before is None,
        "is_filtered": bool(filters or state),
        "is_live": before is None and not any(part["found"].stopped_at for part in parts),
        "address": request.full_path.rstrip("?"),
        "place": Place.of,
    }


def _part(name: str, found: Found, state: str) -> dict[str, Any]:
    """Return one half of a list, with what leads on to the rest of it."""
    query = request.args.to_dict() | {"state": state, "before": str(found.more)}
    return {
        "name": name,
        "found": found,
        "state": state,
        "more": url_for(".index", **query) if found.more else None,
    }


def _look(
    conn: psycopg.Connection, what: str, given: dict[str, Any], before: Place | None
) -> dict[str, Any]:
    found = _find(conn, what, given, MOST_AT_ONCE, COUNT_SECONDS, before)
    places = [Place.of(job) for job in found.jobs]
    [outcome] = (
        call(conn, f"{what}_jobs", **_arguments(what, given, places), dry_run=True)
        if places
        else [{"matched": 0}]
    )
    return {
        "what": what,
        "done_word": DONE[what],
        "given": {name: value for name, value in request.args.items() if name != "before"},
        "states": STATES,
        "span": SPANS[given.get("within", USUAL_SPAN)][0],
        "is_ended": what == "retry",
        "total": outcome["matched"],
        "most": MOST_AT_ONCE,
        "refused": len(places) - outcome["matched"],
        "search": found,
        "first": places[0] if places else None,
        "last": places[-1] if places else None,
        "jobs": found.jobs[:FIRST],
        "by_task": Counter((job["task"], job["queue"]) for job in found.jobs).most_common(FIRST),
    }


def _run(
    what: str, given: dict[str, Any], first: Place, last: Place, reason: str | None
) -> tuple[int, int, Place | None]:
    """Change jobs batch by batch, each in a transaction of its own, for a few seconds.

    Returns:
        How many were changed, how many were not, and where to go on, None where all are done.
    """
    done = passed = 0
    started = time.monotonic()
    longest = 0.0
    place: Place | None = Place(first.id + 1, first.at)  # the first is one of them
    while place is not None:
        began = time.monotonic()
        with reading() as conn:
            found = _find(conn, what, given, BATCH, COUNT_SECONDS, place, last)
        place = found.more
        if found.jobs:
            places = [Place.of(job) for job in found.jobs]
            changed = _change(what, given, places, reason)
            done += changed
            passed += len(places) - changed
        longest = max(longest, time.monotonic() - began)
        if time.monotonic() - started + longest > REQUEST_SECONDS:
            break
    return done, passed, place and Place(max(place.id - 1, 0), place.at)


def _find(
    conn: psycopg.Connection,
    what: str,
    given: dict[str, Any],
    most: int,
    seconds: float,
    before: Place | None = None,
    down_to: Place | None = None,
) -> Found:
    """Find those jobs that can be retried, or cancelled; recurring ones are none of them."""
    filters = _values(given) | {"schedule_type": "ONE_TIME"}
    state = given.get("state", "")
    if what == "cancel":
        filters["is_asked"] = False
        return find_live(conn, filters, LIVE[state], most, seconds, before, down_to)
    states = [name for name in ENDED[state] if name != "COMPLETED"]
    within = SPANS[given.get("within", USUAL_SPAN)][1] if down_to is None else None
    return find_ended(conn, filters, states, most, seconds, before, down_to, within)


def _change(what: str, given: dict[str, Any], places: list[Place], reason: str | None) -> int:
    arguments = _arguments(what, given, places)
    if what == "cancel":
        arguments["reason"] = reason
    [outcome] = act(f"{what}_jobs", **arguments, dry_run=False)
    return outcome["changed"]


def _arguments(what: str, given: dict[str, Any], places: list[Place]) -> dict[str, Any]:
    """Say to a function which jobs are meant, and when they ended, which spares it other weeks."""
    wanted: dict[str, Any] = {"ids": [place.id for place in places]}
    wanted |= {name: given[name] for name in KNOWN if name in given}
    if what == "retry":
        times = sorted(place.at for place in places if place.at)
        wanted["finished_at_from"] = times[0]
        with suppress(ValueError, OverflowError):  # infinity, or the last moment of all
            after = datetime.fromisoformat(times[-1]) + timedelta(microseconds=1)
            wanted["finished_at_before"] = after.isoformat()
    return {"filter": Jsonb(wanted), "max_jobs": max(len(places), 1)}


def _check_state(what: str, given: dict[str, Any]) -> None:
    possible = LIVE if what == "cancel" else {**ENDED, "COMPLETED": None}
    if possible.get(given.get("state", "")) is None:
        raise invalid(
            "state",
            "only jobs that have not ended can be cancelled"
            if what == "cancel"
            else "only jobs that failed or were cancelled can be retried",
        )


def _values(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in CONDITIONS}


def _told(what: str, done: int, passed: int) -> str:
    """Say what came of it."""
    told = f"{number(done)} {'job was' if done == 1 else 'jobs were'} {DONE[what]}."
    if passed and what == "retry":
        told += (
            f" {number(passed)} {'was' if passed == 1 else 'were'} left as they are: they did not"
            " fail, run again already, or a live job has their unique key or name."
        )
    elif passed:
        told += (
            f" {number(passed)} {'was' if passed == 1 else 'were'} left as they are: they have"
            " ended, or were asked to end already."
        )
    return told
