"""A topic's name in Kafka: ``<prefix>.<name>``, or the name itself where the log has no prefix.

Kafka knows no colon and at most 249 characters; such a name is shortened, its colons become ``-``, and a hash of the
whole name follows.  Kafka also takes ``.`` and ``_`` for the same, so of ``a.b`` and ``a_b`` only one can be created.
"""

from __future__ import annotations

import xxhash

from dynlog.errors import ConfigurationError
from dynlog.topics import check_name

META = "__dynlog"
OWN = "dynlog"
_MOST = 249


def meta_name(prefix: str) -> str:
    """The log's own topic."""
    return f"{META}.{prefix}" if prefix else META


def kafka_name(prefix: str, name: str) -> str:
    """Kafka's name of a topic."""
    full = f"{prefix}.{name}" if prefix else name
    if ":" not in name and len(full) <= _MOST:
        return full
    digest = xxhash.xxh3_64_hexdigest(name.encode())
    return f"{full.replace(':', '-')[: _MOST - len(digest) - 1]}-{digest}"


def kafka_group(prefix: str, group: str) -> str:
    """The group in which Kafka's tools see what a group committed: ``<prefix>.<group>``, or ``dynlog.<group>``.

    Never the bare name: that may be a group of somebody else's, whose positions are not ours to move.
    """
    return f"{prefix or OWN}.{group}"


def foreign_name(prefix: str, kafka: str) -> str | None:
    """The name under which a topic that others made in Kafka is seen; None if it is not this log's to see."""
    if kafka.startswith("__"):
        return None
    if prefix:
        if not kafka.startswith(f"{prefix}."):
            return None
        kafka = kafka[len(prefix) + 1 :]
    try:
        return check_name("topic", kafka)
    except ConfigurationError:
        return None
