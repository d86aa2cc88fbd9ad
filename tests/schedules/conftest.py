"""What the tests of schedules share: asking the server for many answers in one round trip."""

from collections.abc import Callable
from datetime import datetime

import pytest
from psycopg import Connection

from tests.schedules.zones import agreed_zones

Question = tuple[str, str, datetime]


@pytest.fixture
def ask(conn: Connection) -> Callable[[list[Question]], list[datetime | str]]:
    """Ask next_run many (expression, zone, after) at once; a refusal gives its SQLSTATE."""
    conn.execute("set time zone 'UTC'")
    conn.execute("""
        create function pg_temp.answer(
            cron text, time_zone text, after timestamptz, out moment timestamptz, out error text
        )
            language plpgsql
        as $$
        begin
            moment := rota.next_run(cron, time_zone, after);
        exception
            when sqlstate 'RTV01' or sqlstate 'RTV02' then
                error := sqlstate;
        end;
        $$
    """)

    def answers(questions: list[Question]) -> list[datetime | str]:
        rows = conn.execute(
            "select a.moment, a.error"
            " from unnest(%s::text[], %s::text[], %s::timestamptz[]) with ordinality"
            "     as q (cron, zone, after, n)"
            " cross join lateral pg_temp.answer(q.cron, q.zone, q.after) as a"
            " order by q.n",
            [list(column) for column in zip(*questions, strict=True)],
        )
        return [moment or error for moment, error in rows]

    return answers


@pytest.fixture
def agreed(conn: Connection) -> list[str]:
    """The zones that the server and Python know alike."""
    return agreed_zones(conn)
