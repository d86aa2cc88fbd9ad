"""What schemathesis is told that a schema cannot say; it loads this as its hooks."""

from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis
from hypothesis import strategies as st

# The formats that are ours, and texts that are of them.
FORMATS = {
    "cron": ["* * * * *", "30 2 * * *", "*/5 0 9 * * MON-FRI", "@hourly", "0 0 1,15 * *"],
    "interval": ["P1M", "PT5M", "P1DT12H", "1 month", "2 days 03:00", "90 seconds"],
    "time-zone": ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"],
    "cursor": [
        "infinity,1,1,RUNNING",
        "2030-01-31T08:00:01.200000+00:00,1,2,FAILED",
        "2000-01-01T00:00:00.000000+00:00,7,1,LOST",
    ],
    "step-cursor": [
        "2030-01-31T08:00:01.200000+00:00,charge",
        "2000-01-01T00:00:00.000000+00:00,a, b",
    ],
}
for name, texts in FORMATS.items():
    schemathesis.openapi.format(name, st.sampled_from(texts))


NOW = datetime.now(UTC).isoformat()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Have what goes together, nobody wait for long, and nothing end before it starts."""
    body = case.body if isinstance(case.body, dict) else {}
    query = case.query or {}
    if _is_wait(body.get("wait_seconds")):
        body["wait_seconds"] = 0.05
    if str(query.get("wait")).isdecimal() and int(query["wait"]) <= 30:
        query["wait"] = 0
    for prefix in ("", "key_"):
        _complete_limits(body, prefix)
    jobs = [it for it in _list(body.get("jobs")) if isinstance(it, dict)]
    following = [it for it in _list(body.get("next")) if isinstance(it, dict)]
    _tell_apart(jobs)
    _tell_apart(following)
    for job in (body, *jobs, *following):
        if job.get("unique_key") is None and (job.get("unique_for_seconds") or job.get("replace")):
            job["unique_key"] = "k"
        if isinstance(job.get("headers"), dict):  # no schema of OpenAPI 3.0 tells of names
            values = list(job["headers"].values())
            job["headers"] = {f"x-{place}": value for place, value in enumerate(values[:20])}
    if _is_jitter(body.get("jitter_seconds")):
        body["jitter_seconds"] = 0.0005  # the shortest interval is 0.001
    if _is_moment(body.get("ends_at")) and (
        _is_moment(body.get("starts_at")) or ("task" in body and body.get("starts_at") is None)
    ):
        starts_at = datetime.fromisoformat(body.get("starts_at") or NOW)
        if not 1 < starts_at.year < 9800:
            starts_at = datetime.fromisoformat(NOW)
        # A schedule needs a slot in between, and a backfill may have no more than a thousand.
        while_it_runs = timedelta(days=40_000) if "task" in body else timedelta(minutes=10)
        body["starts_at"] = starts_at.isoformat()
        body["ends_at"] = (starts_at + while_it_runs).isoformat()


def _tell_apart(jobs: list[dict[str, Any]]) -> None:
    """Have each job of a workflow a node of its own, which those that depend on any depend on."""
    earlier: list[str] = []
    for place, job in enumerate(jobs):
        parents = job.get("depends_on")
        if isinstance(parents, list) and all(type(it) in (str, int) and it for it in parents):
            job["depends_on"] = earlier[-len(parents) :]
        if isinstance(job.get("node"), str) and 1 <= len(job["node"]) <= 200:
            job["node"] = f"node {place}"
            earlier.append(job["node"])


def _complete_limits(body: dict[str, Any], prefix: str) -> None:
    """Have starts limited in some time, and not without one."""
    starts, period = f"{prefix}max_starts", f"{prefix}starts_period_seconds"
    if period in body and body[period] is None:
        body[starts] = None
    elif body.get(starts) is not None:
        body.setdefault(period, 60)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_wait(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 30


def _is_jitter(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 86400


def _is_moment(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False
