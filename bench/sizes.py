"""How much is measured: all of it (an hour), or what fits into 20 minutes, or into five."""

from dataclasses import dataclass

from bench.contestants import ROTA, Contestant


@dataclass(frozen=True)
class Sizes:
    """Numbers of jobs, and seconds."""

    enqueue_seconds: float
    enqueue_clients: tuple[int, ...]
    enqueue_workers: tuple[str, ...]  # what the workers do meanwhile
    bulk_jobs: int
    drain_jobs: int
    drain_rounds: int
    slow_drain_seconds: float  # a drain that takes longer is measured as far as it got
    processes: tuple[int, ...]
    idle_starts: int  # jobs whose start latency is measured
    loaded_starts: int
    start_rounds: int
    backlogs: tuple[int, ...]
    peer_backlog: int  # the largest that peers get
    backlog_drain: int  # jobs drained from each
    snapshot_jobs: int  # through Rota while a snapshot is held
    peer_snapshot_jobs: int
    after_snapshot: bool  # also what comes after its release, which takes minutes
    idle_seconds: float
    idle_peers: bool
    calls: int  # of each statement that is timed
    limit_rounds: int
    limit_seconds: int  # of each round
    limit_clients: tuple[int, ...]
    limit_jobs: int
    key_calls: int  # single claims of each kind, a round
    key_backlog: int  # jobs of a key that waits for room
    key_noisy: int  # jobs of a tenant, beside those of small ones
    key_tenants: int  # small ones, one after the other
    key_pinned: int  # jobs with keys that are finished under an old snapshot
    workflow_jobs: int  # of a fan-in, and below a root that fails
    workflow_chain: int
    key_peer_jobs: int  # with limited keys, by all who have limits
    key_peer_seconds: float
    key_peer_backlog: int  # jobs of a full key
    key_peer_starts: int  # jobs of others beside it
    http_rounds: int
    http_seconds: float  # of each kind of request

    def most_waiting(self, contestant: Contestant) -> int:
        """Return the largest backlog that a contestant gets; the slowest would take hours."""
        if contestant is ROTA:
            return max(self.backlogs)
        return min(self.peer_backlog, 10_000 if "best" in contestant.slow else self.peer_backlog)


FULL = Sizes(
    enqueue_seconds=3.0,
    enqueue_clients=(1, 8, 32),
    enqueue_workers=("asleep", "busy"),
    bulk_jobs=100_000,
    drain_jobs=100_000,
    drain_rounds=3,
    slow_drain_seconds=10.0,
    processes=(1, 2, 4),
    idle_starts=300,
    loaded_starts=1500,
    start_rounds=3,
    backlogs=(10_000, 1_000_000, 10_000_000),
    peer_backlog=1_000_000,
    backlog_drain=1_000_000,
    snapshot_jobs=5_000_000,
    peer_snapshot_jobs=200_000,
    after_snapshot=True,
    idle_seconds=10.0,
    idle_peers=True,
    calls=20_000,
    limit_rounds=5,
    limit_seconds=4,
    limit_clients=(1, 8, 32),
    limit_jobs=100_000,
    key_calls=500,
    key_backlog=1_000_000,
    key_noisy=300_000,
    key_tenants=10,
    workflow_jobs=10_000,
    workflow_chain=2000,
    key_pinned=300_000,
    key_peer_jobs=4000,
    key_peer_seconds=20.0,
    key_peer_backlog=100_000,
    key_peer_starts=100,
    http_rounds=3,
    http_seconds=2.0,
)

SHORT = Sizes(
    enqueue_seconds=2.0,
    enqueue_clients=(1, 8, 32),
    enqueue_workers=("busy",),
    bulk_jobs=100_000,
    drain_jobs=100_000,
    drain_rounds=1,
    slow_drain_seconds=6.0,
    processes=(1, 2, 4),
    idle_starts=150,
    loaded_starts=1000,
    start_rounds=1,
    backlogs=(10_000, 1_000_000),
    peer_backlog=10_000,
    backlog_drain=100_000,
    snapshot_jobs=1_000_000,
    peer_snapshot_jobs=100_000,
    after_snapshot=True,
    idle_seconds=8.0,
    idle_peers=True,
    calls=3000,
    limit_rounds=3,
    limit_seconds=2,
    limit_clients=(1, 8, 32),
    limit_jobs=50_000,
    key_calls=300,
    key_backlog=1_000_000,
    key_noisy=300_000,
    key_tenants=5,
    workflow_jobs=10_000,
    workflow_chain=1000,
    key_pinned=300_000,
    key_peer_jobs=2000,
    key_peer_seconds=10.0,
    key_peer_backlog=100_000,
    key_peer_starts=60,
    http_rounds=2,
    http_seconds=1.5,
)

QUICK = Sizes(
    enqueue_seconds=1.5,
    enqueue_clients=(8,),
    enqueue_workers=("busy",),
    bulk_jobs=30_000,
    drain_jobs=40_000,
    drain_rounds=1,
    slow_drain_seconds=4.0,
    processes=(1, 2),
    idle_starts=100,
    loaded_starts=500,
    start_rounds=1,
    backlogs=(10_000, 200_000),
    peer_backlog=0,
    backlog_drain=50_000,
    snapshot_jobs=200_000,
    peer_snapshot_jobs=0,
    after_snapshot=False,
    idle_seconds=3.0,
    idle_peers=False,
    calls=3000,
    limit_rounds=2,
    limit_seconds=1,
    limit_clients=(1, 8),
    limit_jobs=20_000,
    key_calls=300,
    key_backlog=100_000,
    key_noisy=60_000,
    key_tenants=5,
    key_pinned=20_000,
    workflow_jobs=10_000,
    workflow_chain=500,
    key_peer_jobs=800,
    key_peer_seconds=5.0,
    key_peer_backlog=20_000,
    key_peer_starts=40,
    http_rounds=1,
    http_seconds=1.0,
)

BY_NAME = {"full": FULL, "short": SHORT, "quick": QUICK}
