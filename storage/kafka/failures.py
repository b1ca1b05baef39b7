"""Kafka's errors in our terms: what passes by itself, what a person must change, and what nobody can know.

``TRANSIENT`` codes are tried again until the call's deadline.  Wire errors say whether the request may have arrived.
"""

from __future__ import annotations

import aiokafka.errors

from dynlog.errors import BatchTooLarge, ConfigurationError, DynlogError, LogUnavailable

OFFSET_OUT_OF_RANGE = 1
UNKNOWN_TOPIC = 3
INVALID_TOPIC = 17
TOPIC_EXISTS = 36
UNKNOWN_TOPIC_ID = 100
GONE = frozenset({UNKNOWN_TOPIC, UNKNOWN_TOPIC_ID, 103})
"""The broker does not know the topic: deleted, or created a moment ago."""
TOO_LARGE = frozenset({10, 18})
TRANSIENT = frozenset({2, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 72, 74, 75, 76, 78}) | GONE
NOT_STORED = frozenset({2, 3, 5, 6, 8, 9, 19, 56, 72, 74, 75, 100, 103})
"""An append that is answered with one of these was surely not stored."""
LOST_SEQUENCE = frozenset({45, 47, 59, 90})
"""The broker does not go on with this producer's count."""
_REFUSED = frozenset({29, 30, 31, 53, 58, 65})


class NotSent(LogUnavailable):
    """No connection: the request did not leave."""


class NoAnswer(LogUnavailable):
    """The connection broke, or time was over, before the answer: the request may have been carried out."""


def name_of(code: int) -> str:
    """Kafka's name of an error code."""
    kind = aiokafka.errors.for_code(code)
    return f"{kind.__name__.removesuffix('Error')} ({code})"


def refused(
    code: int, doing: str, *, topic: str | None = None, partition: int | None = None, detail: str | None = None
) -> DynlogError:
    """The error for a code that repeating does not cure."""
    what = f"Kafka refused {doing}: {name_of(code)}" + (f", {detail}" if detail else "")
    if code in _REFUSED:
        return ConfigurationError(f"{what}; the user of the URL lacks the right (ACL) for it")
    if code in TOO_LARGE:
        return BatchTooLarge(f"{what}; raise the topic's max.message.bytes or send less at once", topic=topic,
                             partition=partition)  # fmt: skip
    return LogUnavailable(what, topic=topic, partition=partition)
