"""What Prometheus sees of a manager: read from its state when it is scraped, so a call pays nothing for it.

    REGISTRY.register(NetworkCollector(manager))        # from the event loop; needs the extra ``http``

All names begin with ``dynlog_network_``.  What is said of a peer is the sum over its sessions and begins anew with a
new one, which Prometheus takes for a restart; once its last session has ended, nothing is said of it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dynlog.call_errors import NotSent
from dynlog.errors import Closed
from dynlog.network.link import Link
from dynlog.network.manager import DynamoNetworkManager
from dynlog.network.reporting import session_stats

SCRAPE_S = 5.0
"""How long a scrape waits for the event loop; one that stands still for so long has other troubles."""
_Kind = tuple[type[CounterMetricFamily] | type[GaugeMetricFamily], str]
_SESSIONS: Mapping[str, _Kind] = {
    "records_sent": (CounterMetricFamily, "Records handed to a wire"),
    "records_received": (CounterMetricFamily, "Records that came, repeats left out"),
    "writes": (CounterMetricFamily, "Writes; records_sent over this is messages per write"),
    "bytes_sent": (CounterMetricFamily, "Bytes handed to a wire, without its own framing"),
    "bytes_received": (CounterMetricFamily, "Bytes that came"),
    "resent": (CounterMetricFamily, "Records sent again on another channel"),
    "repeats": (CounterMetricFamily, "Records that came again and were dropped"),
    "channels": (CounterMetricFamily, "Channels that carried it; more than one means reconnects or switches"),
    "unacknowledged_bytes": (GaugeMetricFamily, "Bytes kept until the peer has them"),
    "calls_here": (GaugeMetricFamily, "Calls of the peer that are not answered yet"),
}
_SERVICES: Mapping[str, _Kind] = {
    "served": (CounterMetricFamily, "Calls that are over, whatever became of them"),
    "failed": (CounterMetricFamily, "Calls whose handler raised or was cancelled"),
    "refused": (CounterMetricFamily, "Calls refused because the handler has its hands full"),
    "running": (GaugeMetricFamily, "Calls at work"),
    "waiting": (GaugeMetricFamily, "Calls that wait for their turn"),
}
_SUBSCRIPTIONS: Mapping[str, _Kind] = {
    "seen": (CounterMetricFamily, "Events given to the handler"),
    "failed": (CounterMetricFamily, "Events whose handler raised"),
}
_PLACE = ("entity", "topic")
_Sums = dict[tuple[str, ...], dict[str, float]]


class NetworkCollector(Collector):
    """Collects from one open manager, in its event loop whatever thread asks; nothing once the manager is closed."""

    def __init__(self, manager: DynamoNetworkManager) -> None:
        """Called in the manager's event loop."""
        self._manager = manager
        self._loop = asyncio.get_running_loop()

    def describe(self) -> Iterable[Metric]:
        return ()  # the names are known only by collecting

    def collect(self) -> Iterable[Metric]:
        """Raises TimeoutError if the event loop does not answer in `SCRAPE_S`."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            return list(self._families())
        asked: Future[list[Metric]] = Future()
        try:
            self._loop.call_soon_threadsafe(self._answer, asked)
        except RuntimeError:
            return ()  # the loop is closed, and the manager with it
        try:
            return asked.result(SCRAPE_S)
        finally:
            asked.cancel()

    def _answer(self, asked: Future[list[Metric]]) -> None:
        if asked.set_running_or_notify_cancel():
            try:
                asked.set_result(list(self._families()))
            except Exception as error:  # whoever asked is told
                asked.set_exception(error)

    def _families(self) -> Iterator[Metric]:
        try:
            stats, links = self._manager.stats(), self._manager.links()
        except Closed:
            return
        sessions = _by_peer(links)
        yield GaugeMetricFamily("dynlog_network_peers", "Peers with an open session", value=len(sessions))
        yield CounterMetricFamily(
            "dynlog_network_refused_handshakes", "Handshakes refused at the door", value=stats["refused_handshakes"]
        )
        yield from _metrics("session", ("peer",), sessions, _SESSIONS)
        yield from _metrics("service", _PLACE, _by_place(stats["services"]), _SERVICES)
        yield from _metrics("subscription", _PLACE, _by_place(stats["subscriptions"]), _SUBSCRIPTIONS)


def _by_peer(links: Iterable[Link]) -> _Sums:
    sums: _Sums = {}
    for link in links:
        try:
            peer = _lasting(str(link.peer))
        except NotSent:
            continue  # it has not said yet who it is
        _add(sums, (peer,), {**session_stats(link), "writes": link.session.stats().batches_sent})
    return sums


def _by_place(said: Iterable[dict[str, Any]]) -> _Sums:
    sums: _Sums = {}
    for each in said:
        _add(sums, (_lasting(each["entity"]), each["topic"]), each)
    return sums


def _lasting(entity: str) -> str:
    """Without its incarnation: a restart is to go on with the series, not to begin others."""
    return entity.partition("#")[0]


def _add(sums: _Sums, labels: tuple[str, ...], said: Mapping[str, Any]) -> None:
    into = sums.setdefault(labels, {})
    for name, value in said.items():
        if isinstance(value, int | float):
            into[name] = into.get(name, 0) + value


def _metrics(what: str, labels: tuple[str, ...], sums: _Sums, kinds: Mapping[str, _Kind]) -> Iterator[Metric]:
    for name, (kind, text) in kinds.items():
        family = kind(f"dynlog_network_{what}_{name}", text, labels=labels)
        for values, numbers in sums.items():
            family.add_metric(values, numbers[name])
        yield family
