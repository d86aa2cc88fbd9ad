"""Several databases: which of them has what.

A producer needs no more than ``shard_of``; where it enqueues in a transaction of its own, the
database of that transaction is the shard.
"""

from collections.abc import Iterable
from hashlib import sha256

MOST_SHARDS = 1024  # and the step from one id of a shard to its next


def shard_of(key: str, n: int) -> int:
    """Return in which of ``n`` databases, from 0 on, jobs of a key are; as SQL's rota.shard_of.

    With one database more a key in n + 1 moves, to that one, and no other.

    Args:
        key: the key that takes turns; else the unique key, or the name of a schedule.
        n: how many databases there are, up to 1024.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= n <= MOST_SHARDS:
        raise ValueError(f"n must be from 1 to {MOST_SHARDS}, not {n}")
    return max(range(n), key=lambda shard: sha256(f"{shard}:{key}".encode()).digest())


def shard_of_id(job_id: int) -> int:
    """Return which shard gave out an id, unless it did so before it was one."""
    return job_id % MOST_SHARDS


def one_shard_twice(names: Iterable[str], shard: int) -> str:
    """Say what is wrong with databases, by their names, that have the number of one shard."""
    return (
        f"{' and '.join(names)} say that they are shard {shard}: they are one database, or one is a"
        " copy of the other"
    )
