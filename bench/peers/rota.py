"""Rota's producer: ``python -m bench.peers.rota produce URL OPTIONS``; the worker is its own."""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from bench.child import UNNUMBERED, Enqueue, Producer
from rota.db.deploy import deploy

ENQUEUE = "select * from rota.enqueue_job(task => 'noop', payload => %s::text::jsonb)"
ENQUEUE_KEYED = ENQUEUE.replace("jsonb)", "jsonb, key => %s)")
ENQUEUE_MANY = "select count(*) from rota.enqueue_jobs(jobs => %s::text::jsonb)"
LIMIT = "select rota.configure_queue('default', key_max_running => %s)"


class Client(Producer):
    """Enqueues by calling the functions, from threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._bulk: psycopg.Connection | None = None

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._url, autocommit=True)

    async def clients(self, count: int) -> list[Enqueue]:
        """Return functions that enqueue one job; each blocks its thread."""
        return [self._enqueue(self._connect()) for _ in range(count)]

    def _enqueue(self, conn: psycopg.Connection) -> Enqueue:
        async def enqueue(payload: dict[str, Any]) -> None:
            key = [payload["key"]] if "key" in payload else []
            query = ENQUEUE_KEYED if key else ENQUEUE
            conn.execute(query, [json.dumps(payload), *key], prepare=True).fetchall()

        return enqueue

    async def one_by_one(self, clients: int, seconds: float) -> dict[str, float]:
        """Enqueue single jobs from so many clients at once, for so long."""
        connections = [self._connect() for _ in range(clients)]
        began = time.monotonic()

        def go(conn: psycopg.Connection) -> int:
            count = 0
            cursor = conn.cursor()
            while time.monotonic() - began < seconds:
                cursor.execute(ENQUEUE, [json.dumps(UNNUMBERED)], prepare=True).fetchone()
                count += 1
            return count

        with ThreadPoolExecutor(clients) as threads:
            counts = list(threads.map(go, connections))
        return {"jobs": sum(counts), "seconds": time.monotonic() - began}

    async def bulk(self, payloads: list[dict[str, Any]]) -> None:
        """Enqueue a batch."""
        if self._bulk is None:
            self._bulk = self._connect()
        jobs = [
            {"task": "noop", "payload": payload}
            | ({"key": payload["key"]} if "key" in payload else {})
            for payload in payloads
        ]
        self._bulk.execute(ENQUEUE_MANY, [json.dumps(jobs)], prepare=True)


if __name__ == "__main__":
    role, url, text = sys.argv[1:]
    if role == "install":
        deploy(url, report=lambda line: None)
        if limit := json.loads(text).get("limit"):
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute(LIMIT, [limit])
    else:
        asyncio.run(Client(url).serve())
