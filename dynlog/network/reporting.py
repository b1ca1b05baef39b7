"""What a manager says of itself, as data: for ``dynlog net stats``, for a broadcast, for a monitor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynlog.network.link import Link
from dynlog.network.named import NamedSubscription
from dynlog.network.services import Service
from dynlog.network.subscribing import Subscription


def service_stats(service: Service) -> dict[str, Any]:
    """What became of the calls of a service."""
    return {
        "entity": str(service.target), "topic": service.topic, "running": service.running,
        "waiting": len(service.waiting), "served": service.served, "failed": service.failed,
        "refused": service.refused,
    }  # fmt: skip


def session_stats(link: Link) -> dict[str, Any]:
    """With whom a session is, what carries it, and how much went over it; ``messages_per_write`` is records a frame."""
    stats, channel = link.session.stats(), link.channel
    return {
        "peer": link.peer_name, "wire": None if channel is None else channel.scheme, "calls_here": len(link.calls),
        "streams": stats.streams, "records_sent": stats.records_sent, "records_received": stats.records_received,
        "messages_per_write": round(stats.records_sent / stats.batches_sent, 2) if stats.batches_sent else 0.0,
        "bytes_sent": stats.bytes_sent, "bytes_received": stats.bytes_received, "resent": stats.resent,
        "repeats": stats.repeats, "late": stats.late, "unacknowledged_bytes": stats.unacknowledged_bytes,
        "channels": stats.channels,
    }  # fmt: skip


def subscription_stats(subscriptions: Iterable[Subscription | NamedSubscription]) -> list[dict[str, Any]]:
    """What each subscription saw."""
    return [
        {
            "entity": str(each.entity), "topic": each.topic, "seen": each.seen, "failed": each.failed,
            "error": None if each.error is None else str(each.error),
        }
        for each in subscriptions
    ]  # fmt: skip
