"""The one place that turns Python arguments into a call of a Rota function."""

from functools import cache
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import dict_row


def call(conn: Connection[Any], function: str, /, **arguments: Any) -> list[dict[str, Any]]:
    """Call ``rota.<function>`` in named notation and return its rows as dictionaries.

    An argument that is left out takes the default that the SQL function states, so no default
    stands twice. A function that returns a scalar gives one row with one column, named for the
    function.

    Args:
        conn: an open connection; the caller owns the transaction.
        function: the function's bare name, such as ``"finish_job"``.
        arguments: its parameters by name.

    Raises:
        psycopg.Error: as the function raised it; ``error.sqlstate`` holds the code.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_statement(function, *arguments), arguments).fetchall()


@cache
def _statement(function: str, *names: str) -> bytes:
    assignments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in names
    )
    query = sql.SQL("select * from rota.{}({})").format(sql.Identifier(function), assignments)
    return query.as_bytes()
