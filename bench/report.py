"""What came out of a run: JSON, tables in Markdown, plots, and the page docs/speed.md."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

from bench.contestants import KEY_LIMIT, KEY_NAMES, KEY_ROOM
from bench.measure.limited_keys import PROCESSES, SLEEP

mpl.use("svg")
import matplotlib.pyplot as plt

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
QUIET = 0.5  # load average, of a machine that does nothing else
COLOURS = {"Rota": "#c2410c"}

HTTP_CLIENTS = (8, 64)
HTTP_KINDS = ("POST /jobs", "GET /jobs/{id}", "claim, then finish", "finish with claim_next")
NO_PROXY = (
    "pg-boss names a proxy for HTTP, `@pg-boss/proxy`; npm answered that there is no such package"
    " (November 2026), so it is not beside this."
)

Results = dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """A promise about speed, what came out, and whether it holds."""

    what: str
    goal: str
    reached: str
    kept: bool


def write(results: Results, folder: Path, name: str) -> None:
    """Write the run's files, and its tables into docs/speed.md if that has a place for them."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(results, name, ""))
    for plot in (_plot_rates, _plot_latency, _plot_snapshot):
        plot(results, folder, name)
    text = PAGE.read_text() if PAGE.exists() else ""
    if name != "quick" and START in text and END in text:
        head, rest = text.split(START, 1)
        tail = rest.split(END, 1)[1]
        section = markdown(results, name, "../bench/results/")
        PAGE.write_text(f"{head}{START}\n\n{section}\n{END}{tail}")


def markdown(results: Results, name: str, path: str) -> str:
    """Return the report; path leads from the reader to the plots."""
    machine = (
        f"{results['machine']}. PostgreSQL {results['postgresql']} with default settings and full"
        " durability, clients and server on the same machine. "
        + ", ".join(
            f"{who} {version}" if who != "Rota" else "Rota of this checkout"
            for who, version in results["versions"].items()
        )
        + f". {results['at']}, {results['minutes']:.0f} minutes."
    )
    parts = [machine]
    if results["load"] > QUIET:
        parts.append(
            "In the five minutes before the run the machine was at work on something else (load"
            f" average {results['load']:.1f}). If that went on, ratios are rough, and absolute"
            " figures too low."
        )
    if again := results.get("again"):
        parts.append(
            "Measured again by themselves, each for all: "
            + ", ".join(f"{name} ({at})" for name, at in sorted(again.items()))
            + "."
        )
    if results["missing"]:
        parts.append(f"Not installed here, so not measured: {', '.join(results['missing'])}.")
    rows = [[m.what, m.goal, m.reached, "yes" if m.kept else "**no**"] for m in marks(results)]
    parts.append(_table(["mark", "at least", "reached", "kept"], rows))
    parts += [section for make in SECTIONS if (section := make(results))]
    if (Path(__file__).parent / "results" / f"{name}-rates.svg").exists() or "drain" in results:
        parts.append(f"![Rates]({path}{name}-rates.svg)")
    if results.get("latency"):
        parts.append(f"![Start latency]({path}{name}-latency.svg)")
    if results.get("snapshot"):
        parts.append(f"![Under an old snapshot]({path}{name}-snapshot.svg)")
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# ---- marks


def marks(results: Results) -> list[Mark]:
    """Return the marks that this run has the figures for."""
    found = []
    makers = (
        *(_drain_marks, _enqueue_marks, _latency_marks, _http_start_marks, _http_marks),
        *(_limit_marks, _keys_marks, _limited_keys_marks, _workflow_marks),
        *(_statistics_marks, _backlog_marks, _other_marks),
    )
    for make in makers:
        try:
            found += list(make(results))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # not measured in this run
    return found


def _best_drain(results: Results, who: str, processes: int) -> float:
    drains = results["drain"].get(who) or {}
    suffix = f", {processes}"
    return max((d["rate"] for key, d in drains.items() if key.endswith(suffix)), default=0.0)


