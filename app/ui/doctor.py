"""The doctor: what is wrong, and what to do about it."""

import json
from typing import Any

import psycopg
from flask import Blueprint, Response, url_for

from rota.app.doctor import Diagnosis, diagnosis
from rota.app.ui.figures import AGE
from rota.app.ui.frame import page, rights, rows
from rota.app.ui.words import cut

blueprint = Blueprint("doctor", __name__)

MOST_VALUES = 20  # of a piece of evidence that is a list
MOST_OF_A_KIND = 20  # findings of one check and severity
SEVERITIES = {
    "critical": "Jobs do not run, or history is not kept",
    "warning": "That happens to some, or is about to",
    "note": "Good to know",
}
# Where a piece of evidence leads, by its name.
PLACES = {
    "queue": lambda name: url_for("ui.queues.show", queue=name),
    "queues": lambda name: url_for("ui.queues.show", queue=name),
    "worker": lambda name: url_for("ui.workers.show", worker=name),
    "workers": lambda name: url_for("ui.workers.show", worker=name),
    "name": lambda name: url_for("ui.schedules.show", name=name),
    "job_id": lambda job_id: url_for("ui.jobs.show", job_id=job_id),
    "one_of_them": lambda job_id: url_for("ui.jobs.show", job_id=job_id),
}


@blueprint.get("/doctor")
def show() -> Response:
    """Show what the doctor finds."""
    looked = diagnosis()  # before the page has a connection of its own
    return page("doctor.html", lambda conn: _read(conn, looked))


def _read(conn: psycopg.Connection, looked: Diagnosis) -> dict[str, Any]:
    [age] = rows(conn, AGE)
    may_look = "doctor" in rights(conn)  # now, whoever could when that was found
    return {
        "age": age,
        "looked_at": looked.at,
        "status": looked.status if may_look else 403,
        "severities": SEVERITIES,
        "findings": _shown(looked.findings or []) if may_look else [],
    }


def _shown(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return findings with an id of each, and their evidence as it is shown.

    Where hundreds of workers fell silent at once, a few of these findings tell of it; the last one
    that is shown says how many ``more`` there are of its kind.
    """
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for finding in findings:
        kinds.setdefault((finding["severity"], finding["check"]), []).append(finding)
    shown = []
    for (severity, check), of_it in kinds.items():
        for number, finding in enumerate(of_it[:MOST_OF_A_KIND], 1):
            facts = [_fact(*item) for item in (finding["evidence"] or {}).items()]
            name = f"{severity}-{check.replace(' ', '-')}-{number}"
            more = len(of_it) - number if number == MOST_OF_A_KIND else 0
            shown.append(finding | {"id": name, "facts": facts, "more": more})
    return shown


def _fact(name: str, value: Any) -> dict[str, Any]:
    """Return a piece of evidence: its name, and its values with where each leads."""
    values = value if isinstance(value, list) else [value]
    place = PLACES.get(name)
    return {
        "name": name.replace("_", " "),
        "is_time": name.endswith("_at") or name in ("since", "until", "clock"),
        "values": [
            (
                cut(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False), 300),
                place(one) if place and isinstance(one, str | int) else None,
            )
            for one in values[:MOST_VALUES]
        ],
        "more": max(len(values) - MOST_VALUES, 0),
    }
