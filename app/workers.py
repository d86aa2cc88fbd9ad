"""Workers: who is there."""

from flask import Blueprint, Response
from psycopg import sql

from rota.app.answers import answer, moments, read_rows
from rota.app.database import transaction

blueprint = Blueprint("workers", __name__)

WORKERS = sql.SQL(
    """
    select worker, host, pid, queues, concurrency, version, {started_at}, {last_seen_at},
        {stopped_at}, running, tasks, overrun,
        extract(epoch from clock_difference)::float8 as clock_difference_seconds
    from rota.worker_status as w
    order by w.last_seen_at desc, worker
    limit 200
    """
).format(**moments("started_at", "last_seen_at", "stopped_at"))


@blueprint.get("/workers")
def list_workers() -> Response:
    """List the 200 workers that were seen last.

    ---
    tags: [workers]
    operationId: listWorkers
    security: [operator, reader]
    responses:
      200:
        description: Workers, the one that was seen last first.
        json: Workers
    """
    with transaction() as conn:
        return answer(workers=read_rows(conn, WORKERS))
