"""Each attempt as it ends: ``rota tail``, of DATABASE_URL's database, until Ctrl-C.

An attempt bears the time at which it ended, and is seen when its transaction commits, which may be
much later. So each look goes back to where nothing can appear any more. Whoever ends an attempt has
read the clock, and at once opens live_jobs to lock rows, until its end. So what such a transaction
brings can have ended since the look before the one that saw it first, and whatever else is still to
come will end from now on. SLACK is for the moment between the clock and the lock.

Bounded are: for whom it looks back (LONGEST, and it says when that is not enough), how often it
looks (a tenth of the time at most goes into it), and what it remembers to print nothing twice.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg

from rota.doctor import complain, connect
from rota.terminal import columns, cut, has_colours, printable, width_of

PROGRAM = "rota tail"
PAUSE = 1.0  # seconds between two looks
SHARE = 10  # and this many times as long as a look took
SLACK = timedelta(seconds=2)
LONGEST = timedelta(minutes=5)
REMEMBERED = 50_000  # attempts, though they lie too far back to be looked at; for clocks put back
FAILURES = ["FAILED", "TIMED_OUT", "LOST"]
COLOURS = dict.fromkeys(FAILURES, 31) | dict.fromkeys(["CANCELLED", "RELEASED", "SKIPPED"], 33)
LONG = 30  # columns that a name may take from all others where no terminal says how many there are

# What has just ended is few, whatever statistics say.
SETTINGS = {"enable_seqscan": "off", "jit": "off"}

# What may still end an attempt that bears an earlier time, asked before what has ended. A standby
# does not know who writes, and is behind: there a minute is given to all.
MOMENT = """
select
    case
        when pg_is_in_recovery()
            then coalesce(pg_last_xact_replay_timestamp(), clock_timestamp()) - interval '1 minute'
        else clock_timestamp()
    end,
    array(
        select distinct l.virtualtransaction || coalesce(' of pid ' || l.pid, ', prepared')
        from pg_locks as l
        where l.locktype = 'relation'
            and l.relation = 'rota.live_jobs'::regclass
            and l.database = (
                select d.oid from pg_database as d where d.datname = current_database()
            )
            and l.mode in ('RowShareLock', 'RowExclusiveLock')
            and l.pid is distinct from pg_backend_pid()
    )
"""

# As JSON, in which a time may be of any year.
ENDED = """
select
    e.finished_at,
    json_build_object(
        'finished_at', e.finished_at, 'job_id', e.job_id, 'task', null, 'queue', null, 'key', null,
        'run', e.run, 'attempt', e.attempt, 'max_retries', null, 'outcome', e.outcome,
        'worker', e.worker, 'scheduled_for', e.scheduled_for, 'started_at', e.started_at,
        'ran_seconds', extract(epoch from e.finished_at - e.started_at),
        'job_state', e.job_state, 'next_run_at', e.next_run_at, 'error', right(e.error, 2000)
    )
from rota.executions as e
where e.finished_at > %(since)s
    and (%(outcomes)s::text[] is null or e.outcome = any(%(outcomes)s))
"""

# By id, for conditions of this kind reach the indexes through walls, too. A job whose attempt has
# ended since then is live, or has ended since then itself.
JOBS = """
select
    j.id,
    json_build_object(
        'task', j.task, 'queue', j.queue, 'key', j.key, 'max_retries', j.max_retries
    )
from rota.jobs as j
where j.id = any(%(ids)s)
    and (j.finished_at is null or j.finished_at > %(since)s)
    and (%(task)s::text is null or j.task = %(task)s)
    and (%(queue)s::text is null or j.queue = %(queue)s)
    and (%(key)s::text is null or j.key = %(key)s)
