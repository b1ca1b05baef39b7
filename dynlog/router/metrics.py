"""What Prometheus sees of a router: read from its state when it is scraped, so nothing is counted twice or late.

All names begin with ``dynlog_router_`` and end with their unit.  Totals are part of the router's state and go with its
snapshots; they can fall when a state is rebuilt, which Prometheus takes for a restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynlog.router.state import RouterState

MICROSECONDS = (
    *(5e-6, 10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6),
    *(1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 1.0),
)  # fmt: skip
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))


class RouterMetrics:
    """The metrics of one served router, in a registry of their own."""

    def __init__(
        self, router: RouterState, *, time_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_StateCollector(router, time_ms))
        self.find_seconds = Histogram(
            "dynlog_router_find_seconds",
            "Finding the matches of one prompt in the index",
            registry=self.registry,
            buckets=MICROSECONDS,
        )
        self.match_seconds = Histogram(
            "dynlog_router_match_seconds",
            "Answering one POST /match, from its complete body to the complete answer",
            registry=self.registry,
            buckets=MICROSECONDS,
        )
        self.answers = Counter(
            "dynlog_router_http_requests_total",
            "Requests answered",
            ("method", "path", "status"),
            registry=self.registry,
        )


class _StateCollector(Collector):
    def __init__(self, router: RouterState, time_ms: Callable[[], int]) -> None:
        self._router = router
        self._time_ms = time_ms

    def describe(self) -> Iterable[Metric]:
        return ()  # the names are known only by collecting, and the state may not be there yet

    def collect(self) -> Iterable[Metric]:
        status, index = self._router.status(), self._router.index
        counters, rebuild, now = index.counters, status.rebuild, self._time_ms()

        def gauge(name: str, text: str, value: float) -> Metric:
            return GaugeMetricFamily(f"dynlog_router_{name}", text, value=value)

        def total(name: str, text: str, value: int) -> Metric:
            return CounterMetricFamily(f"dynlog_router_{name}", text, value=value)

        yield gauge("ready", "1 once the replay has reached the end that it saw at its start", status.ready)
        yield gauge("lag_records", "Records of the log that are not folded in yet", status.lag)
        stale = status.stale_since_ms
        yield gauge(
            "stale_seconds",
            "For how long the log could not be read (0: it can)",
            max(now - stale, 0) / 1000 if stale is not None else 0.0,
        )
        yield gauge("blocks", "Blocks held, over all workers, ranks and tiers", index.blocks_held)
        workers = index.workers()
        yield gauge("workers", "Workers known, whether or not they hold blocks", len({worker for worker, _ in workers}))
        yield gauge("ranks", "Data-parallel ranks known, over all workers", len(workers))

        yield total("records", "Records folded in", counters.records)
        yield total("events", "KV events folded in", counters.events)
        ops = CounterMetricFamily("dynlog_router_block_ops", "Blocks that events named, by outcome", labels=["outcome"])
        for name, value in counters.as_dict().items():
            if name.startswith("blocks_"):
                ops.add_metric([name.removeprefix("blocks_")], value)
        yield ops
        yield total("event_id_gaps", "Events whose id left some out (they were applied)", counters.event_id_gaps)
        yield total("event_id_repeats", "Events whose id was not new (they were applied)", counters.event_id_repeats)
        yield total(
            "unknown_parents", "Stored events refused: the rank does not hold the parent", counters.unknown_parents
        )
        yield total("malformed_events", "Stored events refused: a block would be its own ancestor", counters.malformed)
        yield total("rejected_records", "Records that are no KV events", counters.rejected_records)
        yield total("clears", "Cleared events", counters.cleared)
        yield total("workers_removed", "Workers said to be gone", counters.workers_removed)

        yield total("rebuilds", "Rebuilds by this process", status.rebuilds)
        yield total("snapshots", "Snapshots written by this process", status.snapshots)
        yield total("snapshot_failures", "Snapshots that this process could not write", status.snapshot_failures)
        if rebuild is not None:
            yield gauge("rebuild_seconds", "Duration of the last rebuild", rebuild.seconds)
            yield gauge("rebuild_records", "Records replayed by the last rebuild", rebuild.records)
        if status.last_snapshot_ms is not None:
            age = max(now - status.last_snapshot_ms, 0) / 1000
            yield gauge("snapshot_age_seconds", "Since this process last wrote a snapshot", age)


class CountAnswers:
    """ASGI middleware: counts each answer under names that a client cannot multiply."""

    def __init__(self, app: ASGIApp, counter: Counter, paths: frozenset[str]) -> None:
        self._app = app
        self._counter = counter
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "other"
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._counter.labels(method, path, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted)
