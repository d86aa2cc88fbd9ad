"""How many slots lie between two moments: counted by arithmetic, as many as a walk finds.

``next_run`` and the grid of intervals agree with the oracle (test_next_run, test_interval_slot), so
to walk them, one slot after another, is the oracle here.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import Connection

from tests.schedules.expressions import CRON
from tests.schedules.test_interval_slot import grids
from tests.schedules.zones import ZONES, changes

pytestmark = [pytest.mark.leaves_nothing, pytest.mark.on_first_server]

EXAMPLES = int(os.environ.get("ROTA_COUNT_EXAMPLES", "8"))
MANY = 25  # questions asked at once
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)

# Walks so many slots from a moment, and counts them from there up to the last, to just before it,
# and to just before the one that follows. Of the moments of a long walk, half are left out.
WALK = """
    create function pg_temp.differences(schedule rota.schedules, after timestamptz, steps integer)
        returns text
        language plpgsql
    as $$
    declare
        v_slots timestamptz[] := '{}';
        v_slot timestamptz := after;
        v_place integer;
        v_found bigint;
        v_moment timestamptz;
    begin
        for v_step in 0..steps loop
            v_slot := rota._slot_after(schedule, v_slot);
            exit when v_slot is null or v_slot > '9990-01-01 00:00+00';
            v_slots := v_slots || v_slot;
        end loop;

        if v_slots = '{}' then
            return 'there is no slot';
        end if;

        for v_number in 1..cardinality(v_slots) - 1 loop
            continue when v_number < steps - 5 and v_number % 7 > 0;

            foreach v_moment in array array[
                v_slots[v_number] - interval '1 microsecond',
                v_slots[v_number],
                v_slots[v_number + 1] - interval '1 microsecond'
            ] loop
                v_found := rota._slots_between(schedule, after, v_moment);

                if v_found <> v_number - (v_moment < v_slots[v_number])::integer then
                    return format('%s slots up to %s, not %s', v_number, v_moment, v_found);
                end if;
            end loop;

            v_place := 1 + v_number * 31 % 17 * v_number / 17;
            v_moment := v_slots[v_number + 1] - interval '1 microsecond';
            v_slot := rota._slot_from_end(schedule, after, v_moment, v_number, v_place);

            if v_slot <> v_slots[v_number + 1 - v_place] then
                return format(
                    'the last but %s before %s is %s, not %s',
                    v_place - 1, v_moment, v_slots[v_number + 1 - v_place], v_slot
                );
            end if;
        end loop;

        return null;
    end;
    $$
