"""The time zones that the tests use, and where their clocks change.

The server has its own copy of the time zone database, and Python another; a newer version of
either may have other rules. A test asks only about zones for which both agree.
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from psycopg import Connection

FIRST = datetime(1985, 1, 1, tzinfo=UTC)
LAST = datetime(2060, 1, 1, tzinfo=UTC)

# Each for a reason.
ZONES = {
    "UTC": "no changes",
    "Europe/Berlin": "an hour, at 2:00 and 3:00",
    "America/New_York": "an hour, on other days",
    "Australia/Lord_Howe": "half an hour, southern summer",
    "Pacific/Apia": "skipped 30 December 2011",
    "Pacific/Kwajalein": "skipped 21 August 1993",
    "Africa/Casablanca": "goes back for Ramadan, on another date each year",
    "Asia/Kathmandu": "offset of 45 minutes; moved by 15 minutes in 1986",
    "America/Caracas": "moved by half an hour in 2007 and 2016",
    "Asia/Pyongyang": "moved by half an hour in 2015 and 2018",
    "Europe/Istanbul": "gave up changing its clocks in 2016",
    "America/St_Johns": "changed at one minute past midnight until 2011",
    "America/Sao_Paulo": "skipped midnight until 2018",
    "America/Havana": "repeats midnight",
    "Antarctica/Troll": "two hours",
    "Asia/Gaza": "the densest changes that are to come",
}


@cache
def changes(name: str) -> list[datetime]:
    """The moments, to the minute, from which a zone has another offset."""
    zone = ZoneInfo(name)
    found = []
    before = FIRST
    while before < LAST:
        after = before + timedelta(days=2)
        if before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
            low, high = before, after
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) // timedelta(minutes=2) * timedelta(minutes=1)
                if middle.astimezone(zone).utcoffset() == after.astimezone(zone).utcoffset():
                    high = middle
                else:
                    low = middle
            found.append(high)
        before = after
    return found


def agreed_zones(conn: Connection) -> list[str]:
    """The zones that the server and Python know alike, from FIRST to LAST."""
    probes = [
        (name, change + timedelta(minutes=minutes))
        for name in ZONES
        for change in [*changes(name), LAST]
        for minutes in (-1, 0)
    ]
    probes += [
        (name, FIRST + timedelta(days=days))
        for name in ZONES
        for days in range(0, (LAST - FIRST).days, 3)
    ]
    rows = conn.execute(
        "select p.name, p.moment, p.moment at time zone p.name"
        " from unnest(%s::text[], %s::timestamptz[]) as p (name, moment)",
        [[name for name, _ in probes], [moment for _, moment in probes]],
    ).fetchall()
    differing = {
        name
        for name, moment, local in rows
        if moment.astimezone(ZoneInfo(name)).replace(tzinfo=None) != local
    }
    agreed = [name for name in ZONES if name not in differing]
    assert len(agreed) >= len(ZONES) - 3, f"the server has other rules for {differing}"
    return agreed
