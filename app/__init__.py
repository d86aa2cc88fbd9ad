"""Rota's REST interface: the functions of the database, called over HTTP."""

import os

from flask import Flask

from rota.app import (
    docs,
    errors,
    health,
    inputs,
    jobs,
    logs,
    protection,
    queues,
    schedules,
    tokens,
    workers,
)
from rota.app.database import Database


def create_app(database_url: str | None = None) -> Flask:
    """Build the application.

    Args:
        database_url: a libpq connection string; ``DATABASE_URL`` when left out.

    Raises:
        ValueError: there is no connection string, or it is not one.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = inputs.MAX_BODY_BYTES
    app.json.sort_keys = False
    app.url_map.merge_slashes = False
    app.url_map.converters |= {
        "id": inputs.IdConverter,
        "queue": inputs.QueueConverter,
        "schedule": inputs.ScheduleConverter,
    }
    app.extensions["database"] = Database(database_url or os.environ.get("DATABASE_URL", ""))

    for part in (logs, protection, errors, tokens):
        part.init_app(app)
    for resource in (jobs, schedules, queues, workers, health):
        app.register_blueprint(resource.blueprint)
    docs.init_app(app)
    return app
