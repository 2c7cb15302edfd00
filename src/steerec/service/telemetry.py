"""What the service tells of itself: metrics, traces, and one JSON line for each log entry."""

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from steerec.encoders.cache import CachedEncoder
from steerec.service.tracing import Traces

if TYPE_CHECKING:
    from steerec.service.tenants import Tenant

REQUEST_ID = ContextVar("REQUEST_ID", default="")  # of the call that is being answered

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass
class Told:
    """What is known of a call when it has been answered."""

    request_id: str
    tenant: str = ""
    status: int = 500


class Telemetry:
    """The metrics of one process, and its traces if they are wanted."""

    def __init__(self, traces: Traces | None = None) -> None:
        self.traces = traces
        self.registry = CollectorRegistry()
        self._calls: dict[tuple[str, str, int], Histogram] = {}
        self._by_stage: dict[str, Histogram] = {}
        self._seconds = Histogram(
            "steerec_request_seconds",
            "Seconds from a call's first byte to its answer",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            "steerec_stage_seconds",
            "Seconds of one stage of a call: rank a list, store events, learn events",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.events = Counter(
            "steerec_events", "Events by outcome", ("tenant", "outcome"), registry=self.registry
        )
        self.lost_impressions = Counter(
            "steerec_impressions_lost",
            "Lists that were served and could not be logged",
            ("tenant",),
            registry=self.registry,
        )
        self.waiting = Gauge(
            "steerec_store_waiting_rows", "Rows that wait to be written", registry=self.registry
        )

    @contextmanager
    def call(
        self, method: str, route: str, headers: Mapping[str, str], request_id: str
    ) -> Iterator[Told]:
        """Count a call and trace it; its logs have the request id."""
        REQUEST_ID.set(request_id)
        told, began, traces = Told(request_id), time.perf_counter(), self.traces
        if traces is None:
            yield told
        else:
            with traces.call(method, route, headers) as span:
                yield told
                facts = {"tenant": told.tenant, "request_id": request_id}
                traces.answered(span, facts, told.status)
        self._observe((method, route, told.status), time.perf_counter() - began)

    def _observe(self, key: tuple[str, str, int], seconds: float) -> None:
        if (kept := self._calls.get(key)) is None:  # looking one up by labels costs more than all
            method, route, status = key
            kept = self._calls[key] = self._seconds.labels(method, route, str(status))
        kept.observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """Count one stage of a call, which ends now."""
        if (kept := self._by_stage.get(name)) is None:
            kept = self._by_stage[name] = self._stages.labels(name)
        kept.observe(seconds)
        if self.traces is not None:
            self.traces.stage(name, seconds)

    def watch(self, tenants: Iterable["Tenant"]) -> None:
        """Tell of these tenants whenever metrics are read."""
        self.registry.register(_Engines(tenants))

    def close(self) -> None:
        """Send what waits."""
        if self.traces is not None:
            self.traces.close()

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Engines:
    """Numbers that live engines keep themselves, read when asked for."""

    def __init__(self, tenants: Iterable["Tenant"]) -> None:
        self._tenants = tenants

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's registry."""
        applied = CounterMetricFamily("steerec_applied", "Taken in", labels=("tenant", "what"))
        failures = CounterMetricFamily(
            "steerec_head_failures", "Answers a head was left out of", labels=("tenant", "head")
        )
        slow = GaugeMetricFamily(
            "steerec_head_slow", "Heads whose compiled loops failed", labels=("tenant", "head")
        )
        seq = GaugeMetricFamily(
            "steerec_seq", "Newest place in the tenant's log taken in", labels=("tenant",)
        )
        items = GaugeMetricFamily("steerec_items", "Items in the catalogue", labels=("tenant",))
        away = GaugeMetricFamily(
            "steerec_degraded", "Things it works with that are away", labels=("tenant",)
        )
        vectors = CounterMetricFamily(
            "steerec_vectors", "Texts whose vectors were cached, or encoded", labels=("found",)
        )
        size = GaugeMetricFamily("steerec_store_bytes", "Bytes of the SQLite file on disk")
        tenants = list(self._tenants)
        for tenant in tenants:
            live = tenant.live
            away.add_metric((tenant.name,), len(tenant.away))
            for what, n in live.applied.items():
                applied.add_metric((tenant.name, what), n)
            for head, n in live.recommender.failures.items():
                failures.add_metric((tenant.name, head), n)
            for head in sorted(live.recommender.slow):
                slow.add_metric((tenant.name, head), 1)
            seq.add_metric((tenant.name,), live.newest_seq)
            items.add_metric((tenant.name,), live.model.data.n_items)
        for tenant in tenants[:1]:  # all have the same encoder and store
            if isinstance(encoder := tenant.live.encoder, CachedEncoder):
                vectors.add_metric(("cached",), encoder.hits)
                vectors.add_metric(("encoded",), encoder.misses)
            if tenant.store.database.path is not None:  # a server would have to be asked
                size.add_metric((), tenant.store.database.n_bytes())
        yield from (applied, failures, slow, seq, items, away, vectors, size)
        yield from _kept_scores(tenants)
        yield from _tuning(tenants)


def _tuning(tenants: Iterable["Tenant"]) -> Iterator[Metric]:
    version = GaugeMetricFamily(
        "steerec_strategy_version", "Version of the strategy in force", labels=("tenant",)
    )
    epoch = GaugeMetricFamily(
        "steerec_strategy_epoch", "Epoch of the online tuner", labels=("tenant",)
    )
    frozen = GaugeMetricFamily(
        "steerec_tuning_frozen", "1: the guard stopped the online tuner", labels=("tenant",)
    )
    learnt = CounterMetricFamily(
        "steerec_tuning", "Rows that tuning read and learnt", labels=("tenant", "what")
    )
    reactions = CounterMetricFamily(
        "steerec_reactions", "Events as answers to lists", labels=("tenant", "outcome")
    )
    for tenant in tenants:
        online = tenant.live.online
        if online is None:  # as soon as the tenant is open
            continue
        version.add_metric((tenant.name,), online.promoted.version)
        epoch.add_metric((tenant.name,), online.epoch.number)
        frozen.add_metric((tenant.name,), int(online.frozen is not None))
        for what, n in dict(online.counts).items():
            learnt.add_metric((tenant.name, what), n)
        learnt.add_metric((tenant.name, "held_back"), online.held_back)
        for outcome, n in dict(online.reactions).items():
            reactions.add_metric((tenant.name, outcome), n)
    yield from (version, epoch, frozen, learnt, reactions)


def _kept_scores(tenants: Iterable["Tenant"]) -> Iterator[Metric]:
    lists = CounterMetricFamily(
        "steerec_score_cache",
        "Lists of users with a history, by whether the scores of steady heads were kept",
        labels=("tenant", "found"),
    )
    size = GaugeMetricFamily(
        "steerec_score_cache_bytes", "Scores kept for lists asked again", labels=("tenant",)
    )
    for tenant in tenants:
        kept = tenant.live.recommender.remembered
        lists.add_metric((tenant.name, "kept"), kept.hits)
        lists.add_metric((tenant.name, "asked"), kept.misses)
        size.add_metric((tenant.name,), kept.n_bytes)
    yield from (lists, size)


class JsonLines(logging.Formatter):
    """One JSON object a line; our own messages are `key=value` facts already."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if called := REQUEST_ID.get():
            told["request_id"] = called
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def log_as_json(level: int = logging.INFO) -> None:
    """Send all logs of this process to standard error as JSON lines, and nothing else."""
    logging.getLogger("steerec").handlers.clear()  # a verb's notes would say warnings once more
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
