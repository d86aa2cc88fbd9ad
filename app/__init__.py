"""Rota's REST interface: the functions of the database, called over HTTP."""

import os

from flask import Flask

from rota.app import (
    answers,
    docs,
    doctor,
    errors,
    health,
    inputs,
    jobs,
    logs,
    metrics,
    paths,
    protection,
    queues,
    schedules,
    standby,
    steps,
    tokens,
    ui,
    work,
    workers,
    workflows,
)
from rota.app.database import Database
from rota.app.probe import WriteProbe
from rota.app.shared import Shared
from rota.app.upkeep import Upkeep
from rota.app.waiting import Waiting


def create_app(database_url: str | None = None, read_url: str | None = None) -> Flask:
    """Build the application.

    Args:
        database_url: a libpq connection string; ``DATABASE_URL`` when left out, and then
            ``DATABASE_READ_URL`` is of its standby.
        read_url: one that leads to a standby of it, if it is to be read from.

    Raises:
        ValueError: there is no connection string, it is not one, or there are several, for which
            there is ``rota.app.front.create``.
    """
    app = paths.Api(__name__, static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # a method is documented, or is not there
    app.config["MAX_CONTENT_LENGTH"] = inputs.MAX_BODY_BYTES
    app.json.sort_keys = False
    app.url_map.merge_slashes = False
    app.url_map.converters |= {
        "id": paths.IdConverter,
        "queue": paths.QueueConverter,
        "key": paths.KeyConverter,
        "schedule": paths.ScheduleConverter,
        "name": paths.AnyNameConverter,
    }
    if not database_url:
        database_url = os.environ.get("DATABASE_URL", "")
        read_url = read_url or os.environ.get(standby.VARIABLE)
    database = Database(database_url)
    app.extensions["database"] = database
    standby.init_app(app, read_url)
    app.extensions["waiting"] = Waiting(database)
    app.extensions["announcements"] = work.Announcements()
    app.extensions["probe"] = WriteProbe(database)
    app.extensions["upkeep"] = Upkeep(database)
    app.extensions["diagnoses"] = Shared()
    app.extensions["scrapes"] = metrics.Scrapes()

    for part in (logs, protection, errors, tokens, answers):
        part.init_app(app)
    app.before_request(errors.refuse)
    resources = (
        jobs, work, workflows, steps, schedules, queues, workers, doctor, metrics, health,
    )  # fmt: skip
    for resource in resources:
        app.register_blueprint(resource.blueprint)
    ui.init_app(app)
    docs.init_app(app)
    return app
