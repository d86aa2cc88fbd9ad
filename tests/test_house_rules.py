"""The house rules that a machine can check: on functions, on rights, on calls."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import Connection, errors

from rota.db.deploy import ROLES
from rota.db.version import FOLDER
from tests.walls import BEHIND_A_WALL

pytestmark = pytest.mark.on_every_server

ROOT = FOLDER.parent
EXPECTED_GRANTS = Path(__file__).with_name("expected_grants.txt")
RAISE = re.compile(r"\braise\s+exception\b(?:'(?:[^']|'')*'|[^';])*;")
# pg_temp last: a path that does not name it is searched for types in pg_temp first, where any
# caller may have put a domain whose check then runs as the functions' owner.
PINNED = "search_path=pg_catalog, pg_temp"
FUNCTION_FILES = sorted((FOLDER / "functions").rglob("*.sql"))

# Every right that anybody but the owner has on anything in the schema.
GRANTS = """
    select a.kind, a.name, a.privilege, coalesce(r.rolname, 'PUBLIC')
    from (
        select 'function', p.proname::text, g.privilege_type, g.grantee, p.proowner
        from pg_proc as p
        cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as g
        where p.pronamespace = 'rota'::regnamespace
        union all
        select
            case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end,
            c.relname::text,
            g.privilege_type,
            g.grantee,
            c.relowner
        from pg_class as c
        cross join aclexplode(
            coalesce(
                c.relacl,
                acldefault((case c.relkind when 'S' then 's' else 'r' end)::"char", c.relowner)
            )
        ) as g
        where c.relnamespace = 'rota'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
        union all
        select 'column', t.attrelid::regclass || '.' || t.attname, g.privilege_type, g.grantee, 0
        from pg_attribute as t
        join pg_class as c on c.oid = t.attrelid
        cross join aclexplode(t.attacl) as g
        where c.relnamespace = 'rota'::regnamespace
        union all
        select 'schema', n.nspname::text, g.privilege_type, g.grantee, n.nspowner
        from pg_namespace as n
        cross join aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) as g
        where n.nspname = 'rota'
    ) as a (kind, name, privilege, grantee, owner)
    left join pg_roles as r on r.oid = a.grantee
    where a.grantee <> a.owner