def _ratio(what: str, ours: float, theirs: float, goal: float, unit: str = "/s") -> Mark:
    ratio = ours / theirs if theirs else 0.0
    return Mark(
        what,
        f"{goal:g} x",
        f"{ratio:.2f} x ({_number(ours)}{unit} to {_number(theirs)}{unit})",
        ratio >= goal,
    )


def _drain_marks(results: Results) -> list[Mark]:
    ours = _best_drain(results, "Rota", 1)
    found = [
        _ratio(f"drain, one process, to {who}'s best", ours, _best_drain(results, who, 1), goal)
        for who, goal in (("graphile-worker", 1.5), ("pgqueuer", 3), ("procrastinate", 60))
        if results["drain"].get(who)
    ]
    peers = [who for who in results["drain"] if who != "Rota"]
    fastest = max(_best_drain(results, who, 2) for who in peers)
    two = _best_drain(results, "Rota", 2)
    return [*found, _ratio("drain, two processes, to the fastest peer", two, fastest, 1.3)]


def _enqueue_marks(results: Results) -> list[Mark]:
    key = "busy, 8 clients"
    enqueue = results["enqueue"]
    peers = [rates[key] for who, rates in enqueue.items() if who != "Rota" and rates]
    found = [
        _ratio(
            "enqueue one by one, 8 clients, workers busy, to the best peer",
            enqueue["Rota"][key],
            max(peers),
            2,
        )
    ]
    bulk = {who: b["rate"] for who, b in results["bulk"].items() if b}
    best = max(rate for who, rate in bulk.items() if who != "Rota")
    return [*found, _ratio("bulk enqueue, to the best peer", bulk["Rota"], best, 1.5)]


def _latency_marks(results: Results) -> list[Mark]:
    found = []
    for percentile in ("p50", "p99"):
        idle = {
            who: entry["idle"][percentile] for who, entry in results["latency"].items() if entry
        }
        best = min(value for who, value in idle.items() if who != "Rota")
        ratio = idle["Rota"] / best
        found.append(
            Mark(
                f"start latency, idle system, {percentile}, to the best peer",
                "not worse",
                f"{ratio:.2f} x ({idle['Rota']:.2f} ms to {best:.2f} ms)",
                ratio <= 1.0,
            )
        )
    return found


def _http_start_marks(results: Results) -> list[Mark]:
    start = results["http start"]
    http, sql = start["HTTP"]["p50"], start["SQL"]["p50"]
    return [
        Mark(
            "start latency, idle system, p50, a worker over HTTP to one in SQL",
            "≤ 3 x",
            f"{http / sql:.2f} x ({http:.2f} ms to {sql:.2f} ms)",
            http <= 3 * sql,
        )
    ]


def _http_marks(results: Results) -> list[Mark]:
    rates = {key: entry["rate"] for key, entry in results["http rates"].items() if key != "load"}
    few, many = HTTP_CLIENTS
    found = []
    for clients in HTTP_CLIENTS:
        ours, sql = rates[f"{clients}: POST /jobs, 1"], rates[f"{clients}: enqueue_job in SQL"]
        found.append(
            _ratio(f"POST /jobs, {clients} clients, to enqueue_job in SQL", ours, sql, 0.1)
        )
    for kind in HTTP_KINDS:
        crowded, calm = rates[f"{many}: {kind}, 1"], rates[f"{few}: {kind}, 1"]
        found.append(_ratio(f"{kind}, {many} clients to {few}", crowded, calm, 0.8))
    return found


LIMITS = {  # what must be reached of what the bare table does
    "enqueue one by one, 1 client": 0.75,
    "enqueue one by one, 8 clients": 0.6,
    "enqueue one by one, 32 clients": 0.55,
    "enqueue_many, 10,000 a call": 0.4,
    "enqueue_many, 1,000 a call": 0.3,
    "enqueue_jobs, 1,000 a call": 0.25,
    "claim + finish of 1,000": 0.25,
}


