"""What a caller behind a wall gets of each function and view that is about somebody else's.

``expected_grants.txt`` shows it beside the rights; ``functions/test_walls.py`` holds each to it. A
function or a view that is new fails both until it stands here.
"""

REFUSED = "refused"  # 42501, by the queue's or the name's pattern alone
MISSING = "missing"  # RTN01, in the words of a job that there is not
EMPTY = "empty"  # as from a queue without jobs
TOKEN = "token"  # whoever has a token holds that job; without it nothing is told
NOTHING = "nothing"  # reads nothing but its arguments, or tells of the caller alone
CHORE = "chore"  # works for the whole house, shows a number at most
OWN = "own"  # rows of the caller's queues, and no others

BEHIND_A_WALL = {
    "announce_worker": REFUSED,
    "backfill_schedule": REFUSED,
    "begin_sleep": EMPTY,
    "begin_request": NOTHING,
    "binding_principals": OWN,
    "bring_forward_jobs": EMPTY,
    "authenticate_token": NOTHING,
    "cancel_job": MISSING,
    "cancel_jobs": OWN,
    "check_invariants": REFUSED,
    "claim_next_job": EMPTY,
    "configure_queue": REFUSED,
    "configure_retention": REFUSED,
    "create_token": NOTHING,
    "delete_queue": REFUSED,
    "delete_schedule": REFUSED,
    "dismiss_worker": REFUSED,
    "end_request": NOTHING,
    "end_sleep": EMPTY,
    "ended_jobs": OWN,
    "enqueue_job": REFUSED,
    "enqueue_jobs": REFUSED,
    "enqueue_many": REFUSED,
    "finish_job": TOKEN,
    "finish_jobs": TOKEN,
    "heartbeat_job": TOKEN,
    "heartbeat_jobs": TOKEN,
    "hold_lease": TOKEN,
    "maintain": CHORE,
    "needs_token": NOTHING,
    "next_due_in": EMPTY,
    "next_run": NOTHING,
    "pause_queue": REFUSED,
    "pause_schedule": REFUSED,
    "preview_schedule": NOTHING,
    "principal_of": NOTHING,
    "recover_jobs": CHORE,
    "recover_workers": CHORE,
    "release_job": TOKEN,
    "release_unhandled_jobs": TOKEN,
    "resume_queue": REFUSED,
    "resume_schedule": REFUSED,
    "roll_up": CHORE,
    "statistics_age": NOTHING,
    "take_census": CHORE,
    "retry_job": MISSING,
    "retry_jobs": OWN,
    "revoke_token": NOTHING,
    "schedule_job": REFUSED,
    "trigger_schedule": REFUSED,
    "unwall": REFUSED,
    "version": NOTHING,
    "visible_queues": OWN,
    "wall": REFUSED,
    "actions": OWN,
    "attempt_minutes": OWN,
    "attempt_totals": OWN,
    "executions": OWN,
    "job_executions": OWN,
    "jobs": OWN,
    "queue_census": OWN,
    "queue_depths": OWN,
    "queue_status": OWN,
    "schedule_status": OWN,
    "tokens": OWN,
    "walls": OWN,
    "worker_census": OWN,
    "worker_status": OWN,
}
