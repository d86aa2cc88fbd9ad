"""Ten years of a dozen schedules in a dozen zones, run after run, by the clock of the tests.

From 2006 to 2016, when Apia skipped a day, Caracas and Istanbul changed their rules, and midnight
was skipped in São Paulo. Each run is claimed and finished, every seventh with an error.
"""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from psycopg import Connection

from rota.db.gateway import call
from rota.testing import Clock
from tests.schedules import oracle

START = datetime(2006, 1, 1, 12, tzinfo=UTC)
END = datetime(2016, 1, 1, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

CRONS = {
    "UTC": "0 0 29-31 * *",
    "Europe/Berlin": "30 2 * 3,10 *",
    "America/New_York": "30 1,2 * 3,11 SUN",
    "Australia/Lord_Howe": "15 2 * * SUN",
    "Pacific/Apia": "0 12 30 * *",
    "Africa/Casablanca": "30 2 * * SUN",
    "America/Sao_Paulo": "0 0 * * SUN",
    "America/Havana": "0 0 * * SUN",
    "Antarctica/Troll": "*/30 0-4 * 3,10 SUN",
    "America/St_Johns": "1 0 * * SUN",
    "Asia/Pyongyang": "0 0 L * FRI",
}
# months, days, and elapsed time
INTERVALS = {
    "Asia/Kathmandu": (1, 0, timedelta(0)),
    "America/Caracas": (0, 10, timedelta(hours=6)),
    "Europe/Istanbul": (0, 7, timedelta(0)),
}

# One transaction for each hundred turns: in a longer one the rows that are left behind pile up.
SIMULATE = """
    do $$
    declare
        v_at timestamptz;
        v_job record;
        v_turn integer := 0;
    begin
        loop
            select min(j.run_at) into v_at from rota.live_jobs as j;
            exit when v_at >= '2016-01-01 12:00:00+00';

            update rota_test.clock set ahead = extract(epoch from v_at - clock_timestamp());

            for v_job in select * from rota.claim_next_job(max_jobs => 100) loop
                insert into rota_test.runs values (v_job.task, v_job.scheduled_for, v_at);
                perform rota.finish_job(
                    v_job.id, v_job.token, error => case when v_turn % 7 = 0 then 'boom' end
                );
            end loop;

            v_turn := v_turn + 1;
            if v_turn % 100 = 0 then
                commit;
            end if;
        end loop;
    end;
    $$
"""


def cron_slots(cron: str, zone: str) -> list[datetime]:
    """Ask the oracle for all runs of a cron expression."""
    slots = []
    slot = START - MICROSECOND
    while True:
        slot = oracle.next_run(cron, ZoneInfo(zone), slot, timedelta(days=400))
        if slot is None or slot >= END:
            return slots
        slots.append(slot)


def interval_slots(months: int, days: int, elapsed: timedelta, zone: str) -> list[datetime]:
    """Ask the oracle for the grid of an interval."""
    slots = []
    slot = START - MICROSECOND
    while True:
        slot = oracle.next_slot(START, months, days, elapsed, ZoneInfo(zone), slot)
        if slot >= END:
            return slots
        slots.append(slot)


@pytest.mark.on_first_server
def test_ten_years_of_a_dozen_schedules_run_when_the_oracle_says(
    conn: Connection, clock: Clock, agreed: list[str]
) -> None:
    crons = {zone: cron for zone, cron in CRONS.items() if zone in agreed}
    intervals = {zone: every for zone, every in INTERVALS.items() if zone in agreed}
    assert len(crons) + len(intervals) >= 12
    clock.set(START - timedelta(hours=1))
    for zone, cron in crons.items():
        schedule(conn, zone, cron=cron)
    for zone, (months, days, elapsed) in intervals.items():
        schedule(conn, zone, every=f"{months} months {days} days {elapsed.seconds} seconds")
    conn.execute("create table rota_test.runs (task text, slot timestamptz, at timestamptz)")

    conn.execute(SIMULATE)

    ran = defaultdict(list)
    for zone, slot, at in conn.execute("select task, slot, at from rota_test.runs order by slot"):
        ran[zone].append(slot)
        assert slot == at, f"{zone}: the slot {slot} was run at {at}"
    for zone, cron in crons.items():
        assert ran[zone] == cron_slots(cron, zone), zone
    for zone, every in intervals.items():
        assert ran[zone] == interval_slots(*every, zone), zone
    assert sum(map(len, ran.values())) > 3500
    if "Pacific/Apia" in ran:  # noon of the 30th never was: the run came when the 31st began
        assert datetime(2011, 12, 30, 10, tzinfo=UTC) in ran["Pacific/Apia"]
    skipped = conn.execute("select * from rota.job_executions where outcome = 'SKIPPED'")
    assert skipped.fetchall() == []


def schedule(conn: Connection, zone: str, **timing: str) -> None:
    call(
        conn,
        "schedule_job",
        task=zone,
        time_zone=zone,
        starts_at=START,
        max_retries=0,
        **timing,
    )