def _limit_marks(results: Results) -> list[Mark]:
    limit = results["limit"]
    found = [
        _ratio(f"{what}, to a bare table", limit[what]["Rota"], limit[what]["bare"], goal)
        for what, goal in LIMITS.items()
        if what in limit
    ]
    wal = limit["WAL of claim + finish"]
    found.append(
        Mark(
            "WAL of claim + finish, without images of pages",
            "≤ 700 bytes a job",
            f"{wal['Rota']:.0f} (a bare table {wal['bare']:.0f})",
            wal["Rota"] <= 700,
        )
    )
    return found


KEYS = {  # what a claim of jobs with keys may take of what one of plain jobs takes, at most
    ("one", "keys"): ("claim of one, keys without limits, to no keys", 1.3),
    ("one", "limited keys"): ("claim of one, limited keys, to no keys", 1.8),
    ("batch", "limited keys"): ("claim of 1,000 over 1,000 limited keys, to no keys", 3),
}


def _keys_marks(results: Results) -> list[Mark]:
    keys = results["keys"]
    full, tenant, pinned = (keys[name] for name in ("full key", "small tenant", "old snapshot"))
    ratios = [
        (what, keys[kind][queue], keys[kind]["plain"], goal)
        for (kind, queue), (what, goal) in KEYS.items()
    ]
    ratios += [
        (
            f"claim beside {full['jobs']:,} jobs of a full key, to 10",
            full["many"],
            full["few"],
            1.3,
        ),
        (
            f"old snapshot, claim of a key, {pinned['jobs']:,} jobs with keys pinned, to none",
            *(pinned["pinned"], pinned["without"], 2),
        ),
    ]
    found = [
        Mark(
            what,
            f"<= {goal:g} x",
            f"{ours / theirs:.2f} x ({ours:.2f} ms to {theirs:.2f} ms)",
            ours <= goal * theirs,
        )
        for what, ours, theirs, goal in ratios
    ]
    found.append(
        Mark(
            f"ten jobs of a tenant, 3 workers at {tenant['jobs']:,} of another",
            "< 50 ms",
            f"{tenant['p50']:.1f} ms, {tenant['worst']:.1f} at worst"
            f" ({tenant['left']:,} of the other left)",
            tenant["p50"] < 50 and tenant["left"] > 0,
        )
    )
    return found


def _workflow_marks(results: Results) -> list[Mark]:
    found = results["workflows"]
    return [
        *(
            _ratio(f"{what}, to plain", found[of]["workflow"], found[of]["plain"], goal)
            for what, of, goal in (
                (f"fan-in of {found['jobs']:,}, batches, 2 workers", "fan-in, 2 workers", 0.65),
                (f"fan-in of {found['jobs']:,}, batches, 8 workers", "fan-in, 8 workers", 0.65),
                ("a chain, one at a time", "chain", 0.75),
            )
        ),
        Mark(
            f"a root fails, and {found['jobs'] + 1:,} jobs with it",
            "< 500 ms",
            f"{found['failed root']:.0f} ms",
            found["failed root"] < 500,
        ),
    ]


def _limited_keys_marks(results: Results) -> list[Mark]:
    ours = results["key limits"]["Rota"]
    return [
        Mark(
            "jobs of limited keys, the most at once of a key",
            f"<= {KEY_LIMIT}",
            f"{ours['most at once']} in {ours['looks']:,} looks",
            ours["most at once"] <= KEY_LIMIT,
        ),
    ]


def _statistics_marks(results: Results) -> list[Mark]:
    return [
        _ratio(f"{what}, with statistics to without", both["on"], both["off"], 0.95)
        for what, both in results["statistics"].items()
    ]


def _backlog_marks(results: Results) -> list[Mark]:
    backlogs = {
        int(key.split()[1]): entry["Rota"]
        for key, entry in results.items()
        if key.startswith("backlog ")
    }
    few, many = backlogs[min(backlogs)], backlogs[max(backlogs)]
    sizes = f"{max(backlogs):,} waiting, to {min(backlogs):,}"
    base = results["drain"]["Rota"]["best, 1"]["memory"]
    memory = many["memory"] / base
    return [
        _ratio(f"drain with {sizes}", many["rate"], few["rate"], 0.9),
        Mark(
            f"worker memory with {max(backlogs):,} waiting, to a drain of few",
            "the same",
            f"{memory:.2f} x ({many['memory'] / 2**20:.0f} MiB to {base / 2**20:.0f} MiB)",
            memory < 1.1,
        ),
    ]