"""


def differences(conn: Connection, schedules: list[dict[str, Any]]) -> list[str]:
    """Ask for the counts that differ from a walk."""
    conn.execute("set time zone 'America/New_York'")  # as any caller may have
    if not conn.execute("select to_regproc('pg_temp.differences')").fetchone()[0]:
        conn.execute(WALK)
    rows = conn.execute(
        """
        select pg_temp.differences(
            row(
                0, make_interval(months => q.months, days => q.days, secs => q.seconds), q.cron,
                q.zone, q.starts_at, q.ends_at, null, false, '0', 'once', 1, null, 'coalesce',
                null, null
            )::rota.schedules,
            q.after,
            q.steps
        )
        from unnest(
            %(cron)s::text[], %(months)s::integer[], %(days)s::integer[], %(seconds)s::float8[],
            %(zone)s::text[], %(starts_at)s::timestamptz[], %(ends_at)s::timestamptz[],
            %(after)s::timestamptz[], %(steps)s::integer[]
        ) with ordinality
            as q (cron, months, days, seconds, zone, starts_at, ends_at, after, steps, n)
        order by q.n
        """,
        {
            key: [schedule.get(key) for schedule in schedules]
            for key in (
                *("cron", "months", "days", "seconds"),
                *("zone", "starts_at", "ends_at", "after", "steps"),
            )
        },
    )
    return [
        f"{schedule}: {difference}"
        for schedule, (difference,) in zip(schedules, rows, strict=True)
        if difference
    ]


@st.composite
def crons(draw: st.DrawFn) -> dict[str, Any]:
    """An expression, a zone, and a moment that is often just before a clock change."""
    zone = draw(st.sampled_from(list(ZONES)))
    near = [change for change in changes(zone) if 1990 < change.year < 2050]
    if near and draw(st.integers(0, 3)):
        after = draw(st.sampled_from(near)) + timedelta(minutes=draw(st.integers(-3000, 1600)))
    else:
        after = draw(
            st.datetimes(datetime(1990, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC))
        )
    after -= draw(st.sampled_from([timedelta(0), SECOND / 2, 7 * SECOND]))
    return {
        "cron": draw(CRON),
        "zone": zone,
        "after": after,
        "starts_at": after - DAY,
        "steps": draw(st.sampled_from([3, 30, 120])),
    }


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # the failing assertion names its one question
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(schedules=st.lists(crons(), min_size=MANY, max_size=MANY))
def test_as_many_slots_of_a_cron_expression_are_counted_as_walked(
    conn: Connection, schedules: list[dict[str, Any]]
) -> None:
    possible = [
        schedule
        for schedule, (can_come,) in zip(
            schedules,
            conn.execute(
                "select (rota._find_slot_after(row(0, null, q.cron, 'UTC', 'epoch', null, null,"
                " false, '0', 'once', 1, null, 'coalesce', null, null)::rota.schedules,"
                " 'epoch')).error is null"
                " from unnest(%s::text[]) with ordinality as q (cron, n) order by q.n",
                [[schedule["cron"] for schedule in schedules]],
            ),
            strict=True,
        )
        if can_come
    ]

    assert differences(conn, possible) == []


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    questions=st.lists(grids(), min_size=MANY, max_size=MANY), steps=st.sampled_from([3, 30, 120])
)
def test_as_many_slots_of_an_interval_are_counted_as_walked(
    conn: Connection, questions: list[tuple], steps: int
) -> None:
    schedules = [
        {
            "starts_at": starts_at,
            "months": months,
            "days": days,
            "seconds": elapsed.total_seconds(),
            "zone": zone,
            "after": after,
            "steps": steps,
        }
        for starts_at, months, days, elapsed, zone, after in questions
    ]

    assert differences(conn, schedules) == []


@pytest.mark.parametrize("change", ["2030-03-31T01:00+00:00", "2030-10-27T01:00+00:00"])
@pytest.mark.parametrize(
    "cron", ["* * * * * *", "58,59 59 * * * *", "0,1 0 * * * *", "*/1 * 2 * * *", "59 59 2 * * *"]
)
def test_every_second_around_a_change_of_the_clocks_is_counted(
    conn: Connection, cron: str, change: str
) -> None:
    after = datetime.fromisoformat(change) - 5 * SECOND
    timing = {"cron": cron, "zone": "Europe/Berlin", "starts_at": after - DAY, "steps": 20}

    assert differences(conn, [{**timing, "after": after - n * SECOND} for n in range(3)]) == []


@pytest.mark.parametrize("starts_at", ["2011-12-28T00:00-10:00", "2011-12-28T09:00-10:00"])
def test_a_day_that_is_skipped_is_no_slot_of_its_own(conn: Connection, starts_at: str) -> None:
    moment = datetime.fromisoformat(starts_at)
    day = {"months": 0, "days": 1, "seconds": 0, "zone": "Pacific/Apia"}
    day |= {"starts_at": moment, "after": moment, "steps": 9}

    assert differences(conn, [day]) == []


def test_slots_begin_with_the_start_and_end_before_the_end(conn: Connection) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    hourly = {
        "cron": "0 * * * *",
        "zone": "UTC",
        "starts_at": start,
        "ends_at": start + 5 * timedelta(hours=1),
        "after": start - DAY,
        "steps": 30,
    }

    assert differences(conn, [hourly]) == []
    counted = conn.execute(
        """
        select rota._slots_between(
            row(
                0, null, '0 * * * *', 'UTC', %(start)s, %(end)s, null, false, '0', 'once', 1, null,
                'coalesce', null, null
            )::rota.schedules,
            '-infinity',
            'infinity'
        )
        """,
        {"start": hourly["starts_at"], "end": hourly["ends_at"]},
    )
    assert counted.fetchone() == (5,)
