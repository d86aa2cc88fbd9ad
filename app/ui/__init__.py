"""The dashboard: pages at /ui that show what goes on, and why, and forms that change it.

A page is read in one transaction that only reads, under the rights of whoever asks, and made of
what the views and functions tell. What all pages share is here and in `door.py`, `frame.py` and
`words.py`; each other file is the pages of one thing.
"""

import os

from flask import Flask

from rota.app.ui import (
    doctor,
    door,
    frame,
    hiding,
    job,
    log,
    overview,
    queues,
    schedules,
    words,
    workers,
    workflows,
)

for pages in (overview, queues, job, workflows, schedules, workers, doctor, log):
    frame.blueprint.register_blueprint(pages.blueprint)


def is_on() -> bool:
    """Read ROTA_UI.

    Raises:
        ValueError: it is neither of the two.
    """
    chosen = os.environ.get("ROTA_UI") or "on"
    if chosen not in ("on", "off"):
        raise ValueError(f"ROTA_UI is 'on' or 'off', not {chosen!r}")
    return chosen == "on"


def init_app(app: Flask) -> None:
    """Add the pages, unless ROTA_UI says that there are to be none."""
    if not is_on():
        return
    for part in (door, frame, hiding, words):
        part.init_app(app)
    app.register_blueprint(frame.blueprint)