def _other_marks(results: Results) -> list[Mark]:
    found = []
    if held := (results.get("snapshot") or {}).get("Rota"):
        first, last = held["first tenth"], held["last tenth"]
        calm, busy, healthy = (
            held[key]["all p99"] for key in ("calm claims", "claims", "healthy claims")
        )
        found += [
            _ratio(
                f"old snapshot, {held['jobs']:,} jobs, last tenth to first tenth", last, first, 0.9
            ),
            Mark(
                "old snapshot, p99 of a single claim, the cores free",
                "< 10 ms",
                f"{calm:.1f} ms",
                calm < 10,
            ),
            Mark(
                "old snapshot, p99 of a single claim, all cores busy",
                "< 10 ms",
                f"{busy:.1f} ms (without the snapshot {healthy:.1f} ms)",
                busy < 10,
            ),
        ]
        if "first claims" in held:
            worst = held["first claims"]["worst"]
            ones, ones_healthy = (held[key]["select 1 p99"] for key in ("claims", "healthy claims"))
            found += [
                Mark(
                    "old snapshot, first claim of a session, the worst of "
                    f"{held['first claims']['count']}",
                    "<= 50 ms",
                    f"{worst:.1f} ms",
                    worst <= 50,
                ),
                Mark(
                    "old snapshot, p99 of a single claim to p99 of select 1, all cores busy",
                    "<= 1.5 x",
                    f"{busy / ones:.2f} x, {busy:.1f} to {ones:.1f} ms"
                    f" (without the snapshot {healthy / ones_healthy:.2f} x)",
                    busy / ones <= 1.5,
                ),
            ]
        if "hot table" in held:
            again = held["hot table after as many again"] / held["hot table"]
            found.append(
                Mark(
                    "old snapshot, disk while held; hot table after autovacuum and as many again",
                    "stated; not grown",
                    f"{held['growth']:,.0f} bytes a job; {again:.2f} x",
                    again <= 1.05,
                )
            )
    if claim := results.get("empty claim"):
        base = claim["a statement that calls a function"]
        writes = claim["wal"] > 1 or claim["transaction ids"] > 0
        found.append(
            Mark(
                "empty claim, to `select 1` plus a function call",
                "< 2 x, no write",
                f"{claim['empty claim'] / base:.2f} x ({claim['empty claim']:.0f} µs to"
                f" {base:.0f} µs; `select 1` alone {claim['select 1']:.0f} µs),"
                f" {'it wrote' if writes else 'no write, no transaction id'}",
                claim["empty claim"] < 2 * base and not writes,
            )
        )
    if idle := (results.get("idle") or {}).get("Rota"):
        found.append(
            Mark(
                "an idle worker",
                "≤ 2 statements/s, no WAL",
                f"{idle['commits']:.1f} statements/s, {idle['wal']:.0f} bytes/s of WAL",
                idle["commits"] <= 2 and idle["wal"] < 20,
            )
        )
    return found


# ---- tables


def _by_contestant(title: str, results: Results, unit: str) -> str:
    """Return a table with a row for each contestant and a column for each key."""
    keys: list[str] = []
    for entry in results.values():
        keys += [key for key in entry or () if key not in keys]
    rows = [
        [who, *(_number((entry or {}).get(key)) for key in keys)] for who, entry in results.items()
    ]
    return f"**{title}**{unit}\n\n" + _table(["", *keys], rows)


def _enqueue_section(results: Results) -> str:
    if "enqueue" not in results:
        return ""
    return _by_contestant("Enqueue one by one", results["enqueue"], ", jobs/s; workers are …")


