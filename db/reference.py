"""Write the reference of functions and views: ``python -m db.reference URL >docs/functions.md``.

All of it is read from a deployed database: signatures, comments, and who may call what.
"""

import re
import sys
from typing import Any

import psycopg

HEAD = """\
# Functions and views

Everything that Rota can be asked, in the schema `rota`. Call functions in named notation
(`enqueue_job(task => 'echo', queue => 'mail')`): parameters are never renamed, and new ones have
defaults. This page is generated: `python -m db.reference URL >docs/functions.md`.
"""

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
            order by r.rolname
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
        )
    from pg_class as c
    where c.relnamespace = 'rota'::regnamespace and c.relkind = 'v'
        and has_table_privilege('rota_reader', c.oid, 'select')
    order by c.relname
"""


def render(conn: psycopg.Connection[Any]) -> str:
    """Return the reference of a database's Rota, in Markdown."""
    parts = [HEAD, "\n## Functions\n"]
    for name, arguments, prefix, result, comment, roles in conn.execute(FUNCTIONS):
        lines = [f"    {argument}" for argument in _split(_plain(arguments))]
        body = "(\n" + ",\n".join(lines) + "\n)" if lines else "()"
        returns = f"({_plain(result)})" if ", " in result else _plain(result)
        callers = ", ".join(f"`{role}`" for role in roles) or "the owner only"
        parts.append(
            f"\n### {name}\n\n{comment}\nFor {callers}.\n\n"
            f"```text\n{name}{body}\n→ {prefix}{returns}\n```\n"
        )
    parts.append("\n## Views\n\nFor `rota_reader` and `rota_operator`.\n")
    for name, comment, columns in conn.execute(VIEWS):
        listed = ", ".join(f"`{_plain(column)}`" for column in columns)
        parts.append(f"\n### {name}\n\n{comment}\n\n{listed}\n")
    return "".join(parts)


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