"""

Attempt = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Print what ends, until Ctrl-C; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Print each attempt as it ends, in the database of DATABASE_URL, until Ctrl-C:"
        " when (UTC), its job, task, queue, key and number, what became of it, how long it ran, and"
        " the last line of its error.",
    )
    parser.add_argument("--task", help="only jobs of this task")
    parser.add_argument("--queue", help="only jobs of this queue")
    parser.add_argument("--key", help="only jobs of this key")
    parser.add_argument("--failed", action="store_true", help=f"only {', '.join(FAILURES)}")
    parser.add_argument("--json", action="store_true", help="for programs: an object a line")
    options = parser.parse_args(arguments)
    try:
        with contextlib.closing(
            Tail(options.task, options.queue, options.failed, options.key)
        ) as tail:
            tail.look()  # what has ended already
            table = None if options.json else Table()
            for attempt in tail.attempts():
                print(json.dumps(attempt) if table is None else table.line(attempt), flush=True)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # who reads this has had enough; Python would complain once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, psycopg.Error) as error:
        complain(PROGRAM, error)
        return 1


class Tail:
    """The attempts that end from now on, each once.

    Args:
        task: only jobs of this task, None for all.
        queue: only jobs of this queue, None for all.
        failed: only attempts that did not succeed.
        key: only jobs of this key, None for all.
    """

    def __init__(
        self,
        task: str | None = None,
        queue: str | None = None,
        failed: bool = False,
        key: str | None = None,
    ) -> None:
        outcomes = FAILURES if failed else None
        self._wanted = {"task": task, "queue": queue, "key": key, "outcomes": outcomes}
        self._conn: psycopg.Connection | None = None
        self._now: datetime | None = None  # of the server, at the last look
        self._looked_at = 0.0  # the same by our own clock
        self._since: datetime | None = None  # the next look goes back to here
        self._writers: dict[str, datetime] = {}  # what each brings has ended since
        self._seen: set[tuple[Any, ...]] = set()
        self._warned = False

    def close(self) -> None:
        """Close the connection."""
        if self._conn is not None:
            self._conn.close()

    def attempts(self) -> Iterator[Attempt]:
        """Give each attempt once it is seen to have ended; say when the database is away."""
        is_away = False
        while True:
            began = time.monotonic()
            try:
                found = self.look()
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self.close()
                self._conn = None
                if not is_away:
                    complain(PROGRAM, error)
                    _say("the database does not answer; what ends meanwhile will be shown")
                is_away = True
                time.sleep(PAUSE)
                continue
            if is_away:
                _say("the database answers again")
                is_away = False
            took = time.monotonic() - began
            yield from found
            time.sleep(max(PAUSE, SHARE * took))

    def look(self) -> list[Attempt]:
        """Return what has ended since the last look; the first is for what there was before."""
        if self._conn is None:
            self._conn = connect(PROGRAM, **SETTINGS)
        looked_at = time.monotonic()
        ((now, names),) = self._conn.execute(MOMENT)
        before = now - LONGEST
        if self._now is not None:  # the last look, by a clock that may have been put back
            before = min(self._now, now - timedelta(seconds=looked_at - self._looked_at))
        writers = self._writers_of(names, before)
        next_since = min([now, *writers.values()]) - SLACK
        since = next_since if self._since is None else min(self._since, before - SLACK)
        since = self._bounded(since, now)
        found = self._conn.execute(ENDED, {"since": since, **self._wanted}).fetchall()
        found.sort(key=lambda row: row[0])
        keys = [_key(finished_at, attempt) for finished_at, attempt in found]
        new = [
            attempt
            for (_, attempt), key in zip(found, keys, strict=True)
            if key not in self._seen and self._since is not None
        ]
        jobs = self._jobs_of(new, since)

        self._now, self._looked_at, self._writers = now, looked_at, writers
        self._since = next_since
        self._seen.update(keys)
        if len(self._seen) > REMEMBERED:
            self._seen = {key for key in self._seen if key[0] > next_since}
        for attempt in new:
            attempt["error"] = attempt["error"] and attempt["error"].strip().rpartition("\n")[2]
        return [attempt | jobs[attempt["job_id"]] for attempt in new if attempt["job_id"] in jobs]

    def _writers_of(self, names: list[str], before: datetime) -> dict[str, datetime]:
        """Tell since when what these transactions bring can have ended.

        One that is prepared has another name from then on, so it counts as the oldest that was.
        """
        oldest = min([before, *self._writers.values()])
        return {
            name: self._writers.get(name, oldest if name.endswith("prepared") else before)
            for name in names
        }

    def _bounded(self, since: datetime, now: datetime) -> datetime:
        """Look back no longer than LONGEST, and say once if that leaves something out."""
        bound = now - LONGEST - SLACK
        is_over = since < bound
        if is_over and not self._warned:
            if self._now is not None and self._now - SLACK < bound:
                _say(f"what ended from {self._now:%H:%M:%S} to {bound:%H:%M:%S} is left out")
            else:
                oldest = min(self._writers, key=lambda name: self._writers[name])
                _say(
                    f"transaction {oldest} has been open for more than {LONGEST.seconds // 60}"
                    " minutes: what it ended before that will be left out"
                )
        self._warned = is_over
        return max(since, bound)

    def _jobs_of(self, attempts: list[Attempt], since: datetime) -> dict[int, dict[str, Any]]:
        """Return what is said of their jobs, of those that are wanted."""
        if not attempts or self._conn is None:
            return {}
        ids = list({attempt["job_id"] for attempt in attempts})
        return dict(self._conn.execute(JOBS, {"ids": ids, "since": since, **self._wanted}))


def _key(finished_at: datetime, attempt: Attempt) -> tuple[Any, ...]:
    """Tell an attempt from all others; one that was released has given its number back."""
    parts = ("job_id", "run", "attempt", "outcome", "scheduled_for")
    return (finished_at, *(attempt[part] for part in parts))


def _say(text: str) -> None:
    print(printable(f"{PROGRAM}: {text}", sys.stderr), file=sys.stderr, flush=True)


class Table:
    """Lines for a person: in columns, and not wider than the terminal, if it is one."""

    HEAD = ("ended", "job", "task", "queue", "attempt", "outcome", "ran")
    NUMBERS = ("job", "ran")  # to the right

    def __init__(self) -> None:
        self._widths = [8, 6, 12, 8, 7, 9, 6]
        self._has_colours = has_colours(sys.stdout)
        if room := width_of(sys.stdout):
            print(cut(self._row(self.HEAD, room), room), flush=True)

    def line(self, attempt: Attempt) -> str:
        """Return what there is to say; an error that has no room stands below."""
        room = width_of(sys.stdout)
        cells = (
            attempt["finished_at"][11:19],
            str(attempt["job_id"]),
            printable(attempt["task"]),
            printable("/".join(filter(None, (attempt["queue"], attempt["key"])))),
            f"{attempt['attempt']}/{attempt['max_retries'] + 1}" if attempt["attempt"] else "-",
            attempt["outcome"],
            _span(attempt["ran_seconds"]),
        )
        lines = [self._row(cells, room)]
        if error := printable(attempt["error"] or ""):
            if room is None or columns(lines[0]) + 2 + columns(error) <= room:
                lines[0] += f"  {error}"
            else:
                lines.append(f"{'':10}{error}")
        if room:
            lines = [cut(line.rstrip(), room) for line in lines]
        colour = COLOURS.get(attempt["outcome"]) if self._has_colours else None
        return "\n".join(f"\x1b[{colour}m{line}\x1b[0m" if colour else line for line in lines)

    def _row(self, cells: Sequence[str], room: int | None) -> str:
        """Put the cells under each other; a column grows with its cells, up to its share."""
        row = []
        for place, (name, cell) in enumerate(zip(self.HEAD, cells, strict=True)):
            share = {"task": room // 5, "queue": room // 8}.get(name, room) if room else LONG
            width = max(self._widths[place], min(columns(cell), share))
            self._widths[place] = width
            cell = cut(cell, width) if room else cell
            space = " " * (width - columns(cell))
            row.append(space + cell if name in self.NUMBERS else cell + space)
        return "  ".join(row)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, length in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < length:
            return f"{seconds:.1f} {unit}"
        seconds /= length if length == 60 else 24
    return f"{seconds:.1f} d"
