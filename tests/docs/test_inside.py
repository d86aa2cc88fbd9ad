"""What docs/inside.md says of the code is so, where a machine can tell."""

import re

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "inside.md").read_text()
LISTS = ("db/functions/README.md", "db/functions/<room>/<name>.sql")
ALIAS = re.compile(r"@[a-z]+")


def section(title: str) -> str:
    """Return the text below a heading, up to the next of its level."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> set[str]:
    """Return the names in the first column of the tables in a text."""
    return {
        name
        for line in re.findall(r"^\| (.*?) \|", text, re.M)
        for name in re.findall(r"`(\w+)`", line)
    }


def test_the_tables_are_those_of_the_database(conn):
    rows = conn.execute(
        """
        select c.relname
        from pg_class as c
        where c.relnamespace = 'rota'::regnamespace
            and c.relkind in ('r', 'p')
            and not c.relispartition
            and c.relname not like '%yoyo%'
        """
    )

    assert first_cells(section("Tables")) == {name for (name,) in rows}


def test_the_fields_of_the_cursor_are_those_of_its_type(conn):
    rows = conn.execute(
        """
        select a.attname
        from pg_attribute as a
        where a.attrelid = 'rota.lane_cursors'::regclass
            and a.attnum > 0
            and a.attname not in ('queue', 'priority')
        """
    )

    assert first_cells(section("The claim cursor")) == {name for (name,) in rows}


def test_every_function_that_it_names_is_there_and_the_life_of_a_row_has_every_door_of_it(conn):
    known = {
        name
        for (name,) in conn.execute(
            "select proname from pg_proc where pronamespace = 'rota'::regnamespace"
            " union select viewname from pg_views where schemaname = 'rota'"
        )
    }
    helpers = set(re.findall(r"`(_[a-z_]+)`", PAGE))
    doors = first_cells(re.sub(r"^\| [^|]* \|", "|", section("The life of a row"), flags=re.M))
    steps = {"steer", "finish", "lease", "claim", "enqueue"}
    of_a_row = {
        path.stem
        for room in steps
        for path in (ROOT / "db" / "functions" / room).glob("[a-z]*.sql")
    }

    assert helpers <= known
    assert doors <= known
    assert of_a_row - {"hold_lease"} <= doors


def test_every_file_that_it_names_is_there():
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", PAGE)) - set(LISTS)

    assert len(named) > 40
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_cron_alias_is_in_its_hint_and_in_the_manual():
    source = (ROOT / "db" / "functions" / "cron" / "_cron_parse.sql").read_text()
    known = {alias.lower() for alias in re.findall(r"when '(@[A-Z]+)'", source)}
    manual = (ROOT / "docs" / "schedules.md").read_text()
    tests = (ROOT / "tests" / "schedules" / "test_next_run.py").read_text()

    assert known
    assert set(ALIAS.findall(source.split("hint = ")[1])) == known
    assert set(ALIAS.findall(manual)) >= known
    assert set(ALIAS.findall(tests)) >= known
