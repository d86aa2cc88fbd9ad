"""From the return of the call that enqueued a job to the first line of its handler."""

from collections.abc import Sequence
from statistics import median

from bench.contestants import Contestant
from bench.server import Server
from bench.sizes import Sizes
from bench.waiting import until

IDLE_RATE = 20.0  # jobs a second; between two of them every worker falls asleep
PERCENTILES = (50, 95, 99)
SETTLED = 20  # jobs that come first and are not counted: connections and plans are made

Percentiles = dict[str, dict[str, float]]


def middle(rounds: Sequence[Percentiles]) -> Percentiles:
    """Return the median of each figure over some rounds."""
    return {
        load: {name: median(round[load][name] for round in rounds) for name in figures}
        for load, figures in rounds[0].items()
    }


def latency(server: Server, contestant: Contestant, sizes: Sizes) -> Percentiles:
    """Return percentiles in milliseconds for an idle system and one under half its load.

    Half the load: half of the rate at which one client enqueues while the worker works.
    """
    options = contestant.latency
    with (
        server.arena(contestant, options) as arena,
        arena.worker(options) as worker,
        arena.producer() as producer,
    ):

        def percentiles(jobs: int, rate: float) -> dict[str, float]:
            worker.started.clear()
            returned = producer.ask("paced", jobs=jobs + SETTLED, rate=rate)["returned"]
            until(lambda: len(worker.started) == jobs + SETTLED, "all jobs to have started")
            waits = sorted(
                (worker.started[number] - at) / 1e6
                for number, at in enumerate(returned)
                if number >= SETTLED
            )
            return {f"p{p}": waits[min(len(waits) - 1, len(waits) * p // 100)] for p in PERCENTILES}

        idle = percentiles(sizes.idle_starts, IDLE_RATE)
        answer = producer.ask("one_by_one", clients=1, seconds=1.0)
        until(lambda: arena.left() == 0, "the queue to be empty")
        rate = answer["jobs"] / answer["seconds"] / 2
        return {"idle": idle, "half load": percentiles(sizes.loaded_starts, rate) | {"rate": rate}}
