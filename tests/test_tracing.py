"""Traces of calls: what a collector is told, and that nobody pays who did not ask."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service_worlds import opened
from steerec.config import ServiceConfig
from steerec.errors import ConfigError, MissingExtraError
from steerec.service.tracing import Traces, traces_to

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def seen(shop):
    """The spans of a shop that are finished."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    shop.service.counter.telemetry.traces = Traces(provider)
    return exporter.get_finished_spans


def named(spans, name):
    (found,) = [span for span in spans if span.name == name]
    return found


def test_a_call_is_a_span_with_its_route_status_tenant_and_request_id(shop, seen):
    answer = shop.get("/api/recommend/u0001")
    span = named(seen(), "GET /api/recommend/{user_id}")
    assert span.kind is SpanKind.SERVER
    assert span.parent is None
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "http.route": "/api/recommend/{user_id}",
        "http.response.status_code": 200,
        "steerec.tenant": "default",
        "steerec.request_id": answer.headers["X-Request-ID"],
    }


def test_stages_are_spans_below_their_call(shop, seen):
    shop.ids("u0001")
    shop.event("u0001", "i0003")
    below = {}
    for span in seen():
        if span.parent is not None:
            below.setdefault(span.parent.span_id, []).append(span)
    expected = {
        "GET /api/recommend/{user_id}": ["rank"],
        "POST /api/events": ["store", "learn"],
    }
    for name, stages in expected.items():
        call = named(seen(), name)
        assert [span.name for span in below[call.context.span_id]] == stages
        for stage in below[call.context.span_id]:
            assert stage.context.trace_id == call.context.trace_id
            # a stage's begin is told by two clocks, which may differ by a little
            assert call.start_time - 1e6 <= stage.start_time <= stage.end_time <= call.end_time


def test_the_context_of_the_caller_is_taken_on(shop, seen):
    shop.get("/api/popular", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    span = named(seen(), "GET /api/popular")
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    shop.get("/api/latest", headers={"traceparent": "nonsense"})
    assert named(seen(), "GET /api/latest").parent is None


def test_only_our_own_failures_are_errors(shop, seen, monkeypatch):
    assert shop.get("/api/items/no-such-item").status_code == 404
    monkeypatch.setattr(shop.service.store.strategies, "history", lambda name: 1 / 0)
    assert shop.get("/api/strategy/history").status_code == 500
    refused, failed = seen()
    assert (refused.attributes["http.response.status_code"], refused.status.status_code) == (
        404,
        StatusCode.UNSET,
    )
    assert failed.status.status_code is StatusCode.ERROR


def test_a_call_without_a_good_key_has_no_tenant(sqlite_url, loop):
    shop = opened(sqlite_url, loop=loop, keys=True)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    shop.service.counter.telemetry.traces = Traces(provider)
    shop.get("/api/popular", headers={"X-API-Key": "wrong"})
    (span,) = exporter.get_finished_spans()
    assert span.attributes["http.response.status_code"] == 401
    assert "steerec.tenant" not in span.attributes
    assert "wrong" not in str(span.to_json())
    shop.close()


def test_what_is_learnt_outside_of_calls_makes_no_spans(seen, shop):
    shop.service.counter.telemetry.stage("learn", 0.1)
    assert seen() == ()


def test_spans_arrive_at_a_collector(sqlite_url, loop):
    got = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    answering = threading.Thread(target=collector.serve_forever)
    answering.start()
    try:
        shop = opened(sqlite_url, loop=loop, traces=f"http://127.0.0.1:{collector.server_port}/")
        shop.get("/api/popular")
        shop.close()  # sends what waits
    finally:
        collector.shutdown()
        answering.join()
        collector.server_close()
    ((path, told),) = got
    assert path == "/v1/traces"
    (resource,) = told.resource_spans
    facts = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert facts["service.name"] == "steerec"
    (spans,) = resource.scope_spans
    assert [span.name for span in spans.spans] == ["GET /api/popular"]


def test_nothing_of_it_is_imported_unless_asked_for():
    code = (
        "import sys; from steerec.service import telemetry, tracing; "
        "assert tracing.traces_to('') is None; telemetry.Telemetry().stage('rank', 0.1); "
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steerec\[tracing\]'"):
        traces_to("http://127.0.0.1:4318")


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ConfigError, match="traces='collector:4318': expected http:// or https://"):
        ServiceConfig(traces="collector:4318")
