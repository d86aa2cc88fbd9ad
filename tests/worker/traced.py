"""Handlers of a process that traces, to a file, as an application sets it up."""

import asyncio
import json
import logging
import os
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from rota.worker import Job, task


class FileExporter(SpanExporter):
    """Writes the spans, each a line."""

    def export(self, spans: list[ReadableSpan]) -> SpanExportResult:
        with Path(os.environ["SPANS"]).open("a") as file:
            for span in spans:
                line = {"name": span.name, "trace": f"{span.context.trace_id:032x}"}
                links = [f"{link.context.span_id:016x}" for link in span.links]
                file.write(json.dumps({**line, "links": links}) + "\n")
        return SpanExportResult.SUCCESS


provider = TracerProvider()
# It sends by itself in an hour; what is there before it sends when it is told to.
provider.add_span_processor(BatchSpanProcessor(FileExporter(), schedule_delay_millis=3_600_000))
trace.set_tracer_provider(provider)


@task("traced in a thread")
def in_a_thread(job: Job) -> dict:
    logging.getLogger("library").warning("inside")
    return job.headers


@task("traced in a coroutine")
async def in_a_coroutine(job: Job) -> dict:
    await asyncio.sleep(0)
    logging.getLogger("library").warning("inside")
    return job.headers
