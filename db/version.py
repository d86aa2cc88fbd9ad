"""With which functions a process can work: those of its checkout, and those that came later."""

import hashlib
from pathlib import Path

from psycopg import Connection

FOLDER = Path(__file__).parent
OLDER = "select to_regprocedure('rota.was_deployed(text)') is null"


def checkout_version(folder: Path = FOLDER) -> str:
    """Return what ``rota.version()`` answers when the database matches this checkout."""
    digest = hashlib.sha256()
    for path in function_files(folder):
        digest.update(f"{path.name}\0{path.read_text()}\0".encode())
    return digest.hexdigest()


def function_files(folder: Path) -> list[Path]:
    """Return the views, the functions, helpers (``_…``) first, settings, triggers, grants."""
    files = sorted((folder / "functions").rglob("*.sql"), key=lambda path: path.name)
    helpers = [path for path in files if path.name.startswith("_")]
    doors = [path for path in files if not path.name.startswith("_")]
    return [
        folder / "views.sql",
        *helpers,
        *doors,
        folder / "settings.sql",
        folder / "triggers.sql",
        folder / "grants.sql",
    ]


def is_outlived(conn: Connection, version: str) -> bool:
    """Tell whether a database has had these functions, and has later ones now.

    Args:
        conn: a session that may call ``rota.version()``.
        version: a checkout's version (``checkout_version``).

    Raises:
        psycopg.Error: as the server raised it.
    """
    if conn.execute(OLDER).fetchone() == (True,):
        return False
    return conn.execute("select rota.was_deployed(%s)", [version]).fetchone() == (True,)
