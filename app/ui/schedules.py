"""Schedules: what runs again and again, a calendar of what became of its slots, and its steering.

The calendar is by the clocks of the schedule's own zone: cells are made from quarters of an hour,
to which all zones keep, so that days of 23 and 25 hours have as many. Its attempts come by the
index of their job. That a slot has none is found out cell by cell, by one look for the first slot
after the last that is accounted for: never more than a slot for each cell is computed.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
from flask import Blueprint, Response, request, url_for
from psycopg import sql

from rota.app.errors import RequestError, invalid
from rota.app.inputs import Field, instant, one_of, read_query, row_id, text
from rota.app.ui.frame import act, page, rows, say, shared, visitor
from rota.app.ui.timings import cron_in_words, interval_in_words
from rota.app.ui.words import number

blueprint = Blueprint("schedules", __name__)

ON_A_PAGE = 50
MARKS_SHOWN = 20
RUNS_SHOWN = 20
RUNS_OF_A_CELL = 100
PREVIEWED = 5
MOST_BACKFILLED = 1000
LOOK = 100_000  # attempts that a calendar counts
MICROSECOND = timedelta(microseconds=1)
GRACE = timedelta(minutes=1)  # after which a slot that has not run is missed, not on its way
HOURS = "week"
DAYS = "months"
VIEWS = {  # how far back, and how long a calendar is kept, in seconds
    HOURS: ("7 days, by the hour", 10),
    DAYS: ("8 weeks, by the day", 60),
}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

# A letter and a colour for each outcome, and for what a cell of the calendar can be besides.
MARKS = {
    "SUCCEEDED": ("S", "good", "succeeded"),
    "FAILED": ("F", "bad", "failed"),
    "TIMED_OUT": ("T", "bad", "timed out"),
    "LOST": ("L", "bad", "lost their worker"),
    "SKIPPED": ("K", "odd", "skipped"),
    "CANCELLED": ("C", "off", "cancelled"),
    "RELEASED": ("R", "off", "handed back"),
    "RUNNING": ("R", "busy", "runs now"),
    "MISSED": ("M", "missed", "missed"),
    "PAUSED": ("P", "off", "paused"),
}
WORST_FIRST = ("MISSED", "FAILED", "SKIPPED", "CANCELLED", "PAUSED", "RUNNING", "SUCCEEDED")
LEGEND = ("SUCCEEDED", "FAILED", "SKIPPED", "MISSED", "PAUSED", "CANCELLED", "RUNNING")

SCHEDULE = sql.SQL(
    """
    job_id, name, task, queue, priority, max_retries, schedule_type, cron, every::text as every,
    (extract(year from every) * 12 + extract(month from every))::integer as months,
    extract(day from every)::integer as days,
    (extract(hour from every) * 3600 + extract(minute from every) * 60
        + extract(second from every))::float8 as seconds,
    time_zone, starts_at, ends_at, max_runs, fixed_delay,
    extract(epoch from jitter)::float8 as jitter, misfire, misfire_cap,
    extract(epoch from max_lateness)::float8 as max_lateness, overlap,
    extract(epoch from timeout)::float8 as timeout, paused_at, state, run, scheduled_for, run_at,
    run_at <= statement_timestamp() as is_due, left(last_error, 10000) as last_error, created_at
    """
)
LIST = sql.SQL(
    """
    select {}
    from rota.schedule_status
    where (%(q)s::text is null or strpos(lower(name), lower(%(q)s)) > 0)
        and (%(after)s::bigint is null
            or (name is null, coalesce(name, ''), job_id)
                > (%(name)s::text is null, coalesce(%(name)s, ''), %(after)s))
    order by name is null, coalesce(name, ''), job_id
    limit {}
    """
).format(SCHEDULE, ON_A_PAGE + 1)
ONE = sql.SQL(
    """
    select {}, statement_timestamp() as now
    from rota.schedule_status
    where name = %(name)s
    """
).format(SCHEDULE)
RUN = sql.SQL(
    """
    job_id, run, attempt, outcome, worker, started_at, finished_at, scheduled_for,
    right(error, 2000) as error,
    case outcome when 'SKIPPED' then result ->> 'slots' end as slots,
    extract(epoch from finished_at - started_at)::float8 as took
    """
)
# The last attempts of some jobs, each job's newest first. Behind a wall the limit does not reach
# the index, and all attempts since then are read.
LAST = sql.SQL(
    """
    select e.*
    from unnest(%(ids)s::bigint[]) as i(id)
    cross join lateral (
        select {run}
        from rota.executions
        where job_id = i.id
            and finished_at >= statement_timestamp() - %(within)s::interval
        order by finished_at desc, run desc, attempt desc, outcome desc
        limit %(most)s
    ) as e
    order by e.job_id, e.finished_at desc, e.run desc, e.attempt desc, e.outcome desc
    """
).format(run=RUN)
WITHIN = ("1 hour", "1 day", "60 days", "100 years")  # what runs often has enough in a short time
RUNS_OF = sql.SQL(
    """
    select {run}
    from rota.executions
    where job_id = %(id)s
        and finished_at >= %(since)s
        and scheduled_for < %(until)s
        and (scheduled_for >= %(since)s or outcome = 'SKIPPED')
    order by finished_at, run, attempt
    limit %(most)s
    """
).format(run=RUN)
NEXT = """
    select run_at, local_time, note
    from rota.preview_schedule(
        cron => %(cron)s,
        every => %(every)s::interval,
        time_zone => %(time_zone)s,
        n => %(n)s::integer,
        from_time => %(since)s::timestamptz,
        starts_at => %(starts_at)s::timestamptz
    )
    where run_at < coalesce(%(until)s::timestamptz, 'infinity')
