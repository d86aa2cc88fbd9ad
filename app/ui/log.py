"""The log: what operators did, who and when."""

import json
import time
from typing import Any

import psycopg
from flask import Blueprint, Response

from rota.app.inputs import Field, one_of, read_query, text
from rota.app.paths import MAX_ID
from rota.app.ui.frame import page, rows
from rota.app.ui.words import cut

blueprint = Blueprint("log", __name__)

ON_A_PAGE = 50
LOOK = 50_000  # actions that are looked at at first; then twice as many, and so on
LONGEST_LOOK = 1.0  # seconds
WITHIN = {
    "1h": ("1 hour", "the last hour"),
    "24h": ("24 hours", "the last 24 hours"),
    "7d": ("7 days", "the last 7 days"),
    "all": (None, "any time"),
}
# The functions that write down what they do.
FUNCTIONS = [
    "backfill_schedule",
    "cancel_job",
    "cancel_jobs",
    "cancel_workflow",
    "configure_key",
    "configure_queue",
    "configure_retention",
    "create_token",
    "delete_queue",
    "delete_schedule",
    "pause_queue",
    "pause_schedule",
    "resume_queue",
    "resume_schedule",
    "retry_job",
    "retry_jobs",
    "retry_workflow",
    "revoke_token",
    "schedule_job",
    "trigger_schedule",
    "unwall",
    "wall",
]
# By ranges of the id, for an order does not reach the index through the view, as a range does.
ACTIONS = """
    select action_id, at, actor, on_behalf_of, function, job_id, queue, schedule, token_id,
        affected, details
    from rota.actions
    where action_id >= %(start)s
        and action_id < %(before)s
        and (%(since)s::timestamptz is null or at >= %(since)s)
        and (%(principal)s::text is null or %(principal)s in (actor, on_behalf_of))
        and (%(function)s::text is null or function = %(function)s)
        and (%(queue)s::text is null or queue = %(queue)s)
    order by action_id desc
    limit %(limit)s
"""
NEWEST = """
    select max(action_id) as id
    from rota.actions
    where at >= statement_timestamp() - %(window)s::interval
"""
SINCE = "select statement_timestamp() - %(length)s::interval as since"


NEWEST_WITHIN = ("1 hour", "1 day", "100 years")


def action_id(value: Any) -> int:
    """Take the number of an action, in a query."""
    if not value.isdecimal() or not value.isascii() or len(value) > 19 or int(value) > MAX_ID:
        raise ValueError("must be the number of an action")
    return int(value)


FILTERS = {
    "principal": Field(text),
    "function": Field(one_of("", *FUNCTIONS)),
    "queue": Field(text),
    "within": Field(one_of(*WITHIN)),
    "before": Field(action_id),
}


@blueprint.get("/log")
def show() -> Response:
    """Show what was done, the last first."""
    asked = {name: value for name, value in read_query(FILTERS).items() if value != ""}
    return page("log.html", lambda conn: _read(conn, asked))


def _read(conn: psycopg.Connection, asked: dict[str, Any]) -> dict[str, Any]:
    length, _ = WITHIN[asked.get("within", "all")]
    [window] = rows(conn, SINCE, length=length)
    filters = {name: asked.get(name) for name in ("principal", "function", "queue")}
    found, before = _look(conn, asked.get("before"), filters | window)
    is_full = len(found) > ON_A_PAGE
    found = found[:ON_A_PAGE]
    older = found[-1]["action_id"] if is_full else before
    return {
        "actions": [action | {"told": _told(action["details"])} for action in found],
        "filters": filters,
        "is_filtered": any(filters.values()) or window["since"] is not None,
        "within": asked.get("within", "all"),
        "windows": {name: words for name, (_, words) in WITHIN.items()},
        "functions": FUNCTIONS,
        "is_first": "before" not in asked,
        "is_full": is_full,
        "older": older and asked | {"before": older},
        "newest": {name: value for name, value in asked.items() if name != "before"},
    }


def _look(
    conn: psycopg.Connection, before: int | None, asked: dict[str, Any]
) -> tuple[list[dict[str, Any]], int | None]:
    """Look for actions, further and further back, for as long as a page may take.

    Returns:
        One more than fit a page, where there are; and the number before which it did not look, if
        it did not come to the end.
    """
    if before is None:
        before = _newest(conn) + 1
    found: list[dict[str, Any]] = []
    reach = LOOK
    until = time.monotonic() + LONGEST_LOOK
    while before > 1 and len(found) <= ON_A_PAGE:
        start = max(before - reach, 1)
        most = ON_A_PAGE + 1 - len(found)
        found += rows(conn, ACTIONS, **asked, start=start, before=before, limit=most)
        before, reach = start, 2 * reach
        if time.monotonic() > until:
            break
    return found, before if before > 1 else None


def _newest(conn: psycopg.Connection) -> int:
    for window in NEWEST_WITHIN:
        [newest] = rows(conn, NEWEST, window=window)
        if newest["id"] is not None:
            return newest["id"]
    return 0


def _told(details: dict[str, Any]) -> dict[str, str]:
    """Return the details of an action as one line, cut, and all of them if that left some out."""
    words = " · ".join(
        f"{name.replace('_', ' ')} {value if isinstance(value, str) else _json(value)}"
        for name, value in details.items()
    )
    line = cut(words, 120)
    return {"line": line, "whole": _json(details, indent=2) if line != words else ""}


def _json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)
