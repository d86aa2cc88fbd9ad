"""Finds jobs, the newest first, by conditions that mostly no index serves.

Live jobs are in the order of their ids, ended ones in that of (finished_at, id). Each is read a
stretch at a time, which grows while it takes little, and is given up for a shorter one when it
takes long, until there are enough jobs, no more, or a moment has passed; then whoever asked is told
how far it came, and goes on from there.
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
    "key": sql.SQL("j.key = %(key)s"),
    "unique_key": sql.SQL("j.unique_key = %(unique_key)s"),
    "error": sql.SQL("strpos(lower(j.last_error), lower(%(error)s)) > 0"),
    "payload": sql.SQL("j.payload @> %(payload)s"),
    "schedule_type": sql.SQL("j.schedule_type = %(schedule_type)s"),
    "is_asked": sql.SQL("(j.cancel_requested_at is not null) = %(is_asked)s"),
    # Through a wall only what is said once more reaches an index.
    "own": sql.SQL("j.queue = any(%(own)s::text[])"),
}
COLUMNS = sql.SQL(
    """
    j.id, j.task, j.state, j.queue, j.key, j.schedule_type, j.name, j.attempt, j.max_retries,
    j.run_at, j.started_at, j.finished_at, j.cancel_requested_at, right(j.last_error, 300) as error
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
# The census knows those of each worker and queue that have run longest.
KNOWN = sql.SQL(
    """
    select {columns}
    from rota.jobs as j
    where j.id = any(array(
            select l.id
            from rota.worker_census as c
            cross join lateral unnest(c.longest_running) as l(id)
            where l.id < %(before)s
        ))
        and j.finished_at is null
        and {conditions}
    order by j.id desc
    limit %(rows)s
    """
)
# A week of its own, or none: no statistics tell when the oldest job ended.
# Most of a workflow is what its jobs are, so each that is looked at costs as many looks.
WORKFLOWS = """
    select id, name, created_at, cancelled_at, waiting, scheduled, running, completed, failed,
        cancelled, state
    from rota.workflow_status
    where created_at >= %(since)s::timestamptz
        and created_at <= %(until)s::timestamptz
        and (created_at, id) < (%(until)s::timestamptz, %(until_id)s)
        and (%(named)s::text is null or strpos(lower(name), lower(%(named)s)) > 0)
        and (%(states)s::text[] is null or state = any(%(states)s))
    order by created_at desc, id desc
    limit %(rows)s
"""
OLDEST_WEEK = """
    select statement_timestamp() as now,
        min(nullif(split_part(pg_get_expr(c.relpartbound, c.oid), '''', 2), '')::timestamptz)
            as since
    from pg_catalog.pg_inherits as i
    join pg_catalog.pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'rota.finished_jobs'::regclass
"""
OWN = "select rota.visible_queues() as queues"
NEWEST = sql.SQL(
    """
    select j.id
    from rota.jobs as j
    where j.finished_at is null and {conditions}
    order by j.id desc
    limit 1
    """
)
# Few enough for the index of their queues to give them all, to be sorted.
IN_QUEUES = sql.SQL(
    """
    select count(*) as count
    from (
        select from rota.jobs as j where j.finished_at is null and {conditions} limit 5001
    ) as j
    """
)
FEW = 5000
NO_TIME = "-infinity"
END_OF_TIME = "infinity"
PATIENCE = 3, 0.03  # of the time of a search for one stretch, and seconds at least
GROWTH, CUT = 4, 8


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
        states: some of WAITING, SCHEDULED and RUNNING.
        most: how many at most.
        seconds: when to stop.
        before: where to begin, instead of at the newest.
        down_to: where to end; what is there is found.
    """
    began = time.monotonic()
    [own] = conn.execute(OWN).fetchall()
    if own["queues"] is not None:
        filters = filters | {"own": own["queues"]}
    of_queues = {name: filters[name] for name in ("queue", "own") if name in filters}
    is_few = bool({"unique_key", "name"} & set(filters))  # each has an index of its own
    if of_queues and not is_few:
        count = IN_QUEUES.format(conditions=_conditions(of_queues, None))
        is_few = conn.execute(count, of_queues, prepare=False).fetchone()["count"] <= FEW
    lowest = down_to.id if down_to else 0
    start = before.id if before else MAX_ID
    if not is_few:
        of_wall = {name: filters[name] for name in ("own",) if name in filters}
        newest = NEWEST.format(conditions=_conditions(of_wall, None))
        found = conn.execute(newest, of_wall, prepare=False).fetchone()
        if found is None:
            return Found([])
        start = min(start, found["id"] + 1)
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

    size = max(start - lowest, 1) if is_few else 10_000
    seconds -= time.monotonic() - began
    return _search(conn, read, start, lowest, size, most, seconds, Place, is_few)


def find_known(
    conn: psycopg.Connection[dict[str, Any]], filters: dict[str, Any], before: Place, most: int
) -> list[dict[str, Any]]:
    """Return those that run and that the last census knows, the newest first.

    Args:
        conn: an open connection whose rows are dictionaries.
        filters: values by the names of ``CONDITIONS``.
        before: those before it.
        most: how many at most.
    """
    states = ["RUNNING"]
    query = KNOWN.format(columns=COLUMNS, conditions=_conditions(filters, states))
    window = {"before": before.id, "rows": most, "states": states}
    return conn.execute(query, filters | window, prepare=False).fetchall()


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
    return _search(
        conn, read, start, oldest, size, most, seconds, lambda at: Place(0, _written(at))
    )


def find_workflows(
    conn: psycopg.Connection[dict[str, Any]],
    named: str | None,
    states: list[str] | None,
    most: int,
    seconds: float,
    before: Place | None = None,
) -> Found:
    """Find workflows, the newest first.

    Args:
        conn: an open connection whose rows are dictionaries.
        named: a part of their names; None for all.
        states: theirs; None for all.
        most: how many at most.
        seconds: when to stop.
        before: where to begin, instead of at the newest.
    """
    [known] = conn.execute(OLDEST_WEEK).fetchall()
    now = datetime.fromisoformat(known["now"])
    oldest = datetime.fromisoformat(known["since"]) if known["since"] else now
    ceiling = before or Place(MAX_ID, END_OF_TIME)

    def read(since: datetime | None, until: datetime | None, rows: int) -> list[dict[str, Any]]:
        upper = ceiling if until is None else Place(0, _written(until))
        window = {
            "since": NO_TIME if since is None else _written(since),
            "until": upper.at,
            "until_id": upper.id,
            "rows": rows,
            "named": named,
            "states": states,
        }
        return conn.execute(WORKFLOWS, window, prepare=False).fetchall()

    start = min(_moment(ceiling.at, now), now)
    return _search(
        conn,
        read,
        start,
        oldest,
        timedelta(hours=1),
        most,
        seconds,
        lambda at: Place(0, _written(at)),
        place_of=lambda workflow: Place(workflow["id"], workflow["created_at"]),
    )


def _search(
    conn: psycopg.Connection[dict[str, Any]],
    read: Callable[[Any, Any, int], list[dict[str, Any]]],
    start: Any,
    oldest: Any,
    size: Any,
    most: int,
    seconds: float,
    place_at: Callable[[Any], Place],
    whole: bool = False,
    place_of: Callable[[dict[str, Any]], Place] = Place.of,
) -> Found:
    """Read one stretch after the other.

    Args:
        conn: what it is read by.
        read: returns so many jobs of a stretch, from its lower to below its upper end; None stands
            for where the search ends, and for where it begins.
        start: the newest end of the first stretch; what is newer belongs to it.
        oldest: what is older is one stretch.
        size: of the first stretch.
        most: how many jobs at most.
        seconds: when to stop.
        place_at: returns the place just before an end.
        whole: whether a shorter stretch takes as long.
        place_of: returns where a row stands.
    """
    share, least = PATIENCE
    patience = max(seconds / share, least)
    deadline = time.monotonic() + seconds
    jobs: list[dict[str, Any]] = []
    upper = None
    edge = start
    while True:
        lower = None if edge - oldest <= size else edge - size
        # Once its time is over one stretch, by then a short one, may take as long as any query.
        is_bounded = not whole and (upper is not None or time.monotonic() < deadline)
        began = time.monotonic()
        try:
            with conn.transaction(force_rollback=True):  # which takes back the setting
                if is_bounded:
                    conn.execute(f"set local statement_timeout = {1000 * patience:.0f}")
                jobs += read(lower, upper, most + 1 - len(jobs))
        except psycopg.errors.QueryCanceled:
            if not is_bounded:
                raise
            size = (min(size, edge - oldest) if edge > oldest else size) // CUT or size
            lower = edge
        if len(jobs) > most:
            return Found(jobs[:most], place_of(jobs[most - 1]))
        if lower is None:
            return Found(jobs)
        now = time.monotonic()
        if lower < edge:
            upper = edge = lower
            if now - began < patience / GROWTH:
                size *= GROWTH
        if now > deadline and upper is not None:
            place = place_at(edge)
            return Found(jobs, place, place.at or place.id)


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
