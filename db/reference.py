"""Write docs/functions.md: ``python -m rota.db.reference URL >docs/functions.md``.

All of it is read from a deployed database: signatures, comments, and who may call what.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

GRANTS = Path(__file__).with_name("grants.sql")

HEAD = """\
# Functions and views

Everything that Rota can be asked, in the schema `rota`, by who asks: each function stands under the
first of its callers. Call functions in named notation
(`enqueue_job(task => 'echo', queue => 'mail')`): parameters are never renamed, and new ones have
defaults. This page is generated: `python -m rota.db.reference URL >docs/functions.md`.
"""

OWNER = "owner"
GROUPS = {
    "rota_producer": (
        "Producers",
        "They add jobs and schedules, in the transaction that makes what the jobs are about.",
    ),
    "rota_worker": (
        "Workers",
        "They claim jobs under a lease, keep it, and say how each attempt ended; between jobs they"
        " sleep, tell of themselves, and take back what dead workers held.",
    ),
    "rota_operator": (
        "Operators",
        "They steer what is there, jobs, schedules and queues, and look after the house.",
    ),
    "rota_reader": (
        "Readers",
        "They look at everything, in these views, and change nothing; operators do too.",
    ),
    "rota_api": (
        "API",
        "Its login finds out whose a token is, and becomes that role.",
    ),
    OWNER: (
        "Deployers",
        "They bring all of this, by `rota deploy`; each program asks at its start what is there.",
    ),
}

FUNCTIONS = """
    select
        p.proname,
        pg_get_function_arguments(p.oid),
        case when p.proretset then 'setof ' else '' end,
        coalesce(
            (
                select string_agg(
                    format(
                        '%s %s',
                        a.attname,
                        format_type(coalesce(b.typbasetype, d.typbasetype, a.atttypid), null)
                    ),
                    ', ' order by a.attnum
                )
                from pg_attribute as a
                left join pg_type as d on d.oid = a.atttypid and d.typtype = 'd'
                left join pg_type as b on b.oid = d.typbasetype and b.typtype = 'd'
                where a.attrelid = t.typrelid and a.attnum > 0
            ),
            format_type(t.oid, null)
        ),
        obj_description(p.oid, 'pg_proc'),
        array(
            select r.rolname
            from aclexplode(p.proacl) as acl
            join pg_roles as r on r.oid = acl.grantee
            where r.rolname like 'rota\\_%' and acl.privilege_type = 'EXECUTE'
        )
    from pg_proc as p
    join pg_type as t on t.oid = p.prorettype
    where p.pronamespace = 'rota'::regnamespace and p.proname not like '\\_%'
    order by p.proname
"""

VIEWS = """
    select
        c.relname,
        obj_description(c.oid, 'pg_class'),
        array(
            select format(
                '%s %s',
                a.attname,
                format_type(coalesce(b.typbasetype, d.typbasetype, a.atttypid), null)
            )
            from pg_attribute as a
            left join pg_type as d on d.oid = a.atttypid and d.typtype = 'd'
            left join pg_type as b on b.oid = d.typbasetype and b.typtype = 'd'
            where a.attrelid = c.oid and a.attnum > 0
            order by a.attnum
        ),
        array(
            select r.rolname
            from aclexplode(c.relacl) as acl
            join pg_roles as r on r.oid = acl.grantee
            where r.rolname like 'rota\\_%' and acl.privilege_type = 'SELECT'
        )
    from pg_class as c
    where c.relnamespace = 'rota'::regnamespace and c.relkind = 'v'
        and has_table_privilege('rota_reader', c.oid, 'select')
    order by c.relname
"""


class Entry(NamedTuple):
    """A function or a view on the page."""

    name: str
    group: str  # the key in GROUPS
    callers: list[str]  # the roles that have a right to it
    text: str


def render(conn: psycopg.Connection[Any]) -> str:
    """Return the reference of a database's Rota, in Markdown."""
    places = _places()
    entries = sorted(
        [*_functions(conn), *_views(conn)],
        key=lambda entry: places.get(entry.name, len(places)),
    )
    contents = ["\n| who | may ask |\n| --- | --- |\n"]
    parts = []
    for group, (heading, sentence) in GROUPS.items():
        parts.append(f"\n## {heading}\n\n{sentence}\n")
        parts += [entry.text for entry in entries if entry.group == group]
        asked = [entry.name for entry in entries if group in (entry.group, *entry.callers)]
        links = ", ".join(f"[{name}](#{name})" for name in asked)
        contents.append(f"| [{heading}](#{heading.lower()}) | {links} |\n")
    return "".join([HEAD, *contents, *parts])


def _places() -> dict[str, int]:
    """Return the order of functions and views: that of the table of rights."""
    names = re.findall(r"'(?:function|table)',\s+'(\w+)'", GRANTS.read_text())
    return {name: place for place, name in enumerate(names)}


def _functions(conn: psycopg.Connection[Any]) -> Iterator[Entry]:
    for name, arguments, prefix, result, comment, roles in conn.execute(FUNCTIONS):
        lines = [f"    {argument}" for argument in _split(_plain(arguments))]
        body = "(\n" + ",\n".join(lines) + "\n)" if lines else "()"
        returns = f"({_plain(result)})" if ", " in result else _plain(result)
        callers = [role for role in GROUPS if role in roles]
        everybody = len(callers) == len(GROUPS) - 1
        text = (
            f"\n### {name}\n\n{comment}\n{_for(callers)}\n\n"
            f"```text\n{name}{body}\n→ {prefix}{returns}\n```\n"
        )
        yield Entry(name, callers[0] if callers and not everybody else OWNER, callers, text)


def _views(conn: psycopg.Connection[Any]) -> Iterator[Entry]:
    for name, comment, columns, roles in conn.execute(VIEWS):
        listed = ", ".join(f"`{_plain(column)}`" for column in columns)
        callers = [role for role in GROUPS if role in roles]
        text = f"\n### {name}\n\n{comment}\n{_for(callers)}\n\n{listed}\n"
        yield Entry(name, "rota_reader", callers, text)


def _for(callers: list[str]) -> str:
    return f"For {', '.join(f'`{role}`' for role in callers) or 'the owner only'}."


def _plain(text: str) -> str:
    """Leave out what a reader knows: the types of literals, our schema, the long names of types."""
    text = re.sub(r"('(?:[^']|'')*'|NULL)::[a-z ]+(\[\])?", r"\1", text)
    text = text.replace("timestamp with time zone", "timestamptz").replace("rota.", "")
    return re.sub(r"\b(DEFAULT|NULL)\b", lambda word: word[0].lower(), text)


def _split(arguments: str) -> list[str]:
    """Split a list of arguments at its commas, but for those in literals."""
    return [item for item in re.split(r", (?=\w+ [a-z])", arguments) if item]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with psycopg.connect(sys.argv[1]) as connection:
        sys.stdout.write(render(connection))