"""
CELLS = """
    with bounds as (
        select
            case %(view)s
                when 'week' then date_trunc('day', n.local) - interval '6 days'
                else date_trunc('week', n.local) - interval '49 days'
            end as since,
            case %(view)s
                when 'week' then date_trunc('day', n.local) + interval '1 day'
                else date_trunc('week', n.local) + interval '7 days'
            end as until
        from (select %(now)s::timestamptz at time zone %(zone)s as local) as n
    ), quarters as (
        select t.at, t.at at time zone %(zone)s as local
        from bounds as b
        cross join generate_series(
            b.since at time zone %(zone)s,
            b.until at time zone %(zone)s - interval '1 second',
            interval '15 minutes'
        ) as t(at)
    )
    select
        to_char(min(q.local), 'YYYY-MM-DD') as day,
        extract(isodow from min(q.local))::integer as weekday,
        case when %(view)s = 'week' then extract(hour from min(q.local))::integer end as hour,
        to_char(min(q.local), 'Dy FMDD Mon') as day_words,
        to_char(date_trunc('week', min(q.local)), 'FMDD Mon') as week_words,
        to_char(min(q.local), 'HH24:MI') as time,
        extract(epoch from min(q.local) - min(q.at at time zone 'UTC'))::integer as utc_offset,
        min(q.at) as start,
        max(q.at) + interval '15 minutes' as "end"
    from quarters as q
    group by date_trunc(case %(view)s when 'week' then 'hour' else 'day' end, q.local),
        case when %(view)s = 'week' then q.local - q.at at time zone 'UTC' end
    order by min(q.at)
"""
FLOOR = """
    select finished_at as at
    from rota.executions
    where job_id = %(id)s and finished_at >= %(since)s
    order by finished_at desc
    offset %(look)s
    limit 1
