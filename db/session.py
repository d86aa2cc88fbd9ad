"""What each session of Rota's own sets for itself, whatever the database, the role or libpq say."""

import os
import socket
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# Unless the URL says otherwise. Where it names several servers, or one name leads to several, those
# that can only be read are passed by.
WRITABLE = {"target_session_attrs": "read-write"}
# Those that can only be read go first.
READABLE = {"target_session_attrs": "prefer-standby"}

NEWEST_SETTINGS = {170000: {"transaction_timeout": "0"}}  # by the server version that brought them


def read_url(url: str, variable: str = "DATABASE_URL") -> dict[str, Any]:
    """Take a connection string apart as libpq does, without repeating it in an error.

    What libpq says of one that it cannot read quotes it, password and all. And a password with an
    @ or a / in it ends there: the rest would stand as the name of a host in each message.

    Args:
        url: the connection string.
        variable: where it was found, for the error.

    Raises:
        ValueError: it cannot be read, or not in one way only, or has several databases.
    """
    if len(split_urls(url)) > 1:
        raise ValueError("DATABASE_URL names several databases, and this is for one: name that")
    try:
        parameters = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ValueError(f"{variable} is not a PostgreSQL connection string") from None
    scheme, _, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        authority, _, path = rest.partition("/")
        _, _, place = authority.partition("@")
        if "@" in place.partition("?")[0] or "@" in path.partition("?")[0]:
            raise ValueError(
                f"{variable}: an @ or a / in the user's name or the password must be written %40"
                " or %2F"
            )
    return parameters


def split_urls(text: str) -> list[str]:
    """Read what ``DATABASE_URL`` holds: one connection string, or several URLs with spaces between.

    A connection string of keywords has spaces, too, and so stands alone.
    """
    pieces = text.split()
    is_several = all(piece.startswith(("postgresql://", "postgres://")) for piece in pieces)
    return pieces if len(pieces) > 1 and is_several else [text]


def name_of(url: str) -> str:
    """Return what people know a database by, without a user or a password.

    Raises:
        ValueError: it cannot be read, or not in one way only.
    """
    parameters = read_url(url)
    place = parameters.get("host") or parameters.get("hostaddr") or parameters.get("service")
    port = f":{parameters['port']}" if "port" in parameters else ""
    return f"{place or 'localhost'}{port}/{parameters.get('dbname') or ''}"


def writable(url: str) -> str:
    """Return a connection string that leads to a server that can be written to.

    Raises:
        ValueError: it cannot be read, or not in one way only.
    """
    return make_conninfo(**WRITABLE | read_url(url))


def settings(server_version: int) -> dict[str, str]:
    """Return the settings that our statements rely on, by name.

    They decide how values are written and read, at which isolation level a statement runs, and
    that nobody else's limit ends it; limits of its own a session sets on top of these.

    Args:
        server_version: as psycopg's ``conn.info.server_version`` tells it.
    """
    values = {
        "search_path": "pg_catalog, pg_temp",
        "client_encoding": "UTF8",
        "timezone": "UTC",
        "datestyle": "ISO, YMD",
        "intervalstyle": "postgres",
        "standard_conforming_strings": "on",
        "extra_float_digits": "1",
        "bytea_output": "hex",
        "array_nulls": "on",
        "transform_null_equals": "off",
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
    }
    for version, more in NEWEST_SETTINGS.items():
        if server_version >= version:
            values |= more
    return values


def settle(conn: Connection, **limits: str) -> None:
    """Set all of that for the rest of a session, and limits of its own on top.

    Nothing that somebody planted in a schema of the search path is called on the way.
    """
    conn.execute("set search_path = pg_catalog, pg_temp")
    values = settings(conn.info.server_version) | limits
    conn.execute(
        """
        select set_config(s.name, s.value, false)
        from unnest(%s::text[], %s::text[]) as s(name, value)
        """,
        [list(values), list(values.values())],
    )


def for_transaction(server_version: int, **limits: str) -> str:
    """Return the statement that sets the same until a transaction ends, and no longer.

    Behind a pooler a session is not ours to change.
    """
    values = settings(server_version) | limits
    return "select " + ", ".join(
        f"pg_catalog.set_config('{name}', '{value}', true)" for name, value in values.items()
    )


def hang_up(conn: Connection) -> None:
    """Cut a connection, from another thread than the one that waits for its answer.

    Raises:
        OSError: it is gone already; so does psycopg.Error.
    """
    with socket.socket(fileno=os.dup(conn.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)
