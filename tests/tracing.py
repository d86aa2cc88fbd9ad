"""OpenTelemetry for a test: what it traces, and nobody's traces after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rota import tracing


class Spans:
    """The spans that have ended, and a tracer for those of an application."""

    def __init__(self, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter
        self.tracer = provider.get_tracer("application")

    def take(self, *names: str) -> list[Any]:
        """Return the spans with these names, in that order, of which there is one each."""
        found = {span.name: span for span in self._exporter.get_finished_spans()}
        return [found[name] for name in names]

    def named(self, name: str) -> list[Any]:
        """Return all the spans with this name, as they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@contextmanager
def tracing_to_memory(*processors: SpanProcessor) -> Iterator[Spans]:
    """Have this process trace, as it does once an SDK is set up."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    for processor in (*processors, SimpleSpanProcessor(exporter)):
        provider.add_span_processor(processor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "get_tracer_provider", lambda: provider)
        patch.setattr(tracing, "_tracer", None)
        yield Spans(provider, exporter)


def written(context: Any) -> str:
    """Return a span's context as W3C writes it."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