"""
# By cell, where it began; of slots that were skipped, until when they are accounted for.
OUTCOMES = """
    select
        r.cell,
        count(*) filter (where r.succeeded) as succeeded,
        count(*) filter (where not r.succeeded and r.failed) as failed,
        count(*) filter (where not r.succeeded and not r.failed and r.cancelled) as cancelled,
        coalesce(sum(r.attempts), 0)::bigint as attempts,
        max(r.slot) filter (where r.attempts > 0) as last_slot,
        min(r.slot) as first_slot,
        coalesce(sum(r.skipped), 0)::bigint as skipped,
        max(r.skipped_until) as skipped_until,
        max(r.paused_until) as paused_until
    from (
        select
            width_bucket(greatest(scheduled_for, %(since)s), %(starts)s::timestamptz[]) as cell,
            run,
            greatest(scheduled_for, %(since)s) as slot,
            bool_or(outcome = 'SUCCEEDED') as succeeded,
            bool_or(outcome in ('FAILED', 'TIMED_OUT', 'LOST')) as failed,
            bool_or(outcome = 'CANCELLED') as cancelled,
            count(*) filter (where outcome <> 'SKIPPED') as attempts,
            sum(case outcome when 'SKIPPED' then (result ->> 'slots')::bigint end)
                filter (where error <> 'the schedule was paused') as skipped,
            max(finished_at) filter (where outcome = 'SKIPPED') as skipped_until,
            max(finished_at) filter (
                where outcome = 'SKIPPED' and error = 'the schedule was paused') as paused_until
        from rota.executions
        where job_id = %(id)s
            and finished_at >= %(floor)s
            and (scheduled_for >= %(since)s or outcome = 'SKIPPED')
        group by 1, 2, 3
    ) as r
    group by r.cell
"""
# Slots before a change of the schedule are those of another.
CHANGED = """
    select max(a.at) as at
    from (
        select function, job_id, at
        from rota.actions
        where at >= %(since)s
        order by at desc
        limit 10000
    ) as a
    where a.function = 'schedule_job' and a.job_id = %(id)s
"""
FIRST_SLOTS = """
    select c.place, p.run_at, p.local_time
    from unnest(%(places)s::integer[], %(froms)s::timestamptz[], %(untils)s::timestamptz[])
        as c(place, since, until)
    cross join lateral rota.preview_schedule(
        cron => %(cron)s,
        every => %(every)s::interval,
        time_zone => %(time_zone)s,
        n => 1,
        from_time => c.since,
        starts_at => %(starts_at)s::timestamptz
    ) as p
    where p.run_at < c.until
"""
BACKFILL = """
    select
        l.starts_at at time zone %(zone)s as starts_at,
        l.ends_at at time zone %(zone)s as ends_at
    from (select %(since)s::timestamp, %(until)s::timestamp) as l(starts_at, ends_at)
