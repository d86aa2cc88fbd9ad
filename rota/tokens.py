"""Tokens of the API: ``rota token create``, ``list``, ``revoke``, in DATABASE_URL's database.

A token stands for a principal, a role of the database (docs/operations.md). The functions that make
and revoke tokens are SQL; what is done here besides is the role.
"""

import argparse
import re
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import psycopg
from psycopg import Connection, errors, sql
from psycopg.rows import dict_row

from rota.db.gateway import call
from rota.db.session import settle, writable
from rota.doctor import complain, databases
from rota.terminal import printable

SCOPES = ("producer", "worker", "operator", "reader")
GIVEN = re.compile(r"[-._~+/A-Za-z0-9]{32,500}=*")  # what an Authorization header can hold
FIRST_PRINCIPAL = "rota_token"  # of ROTA_TOKEN


class TokenError(Exception):
    """A token cannot be made; the message says what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    options = _parse(arguments)
    try:
        urls = databases()
        if len(urls) > 1 and options.run is _revoke:
            raise TokenError(
                "a token has a number of its own in each database: set DATABASE_URL to one of them"
            )
        for url in urls:
            with psycopg.connect(
                writable(url), autocommit=True, application_name="rota token"
            ) as conn:
                settle(conn)
                options.run(conn, options)
    except (TokenError, ValueError, psycopg.Error) as error:
        complain("rota token", error)
        return 1
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rota token", description="Tokens of the API, in the database of DATABASE_URL."
    )
    words = parser.add_subparsers(required=True, metavar="create|list|revoke")

    create = words.add_parser(
        "create",
        help="make a token, and print it once",
        description="Make a token, and print it this once. It acts as a role of the database, which"
        " is made if there is none: without login, with the scopes, and granted to the login of the"
        " API.",
    )
    create.add_argument(
        "--principal", metavar="ROLE", help="the role; api_ and the scopes when left out"
    )
    create.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        default=[],
        help="what it may do; may be given more than once",
    )
    create.add_argument("--days", type=int, help="expire after so many days; never when left out")
    create.add_argument("--note", help="what it is for")
    create.set_defaults(run=_create, made=None)

    show = words.add_parser("list", help="list tokens: whose, since when, last used")
    show.set_defaults(run=_list)

    revoke = words.add_parser("revoke", help="have a token refused from now on")
    revoke.add_argument("token_id", type=int)
    revoke.set_defaults(run=_revoke)
    return parser.parse_args(arguments)


def _create(conn: Connection, options: argparse.Namespace) -> None:
    principal = options.principal or "_".join(["api", *_ordered(options.scope)])
    if not options.principal and not options.scope:
        raise TokenError("say what the token may do with --scope, or whose it is with --principal")
    if options.days is not None and not 1 <= options.days <= 36500:
        raise TokenError("--days must be from 1 to 36500")
    with conn.transaction():
        make_principal(conn, principal, options.scope)
        expires_at = options.days and datetime.now(UTC) + timedelta(days=options.days)
        again = {} if options.made is None else {"hash": sha256(options.made.encode()).digest()}
        [made] = call(
            conn,
            "create_token",
            principal=principal,
            expires_at=expires_at,
            note=options.note,
            **again,
        )
    if options.made is not None:  # in another database
        return
    options.made = made["token"]
    print(made["token"])
    print(
        f"This is token {made['token_id']}, of role {principal}; it is not shown again.",
        file=sys.stderr,
    )


def _ordered(scopes: list[str]) -> list[str]:
    return [scope for scope in SCOPES if scope in scopes]


def _list(conn: Connection, _: argparse.Namespace) -> None:
    columns = (
        "token_id",
        "principal",
        "prefix",
        "created",
        "last used",
        "expires",
        "state",
        "note",
    )
    rows: list[tuple[str, ...]] = [columns]
    now = datetime.now(UTC)
    with conn.cursor(row_factory=dict_row) as cursor:
        for token in cursor.execute("select * from rota.tokens order by token_id"):
            expires_at = token["expires_at"]
            state = "expired" if expires_at is not None and expires_at <= now else "valid"
            rows.append(
                (
                    str(token["token_id"]),
                    token["principal"],
                    token["prefix"] or "-",
                    _moment(token["created_at"]),
                    _moment(token["last_used_at"]),
                    _moment(expires_at),
                    "revoked" if token["revoked_at"] else state,
                    token["note"] or "",
                )
            )
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for row in rows:
        print(
            printable(
                "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
            ).rstrip()
        )


def _moment(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" if moment else "-"


def _revoke(conn: Connection, options: argparse.Namespace) -> None:
    call(conn, "revoke_token", token_id=options.token_id)
    print(f"token {options.token_id} is revoked; an API may take it for some seconds yet")


def make_principal(conn: Connection, principal: str, scopes: list[str]) -> None:
    """Make the role of a token, if there is none, and grant it what it lacks.

    Args:
        conn: an open transaction, of a login that may create roles.
        principal: the role's name.
        scopes: some of ``SCOPES``.

    Raises:
        TokenError: this login may not do that, and the message has the statements for one who may;
            or it would be behind the walls of the role.
    """
    name = sql.Identifier(principal)
    statements: list[sql.Composable] = []
    roles = "select from pg_roles where rolname = %s"
    is_new = not conn.execute(roles, [principal]).rowcount
    if is_new:
        if not scopes:
            raise TokenError(
                f"there is no role {principal}; --scope says what it is to be made for"
            )
        statements.append(sql.SQL("create role {} nologin").format(name))
    statements += [
        sql.SQL("grant {} to {}").format(sql.Identifier(f"rota_{scope}"), name)
        for scope in _ordered(scopes)
        if is_new or not _is_member(conn, principal, f"rota_{scope}")
    ]
    lacking = [login for login in _logins(conn) if is_new or not _is_member(conn, login, principal)]
    if not is_new:
        _check_walls(conn, principal, lacking)
    statements += [_grant_to_act_as(conn, principal, login) for login in lacking]
    try:
        with conn.transaction():
            for statement in statements:
                conn.execute(statement)
    except errors.InsufficientPrivilege as error:
        lines = "\n".join(f"    {statement.as_string(conn)};" for statement in statements)
        raise TokenError(
            f"{conn.info.user} may not make the role: {error.diag.message_primary}. Have an"
            f" administrator run this, then try again:\n{lines}"
        ) from None


def _grant_to_act_as(conn: Connection, principal: str, login: str) -> sql.Composed:
    settable = " with inherit false, set true" if conn.info.server_version >= 160000 else ""
    return sql.SQL("grant {} to {}" + settable).format(
        sql.Identifier(principal), sql.Identifier(login)
    )


def _check_walls(conn: Connection, principal: str, lacking: list[str]) -> None:
    """Refuse to bind who asks; before PostgreSQL 16 a login inherits whatever it is granted.

    No wall binds the owner or the logins of the API, who are granted the role, too.
    """
    user = conn.info.user
    if conn.info.server_version >= 160000 or user not in lacking:
        return
    if conn.execute(
        """
        select
        from pg_roles as u
        join pg_namespace as n on n.nspname = 'rota'
        join pg_roles as a on a.rolname = 'rota_api'
        where u.rolname = session_user
            and u.rolinherit
            and not pg_has_role(u.oid, n.nspowner, 'usage')
            and not pg_has_role(u.oid, a.oid, 'member')
            and exists (
                select
                from rota.walls as w
                join pg_roles as r on r.rolname = w.principal
                where pg_has_role(%s, r.oid, 'usage')
            )
        """,
        [principal],
    ).rowcount:
        raise TokenError(
            f"{user} would be behind the walls of {principal}, for before PostgreSQL 16 it inherits"
            " what it is granted: make this token as the owner of the schema rota"
        )


def _is_member(conn: Connection, member: str, role: str) -> bool:
    return conn.execute("select pg_has_role(%s, %s, 'member')", [member, role]).fetchone() == (
        True,
    )


def _logins(conn: Connection) -> list[str]:
    """Return who must be able to act as a principal: the API's logins, the owner, and who asks."""
    return [
        login
        for (login,) in conn.execute(
            """
            select r.rolname
            from pg_roles as r
            where r.rolcanlogin
                and not r.rolsuper
                and (
                    r.rolname = session_user
                    or r.oid = (select n.nspowner from pg_namespace as n where n.nspname = 'rota')
                    or exists (
                        select from pg_roles as a
                        where a.rolname = 'rota_api' and pg_has_role(r.oid, a.oid, 'member')
                    )
                )
            order by r.rolname
            """
        )
    ]