"""


def functions(conn: Connection) -> list[dict]:
    """Return what the catalogue says about each of our functions."""
    with conn.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute(
            """
            select
                p.proname as name,
                p.oid,
                p.prosrc as body,
                l.lanname as language,
                p.prosecdef as is_definer,
                coalesce(p.proconfig, '{}') as settings,
                coalesce(p.proargnames[1:p.pronargs], '{}') as parameters,
                p.pronargdefaults as defaults,
                p.proargtypes::oid[]::regtype[]::text[] as types,
                obj_description(p.oid, 'pg_proc') as comment
            from pg_proc as p
            join pg_language as l on l.oid = p.prolang
            where p.pronamespace = 'rota'::regnamespace
            order by p.proname
            """
        ).fetchall()


def test_each_file_creates_the_one_function_it_is_named_for(conn):
    created = [function["name"] for function in functions(conn)]

    assert sorted(created) == sorted([path.stem for path in FUNCTION_FILES] + ["version"])
    for path in FUNCTION_FILES:
        creations = re.findall(r"^create or replace function (\S+?)\(", path.read_text(), re.M)
        assert creations == [f"rota.{path.stem}"], path.name


def test_a_file_drops_no_function_of_another_name():
    """A deploy refuses functions that no file is named for, before it runs any file."""
    for path in FUNCTION_FILES:
        for dropped in re.findall(r"drop function if exists rota\.(\w+)", path.read_text()):
            assert dropped == path.stem


def rooms() -> list[str]:
    """Return the rooms of db/functions as its contents page lists them."""
    page = (FOLDER / "functions" / "README.md").read_text()
    return re.findall(r"^\| `([\w/]+)` \|", page, re.M)


def room(path: Path) -> str:
    return path.parent.relative_to(FOLDER / "functions").as_posix()


def test_every_function_is_in_a_room_that_the_contents_page_names():
    assert {room(path) for path in FUNCTION_FILES} == set(rooms())
    assert len(set(rooms())) == len(rooms())


def test_a_room_calls_only_rooms_that_stand_above_it():
    floors = {name: floor for floor, name in enumerate(rooms())}
    where = {path.stem: room(path) for path in FUNCTION_FILES}
    calls = [
        (path, called)
        for path in FUNCTION_FILES
        for called in re.findall(r"\brota\.(\w+)\s*\(", re.sub(r"--.*", "", path.read_text()))
        if called in where
    ]

    assert len(calls) > 200
    assert not [
        f"{path.stem} ({room(path)}) calls {called} ({where[called]})"
        for path, called in calls
        if floors[where[called]] > floors[room(path)]
    ]


def test_every_function_that_the_contents_page_names_is_there_in_its_room():
    page = (FOLDER / "functions" / "README.md").read_text()
    for name, doors in re.findall(r"^\| `([\w/]+)` \|.*\|(.*)\|$", page, re.M):
        for door in re.findall(r"`(\w+)`", doors):
            assert (FOLDER / "functions" / name / f"{door}.sql").exists(), door


def test_settings_that_only_make_a_function_fast_stand_in_one_file(conn):
    planner = re.compile(r"^\s*set (plan_cache_mode|jit|enable_\w+|\w+_cost)\b", re.M)
    assert not [path.stem for path in FUNCTION_FILES if planner.search(path.read_text())]

    named = set(re.findall(r"'(\w+)'", (FOLDER / "settings.sql").read_text()))
    fast = {
        function["name"]
        for function in functions(conn)
        if function["name"] != "_now"  # which is the one of rota.testing here
        and any(
            re.match(r"plan_cache_mode|jit|enable_|\w+_cost", setting)
            for setting in function["settings"]
        )
    }
    assert fast
    assert fast == named & {path.stem for path in FUNCTION_FILES}


def test_each_function_has_a_comment_of_one_sentence(conn):
    for function in functions(conn):
        assert function["comment"], function["name"]
        assert function["comment"].endswith("."), function["name"]


def test_the_file_of_each_door_says_first_why_it_is_safe():
    for path in FUNCTION_FILES:
        text = re.sub(r"\A(drop (function|type) if exists [^;]*;\s*)+", "", path.read_text())
        assert text.startswith("-- ") or path.stem.startswith("_"), path.name


def test_the_search_path_is_pinned_wherever_it_matters(conn):
    for function in functions(conn):
        if function["language"] != "sql" or function["is_definer"]:
            assert PINNED in function["settings"], function["name"]


def test_every_raised_exception_has_a_code_of_ours():
    raised = 0
    for path in FUNCTION_FILES:
        code = re.sub(r"--.*", "", path.read_text())
        for statement in RAISE.findall(code):
            assert re.search(r"\berrcode\s*=\s*('RT[A-Z][0-9A-Z]{2}'|'42501'|v_\w+)", statement), (
                path.name,
                statement,
            )
            raised += 1
    assert raised > 20


def test_no_parameter_has_a_type_that_drivers_do_not_send(conn):
    for function in functions(conn):
        assert not {"smallint", "numeric", "real"}.intersection(function["types"]), function["name"]


def test_sql_stays_within_a_hundred_columns_and_has_no_tabs():
    assert not [
        f"{path.name}:{number}"
        for path in FOLDER.rglob("*.sql")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100 or "\t" in line
    ]


def test_the_text_of_functions_is_read_alike_in_every_session():
    """No backslash, whose meaning in literals is a setting; ASCII, which every client can show."""
    for path in (
        *FUNCTION_FILES,
        *(FOLDER / f"{name}.sql" for name in ("views", "settings", "triggers", "grants")),
    ):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("-- ")[0]
            assert "\\" not in code, f"{path.name}:{number}"
            assert line.isascii(), f"{path.name}:{number}"


def test_no_function_depends_on_case_or_order_of_the_database_s_language():
    """What cron knows as FRI must not become FRİ; who locks in the order of texts must agree."""
    for path in FUNCTION_FILES:
        code = re.sub(r"--.*", "", path.read_text())
        for call in re.finditer(r"\b(upper|lower|initcap)\(", code):
            assert 'collate "C"' in code[call.end() : call.end() + 100], path.name
        assert not re.search(r"~\*|\bilike\b", code), path.name


def test_nothing_is_granted_to_public_and_no_table_can_be_written(conn):
    for kind, name, privilege, grantee in conn.execute(GRANTS):
        assert grantee != "PUBLIC", (kind, name, privilege)
        assert privilege in {"function": "EXECUTE", "schema": "USAGE"}.get(kind, "SELECT"), name


def test_rights_are_those_of_the_checked_in_table(conn):
    """After a change of db/grants.sql: WRITE_EXPECTED_GRANTS=1 pytest tests/test_house_rules.py."""
    found = grants_table(conn)
    if os.environ.get("WRITE_EXPECTED_GRANTS"):
        EXPECTED_GRANTS.write_text(found)

    assert found == EXPECTED_GRANTS.read_text()


def grants_table(conn: Connection) -> str:
    """Return a table of functions, tables and views by role, as the server judges the rights."""
    rows = conn.execute(
        """
        select 'function', p.proname::text, r.name,
            case when has_function_privilege(r.name, p.oid, 'execute') then 'x' else '' end
        from pg_proc as p
        cross join unnest(%(roles)s::text[]) as r (name)
        where p.pronamespace = 'rota'::regnamespace and p.proname not like '\\_%%'
        union all
        select
            case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end,
            c.relname::text,
            r.name,
            concat(
                case when has_table_privilege(r.name, c.oid, 'select') then 'r' end,
                case when has_table_privilege(
                    r.name, c.oid, 'insert, update, delete, truncate, references, trigger'
                ) then 'w' end
            )
        from pg_class as c
        cross join unnest(%(roles)s::text[]) as r (name)
        where c.relnamespace = 'rota'::regnamespace
            and c.relkind in ('r', 'p', 'v', 'S')
            and not c.relispartition
        """,
        {"roles": list(ROLES)},
    ).fetchall()
    rights = {(kind, name, role): right for kind, name, role, right in rows}
    lines = [
        "Who may do what: x execute, r read, w write. Helpers (_…) and partitions are nobody's.",
        "Last, what a caller behind a wall gets that asks for somebody else's (walls.py).",
        "",
        f"{'':9} {'':24} "
        + " ".join(f"{role.removeprefix('rota_'):8}" for role in ROLES)
        + " wall",
    ]
    for kind, name in sorted({(kind, name) for kind, name, _ in rights}):
        cells = " ".join(f"{rights[kind, name, role] or '-':8}" for role in ROLES)
        wall = BEHIND_A_WALL[name] if cells.strip(" -") else "-"
        lines.append(f"{kind:9} {name:24} {cells} {wall}")
    return "\n".join(lines) + "\n"


def test_nobody_has_rights_on_helpers_or_partitions(conn):
    granted = {name for _, name, *_ in conn.execute(GRANTS)}
    partitions = conn.execute(
        "select relname from pg_class where relispartition and relnamespace = 'rota'::regnamespace"
    ).fetchall()

    assert partitions
    assert not granted.intersection(name for (name,) in partitions)
    assert {name for name in granted if name.startswith("_")} == {"_lane"}  # which a view calls


def test_nobody_can_read_a_token(conn):
    """A token is its holder's alone; of one claim, all jobs have the same."""
    tokens = conn.execute(
        """
        select c.relname, r.rolname
        from pg_attribute as a
        join pg_class as c on c.oid = a.attrelid
        left join pg_roles as r
            on starts_with(r.rolname, 'rota_')
            and has_column_privilege(r.oid, c.oid, a.attname, 'select')
        where c.relnamespace = 'rota'::regnamespace
            and c.relkind in ('r', 'p', 'v')
            and a.atttypid = 'uuid'::regtype
        order by 1
        """
    ).fetchall()

    assert {"live_jobs", "finished_jobs", "attempts"} <= {name for name, _ in tokens}
    assert {role for _, role in tokens} == {None}