"""


def _in_words(schedule: dict[str, Any]) -> dict[str, Any]:
    """Add in words when a schedule runs."""
    if schedule["cron"] is not None:
        words = cron_in_words(schedule["cron"])
    else:
        words = interval_in_words(
            schedule["months"], schedule["days"], schedule["seconds"], schedule["fixed_delay"]
        )
    return schedule | {"words": words}


@blueprint.get("/schedules")
def index() -> Response:
    """List the schedules by their names."""
    query = read_query({"q": Field(text), "after": Field(row_id), "name": Field(text)})
    return page("schedules.html", lambda conn: _read_list(conn, query))


def _read_list(conn: psycopg.Connection, query: dict[str, Any]) -> dict[str, Any]:
    wanted = {"q": query.get("q") or None, "after": query.get("after"), "name": query.get("name")}
    found = rows(conn, LIST, **wanted)
    schedules = [_in_words(schedule) for schedule in found[:ON_A_PAGE]]
    last = _last_attempts(conn, [schedule["job_id"] for schedule in schedules], MARKS_SHOWN)
    for schedule in schedules:
        schedule["last"] = last[schedule["job_id"]]
    return {
        "q": wanted["q"],
        "is_first": wanted["after"] is None,
        "schedules": schedules,
        "more": schedules[-1] if len(found) > ON_A_PAGE else None,
        "marks": MARKS,
    }


def _last_attempts(
    conn: psycopg.Connection, ids: list[int], most: int
) -> dict[int, list[dict[str, Any]]]:
    """Return the newest attempts of jobs that ended, so many of each at most."""
    last: dict[int, list[dict[str, Any]]] = {job_id: [] for job_id in ids}
    for within in WITHIN:
        wanted = [job_id for job_id in ids if len(last[job_id]) < most]
        last |= {job_id: [] for job_id in wanted}
        for attempt in rows(conn, LAST, ids=wanted, within=within, most=most) if wanted else []:
            last[attempt["job_id"]].append(attempt)
    return last


@blueprint.get("/schedules/preview", defaults={"name": "preview"})
@blueprint.get("/schedules/<schedule:name>")
def show(name: str) -> Response:
    """Show a schedule."""
    query = read_query(
        {
            "view": Field(one_of(*VIEWS)),
            "from": Field(instant),
            "until": Field(instant),
            "backfill_from": Field(_local_time),
            "backfill_to": Field(_local_time),
        }
    )
    for one, other in (("from", "until"), ("backfill_from", "backfill_to")):
        if (one in query) != (other in query):
            raise invalid(other if one in query else one, f"belongs to {one}, {other}")
    return page("schedule.html", lambda conn: _read(conn, name, query))


def _local_time(value: str) -> datetime:
    """Take a time by the clocks of the schedule, as a form sends it."""
    try:
        moment = datetime.fromisoformat(text(value))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is not None or not 1 < moment.year < 9999:
        raise ValueError("must be a day and a time, such as 2030-01-31T09:00")
    return moment


def _read(conn: psycopg.Connection, name: str, query: dict[str, Any]) -> dict[str, Any]:
    found = rows(conn, ONE, name=name)
    if not found:
        raise RequestError(
            404,
            f'there is no live schedule "{name[:200]}"',
            code="RTN02",
            hint="It may have ended, or been deleted: its runs stand with its job.",
        )
    schedule = _in_words(found[0])
    view = query.get("view", HOURS)
    shown = {
        "schedule": schedule,
        "view": view,
        "views": {key: words for key, (words, _) in VIEWS.items()},
        "marks": MARKS,
        "legend": LEGEND,
        "next": [],
        "calendar": None,
        "trouble": None,
        "backfill": None,
        "chosen": None,
    }
    last = _last_attempts(conn, [schedule["job_id"]], RUNS_SHOWN)[schedule["job_id"]]
    shown |= {"last": last, "runs": last}
    try:
        with conn.transaction():
            shown |= _read_slots(conn, schedule, query)
            shown["calendar"] = _read_calendar(conn, schedule, view)
            if shown["calendar"] is None:
                shown["trouble"] = "Its runs in this time are too many to be counted here."
    except psycopg.DatabaseError as error:
        if not (error.sqlstate or "").startswith(("RT", "22")):
            raise
        shown["trouble"] = f"Its slots cannot be computed: {error.diag.message_primary}"
    if "from" in query:
        runs = rows(
            conn,
            RUNS_OF,
            id=schedule["job_id"],
            since=query["from"],
            until=query["until"],
            most=RUNS_OF_A_CELL + 1,
        )
        shown["chosen"] = {
            "from": query["from"].isoformat(),
            "until": query["until"].isoformat(),
            "more": len(runs) > RUNS_OF_A_CELL,
        }
        shown["runs"] = runs[:RUNS_OF_A_CELL]
    return shown


def _read_slots(
    conn: psycopg.Connection, schedule: dict[str, Any], query: dict[str, Any]
) -> dict[str, Any]:
    backfill = None
    if "backfill_from" in query and not schedule["fixed_delay"]:
        backfill = _read_backfill(conn, schedule, query["backfill_from"], query["backfill_to"])
    return {"next": _read_next(conn, schedule), "backfill": backfill}


def _definition(schedule: dict[str, Any]) -> dict[str, Any]:
    columns = ("cron", "every", "time_zone", "starts_at")
    return {column: schedule[column] for column in columns}


def _read_next(conn: psycopg.Connection, schedule: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the slots to come; of a delay after each run only the next is known."""
    if schedule["fixed_delay"] or schedule["paused_at"] is not None:
        return []
    left = PREVIEWED
    if schedule["max_runs"] is not None:
        is_at_its_slot = schedule["state"] == "RUNNING" or schedule["is_due"]
        left = schedule["max_runs"] - schedule["run"] + (not is_at_its_slot)
        if left < 1:
            return []
    return rows(
        conn,
        NEXT,
        **_definition(schedule),
        n=min(PREVIEWED, left),
        since=schedule["now"],
        until=schedule["ends_at"],
    )


