"""The checker itself: a good history passes, and each rule is broken by one small change to it."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.history.check import Demands, Report, Saved, check

WALL = 1_000_000.0  # civil time at mono 0
LEASE = 5.0
WORKER_A, WORKER_B, HARNESS = 11, 12, 1
DEMANDS = Demands(jobs=1, faults=1, late=1)


class Story:
    """A history that is told call by call; instants are seconds since its beginning."""

    def __init__(self) -> None:
        self.history: list[dict] = []
        self.effects: list[dict] = []
        self.jobs: list[dict] = []
        self.executions: list[dict] = []
        self._number = 0

    def call(self, op, process, began, ended, kind="ok", answer=None, **asked):
        self._number += 1
        common = {"call": str(self._number), "op": op, "process": process}
        self.history.append(
            {**common, "type": "invoke", "mono": began, "wall": WALL + began, **asked}
        )
        if ended is not None:
            self.history.append(
                {**common, "type": kind, "mono": ended, "wall": WALL + ended, **(answer or {})}
            )

    def enqueue(self, job, at, key=None, kind="ok"):
        self.call("enqueue", HARNESS, at, at + 0.01, kind, {"value": job}, key=key or f"k{job}")

    def claim(self, process, began, *items, ended=None, kind="ok"):
        rows = [
            {"job": job, "token": token, "queue": "default", "attempt": attempt}
            for job, token, attempt in items
        ]
        self.call(
            "claim",
            process,
            began,
            ended or began + 0.01,
            kind,
            {"jobs": rows},
            lease=LEASE,
            worker=f"w{process}",
        )

    def heartbeat(self, process, at, *pairs, left=LEASE):
        answer = {"left": {str(job): left for job, _ in pairs}}
        asked = [list(pair) for pair in pairs]
        self.call("heartbeat", process, at, at + 0.01, "ok", answer, lease=LEASE, pairs=asked)

    def finish(self, process, at, job, token, outcome):
        self.call(
            "finish", process, at, at + 0.01, "ok", {"outcomes": [outcome]}, pairs=[[job, token]]
        )

    def hand_back(self, process, at, job, token, op="sleep", state="SCHEDULED", **asked):
        pairs = [[job, token]]
        self.call(op, process, at, at + 0.01, answer={"state": state}, pairs=pairs, **asked)

    def record(self, process, at, job, token, step):
        pairs = [[job, token]]
        self.call("record_step", process, at, at + 0.01, pairs=pairs, step=step)

    def fault(self, kind, began, ended, target):
        self._number += 1
        common = {"call": str(self._number), "op": "fault", "process": HARNESS}
        self.history.append(
            {
                **common,
                "type": "invoke",
                "mono": began,
                "wall": WALL + began,
                "kind": kind,
                "target": target,
            }
        )
        self.history.append({**common, "type": "ok", "mono": ended, "wall": WALL + ended})

    def effect(self, process, at, job, token, phase):
        self.effects.append(
            {"mono": at, "process": process, "job": job, "token": token, "phase": phase}
        )

    def execution(self, job, token, attempt, outcome, state, started, finished, run=1):
        self.executions.append(
            {
                "job_id": job,
                "token": token,
                "run": run,
                "attempt": attempt,
                "outcome": outcome,
                "job_state": state,
                "started_at": WALL + started,
                "finished_at": WALL + finished,
            }
        )

    def job(self, job, state, scheduled_for, run=1, priority=0, key=None, **more):
        self.jobs.append(
            {
                "id": job,
                "key": key or f"k{job}",
                "state": state,
                "token": None,
                "run": run,
                "queue": "default",
                "priority": priority,
                "max_retries": 3,
                "gave_up": False,
                "schedule_type": "ONE_TIME",
                "scheduled_for": WALL + scheduled_for,
                **more,
            }
        )

    def emit(self, at, event, payload, kind="ok"):
        self.call("emit_event", HARNESS, at, at + 0.01, kind, event=event, payload=payload)

    def check(self, demands=DEMANDS) -> Report:
        return check(
            Saved(*copy.deepcopy((self.history, self.effects, self.jobs, self.executions))), demands
        )


def good_story() -> Story:
    """Job 1 is run by A, which stops; B takes over; A comes back late. Job 2 fails once."""
    story = Story()
    story.enqueue(1, 0.0)
    story.enqueue(2, 0.1)
    story.claim(WORKER_A, 1.0, (1, "a1", 1))
    story.effect(WORKER_A, 1.1, 1, "a1", "start")
    story.effect(WORKER_A, 1.2, 1, "a1", "done")
    story.fault("SIGSTOP", 1.3, 12.0, WORKER_A)
    story.execution(1, "a1", 1, "LOST", "SCHEDULED", 1.005, 6.5)
    story.claim(WORKER_B, 7.0, (1, "b1", 2))
    story.effect(WORKER_B, 7.1, 1, "b1", "start")
    story.effect(WORKER_B, 7.2, 1, "b1", "done")
    story.finish(WORKER_B, 7.3, 1, "b1", "COMPLETED")
    story.execution(1, "b1", 2, "SUCCEEDED", "COMPLETED", 7.005, 7.305)
    story.finish(WORKER_A, 12.1, 1, "a1", "LEASE_LOST")

    story.claim(WORKER_B, 1.5, (2, "b2", 1))
    story.effect(WORKER_B, 1.6, 2, "b2", "start")
    story.effect(WORKER_B, 1.7, 2, "b2", "done")
    story.finish(WORKER_B, 1.8, 2, "b2", "SCHEDULED")
    story.execution(2, "b2", 1, "FAILED", "SCHEDULED", 1.505, 1.805)
    story.claim(WORKER_B, 3.0, (2, "c2", 2))
    story.effect(WORKER_B, 3.1, 2, "c2", "start")
    story.effect(WORKER_B, 3.2, 2, "c2", "done")
    story.finish(WORKER_B, 3.3, 2, "c2", "COMPLETED")
    story.execution(2, "c2", 2, "SUCCEEDED", "COMPLETED", 3.005, 3.305)
    story.job(1, "COMPLETED", 0.005)
    story.job(2, "COMPLETED", 0.105)
    return story


def test_a_good_history_passes_with_its_figures():
    report = good_story().check()

    assert report.verdicts == []
    figures = report.figures
    assert (figures.jobs, figures.attempts, figures.late_finishes_refused) == (2, 4, 1)
    assert (figures.duplicates_explained, figures.without_fault) == (1, 0)
    assert (figures.lost, figures.unexplained) == (0, 0)


def test_a_lease_that_ran_out_without_a_fault_explains_a_duplicate_and_is_counted():
    story = good_story()
    story.history = [line for line in story.history if line["op"] != "fault"]

    report = story.check(Demands(jobs=1, faults=0, late=1))

    assert report.verdicts == []
    assert (report.figures.duplicates_explained, report.figures.without_fault) == (1, 1)


def test_what_a_process_held_that_was_not_heard_of_any_more_may_be_taken_back_early():
    story = good_story()
    take_back_early(story)
    story.history = [
        line for line in story.history if line["process"] != WORKER_A or line["mono"] < 12
    ]

    assert story.check(Demands(jobs=1)).verdicts == []


@pytest.mark.parametrize("killed_at", [0.15, 0.4])
def test_a_claim_that_a_crash_lost_is_no_broken_promise(killed_at: float):
    story = good_story()
    story.claim(WORKER_A, 0.2, (2, "z2", 1))
    story.effect(WORKER_A, 0.3, 2, "z2", "start")
    story.effect(WORKER_A, 0.31, 2, "z2", "done")
    story.fault("postmaster killed", killed_at, 0.9, "server")

    report = story.check()

    assert report.verdicts == []
    assert report.figures.duplicates_explained == 2


def test_a_heartbeat_that_extended_nothing_counts_for_what_was_left():
    story = good_story()
    story.heartbeat(WORKER_A, 1.29, (1, "a1"), left=0.5)

    assert story.check().verdicts == []


def test_runs_are_put_in_the_order_of_their_leases_not_of_their_requests():
    story = good_story()
    [answer] = [line for line in story.history if "c2" in str(line.get("jobs"))]
    [asked] = [line for line in story.history if line["call"] == answer["call"]][:1]
    asked["mono"] -= 1.9  # it was long on its way
    asked["wall"] -= 1.9

    assert story.check().verdicts == []


def test_an_unknown_enqueue_may_have_happened_or_not():
    story = good_story()
    story.enqueue(None, 2.0, key="there", kind="unknown")
    story.enqueue(None, 2.1, key="not there", kind="unknown")
    story.job(3, "CANCELLED", 2.0, key="there")

    report = story.check()

    assert report.verdicts == []
    assert report.figures.unknown_enqueues == 2


def workflow_story() -> Story:
    """Beside the good one 11 completes, 12 fails, and each has children; 17 to 19 await events."""
    story = good_story()
    for job, began, state in ((11, 20.0, "COMPLETED"), (12, 20.5, "FAILED")):
        run_alone(story, job, began, state)
        story.job(job, state, 0.0)
        story.jobs[-1]["max_retries"] = 0
    for job, began, parents, policy in ((13, 22, [11], "cancel"), (14, 23, [11, 12], "run")):
        run_alone(story, job, began, "COMPLETED")
        story.job(job, "COMPLETED", 0.0, depends_on=parents, if_parent_fails=policy, ended_by=None)
    down = {"depends_on": [11, 12], "if_parent_fails": "cancel"}
    story.job(15, "CANCELLED", 0.0, **down, ended_by=12)
    story.emit(30.0, "e", 1)
    story.emit(31.0, "e", 2)
    for job, awaited in (
        (17, {"event": "e", "state": "ARRIVED", "payload": 1, "at": WALL + 30.1}),
        (18, {"event": "f", "state": "TIMED_OUT", "payload": None, "at": WALL + 39}),
    ):
        run_alone(story, job, 40.0, "COMPLETED")
        story.job(job, "COMPLETED", 0.0, awaited=[awaited])
    run_in_steps(story, 19)
    for job in story.jobs:
        if job["id"] > 10:
            job["key"] = None
    return story


def run_alone(story, job, began, state):
    outcome = "SUCCEEDED" if state == "COMPLETED" else "FAILED"
    token = f"t{job}"
    story.claim(WORKER_B, began, (job, token, 1))
    story.finish(WORKER_B, began + 0.5, job, token, state)
    story.execution(job, token, 1, outcome, state, began + 0.005, began + 0.505)


def run_in_steps(story, job):
    """It does a step, sleeps, and waits for an event, each under another lease."""
    heard = {"event": "e", "state": "ARRIVED", "payload": 1, "at": WALL + 53}
    for number, (op, state, step) in enumerate(
        [("sleep", "SCHEDULED", "nap"), ("await_event", "RELEASED", "e")]
    ):
        began, token = 50.0 + number, f"s{number}"
        story.claim(WORKER_A, began, (job, token, 1))
        story.effect(WORKER_A, began + 0.1, job, token, f"in {number}")
        story.record(WORKER_A, began + 0.2, job, token, str(number))
        story.hand_back(WORKER_A, began + 0.3, job, token, op, state, step=step, event="e")
        story.execution(job, token, 1, "RELEASED", "SCHEDULED", began + 0.005, began + 0.305)
    story.claim(WORKER_B, 53.0, (job, "s2", 1))
    story.hand_back(WORKER_B, 53.1, job, "s2", "await_event", "ARRIVED", step="e", event="e")
    story.finish(WORKER_B, 53.5, job, "s2", "COMPLETED")
    story.execution(job, "s2", 1, "SUCCEEDED", "COMPLETED", 53.005, 53.505)
    story.job(job, "COMPLETED", 0.0, awaited=[heard])


def the_job(story, number):
    return next(job for job in story.jobs if job["id"] == number)


def test_a_good_history_of_workflows_passes():
    assert workflow_story().check().verdicts == []


def test_the_first_of_two_events_may_be_one_whose_answer_was_lost():
    story = workflow_story()
    story.emit(29.995, "e", 2, kind="unknown")
    for number in (17, 19):
        the_job(story, number)["awaited"][0]["payload"] = 2

    assert story.check().verdicts == []


def test_a_step_that_a_late_worker_does_beside_the_one_that_recorded_it_is_no_repeat():
    story = workflow_story()
    story.effect(WORKER_A, 53.05, 19, "s0", "in 1")

    assert story.check().verdicts == []


def start_before_parent(story):
    row = next(row for row in story.executions if row["job_id"] == 14)
    row["started_at"] = WALL + 20.9


def start_before_completion(story):
    row = next(row for row in story.executions if row["job_id"] == 13)
    row["started_at"] = WALL + 20.1


def run_below_a_failure(story):
    the_job(story, 14)["if_parent_fails"] = "cancel"


def leave_out_of_the_failure(story):
    the_job(story, 15).update(state="COMPLETED", ended_by=None)


def go_down_with_another(story):
    the_job(story, 15)["ended_by"] = 11


def go_down_with_none(story):
    the_job(story, 13)["ended_by"] = 11


def run_beside_a_parent(story):
    the_job(story, 11)["state"] = "RUNNING"


def lose_event(story):
    the_job(story, 17)["awaited"][0].update(state="TIMED_OUT", payload=None, at=WALL + 39)


def make_event_up(story):
    the_job(story, 17)["awaited"][0]["payload"] = 3


def lease_what_has_not_slept_yet(story):
    story.claim(WORKER_B, 50.1, (19, "x9", 1))


def go_on_instead_of_sleeping(story):
    answered(story, "sleep")["state"] = "RUNNING"


def sleep_without_a_trace(story):
    next(row for row in story.executions if row["token"] == "s0")["outcome"] = "LOST"


def hear_the_second_event(story):
    the_job(story, 19)["awaited"][0]["payload"] = 2


def hear_one_of_two_each(story):
    story.emit(29.995, "e", 2, kind="unknown")
    hear_the_second_event(story)


def do_a_recorded_step_again(story):
    story.effect(WORKER_B, 53.05, 19, "s2", "in 1")


def answered(story, op):
    asked = next(line for line in story.history if line["op"] == op)
    return next(
        line for line in story.history if line["call"] == asked["call"] and line["type"] != "invoke"
    )


BROKEN_WORKFLOWS = [
    (start_before_parent, "W1"),
    (start_before_completion, "W1"),
    (run_below_a_failure, "W2"),
    (leave_out_of_the_failure, "W2"),
    (go_down_with_another, "W2"),
    (go_down_with_none, "W2"),
    (run_beside_a_parent, "W2"),
    (lose_event, "W3"),
    (make_event_up, "W3"),
    (hear_the_second_event, "W3"),
    (hear_one_of_two_each, "W3"),
    (lease_what_has_not_slept_yet, "L1"),
    (go_on_instead_of_sleeping, "L1"),
    (sleep_without_a_trace, "L2"),
    (do_a_recorded_step_again, "W4"),
]


@pytest.mark.parametrize(
    ("damage", "rule"), BROKEN_WORKFLOWS, ids=[change.__name__ for change, _ in BROKEN_WORKFLOWS]
)
def test_a_broken_promise_of_workflows_is_named(damage: Callable[[Story], None], rule: str):
    story = workflow_story()
    damage(story)

    report = story.check()

    assert rule in {verdict.rule for verdict in report.verdicts}


def lose_job(story):
    story.jobs = [job for job in story.jobs if job["id"] != 2]


def make_job_twice(story):
    story.job(9, "CANCELLED", 0.0, key="k2")


def make_refused_job(story):
    story.enqueue(None, 2.0, key="refused", kind="fail")
    story.job(3, "CANCELLED", 2.0, key="refused")


def give_id_twice(story):
    story.enqueue(2, 4.0, key="another")
    story.jobs = [job for job in story.jobs if job["id"] != 2]


def make_job_of_nobody(story):
    story.job(3, "CANCELLED", 2.0, key="nobody's")


def lease_while_leased(story):
    story.claim(WORKER_A, 3.1, (2, "x2", 3))


def overlap_in_the_tables(story):
    story.executions[1]["started_at"] = WALL + 6.0


def accept_late_finish(story):
    late = [line for line in story.history if line.get("outcomes") == ["LEASE_LOST"]]
    late[0]["outcomes"] = ["COMPLETED"]
    story.finish(WORKER_A, 13.0, 1, "zzz", "LEASE_LOST")


def end_for_another(story):
    story.executions[1]["finished_at"] = WALL + 7.25


def refuse_rightful_finish(story):
    for line in story.history:
        if line.get("outcomes") == ["COMPLETED"]:
            line["outcomes"] = ["LEASE_LOST"]


def conflict(story):
    story.finish(WORKER_B, 8.0, 1, "b1", "CONFLICT")


def end_twice(story):
    story.claim(WORKER_B, 13.0, (1, "d1", 3))
    story.execution(1, "d1", 3, "SUCCEEDED", "COMPLETED", 13.005, 13.1)


def end_otherwise(story):
    story.jobs[0]["state"] = "FAILED"


def charge_twice(story):
    story.executions[1]["attempt"] = 3


def hand_out_twice(story):
    story.claim(WORKER_A, 4.0, (2, "c2", 2))


def forget_attempt(story):
    story.claim(WORKER_A, 13.0, (1, "d1", 3))


def take_back_early(story):
    story.heartbeat(WORKER_A, 1.29, (1, "a1"))
    story.executions[0]["finished_at"] = WALL + 6.2


def run_unclaimed(story):
    story.effect(WORKER_B, 9.0, 2, "nobody's", "start")


def run_twice(story):
    story.effect(WORKER_B, 9.0, 2, "c2", "start")


def run_after_success(story):
    story.claim(WORKER_A, 4.0, (2, "x2", 3))
    story.effect(WORKER_A, 4.1, 2, "x2", "start")


def pass_by(story):
    story.enqueue(5, 0.0)
    story.enqueue(6, 0.0)
    story.claim(WORKER_A, 20.0, (6, "e6", 1))
    story.execution(6, "e6", 1, "SUCCEEDED", "COMPLETED", 20.005, 20.1)
    story.claim(WORKER_A, 21.0, (5, "e5", 1))
    story.execution(5, "e5", 1, "SUCCEEDED", "COMPLETED", 21.005, 21.1)
    story.job(5, "COMPLETED", 0.0)
    story.job(6, "COMPLETED", 0.0)


def leave_behind(story):
    story.enqueue(5, 0.0)
    story.job(5, "SCHEDULED", 0.0)


BROKEN = [
    (lose_job, "E1"),
    (make_job_twice, "E1"),
    (make_refused_job, "E1"),
    (give_id_twice, "E1"),
    (make_job_of_nobody, "E1"),
    (lease_while_leased, "L1"),
    (overlap_in_the_tables, "L1"),
    (accept_late_finish, "L2"),
    (end_for_another, "L2"),
    (refuse_rightful_finish, "L2"),
    (conflict, "L2"),
    (end_twice, "S4"),
    (end_otherwise, "S4"),
    (charge_twice, "S5"),
    (hand_out_twice, "S5"),
    (forget_attempt, "S10"),
    (take_back_early, "L7"),
    (run_unclaimed, "duplicate"),
    (run_twice, "duplicate"),
    (run_after_success, "duplicate"),
    (pass_by, "C3"),
    (leave_behind, "V1"),
]


@pytest.mark.parametrize(("damage", "rule"), BROKEN, ids=[change.__name__ for change, _ in BROKEN])
def test_a_broken_promise_is_named(damage: Callable[[Story], None], rule: str):
    story = good_story()
    damage(story)

    report = story.check()

    assert rule in {verdict.rule for verdict in report.verdicts}


def test_what_is_lost_with_an_asynchronous_standby_is_counted_but_no_id_comes_twice():
    story = good_story()
    lose_job(story)
    lossy = Demands(jobs=1, late=1, lossy=True)

    forgiven = story.check(lossy)
    story.enqueue(2, 4.0, key="another")
    twice = story.check(lossy)

    assert (forgiven.verdicts, forgiven.figures.lost) == ([], 1)
    assert [verdict.rule for verdict in twice.verdicts] == ["E1"]
    assert "given out" in twice.verdicts[0].detail


def left_behind_story() -> Story:
    """While the server that A and B had asked was left behind, it accepted what is gone with it."""
    story = good_story()
    take_back_early(story)
    story.fault("Patroni killed", 1.25, 12.5, "server")
    return story


def test_a_lease_that_was_extended_on_a_server_left_behind_may_be_taken_back():
    story = left_behind_story()

    assert story.check(Demands(jobs=1, late=1, left_behind=True)).verdicts == []
    assert {verdict.rule for verdict in story.check().verdicts} == {"L7"}


def test_a_job_that_has_ended_may_be_claimed_of_a_server_left_behind():
    story = left_behind_story()
    run_after_success(story)
    story.executions = [line for line in story.executions if line["token"] != "x2"]

    assert story.check(Demands(jobs=1, late=1, left_behind=True)).verdicts == []
    assert "duplicate" in {verdict.rule for verdict in story.check().verdicts}


def test_a_finish_that_was_accepted_by_a_server_left_behind_may_be_forgotten():
    story = left_behind_story()
    accept_late_finish(story)
    demands = Demands(jobs=1, lossy=True, left_behind=True)

    assert story.check(demands).verdicts == []
    lossless = story.check(Demands(jobs=1, left_behind=True))
    assert {verdict.rule for verdict in lossless.verdicts} == {"L2"}


@pytest.mark.parametrize(
    "demands",
    [
        Demands(jobs=3),
        Demands(jobs=1, faults=2),
        Demands(jobs=1, late=2),
        Demands(jobs=1, naps=1),
        Demands(jobs=1, events=1),
    ],
)
def test_a_run_that_proved_nothing_is_refused(demands: Demands):
    report = good_story().check(demands)

    assert [verdict.rule for verdict in report.verdicts] == ["vacuous"]


def test_a_saved_history_is_decided_again_from_the_command_line(tmp_path: Path):
    story = good_story()
    lose_job(story)
    for name in ("history", "effects", "jobs", "executions"):
        lines = [json.dumps(line) for line in getattr(story, name)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "demands.json").write_text(json.dumps({"jobs": 1, "faults": 1, "late": 1}))

    run = subprocess.run(
        [sys.executable, "-m", "tests.history.check", tmp_path], capture_output=True, text=True
    )

    assert run.returncode == 1
    assert '"rule": "E1", "job": 2' in run.stdout
    assert "lost 1, unexplained 0" in run.stdout
