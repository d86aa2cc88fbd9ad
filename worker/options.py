"""What a worker is told on its command line."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

SHORTEST_LEASE = 1.0  # seconds
MARGIN = 0.1  # of the lease


@dataclass(frozen=True)
class Options:
    """What ``rota worker`` was asked for; times are in seconds."""

    urls: tuple[str, ...]
    queues: dict[str, int | None]
    concurrency: int = 8
    lease: float = 30.0
    grace: float = 30.0
    poll: float = 1.0

    @property
    def margin(self) -> float:
        """How long before its end a lease is not trusted any more."""
        return self.lease * MARGIN

    @property
    def limits(self) -> dict[str, int]:
        """The queues of which only so many jobs may run at one time in this process."""
        return {queue: limit for queue, limit in self.queues.items() if limit is not None}


def queues(text: str) -> dict[str, int | None]:
    """Read ``default,mail:2``: queues, some with a limit of their own."""
    limits: dict[str, int | None] = {}
    for item in text.split(","):
        name, colon, limit = item.strip(" \t").rpartition(":")
        if not colon:
            name, limit = limit, ""
        if not name or name in limits or (colon and (not limit.isdecimal() or int(limit) < 1)):
            raise argparse.ArgumentTypeError(f"{item!r}: expected a queue, or queue:limit, once")
        limits[name] = int(limit) if colon else None
    return limits


def at_least(least: float) -> Callable[[str], float]:
    """Return a reader of numbers of seconds."""

    def seconds(text: str) -> float:
        value = float(text)
        if not least <= value <= 86_400:
            raise argparse.ArgumentTypeError(f"expected {least:g} to 86400 seconds, not {text}")
        return value

    return seconds


def number_to(most: int) -> Callable[[str], int]:
    """Return a reader of numbers from 1."""

    def number(text: str) -> int:
        value = int(text)
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"expected 1 to {most}, not {text}")
        return value

    return number


def address(text: str) -> tuple[str, int]:
    """Read ``9100`` or ``10.0.0.5:9100``: where to listen; without a host on this machine only."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not port.isascii() or not 1 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, or host:port")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read these arguments, or the command line of this process."""
    parser = argparse.ArgumentParser(
        prog="rota worker",
        description="Run jobs from the database that DATABASE_URL names, or from several.",
        epilog="SIGTERM or Ctrl-C stops gently, a second one at once.",
    )
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        metavar="URL",
        help="a database in place of DATABASE_URL's; may be repeated: one that is away costs no"
        " more than its own jobs (DATABASE_URL may name several, too, with spaces between)",
    )
    parser.add_argument(
        "--queues",
        type=queues,
        default={"default": None},
        help="queues to serve, separated by commas; mail:2 runs at most 2 of mail at one time in"
        " this process; max_running of a queue is for all workers together (default: default)",
    )
    parser.add_argument(
        "--concurrency",
        type=number_to(1000),
        default=8,
        help="jobs that may run at one time, in threads or as coroutines; a coroutine costs little,"
        " so for async handlers hundreds are in order (default: 8)",
    )
    parser.add_argument(
        "--processes",
        type=number_to(256),
        default=1,
        help="processes, each with the concurrency and the limits of this command line: Python runs"
        " on one core a process, so handlers that burn CPU need one for each core (default: 1)",
    )
    parser.add_argument(
        "--tasks",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module with handlers; may be repeated (rota.demo.tasks has some to try Rota)",
    )
    parser.add_argument(
        "--lease",
        type=at_least(SHORTEST_LEASE),
        default=30.0,
        help="seconds after which the jobs of a worker that is not heard of are taken back; one"
        " whose process died is noticed within 3 (default: 30)",
    )
    parser.add_argument(
        "--grace",
        type=at_least(0.0),
        default=30.0,
        help="seconds that running handlers get at a stop (default: 30)",
    )
    parser.add_argument(
        "--poll",
        type=at_least(0.05),
        default=1.0,
        help="seconds between two looks for work in an idle system (default: 1)",
    )
    parser.add_argument(
        "--metrics",
        type=address,
        metavar="[HOST:]PORT",
        help="answer GET /metrics there, for Prometheus, on 127.0.0.1 unless a host is named; of"
        " several processes each has a port of its own, from this one on (default: off)",
    )
    parser.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)  # see supervisor.py
    options = parser.parse_args(arguments)
    if options.metrics is not None and options.metrics[1] + options.processes - 1 > 65535:
        parser.error("argument --metrics: there are not so many ports from this one on")
    return options