def _read_backfill(
    conn: psycopg.Connection, schedule: dict[str, Any], starts_at: datetime, ends_at: datetime
) -> dict[str, Any]:
    """Return for which slots a backfill would add jobs."""
    zone = schedule["time_zone"]
    [span] = rows(conn, BACKFILL, zone=zone, since=starts_at, until=ends_at)
    if _moment(span["starts_at"]) >= _moment(span["ends_at"]):
        raise invalid("backfill_to", "must be later than backfill_from")
    definition = _definition(schedule)
    if schedule["cron"] is not None:
        definition["starts_at"] = None  # what ran before it started may be run afterwards, too
    ends = [span["ends_at"], *([schedule["ends_at"]] if schedule["ends_at"] else [])]
    until = min(ends, key=_moment)
    slots = rows(conn, NEXT, **definition, n=MOST_BACKFILLED, since=span["starts_at"], until=until)
    after = slots and _moment(slots[-1]["run_at"]) + MICROSECOND
    is_too_much = len(slots) == MOST_BACKFILLED and rows(
        conn, NEXT, **definition, n=1, since=after, until=until
    )
    return span | {
        "from": starts_at.isoformat(timespec="minutes"),
        "to": ends_at.isoformat(timespec="minutes"),
        "slots": slots[:3] + [None] * (len(slots) > 6) + slots[3:][-3:],
        "count": len(slots),
        "is_too_much": bool(is_too_much),
    }


def _moment(value: str) -> datetime:
    return datetime.fromisoformat(value)


def _read_calendar(
    conn: psycopg.Connection, schedule: dict[str, Any], view: str
) -> dict[str, Any] | None:
    """Return a calendar, which all who may see it share for a while; None if it takes too long."""

    def count() -> tuple[dict[str, Any] | None, float]:
        seconds = VIEWS[view][1]
        try:
            with conn.transaction():
                return _count(conn, schedule, view), seconds
        except psycopg.errors.QueryCanceled:
            return None, seconds

    key = (
        *("calendar", *visitor(), view),
        *(schedule["job_id"], schedule["paused_at"], *_definition(schedule).values()),
    )
    return shared().get(key, count)


def _count(conn: psycopg.Connection, schedule: dict[str, Any], view: str) -> dict[str, Any]:
    """Return the cells, each with its mark and what can be said of it."""
    cells = rows(conn, CELLS, view=view, zone=schedule["time_zone"], now=schedule["now"])
    of_job = {"id": schedule["job_id"], "since": cells[0]["start"]}
    floor = rows(conn, FLOOR, **of_job, look=LOOK)
    of_job["floor"] = floor[0]["at"] if floor else cells[0]["start"]
    for outcome in rows(conn, OUTCOMES, **of_job, starts=[cell["start"] for cell in cells]):
        cells[outcome["cell"] - 1] |= outcome
    _spread_skips(cells)
    _mark_slots(conn, schedule, cells, _moment(of_job["floor"]))
    now = _moment(schedule["now"])
    for cell in cells:
        is_running = schedule["state"] == "RUNNING" and _holds(cell, schedule["scheduled_for"])
        _describe(cell, is_running, view)
        for end in ("start", "end"):
            cell[f"{end}_iso"] = _moment(cell[end]).isoformat()
        cell["is_to_come"] = _moment(cell["start"]) > now
        cell["is_beyond"] = _moment(cell["start"]) < _moment(of_job["floor"])
    return {
        "rows": list(_lines(cells, view)),
        "heads": [f"{hour:02}" for hour in range(24)] if view == HOURS else list(WEEKDAYS),
        "floor": of_job["floor"] if floor else None,
    }


