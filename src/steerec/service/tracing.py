"""OpenTelemetry: a span for each call, its stages below it; loaded only where traces are wanted."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steerec.errors import MissingExtraError
from steerec.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

EXPORT_S = 2.0  # for one try to reach the collector; a service that stops waits no longer
SERVER_ERROR = 500  # statuses from here on are our failures


class Traces:
    """Makes spans and hands them to a provider.

    Args:
        provider: samples, and sends to wherever it was told to.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("steerec", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def call(self, method: str, route: str, headers: Mapping[str, str]) -> Iterator["Span"]:
        """The span of a call, below that of its `traceparent` if there is one."""
        from opentelemetry.trace import SpanKind

        with self._tracer.start_as_current_span(
            f"{method} {route}",
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        ) as span:
            yield span

    def answered(self, span: "Span", facts: Mapping[str, str], status: int) -> None:
        """Tell a call's span what became of it."""
        from opentelemetry.trace import StatusCode

        span.set_attributes({f"steerec.{name}": value for name, value in facts.items() if value})
        span.set_attribute("http.response.status_code", status)
        if status >= SERVER_ERROR:
            span.set_status(StatusCode.ERROR)

    def stage(self, name: str, seconds: float) -> None:
        """A stage of the current call that ends now; of no call: nothing."""
        from opentelemetry.trace import get_current_span

        if get_current_span().is_recording():
            end_ns = time.time_ns()
            begin_ns = end_ns - int(seconds * 1e9)
            self._tracer.start_span(name, start_time=begin_ns).end(end_ns)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def traces_to(collector: str) -> Traces | None:
    """Traces for a collector that takes OTLP over HTTP at this address; empty: none.

    What OpenTelemetry reads from the environment counts: OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME,
    OTEL_EXPORTER_OTLP_HEADERS.

    Raises:
        MissingExtraError: if OpenTelemetry is not installed.
    """
    if not collector:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as e:
        raise MissingExtraError(
            "traces need OpenTelemetry: pip install 'steerec[tracing]', or leave out service.traces"
        ) from e
    ours = Resource({"service.name": "steerec", "service.version": __version__})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()))
    exporter = OTLPSpanExporter(f"{collector.rstrip('/')}/v1/traces", timeout=EXPORT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traces(provider)
