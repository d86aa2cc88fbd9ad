"""What is wrong with this installation: ``rota doctor [--json]``, of DATABASE_URL's database.

The exit code is one that probes understand: 0 when nothing was found but notes, 1 when something
needs care, 2 when jobs do not run or nobody could be asked.
"""

import argparse
import contextlib
import json
import os
import sys
from typing import Any

import psycopg

from rota.db.gateway import call
from rota.db.session import WRITABLE, name_of, read_url, settle, split_urls
from rota.terminal import printable

EXIT_CODES = {"note": 0, "warning": 1, "critical": 2}
LIMITS = {"lock_timeout": "3s", "statement_timeout": "60s"}  # who asks at 3 a.m. is to be answered


def main(arguments: list[str] | None = None) -> int:
    """Print what was found, the worst first; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="rota doctor",
        description="Say what is wrong with the installation in the database of DATABASE_URL, and"
        " what to do about it. Exit codes: 0 nothing but notes, 1 warnings, 2 jobs do not run, or"
        " the database could not be asked.",
    )
    parser.add_argument("--json", action="store_true", help="for programs: a list of findings")
    options = parser.parse_args(arguments)
    answers = ask("rota doctor", "doctor")
    findings = [
        row | ({"finding": f"{name}: {row['finding']}"} if len(answers) > 1 else {})
        for name, rows in answers
        for row in rows or []
    ]
    unasked = not answers or any(rows is None for _, rows in answers)
    if unasked and not findings:
        return 2
    if options.json:
        print(json.dumps(findings, indent=2))
    elif not findings:
        print("nothing is wrong")
    else:
        for row in findings:
            head = f"{row['severity'].upper():8}  {row['check']}: {row['finding']}"
            print_row(head, row["remedy"])
    return 2 if unasked else max((EXIT_CODES[row["severity"]] for row in findings), default=0)


def databases() -> list[str]:
    """Return the connection strings that DATABASE_URL has.

    Raises:
        ValueError: there is none.
    """
    urls = split_urls(os.environ.get("DATABASE_URL", ""))
    if not urls[0]:
        raise ValueError("DATABASE_URL is not set")
    return urls


def ask(
    program: str, function: str, **arguments: Any
) -> list[tuple[str, list[dict[str, Any]] | None]]:
    """Return the rows of a function in each of DATABASE_URL's databases, with its name.

    None in place of the rows, with words, where it fails.
    """
    try:
        urls = databases()
        names = [name_of(url) for url in urls]
    except ValueError as error:
        complain(program, error)
        return []
    return [
        (name, _ask(url, name if len(urls) > 1 else "", program, function, arguments))
        for url, name in zip(urls, names, strict=True)
    ]


def _ask(
    url: str, name: str, program: str, function: str, arguments: dict[str, Any]
) -> list[dict[str, Any]] | None:
    try:
        with connect(program, url) as conn:
            return call(conn, function, **arguments)
    except (ValueError, psycopg.Error) as error:
        complain(f"{program}, {name}" if name else program, error)
        return None


def connect(program: str, url: str | None = None, **limits: str) -> psycopg.Connection:
    """Open a database, DATABASE_URL's if it is not named, for a person who waits.

    Raises:
        ValueError: there is no URL, it cannot be read, or there are several.
        psycopg.Error: the database cannot be reached.
    """
    if url is None:
        url = " ".join(databases())  # several are refused
    parameters = {
        "application_name": program,
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        **read_url(url),
    }
    conn = _connect(parameters)
    try:
        settle(conn, **LIMITS, **limits)
    except BaseException:
        conn.close()
        raise
    return conn


def _connect(parameters: dict[str, Any]) -> psycopg.Connection:
    """Connect; of several servers to the primary, for the others know less, or else to any.

    Raises:
        psycopg.Error: none can be reached.
    """
    options = {"autocommit": True, "prepare_threshold": None}
    if "," in parameters.get("host", "") and "target_session_attrs" not in parameters:
        with contextlib.suppress(psycopg.OperationalError):
            return psycopg.connect(**parameters, **WRITABLE, **options)
    return psycopg.connect(**parameters, **options)


def complain(program: str, error: Exception) -> None:
    """Say what went wrong, and what to do if that is known."""
    said = getattr(error, "diag", None)
    message = getattr(said, "message_primary", None) or str(error)
    if isinstance(
        error,
        psycopg.errors.InvalidSchemaName
        | psycopg.errors.UndefinedFunction
        | psycopg.errors.UndefinedTable,
    ):
        message += "; run: rota deploy"
    hint = getattr(said, "message_hint", None)
    for line in f"{program}: {message}\n{hint or ''}".splitlines():
        print(printable(line, sys.stderr), file=sys.stderr)


def print_row(head: str, remedy: str | None) -> None:
    """Print what is so, and below it what to do."""
    for line in [head] if remedy is None else [head, f"          -> {remedy}"]:
        print(printable(line))
