"""With which functions a process can work: those of its checkout, and those that came later."""

from psycopg import Connection

OLDER = "select to_regprocedure('rota.was_deployed(text)') is null"


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
