"""A server whose defaults are against us: ``make hostile``, or ``ROTA_HOSTILE=1`` and pytest.

Every default that a database, a role or a server may have and that changes what a statement means
or how a value is written is set to something that nobody expects. Rota's functions must answer as
ever. What a caller must see to is the isolation level, which a claim refuses to guess, and how its
own arguments are read: the tests' connections set READ COMMITTED and ``array_nulls``, and they ask
for values in binary form, which no style changes.
"""

import psycopg
from psycopg import Connection, Cursor, errors, sql
from psycopg.pq import Format

# Of the server, and so of all its databases and roles. A time zone whose clocks change by half an
# hour, days before months, and an encoding that has every character but no byte of UTF-8's.
SETTINGS = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Australia/Lord_Howe",
    "timezone_abbreviations": "Australia",
    "client_encoding": "GB18030",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "backslash_quote": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "xmlbinary": "hex",
    "xmloption": "document",
    "default_transaction_isolation": "serializable",
    "default_text_search_config": "pg_catalog.turkish",
    "plpgsql.extra_errors": "all",
    "plpgsql.variable_conflict": "use_column",
    "check_function_bodies": "off",
    "plan_cache_mode": "force_custom_plan",
    "client_min_messages": "error",
}


def create_database(conn: Connection, name: str) -> None:
    """Create a database for which ``upper('i')`` is not ``I``, if the server knows of Turkish."""
    turkish = sql.SQL(
        "create database {} template template0 encoding 'UTF8'"
        " locale_provider icu icu_locale 'tr-TR'"
    )
    try:
        conn.execute(turkish.format(sql.Identifier(name)))
    except errors.FeatureNotSupported:
        conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


class BinaryCursor(Cursor):
    """Has the values of single statements sent in binary form, which no style changes."""

    def execute(self, query, params=None, **options):
        """Execute a query, as psycopg's own cursor does."""
        if isinstance(query, bytes):
            text = query.decode()
        else:
            text = query if isinstance(query, str) else query.as_string(self)
        if ";" not in text.strip().rstrip(";"):
            self.format = Format.BINARY
        return super().execute(query, params, **options)


def connect(url: str, **options) -> Connection:
    """Connect, and set nothing but what a caller must see to."""
    conn = psycopg.connect(url, cursor_factory=BinaryCursor, **options)
    conn.execute("set default_transaction_isolation = 'read committed'")
    conn.execute("set array_nulls = on")
    if not conn.autocommit:
        conn.commit()
    return conn
