"""Enqueueing one job a call, by clients at once, while workers sleep or are busy."""

from bench.contestants import Contestant
from bench.server import Server
from bench.sizes import Sizes
from bench.waiting import until

LONG = 600  # seconds that a job takes which keeps a worker busy


def enqueue(server: Server, contestant: Contestant, sizes: Sizes) -> dict[str, float]:
    """Return jobs a second by what the workers do and the number of clients.

    A worker that is asleep is woken by the first job and runs what follows. One that is busy has
    all its slots taken by long jobs, so that only the enqueueing itself is measured.
    """
    rates = {}
    for workers in sizes.enqueue_workers:
        for clients in sizes.enqueue_clients:
            options, slots = contestant.busy
            with (
                server.arena(contestant, options) as arena,
                arena.worker(options) as worker,
                arena.producer(options) as producer,
            ):
                if workers == "busy":
                    producer.ask("many", jobs=slots, batch=slots, extra={"sleep": LONG})
                    until(lambda: worker.count == slots, "the worker to be busy")  # noqa: B023
                answer = producer.ask("one_by_one", clients=clients, seconds=sizes.enqueue_seconds)
                rates[f"{workers}, {clients} clients"] = answer["jobs"] / answer["seconds"]
                worker.kill()
    return rates