def _holds(cell: dict[str, Any], moment: str) -> bool:
    return _moment(cell["start"]) <= _moment(moment) < _moment(cell["end"])


def _spread_skips(cells: list[dict[str, Any]]) -> None:
    """Say of each cell until when slots before its end are accounted for as skipped, or paused."""
    skipped = paused = _moment(cells[0]["start"])
    for cell in cells:
        skipped = max(skipped, _moment(cell.get("skipped_until") or cell["start"]))
        paused = max(paused, _moment(cell.get("paused_until") or cell["start"]))
        cell |= {"skipped_to": skipped, "paused_to": paused}


def _mark_slots(
    conn: psycopg.Connection,
    schedule: dict[str, Any],
    cells: list[dict[str, Any]],
    floor: datetime,
) -> None:
    """Note in each cell its first slot without a row of its own: skipped, paused or missed.

    A schedule goes from slot to slot: what lies before the slot it is at has run, or was skipped,
    unless history does not reach back so far, or it was another schedule then; what lies after it
    and before now is still to be run.
    """
    if schedule["fixed_delay"]:
        return
    at = _moment(schedule["scheduled_for"])
    until = _moment(schedule["now"]) - GRACE - timedelta(seconds=schedule["jitter"])
    if schedule["state"] == "RUNNING":
        until = min(until, at)  # those after it wait for its end
    if schedule["ends_at"] is not None:
        until = min(until, _moment(schedule["ends_at"]))
    [changed] = rows(conn, CHANGED, id=schedule["job_id"], since=cells[0]["start"])
    firsts = [_moment(cell["first_slot"]) for cell in cells if cell.get("first_slot")]
    starts = (changed["at"], schedule["starts_at"], schedule["created_at"])
    known = max(floor, min([at, *firsts]), *(_moment(start) for start in starts if start))
    looks = []
    for place, cell in enumerate(cells):
        begin = max(_moment(cell["start"]), min(known, at))
        if cell.get("last_slot"):
            begin = max(begin, _moment(cell["last_slot"]) + MICROSECOND)
        end = min(_moment(cell["end"]), until)
        settled = min(cell["skipped_to"], at)
        looks.append((place, begin, min(end, settled)))
        looks.append((place, max(begin, settled), end))
    looks = [(place, begin, end) for place, begin, end in looks if begin < end]
    if not looks:
        return
    places, froms, untils = (list(column) for column in zip(*looks, strict=True))
    slots = rows(
        conn, FIRST_SLOTS, **_definition(schedule), places=places, froms=froms, untils=untils
    )
    paused_at = schedule["paused_at"] and _moment(schedule["paused_at"])
    for slot in slots:
        cell = cells[slot["place"]]
        run_at = _moment(slot["run_at"])
        if run_at < min(cell["paused_to"], at) or (paused_at and run_at >= paused_at):
            kind = "PAUSED"
        else:
            kind = "SKIPPED" if run_at < min(cell["skipped_to"], at) else "MISSED"
        cell.setdefault("slots", {})[kind] = slot["local_time"][11:16]