def _drain_section(results: Results) -> str:
    if "drain" not in results:
        return ""
    rates = {
        who: {"bulk enqueue": (results.get("bulk", {}).get(who) or {}).get("rate")}
        | {f"drain: {key}": d["rate"] for key, d in (entry or {}).items()}
        for who, entry in results["drain"].items()
    }
    return _by_contestant("Bulk, and drain by configuration and processes", rates, ", jobs/s")


def _limit_section(results: Results) -> str:
    if not results.get("limit"):
        return ""
    rows = [
        [what, _number(both["bare"]), _number(both["Rota"]), f"{both['Rota'] / both['bare']:.2f}"]
        for what, both in results["limit"].items()
    ]
    return (
        "**The limit**: the same rows in a table with no rule, index or history but a key, by COPY"
        " where there are many; jobs/s, WAL in bytes a job\n\n"
        + _table(["", "a bare table", "Rota", "ratio"], rows)
    )


def _keys_section(results: Results) -> str:
    if not results.get("keys"):
        return ""
    rows = {
        f"a claim of {many}": results["keys"][kind]
        for kind, many in (("one", "one"), ("batch", "1,000"))
    }
    return _by_contestant("Claims of jobs with keys", rows, ", ms; keys are 1,000")


def _workflows_section(results: Results) -> str:
    if not (found := results.get("workflows")):
        return ""
    rows = {
        name: found[of]
        for name, of in (
            ("jobs/s, fan-in by batches of 100, 2 workers", "fan-in, 2 workers"),
            ("jobs/s, fan-in by batches of 100, 8 workers", "fan-in, 8 workers"),
            ("jobs/s, a chain, one at a time", "chain"),
        )
    }
    return (
        _by_contestant("Workflows", rows, f"; a fan-in is of {found['jobs']:,}")
        + f"\n\n`parent_results` of {found['jobs']:,} parents over 13 weekly partitions takes"
        f" {found['results, weeks']['many']:.0f} ms, over 90 daily ones"
        f" {found['results, days']['many']:.0f}; of one"
        f" {found['results, weeks']['one']:.1f} and {found['results, days']['one']:.1f} ms."
    )


def _retention_section(results: Results) -> str:
    if not (found := results.get("retention")):
        return ""
    looks = found["looks"]
    rows = {
        name: both | {"ratio": both["nothing kept"] / both["kept"]}
        for name, both in found.items()
        if name != "looks"
    }
    return (
        _by_contestant("Retention", rows, ", jobs/s, and what a job takes")
        + "\n\nA look by id over 90 days of partitions takes"
        f" {looks['jobs, planned then']:.1f} ms in `jobs` and"
        f" {looks['executions, planned then']:.1f} in `executions`, planning and the way there"
        f" included; {looks['jobs, first of a session']:.1f} and"
        f" {looks['executions, first of a session']:.1f} as the first of its session,"
        f" {looks['jobs, planned before']:.1f} and {looks['executions, planned before']:.1f} when"
        " it was planned before."
    )


def _limited_keys_section(results: Results) -> str:
    if not results.get("key limits"):
        return ""
    rows = {
        who: {
            "jobs/s": entry["rate"],
            "most at once of a key": entry["most at once"],
            "looks that saw more": entry["looks above"],
            "another key waits, 10 behind a full one": entry["beside few"],
            f"{entry['backlog']:,} behind it": entry["beside many"],
        }
        for who, entry in results["key limits"].items()
        if entry
    }
    return (
        _by_contestant(f"Limits of keys: {KEY_LIMIT} at once of each", rows, ", waits in ms")
        + f"\n\nJobs of {len(KEY_NAMES)} keys by turns, {SLEEP * 1000:.0f} ms each; {PROCESSES}"
        f" workers, each for {KEY_ROOM} at once; so at most"
        f" {len(KEY_NAMES) * KEY_LIMIT / SLEEP:,.0f}/s. How many of a key run is asked of each"
        " one's own table all the time. In pg-boss a key is a group with groupConcurrency, in"
        " pgqueuer an entrypoint with concurrency_limit, which a worker must know when it starts."
    )