def calls_by_gateway() -> Iterator[tuple[str, ast.Call]]:
    """Find each ``call(conn, "function", …)`` of our programs."""
    for path in (*ROOT.glob("app/**/*.py"), *ROOT.glob("worker/**/*.py"), *ROOT.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "call":
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_call_through_the_gateway_fits_its_function(conn):
    signatures = {function["name"]: function for function in functions(conn)}
    checked = 0
    for place, node in calls_by_gateway():
        given = {keyword.arg for keyword in node.keywords if keyword.arg}
        name = node.args[1]
        if not isinstance(name, ast.Constant):
            continue  # one that is chosen when it runs
        assert name.value in signatures, f"{place}: no function rota.{name.value}"
        signature = signatures[name.value]
        assert given <= set(signature["parameters"]), place
        if all(keyword.arg for keyword in node.keywords):
            needed = len(signature["parameters"]) - signature["defaults"]
            assert given >= set(signature["parameters"][:needed]), place
        checked += 1
    assert checked >= 10


def test_every_call_in_written_sql_fits_its_function(conn):
    signatures = {function["name"]: function["parameters"] for function in functions(conn)}
    checked = 0
    for path in (*ROOT.glob("app/**/*.py"), *ROOT.glob("worker/**/*.py")):
        for name, arguments in re.findall(r"\brota\.(\w+)\(([^)]*)", path.read_text()):
            if not re.search(r"=>|%s|^$", arguments):
                continue  # prose
            assert name in signatures, f"{path.relative_to(ROOT)}: no function rota.{name}"
            assert set(re.findall(r"(\w+) =>", arguments)) <= set(signatures[name]), name
            checked += 1
    assert checked >= 2


def named_in_sql(folder: str) -> Iterator[tuple[str, str]]:
    """Yield each object of ours that the statements of a folder's programs read from or write."""
    for path in ROOT.glob(f"{folder}/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = re.findall(r"\b(?:from|join|into|update|table)\s+rota\.(\w+)", node.value)
                yield from ((f"{path.relative_to(ROOT)}:{node.lineno}", name) for name in found)


def test_programs_call_functions_and_the_api_reads_views_besides(conn):
    doors = {function["name"] for function in functions(conn)}
    views = {
        name
        for (name,) in conn.execute(
            "select relname from pg_class"
            " where relnamespace = 'rota'::regnamespace and relkind = 'v'"
        )
    }
    allowed = {"app": doors | views, "worker": doors, "demo": doors | views, "examples": doors}

    for folder, names in allowed.items():
        assert not [place for place in named_in_sql(folder) if place[1] not in names]
    assert {name for _, name in named_in_sql("app")} >= {"jobs", "executions"}
    assert {name for _, name in named_in_sql("examples")} >= {"claim_next_job", "finish_job"}


def test_the_linter_that_reads_function_bodies_finds_nothing(conn):
    try:
        conn.execute("create extension plpgsql_check")
    except (errors.UndefinedFile, errors.FeatureNotSupported):
        pytest.skip("this server does not have the extension plpgsql_check")
    conn.execute(  # which is there while a partition is copied
        "create trigger thinned after insert or update or delete on rota.attempts_default"
        " for each row execute function rota._note_change('job_id')"
    )

    found = conn.execute(
        """
        select p.proname, c.lineno, c.sqlstate, c.message, c.detail
        from pg_proc as p
        join pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
        left join pg_trigger as t on t.tgfoid = p.oid
        cross join plpgsql_check_function_tb(
            p.oid,
            relid => coalesce(t.tgrelid, 0),
            newtable => t.tgnewtable,
            performance_warnings => false,
            extra_warnings => true,
            security_warnings => true
        ) as c
        where p.pronamespace = 'rota'::regnamespace
            and 'record'::regtype <> all (p.proargtypes) -- whose columns it cannot know
            and not ( -- what _ran_out has written, each name by %I
                p.proname in ('_begin_thinning', '_thin_blocks')
                and c.message = 'text type variable is not sanitized'
            )
            and c.detail is distinct from -- a literal, which takes any type
                format('cast "text" value to "%s" type', substring(c.detail from 'to "(.*)" type'))
        """
    ).fetchall()

    assert found == []