def _advice(conn: Connection) -> str:
    """Say what the API's login lacks where it was made before there were tokens.

    Which login that is cannot be known, so none is given the right to act for everybody unasked.
    """
    logins = conn.execute(
        """
        select r.rolname
        from pg_roles as r
        where r.rolcanlogin
            and not r.rolsuper
            and r.oid <> (select n.nspowner from pg_namespace as n where n.nspname = 'rota')
            and pg_has_role(r.oid, to_regrole('rota_producer'), 'member')
            and pg_has_role(r.oid, to_regrole('rota_operator'), 'member')
            and not exists (
                select
                from pg_roles as l
                where l.rolcanlogin
                    and not l.rolsuper
                    and pg_has_role(l.oid, to_regrole('rota_api'), 'member')
            )
        order by r.rolname
        """
    ).fetchall()
    return "".join(
        f"\nNo login may look up tokens. If the API logs in as {login}, have an administrator run:"
        f"\n    grant rota_api to {sql.Identifier(login).as_string(conn)};"
        f"\n    {_grant_to_act_as(conn, FIRST_PRINCIPAL, login).as_string(conn)};"
        for (login,) in logins
    )


def ensure_token(url: str, token: str) -> str:
    """See to it that a given token is one of the API, with all scopes; return what to report.

    It replaces those that were given before: their role is ``rota_token``.

    Args:
        url: the database, of a login that may create roles.
        token: at least 32 characters that nobody can guess.

    Raises:
        TokenError: the token is too weak, or was revoked.
        psycopg.Error: the server refused a statement.
    """
    if not GIVEN.fullmatch(token):
        raise TokenError(
            "ROTA_TOKEN must have 32 characters or more, of letters, digits and -._~+/: make one"
            " with python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    token_hash = sha256(token.encode()).digest()
    with psycopg.connect(writable(url), autocommit=True, application_name="rota token") as conn:
        settle(conn)
        with conn.transaction():
            known = conn.execute(
                """
                select t.token_id, t.revoked_at is not null
                from rota.api_tokens as t
                where t.hash = %s
                """,
                [token_hash],
            ).fetchone()
            if known and known[1]:
                raise TokenError(
                    f"ROTA_TOKEN is token {known[0]}, which was revoked: choose another"
                )
            make_principal(conn, FIRST_PRINCIPAL, [*SCOPES])
            if known:
                return f"ROTA_TOKEN is token {known[0]}, of role {FIRST_PRINCIPAL}{_advice(conn)}"
            before: list[Any] = conn.execute(
                "select token_id from rota.tokens where principal = %s and revoked_at is null",
                [FIRST_PRINCIPAL],
            ).fetchall()
            for (token_id,) in before:
                call(conn, "revoke_token", token_id=token_id)
            [made] = call(
                conn,
                "create_token",
                principal=FIRST_PRINCIPAL,
                note="ROTA_TOKEN of the deploy",
                hash=token_hash,
            )
            token_id = made["token_id"]
            return f"ROTA_TOKEN is token {token_id} now, of role {FIRST_PRINCIPAL}{_advice(conn)}"


if __name__ == "__main__":
    sys.exit(main())