def _describe(cell: dict[str, Any], is_running: bool, view: str) -> None:
    """List what is so of a cell, and choose its marks: for most of its slots, and for the worst."""
    facts = []
    counts = {
        "FAILED": cell.get("failed"),
        "SUCCEEDED": cell.get("succeeded"),
        "CANCELLED": cell.get("cancelled"),
        "SKIPPED": cell.get("skipped"),
    }
    slots = cell.get("slots", {})
    if "MISSED" in slots:
        facts.append(("MISSED", f"no run of the slot of {slots['MISSED']}, or after it"))
    for outcome, count in counts.items():
        if count:
            facts.append((outcome, f"{number(count)} {MARKS[outcome][2]}"))
    if "SKIPPED" in slots and not counts["SKIPPED"]:
        facts.append(("SKIPPED", "skipped, with slots before"))
    if "PAUSED" in slots or cell.get("paused_until"):
        facts.append(("PAUSED", "paused"))
    if is_running:
        facts.append(("RUNNING", "runs now"))
    known = {kind for kind, _ in facts}
    worst = next((kind for kind in WORST_FIRST if kind in known), None)
    most = max(counts, key=lambda kind: counts[kind] or 0)
    if not counts[most]:
        most = worst
    cell["parts"] = [
        {"kind": kind, "count": counts.get(kind) or 0} for kind in dict.fromkeys((most, worst))
    ]
    cell["facts"] = ", ".join(words for _, words in facts)
    hours, minutes = divmod(abs(cell["utc_offset"]) // 60, 60)
    cell["utc_offset"] = f"{'-' if cell['utc_offset'] < 0 else '+'}{hours:02}:{minutes:02}"
    cell["label"] = cell["day_words"] + (f" {cell['time']}" if view == HOURS else "")


def _lines(cells: list[dict[str, Any]], view: str) -> Iterator[tuple[str, list[list[Any]]]]:
    """Put cells into lines of a table: hours into days, or days into weeks.

    An hour that comes twice has two cells in one place, and one that is skipped has none.
    """
    columns = 24 if view == HOURS else 7
    title = None
    line: list[list[Any]] = []
    for cell in cells:
        head = cell["day_words"] if view == HOURS else cell["week_words"]
        if head != title:
            if title is not None:
                yield title, line
            title, line = head, [[] for _ in range(columns)]
        line[cell["hour"] if view == HOURS else cell["weekday"] - 1].append(cell)
    yield title, line


@blueprint.post("/schedules/<schedule:name>/pause")
def pause(name: str) -> Response:
    """Pause a schedule."""
    [job] = act("pause_schedule", name=name)
    more = " The run under way ends as it would." if job["state"] == "RUNNING" else ""
    return _say(name, f"{name} is paused: no more of its runs start until you resume it.{more}")


@blueprint.post("/schedules/<schedule:name>/resume")
def resume(name: str) -> Response:
    """Resume a schedule."""
    [job] = act("resume_schedule", name=name)
    if job["state"] == "COMPLETED":
        return say(f"{name} is over: no slot was left.", url_for("ui.schedules.index"))
    run_at = job["run_at"]
    more = f", next at {run_at[:19].replace('T', ' ')} UTC" if run_at else ""
    return _say(name, f"{name} runs again{more}.")


@blueprint.post("/schedules/<schedule:name>/trigger")
def trigger(name: str) -> Response:
    """Run a schedule once now."""
    [job] = act("trigger_schedule", name=name)
    when = "when the run under way has ended" if job["state"] == "RUNNING" else "now"
    return _say(name, f"{name} runs once more {when}, as soon as a worker is free.")


@blueprint.post("/schedules/<schedule:name>/backfill")
def backfill(name: str) -> Response:
    """Add a job for each slot of a time."""
    try:
        span = {column: instant(request.form.get(column)) for column in ("starts_at", "ends_at")}
    except ValueError as error:
        raise invalid("starts_at, ends_at", str(error)) from None
    jobs = act("backfill_schedule", name=name, **span)
    created = sum(job["created"] for job in jobs)
    words = f"{number(created)} {'job was' if created == 1 else 'jobs were'} added for {name}."
    if created < len(jobs):
        words += f" {number(len(jobs) - created)} were live already, of an earlier backfill."
    return _say(name, words)


@blueprint.post("/schedules/<schedule:name>/delete")
def delete(name: str) -> Response:
    """End a schedule for good."""
    if request.form.get("sure") != "yes":
        raise invalid("sure", "tick the box to delete the schedule for good")
    [job] = act("delete_schedule", name=name)
    if job["state"] == "RUNNING":
        return _say(name, f"{name} is to end: the run under way was asked to stop.")
    return say(f"{name} is deleted.", url_for("ui.schedules.index"))


def _say(name: str, words: str) -> Response:
    return say(words, url_for("ui.schedules.show", name=name))
