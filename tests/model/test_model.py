"""Any history of calls leaves what the model says, and breaks no invariant.

``make test`` makes the same histories each time. ``ROTA_MODEL_EXAMPLES=5000`` makes so many new
ones, and takes its time to shorten the history that fails.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.database import Database
from tests.model.keys import KeyMachine
from tests.model.machine import SESSIONS
from tests.model.weaver import Weaver

FUNCTIONS = [
    "cancel_job",
    "cancel_workflow",
    "claim_next_job",
    "enqueue_job",
    "enqueue_jobs",
    "enqueue_workflow",
    "finish_job",
    "finish_jobs",
    "heartbeat_job",
    "heartbeat_jobs",
    "hold_lease",
    "recover_jobs",
    "release_job",
    "retry_job",
    "retry_workflow",
    "schedule_job",
]
SOAK = int(os.environ.get("ROTA_MODEL_EXAMPLES", "0"))


@pytest.fixture
def database(db: str) -> Iterator[Database]:
    database = Database(db, SESSIONS)
    yield database
    database.close()


def histories(number: int) -> settings:
    return settings(
        max_examples=SOAK or number,
        stateful_step_count=60,
        derandomize=not SOAK,
        database=None,
        deadline=None,
        # To shorten a failing history takes minutes.
        phases=[Phase.generate, Phase.shrink] if SOAK else [Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def test_any_history_of_calls_leaves_what_the_model_says(database: Database) -> None:
    run_state_machine_as_test(lambda: Weaver(database), settings=histories(80))
    print(sorted(database.tally.items()))
    answered = {function for function, came in database.tally if came == "answered"}
    assert answered >= set(FUNCTIONS), "a run that proves nothing about the others"
    assert database.tally["next", "added"] > 0
    waited = {function for function, came in database.tally if came == "waited"}
    assert len(waited) > 5, "hardly anybody waited for anybody"
    refused = {came for _, came in database.tally}
    assert refused >= {"RTC01", "RTC02", "RTC03", "RTN01", "RTV01"}


def test_in_any_history_of_keys_each_claim_starts_what_has_room_in_its_order(
    database: Database,
) -> None:
    run_state_machine_as_test(lambda: KeyMachine(database), settings=histories(40))
    assert database.tally["claim_next_job", "started"] > 200
