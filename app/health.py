"""Health: is this process alive, and can it do its work."""

from typing import Any

import psycopg
from flask import Blueprint

from app.database import Database, database
from app.errors import RequestError, status_of
from db.deploy import checkout_version
from db.gateway import call

blueprint = Blueprint("health", __name__)

# What this process was started from, whatever happens to the files while it runs.
VERSION = checkout_version()


def mismatch(database: Database) -> str | None:
    """Say how the database differs from this checkout and what to run, or return None.

    Raises:
        psycopg.OperationalError: the database cannot be reached.
    """
    try:
        with database.transaction() as conn:
            deployed = call(conn, "version")[0]["version"]
    except psycopg.Error as error:
        if status_of(error) == 503:
            raise
        return "the database has no schema rota for this user; run: python -m db.deploy"
    if deployed != VERSION:
        return (
            f"the database has version {deployed[:12]}, this checkout is {VERSION[:12]};"
            " run: python -m db.deploy"
        )
    return None


@blueprint.get("/health/live")
def live() -> dict[str, str]:
    """Tell that this process answers.

    ---
    tags: [health]
    responses:
      200:
        description: It does.
        content:
          application/json:
            schema: {$ref: "#/components/schemas/Alive"}
    """
    return {"status": "alive"}


@blueprint.get("/health/ready")
def ready() -> dict[str, Any]:
    """Tell whether requests can be answered.

    The database can be reached and has the version of the schema that belongs to this process.
    ---
    tags: [health]
    responses:
      200:
        description: They can.
        content:
          application/json:
            schema: {$ref: "#/components/schemas/Ready"}
    """
    difference = mismatch(database())
    if difference is not None:
        raise RequestError(503, difference)
    return {"status": "ready", "version": VERSION}
