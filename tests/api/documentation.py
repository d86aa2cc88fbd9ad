"""How tests read the OpenAPI document."""

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

# Every operation with its name, which generated clients have as a function: none ever changes. The
# order is the life of a job and of a schedule, so that each example finds what it needs.
OPERATIONS = {
    "POST /jobs": "enqueueJob",
    "POST /jobs/bulk": "enqueueJobs",
    "GET /jobs": "listJobs",
    "GET /jobs/counts": "countJobs",
    "GET /jobs/{job_id}": "getJob",
    "GET /jobs/{job_id}/executions": "listExecutions",
    "GET /jobs/{job_id}/why": "explainJob",
    "POST /jobs/{job_id}/cancel": "cancelJob",
    "POST /jobs/{job_id}/retry": "retryJob",
    "POST /jobs/cancel": "cancelJobs",
    "POST /jobs/retry": "retryJobs",
    "POST /queues/{queue}/claim": "claimFromQueue",
    "POST /jobs/claim": "claimJobs",
    "POST /jobs/{job_id}/heartbeat": "heartbeatJob",
    "POST /jobs/heartbeat": "heartbeatJobs",
    "POST /jobs/{job_id}/finish": "finishJob",
    "POST /jobs/finish": "finishJobs",
    "POST /jobs/{job_id}/release": "releaseJob",
    "POST /workflows": "enqueueWorkflow",
    "GET /workflows": "listWorkflows",
    "GET /workflows/{workflow_id}": "getWorkflow",
    "POST /workflows/{workflow_id}/cancel": "cancelWorkflow",
    "POST /workflows/{workflow_id}/retry": "retryWorkflow",
    "GET /jobs/{job_id}/parents": "listParents",
    "POST /jobs/{job_id}/steps": "recordStep",
    "GET /jobs/{job_id}/steps": "listSteps",
    "POST /jobs/{job_id}/sleep": "sleepJob",
    "POST /jobs/{job_id}/await": "awaitEvent",
    "POST /events/{event}": "emitEvent",
    "POST /schedules": "saveSchedule",
    "GET /schedules": "listSchedules",
    "GET /schedules/{name}": "getSchedule",
    "PUT /schedules/{name}": "putSchedule",
    "POST /schedules/{name}/pause": "pauseSchedule",
    "POST /schedules/{name}/resume": "resumeSchedule",
    "POST /schedules/{name}/trigger": "triggerSchedule",
    "POST /schedules/{name}/backfill": "backfillSchedule",
    "DELETE /schedules/{name}": "deleteSchedule",
    "POST /schedules/preview": "previewSchedule",
    "GET /queues": "listQueues",
    "GET /queues/{queue}": "getQueue",
    "POST /queues/{queue}/pause": "pauseQueue",
    "POST /queues/{queue}/resume": "resumeQueue",
    "PATCH /queues/{queue}": "configureQueue",
    "PATCH /queues/{queue}/keys/{key}": "configureKey",
    "GET /queues/{queue}/keys": "listKeys",
    "DELETE /queues/{queue}/keys/{key}": "deleteKey",
    "DELETE /queues/{queue}": "deleteQueue",
    "GET /workers": "listWorkers",
    "GET /doctor": "examine",
    "GET /metrics": "getMetrics",
    "GET /health/live": "getLiveness",
    "GET /health/ready": "getReadiness",
}


def operation(spec: dict[str, Any], name: str) -> dict[str, Any]:
    method, path = name.split()
    return spec["paths"][path][method.lower()]


def resolve(spec: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in item:
        reference = item["$ref"].removeprefix("#/").split("/")
        item = spec
        for key in reference:
            item = item[key]
    return item


def as_json_schema(schema: Any) -> Any:
    """Say "nullable" in the words of JSON Schema."""
    if isinstance(schema, list):
        return [as_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: as_json_schema(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") else plain


def requests(spec: dict[str, Any], name: str) -> list[Any]:
    """Return the bodies that the documentation offers; one None where there is no body."""
    body = operation(spec, name).get("requestBody")
    return list(examples(spec, body)) if body else [None]


def examples(spec: dict[str, Any], part: dict[str, Any]) -> Iterator[Any]:
    """Find the examples that are shown for a body or an answer, the schema's own if there is none.

    That is what Swagger UI shows; it makes one up where neither has any.
    """
    content = part["content"]["application/json"]
    if "examples" in content:
        yield from (example["value"] for example in content["examples"].values())
    else:
        schema = resolve(spec, content["schema"])
        yield content["example"] if "example" in content else schema["example"]


def request_url(spec: dict[str, Any], name: str) -> str:
    """Return the path and query of an operation, filled as "Try it out" does."""
    path, query = name.split()[1], {}
    for parameter in operation(spec, name).get("parameters", []):
        parameter = resolve(spec, parameter)
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
        elif "example" in parameter or "default" in parameter["schema"]:
            query[parameter["name"]] = parameter.get("example", parameter["schema"].get("default"))
    return path + "?" + "&".join(f"{key}={value}" for key, value in query.items())


def with_workflow(conn: Connection, url: str) -> str:
    """Put a workflow that there is in the place of the examples' workflow 1."""
    row = conn.execute("select max(id) from rota.workflows where name is not null").fetchone()
    return url.replace("/workflows/1", f"/workflows/{(row and row[0]) or 1}")


def responses(spec: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return the answers of an operation by their status."""
    return {
        status: resolve(spec, response)
        for status, response in operation(spec, name)["responses"].items()
    }