def _cost_section(results: Results) -> str:
    if "drain" not in results:
        return ""
    costs = {}
    for who, entry in results["drain"].items():
        if entry and "best, 1" in entry:
            best = entry["best, 1"]
            costs[who] = {
                "WAL bytes to enqueue": (results.get("bulk", {}).get(who) or {}).get("wal"),
                "WAL bytes to run": best["wal"],
                "commits": best["commits"],
                "dead rows": best["dead_rows"],
                "worker MiB": best["memory"] / 2**20,
            }
    return _by_contestant("What a job costs", costs, ", in bulk and the best configuration")


def _latency_section(results: Results) -> str:
    if "latency" not in results:
        return ""
    rows = {
        who: {
            f"{load} {key}": value for load, entry in both.items() for key, value in entry.items()
        }
        for who, both in results["latency"].items()
        if both
    }
    return _by_contestant("Start latency", rows, ", ms; the rate of the half load in jobs/s")


def _http_section(results: Results) -> str:
    parts = []
    if start := results.get("http start"):
        rows = {name: start[name] for name in ("SQL", "HTTP")}
        parts.append(
            _by_contestant("Start latency of one worker over HTTP, and of one in SQL", rows, ", ms")
            + "\n\nThey waited by turns for the jobs of one producer; the load average before was"
            f" {start['load']:.1f}."
        )
    if rates := results.get("http rates"):
        columns = [(clients, processes) for clients in HTTP_CLIENTS for processes in (1, 2)]
        lines = [
            [kind, *(_rate_and_times(rates[f"{c}: {kind}, {p}"]) for c, p in columns)]
            for kind in HTTP_KINDS
        ]
        sql = [_rate_and_times(rates[f"{c}: enqueue_job in SQL"]) for c in HTTP_CLIENTS]
        lines.append(["enqueue_job in SQL", sql[0], "-", sql[1], "-"])
        head = [f"{c} clients, {p} process{'es' * (p > 1)}" for c, p in columns]
        parts.append(
            "**Over HTTP**, done a second (p50 and p99 of an answer, ms), by processes of the"
            " API\n\n" + _table(["", *head], lines) + "\n\nA job that is claimed, then finished is"
            " two requests; with claim_next it is one. The API's processes, the clients and"
            f" PostgreSQL share the cores; the load average before was {rates['load']:.1f}. "
            + NO_PROXY
        )
    return "\n\n".join(parts)


def _rate_and_times(entry: dict[str, float]) -> str:
    if "p50" not in entry:
        return _number(entry["rate"])
    return f"{_number(entry['rate'])} ({_number(entry['p50'])}, {_number(entry['p99'])})"


def _idle_section(results: Results) -> str:
    if "idle" not in results:
        return ""
    rows = {
        who: {
            "commits/s": idle["commits"],
            "WAL bytes/s": idle["wal"],
            "CPU %": idle["cpu"] * 100,
            "MiB": idle["memory"] / 2**20,
        }
        for who, idle in results["idle"].items()
        if idle
    }
    return _by_contestant("An idle worker", rows, "")


def _backlog_section(results: Results) -> str:
    sizes = sorted(int(key.split()[1]) for key in results if key.startswith("backlog "))
    if not sizes:
        return ""
    rows: dict[str, dict[str, float]] = {}
    for size in sizes:
        for who, entry in results[f"backlog {size}"].items():
            if entry:
                rows.setdefault(who, {})[f"{size:,}"] = entry["rate"]
    return _by_contestant(
        "Drain rate by backlog", rows, ", jobs/s, best configuration, one process"
    )


