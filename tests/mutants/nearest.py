"""Which tests are near to a function: those that called it. A plugin of pytest writes that down.

``pytest -p tests.mutants.nearest`` appends a line of JSON for each test to the file that ROTA_CALLS
names: the test, how many seconds it took, and the functions of ours that ran in its database. Its
server must count them (track_functions = all).
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

CALLS = "select funcname from pg_stat_user_functions where schemaname = 'rota'"
OTHERS = "select count(*) from pg_stat_activity where datname = current_database()"

_url: dict[str, str] = {}  # of each test's database
_began: dict[str, float] = {}
_called: dict[str, list[str]] = {}
_passed: set[str] = set()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start the clock."""
    _began[item.nodeid] = time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Remember the test's database."""
    value = yield
    if fixturedef.argname == "db":
        _url[request.node.nodeid] = value
    return value


def pytest_fixture_post_finalizer(
    fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest
) -> None:
    """Look what was called, when the test's connections are closed and its database is not."""
    url = _url.get(request.node.nodeid)
    if fixturedef.argname != "connect" or url is None or request.node.nodeid in _called:
        return
    with psycopg.connect(url, autocommit=True) as conn:
        for _ in range(100):  # the counters come with the end of each session
            if conn.execute(OTHERS).fetchone() == (1,):
                break
            time.sleep(0.01)
        _called[request.node.nodeid] = [name for (name,) in conn.execute(CALLS)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down what a test that passed has called."""
    if report.when == "call" and report.passed:
        _passed.add(report.nodeid)
    if report.when != "teardown" or report.nodeid not in _passed or not report.passed:
        return
    line = {
        "test": report.nodeid,
        "seconds": round(time.monotonic() - _began[report.nodeid], 3),
        "functions": sorted(_called.get(report.nodeid, [])),
    }
    with Path(os.environ["ROTA_CALLS"]).open("a") as file:
        file.write(json.dumps(line) + "\n")
