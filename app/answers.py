"""Answers that the database has written.

Rows are read as JSON text, which is passed on as it is: numbers of any size and times of any year
arrive as they are stored, whoever stored them.
"""

import json
from collections.abc import Mapping
from typing import Any

import psycopg
from flask import Flask, Response, request, url_for
from psycopg import sql

# Asked before any job is looked at, or the time it takes would tell how many a neighbour has.
OWN_QUEUE = sql.SQL(
    """
    ((select rota.visible_queues()) is null
        or %(queue)s::text = any((select rota.visible_queues())::text[]))
    """
)


def init_app(app: Flask) -> None:
    """Let clients ask whether an answer is another than the one that they have."""

    @app.after_request
    def mark_version(response: Response) -> Response:
        reads = request.method in ("GET", "HEAD") and response.status_code == 200
        if reads and response.is_json and not request.path.startswith("/health/"):
            response.add_etag()
            # If-Match is for changes, of which none asks for it.
            asked = ("REQUEST_METHOD", "HTTP_IF_NONE_MATCH")
            response.make_conditional({name: request.environ.get(name, "") for name in asked})
        return response


def moments(*columns: str) -> dict[str, sql.SQL]:
    """Return expressions for columns that hold moments: ISO 8601 in UTC, always with six digits.

    An expression has the column's own name in the row, so a query that goes on to sort by the
    column must say whose it is.
    """
    expression = """to_char({0} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"') as {0}"""
    return {column: sql.SQL(expression.format(column)) for column in columns}


def read_rows(
    conn: psycopg.Connection, query: sql.Composable, arguments: Mapping[str, Any] | None = None
) -> list[str]:
    """Return each row of a query as the text of a JSON object, its keys named for the columns."""
    rows_as_json = sql.SQL("select row_to_json(r)::text from ({}) as r").format(query)
    return [text for (text,) in conn.execute(rows_as_json, arguments or {})]


def call_rows(
    conn: psycopg.Connection,
    columns: str,
    expressions: Mapping[str, sql.Composable],
    function: str,
    **arguments: Any,
) -> list[str]:
    """Call a function and return its rows as JSON texts.

    Args:
        conn: an open connection.
        columns: what to select, with names of expressions in braces.
        expressions: these, such as ``moments`` makes.
        function: the function's bare name.
        arguments: its parameters by name.
    """
    query = sql.SQL("select {} from {}({})").format(
        sql.SQL(columns).format(**expressions),
        sql.Identifier("rota", function),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name))
            for name in arguments
        ),
    )
    return read_rows(conn, query, arguments)


def read_page(
    conn: psycopg.Connection,
    query: sql.Composable,
    arguments: Mapping[str, Any],
    limit: int,
    position: sql.Composable,
) -> tuple[list[str], Any]:
    """Return the first rows of an ordered query, and where the next page starts.

    Args:
        conn: an open connection.
        query: the query, without a limit.
        arguments: its parameters.
        limit: how many rows to return at most.
        position: an expression over a row ``r`` of the query that tells its place in the order.

    Returns:
        The rows as JSON texts, and the last one's position, or None when no more follow.
    """
    page = sql.SQL("select row_to_json(r)::text, {} from ({} limit %(rows)s) as r").format(
        position, query
    )
    # Not prepared: how many rows a value stands for is to be seen.
    rows = conn.execute(page, {**arguments, "rows": limit + 1}, prepare=False).fetchall()
    return [text for text, _ in rows[:limit]], rows[limit - 1][1] if len(rows) > limit else None


def answer(**members: str | list[str]) -> Response:
    """Answer with an object whose members are given as JSON texts, or lists of them."""
    texts = {
        name: value if isinstance(value, str) else f"[{','.join(value)}]"
        for name, value in members.items()
    }
    body = ",".join(f"{json.dumps(name)}:{value}" for name, value in texts.items())
    return Response(f"{{{body}}}\n", mimetype="application/json")


def answer_row(row: str) -> Response:
    """Answer with one row, as read_rows or call_rows returns it."""
    return Response(f"{row}\n", mimetype="application/json")


def answer_page(name: str, rows: list[str], next_url: str | None) -> Response:
    """Answer with one page of rows and the link to the next one, null after the last."""
    return answer(**{name: rows, "next": json.dumps(next_url)})


def next_url(position: Any, parameter: str = "before") -> str | None:
    """Return this request's URL, moved on to the rows after a position."""
    if position is None:
        return None
    query = request.args.to_dict() | {parameter: str(position)}
    return url_for(request.endpoint, **request.view_args, **query)