def _snapshot_section(results: Results) -> str:
    entries = {**(results.get("snapshot") or {}), **(results.get("snapshot, peers") or {})}
    rows = {
        who: {key: entry[key] for key in ("jobs", "first tenth", "last tenth")}
        | {"disk, bytes a job": entry["growth"]}
        for who, entry in entries.items()
        if entry
    }
    if not rows:
        return ""
    text = _by_contestant("While an old snapshot is held", rows, ", jobs/s")
    if ours := entries.get("Rota"):
        claims, calm = ours["claims"], ours["calm claims"]
        text += (
            "\n\nSingle claims of Rota, by a second client beside the worker, p50 and p99:"
            f" {claims['first tenth p50']:.2f} and {claims['first tenth p99']:.2f} ms in the first"
            f" tenth, {claims['last tenth p50']:.2f} and {claims['last tenth p99']:.2f} ms in the"
            f" last, while producer, worker and server share the cores; then, the snapshot still"
            f" held and little else to do, {calm['all p50']:.2f} and {calm['all p99']:.2f} ms. The"
            f" first claim of that session, which had no cursor, took {calm['first']:,.0f} ms."
        )
        if firsts := ours.get("first claims"):
            text += (
                f" Of {firsts['count']} sessions of one claim each that came then, p50 and worst:"
                f" {firsts['p50']:.1f} and {firsts['worst']:.1f} ms."
            )
        if "autovacuum after" in ours:
            text += (
                " After the release autovacuum had cleaned the hot table in"
                f" {ours['autovacuum after']:.0f} s; of as many jobs again, the first tenth went"
                f" at {ours['released']['first tenth']:,.0f}/s and the last at"
                f" {ours['released']['last tenth']:,.0f}/s."
            )
    return text


SECTIONS: tuple[Callable[[Results], str], ...] = (
    _limit_section,
    _keys_section,
    _workflows_section,
    _retention_section,
    _limited_keys_section,
    _drain_section,
    _enqueue_section,
    _latency_section,
    _http_section,
    _snapshot_section,
    _backlog_section,
    _cost_section,
    _idle_section,
)


# ---- plots


def _plot_rates(results: Results, folder: Path, name: str) -> None:
    if "drain" not in results:
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    who = list(results["drain"])
    _bars(left, "drain, best configuration, one process", who,
          [_best_drain(results, w, 1) for w in who])  # fmt: skip
    enqueue = results.get("enqueue") or {}
    _bars(right, "enqueue one by one, 8 clients, workers busy", who,
          [(enqueue.get(w) or {}).get("busy, 8 clients", 0) for w in who])  # fmt: skip
    _save(figure, folder / f"{name}-rates.svg")


def _plot_latency(results: Results, folder: Path, name: str) -> None:
    entries = {w: e for w, e in (results.get("latency") or {}).items() if e}
    if not entries:
        return
    figure, both = plt.subplots(1, 2, figsize=(10, 3.2))
    for axes, load in zip(both, ("idle", "half load"), strict=True):
        _bars(axes, f"start latency, {load}, p99, ms", list(entries),
              [entry[load]["p99"] for entry in entries.values()])  # fmt: skip
    _save(figure, folder / f"{name}-latency.svg")


def _plot_snapshot(results: Results, folder: Path, name: str) -> None:
    entries = {**(results.get("snapshot") or {}), **(results.get("snapshot, peers") or {})}
    if not any(entries.values()):
        return
    figure, axes = plt.subplots(figsize=(10, 3.2))
    for who, entry in entries.items():
        if entry:
            series = entry["series"]
            step = max(1, len(series) // 40)
            points = series[::step]
            rates = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points) if b[0] > a[0]]
            axes.plot([b[1] for b in points[1:]][: len(rates)], rates, label=who,
                      color=COLOURS.get(who))  # fmt: skip
    axes.set_title("jobs/s while an old snapshot is held, by jobs passed")
    axes.set_ylim(bottom=0)
    axes.legend()
    _save(figure, folder / f"{name}-snapshot.svg")


def _bars(axes: Any, title: str, names: list[str], values: list[float]) -> None:
    colours = [COLOURS.get(name, "#64748b") for name in names]
    bars = axes.barh(names[::-1], values[::-1], color=colours[::-1])
    axes.bar_label(bars, labels=[_number(value) for value in values[::-1]], padding=3)
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.2)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
