"""Finds jobs, the newest first, by conditions that mostly no index serves.

Live jobs are in the order of their ids, ended ones in that of (finished_at, id). Each is read a
stretch at a time, a stretch growing while it takes little, until there are enough jobs, no more, or
a moment has passed; then whoever asked is told how far it came, and goes on from there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from rota.app.answers import OWN_QUEUE
from rota.app.inputs import MAX_ID, instant, row_id
from rota.app.jobs import of_states

CONDITIONS = {
    "queue": sql.SQL("j.queue = %(queue)s"),
    "task": sql.SQL("j.task = %(task)s"),
    "name": sql.SQL("j.name = %(name)s"),
    "key": sql.SQL("j.unique_key = %(key)s"),
    "error": sql.SQL("strpos(lower(j.last_error), lower(%(error)s)) > 0"),
    "payload": sql.SQL("j.payload @> %(payload)s"),
    "schedule_type": sql.SQL("j.schedule_type = %(schedule_type)s"),
    "is_asked": sql.SQL("(j.cancel_requested_at is not null) = %(is_asked)s"),
}
COLUMNS = sql.SQL(
    """
    j.id, j.task, j.state, j.queue, j.schedule_type, j.name, j.attempt, j.max_retries, j.run_at,
    j.started_at, j.finished_at, j.cancel_requested_at, right(j.last_error, 300) as error
    """
)
ENDED = sql.SQL(
    """
    select {columns}
    from rota.jobs as j
    where {of_states}
        and j.finished_at >= %(since)s::timestamptz
        and j.finished_at <= %(until)s::timestamptz
        and (j.finished_at, j.id) >= (%(since)s::timestamptz, %(since_id)s)
        and (j.finished_at, j.id) < (%(until)s::timestamptz, %(until_id)s)
        and {conditions}
    order by j.finished_at desc, j.id desc
    limit %(rows)s
    """
)
LIVE = sql.SQL(
    """
    select {columns}
    from rota.jobs as j
    where {of_states}
        and j.id >= %(since)s
        and j.id < %(until)s
        and {conditions}
    order by j.id {sorted} desc
    limit %(rows)s
    """
)
# A week of its own, or none: no statistics tell when the oldest job ended.
OLDEST_WEEK = """
    select statement_timestamp() as now,
        min(nullif(split_part(pg_get_expr(c.relpartbound, c.oid), '''', 2), '')::timestamptz)
            as since
    from pg_catalog.pg_inherits as i
    join pg_catalog.pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'rota.finished_jobs'::regclass
"""
LIVE_IDS = """
    select
        (select id from rota.jobs where finished_at is null order by id limit 1) as lowest,
        (select id from rota.jobs where finished_at is null order by id desc limit 1) as highest
"""
# Few enough for the queue's own index to give them all, to be sorted.
IN_QUEUE = """
    select count(*) as count
    from (
        select from rota.jobs where finished_at is null and queue = %(queue)s limit 5001
    ) as j
"""
FEW = 5000
NO_TIME = "-infinity"
END_OF_TIME = "infinity"
QUICK, SLOW = 0.05, 0.25  # seconds that a stretch takes, for the next to be longer or shorter


@dataclass(frozen=True)
class Place:
    """A place in the order of ended jobs, or in that of the live ones, which have no time."""

    id: int
    at: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Take what ``str`` made.

        Raises:
            ValueError: it is no such thing.
        """
        try:
            at, comma, number = text.rpartition(",")
            if at in (NO_TIME, END_OF_TIME):
                return cls(row_id(number), at)
            return cls(row_id(number), _written(instant(at)) if comma else None)
        except ValueError:
            raise ValueError("must be as the links of the pages have it") from None

    @classmethod
    def of(cls, job: dict[str, Any]) -> "Place":
        """Return where a job stands."""
        return cls(job["id"], job["finished_at"])

    def __str__(self) -> str:
        return f"{self.at},{self.id}" if self.at else str(self.id)


@dataclass
class Found:
    """Jobs that were found.

    Args:
        jobs: the newest first.
        more: where to go on, None if that were all.
        stopped_at: how far back the search came when its time was over, if it was.
    """

    jobs: list[dict[str, Any]]
    more: Place | None = None
    stopped_at: str | int | None = None


def find_live(
    conn: psycopg.Connection[dict[str, Any]],
    filters: dict[str, Any],
    states: list[str],
    most: int,
    seconds: float,
    before: Place | None = None,
    down_to: Place | None = None,
) -> Found:
    """Find live jobs, the newest first.

    Args:
        conn: an open connection whose rows are dictionaries.
        filters: values by the names of ``CONDITIONS``.
        states: some of SCHEDULED and RUNNING.
        most: how many at most.
        seconds: when to stop.
        before: where to begin, instead of at the newest.
        down_to: where to end; what is there is found.
    """
    [ids] = conn.execute(LIVE_IDS).fetchall()
    if ids["highest"] is None:
        return Found([])
    lowest = max(ids["lowest"], down_to.id if down_to else 0)
    start = min(before.id if before else MAX_ID, ids["highest"] + 1)
    is_few = bool({"key", "name"} & set(filters))  # each has an index of its own
    if "queue" in filters and not is_few:
        is_few = conn.execute(IN_QUEUE, filters).fetchone()["count"] <= FEW
    query = LIVE.format(
        columns=COLUMNS,
        of_states=of_states(states),
        conditions=_conditions(filters, states if len(states) == 1 else None),
        sorted=sql.SQL("+ 0" if is_few else ""),
    )

    def read(since: int | None, until: int | None, rows: int) -> list[dict[str, Any]]:
        window = {
            "since": lowest if since is None else since,
            "until": start if until is None else until,
            "rows": rows,
            "states": states,
        }
        return conn.execute(query, filters | window, prepare=False).fetchall()

    size = ids["highest"] + 1 - lowest if is_few else 10_000
    return _search(read, start, lowest, max(size, 1), most, seconds, Place)


def find_ended(
    conn: psycopg.Connection[dict[str, Any]],
    filters: dict[str, Any],
    states: list[str],
    most: int,
    seconds: float,
    before: Place | None = None,
    down_to: Place | None = None,
    within: timedelta | None = None,
) -> Found:
    """Find jobs that ended, the newest first.

    Args:
        conn: an open connection whose rows are dictionaries.
        filters: values by the names of ``CONDITIONS``.
        states: some of COMPLETED, FAILED and CANCELLED.
        most: how many at most.
        seconds: when to stop.
        before: where to begin, instead of at the newest.
        down_to: where to end; what is there is found.
        within: how long ago they may have ended.
    """
    [known] = conn.execute(OLDEST_WEEK).fetchall()
    now = datetime.fromisoformat(known["now"])
    oldest = datetime.fromisoformat(known["since"]) if known["since"] else now
    floor = Place(0, NO_TIME)
    if within is not None:
        oldest = max(oldest, now - within)
        floor = Place(0, _written(now - within))
    if down_to is not None:
        floor = down_to
        oldest = max(oldest, _moment(down_to.at, oldest))
    ceiling = before or Place(MAX_ID, END_OF_TIME)
    query = ENDED.format(
        columns=COLUMNS,
        of_states=of_states(states),
        conditions=_conditions(filters, states if len(states) < 3 else None),
    )

    def read(since: datetime | None, until: datetime | None, rows: int) -> list[dict[str, Any]]:
        lower = floor if since is None else Place(0, _written(since))
        upper = ceiling if until is None else Place(0, _written(until))
        window = {
            "since": lower.at,
            "since_id": lower.id,
            "until": upper.at,
            "until_id": upper.id,
            "rows": rows,
            "states": states,
        }
        return conn.execute(query, filters | window, prepare=False).fetchall()

    start = min(_moment(ceiling.at, now), now)
    size = timedelta(minutes=1) if "COMPLETED" in states else timedelta(hours=1)
    return _search(read, start, oldest, size, most, seconds, lambda at: Place(0, _written(at)))


def _search(
    read: Callable[[Any, Any, int], list[dict[str, Any]]],
    start: Any,
    oldest: Any,
    size: Any,
    most: int,
    seconds: float,
    place_at: Callable[[Any], Place],
) -> Found:
    """Read one stretch after the other.

    Args:
        read: returns so many jobs of a stretch, from its lower to below its upper end; None stands
            for where the search ends, and for where it begins.
        start: the newest end of the first stretch; what is newer belongs to it.
        oldest: what is older is one stretch.
        size: of the first stretch.
        most: how many jobs at most.
        seconds: when to stop.
        place_at: returns the place just before an end.
    """
    deadline = time.monotonic() + seconds
    jobs: list[dict[str, Any]] = []
    upper = None
    edge = start
    while True:
        lower = None if edge - oldest <= size else edge - size
        began = time.monotonic()
        jobs += read(lower, upper, most + 1 - len(jobs))
        if len(jobs) > most:
            return Found(jobs[:most], Place.of(jobs[most - 1]))
        if lower is None:
            return Found(jobs)
        upper = edge = lower
        now = time.monotonic()
        if now > deadline:
            place = place_at(lower)
            return Found(jobs, place, place.at or place.id)
        if now - began < QUICK:
            size *= 4
        elif now - began > SLOW:
            size /= 2
            size = int(size) or 1 if isinstance(size, float) else size


def _written(moment: datetime) -> str:
    """Write a moment as connections do."""
    return moment.isoformat(timespec="microseconds")


def _moment(text: str | None, otherwise: datetime) -> datetime:
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except (ValueError, OverflowError):  # infinity
        return otherwise


def _conditions(filters: dict[str, Any], states: list[str] | None) -> sql.Composable:
    conditions = [condition for name, condition in CONDITIONS.items() if name in filters]
    if "queue" in filters:
        conditions.append(OWN_QUEUE)
    if states:
        conditions.append(sql.SQL("j.state = any(%(states)s::text[])"))
    return sql.SQL(" and ").join(conditions or [sql.SQL("true")])
