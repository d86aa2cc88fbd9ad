"""Nodes of a cluster are lost, one after the other, while jobs come in and run.

The history checker decides afterwards. In synchronous mode nothing that was acknowledged may be
gone; in asynchronous mode it may, but no id is ever given out for two jobs. ROTA_HA=all has them
run, ROTA_HA=few a kill and a switchover only.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.harness import House
from tests.ha.load import LEASE, Api, Load, account, show
from tests.ha.trio import Trio
from tests.history.check import Report
from tests.history.record import Appender

CHOSEN = os.environ.get("ROTA_HA")
pytestmark = pytest.mark.skipif(CHOSEN not in ("all", "few"), reason="left to make ha")
FEW = CHOSEN == "few"
all_of_them = pytest.mark.skipif(FEW, reason="left to make ha")

SWITCHOVER = "switchover"
KILL = "kill -9 of the primary and its Patroni"
PATRONI = "kill -9 of the primary's Patroni only"
POSTMASTER = "kill -9 of the postmaster only"
FREEZE = "freeze of the primary"
FREEZE_STANDBY = "freeze of the synchronous standby"
FAULTS: dict[str, Callable[[Trio], None]] = {
    SWITCHOVER: Trio.switch_over,
    KILL: Trio.kill_primary,
    PATRONI: Trio.kill_patroni,
    POSTMASTER: Trio.kill_postmaster,
    FREEZE: Trio.freeze_primary,
    FREEZE_STANDBY: Trio.freeze_synchronous_standby,
}


def drill(
    trio: Trio, house: House, faults: list[str], through_haproxy: bool = False, **demands: bool
) -> tuple[Report, Load]:
    """Inject faults under load, and decide; each is over when all nodes are well again."""
    url = trio.front_url(house.dbname) if through_haproxy else trio.url(house.dbname)
    for _ in range(2):
        house.worker(url, lease=LEASE, concurrency=8)
    api = Api(house, url)
    load = Load(house, url, api)
    with load.running():
        load.goes_on()
        for kind in faults:
            with house.fault(kind, "server"):
                FAULTS[kind](trio)
                trio.wait_until_well()
            load.goes_on()
            time.sleep(1)
    report = house.decide(jobs=30 * len(faults), faults=len(faults), **demands)
    assert api.enqueue() == 201
    assert api.stop() == 0
    rows = account(house, load)
    show(rows)
    print(report.figures.line(), file=sys.stderr)
    if record := os.environ.get("ROTA_RECORD"):
        test = os.environ["PYTEST_CURRENT_TEST"].split(" ")[0]
        Appender(Path(record)).write(test=test, rows=rows, line=report.figures.line())
    return report, load


def test_h1_in_synchronous_mode_nothing_that_was_acknowledged_is_lost(
    trio: Trio, settle: Callable[[], House]
):
    faults = [KILL, SWITCHOVER]
    if not FEW:
        faults += [FREEZE_STANDBY, POSTMASTER, PATRONI, FREEZE]
    trio.be_synchronous(True)

    report, load = drill(trio, settle(), faults, left_behind=True)

    assert report.figures.lost == 0
    if not FEW:  # while the standby was frozen nothing committed, and only the write told of it
        refused = {at: path for at, path, status, _ in load.probes if status == 503}
        assert any(path.endswith("write=1") for path in refused.values())


@all_of_them
def test_h2_in_asynchronous_mode_no_id_is_given_out_twice(trio: Trio, settle: Callable[[], House]):
    trio.be_synchronous(False)

    drill(
        trio,
        settle(),
        [SWITCHOVER, POSTMASTER, KILL, PATRONI, FREEZE],
        lossy=True,
        left_behind=True,
    )


@all_of_them
def test_h3_behind_haproxy_a_primary_that_was_left_behind_is_cut_off(
    trio: Trio, settle: Callable[[], House]
):
    trio.be_synchronous(False)

    drill(
        trio,
        settle(),
        [PATRONI, KILL, SWITCHOVER],
        through_haproxy=True,
        lossy=True,
        left_behind=True,
    )
