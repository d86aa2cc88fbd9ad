"""What the tests of functions read back, from the views that people read."""

from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row


def job(conn: Connection, job_id: int) -> dict[str, Any] | None:
    """Return one row of ``rota.jobs``, or None."""
    cursor = conn.cursor(row_factory=dict_row)
    return cursor.execute("select * from rota.jobs where id = %s", [job_id]).fetchone()
