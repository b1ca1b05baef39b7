"""How a stream's messages are spread over a topic's partitions: what stands together stays in order.

None             one partition: the order of the stream
subject          messages of one subject stay together
token:N          messages stay together whose subjects have the same Nth token (the first is 1)
header:NAME      messages stay together that have the same first value of that header
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dynlog.adapters.nats.streams import StreamMessage
from dynlog.errors import ConfigurationError
from dynlog.partition import partition_of
from dynlog.topics import MAX_PARTITIONS

Spread = Callable[[StreamMessage], int]
"""The partition of a message."""
REMEMBERED: Final = 1 << 14


def spread_of(by: str | None, partitions: int) -> Spread:
    """The rule; raises ConfigurationError for one that nobody can mean."""
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise ConfigurationError(f"{partitions} partitions: 1 to {MAX_PARTITIONS} are possible")
    kind, _, name = (by or "").partition(":")
    if by is None:
        if partitions != 1:
            raise ConfigurationError(
                f"{partitions} partitions: say what stays together with --partition-by subject, token:N or header:NAME"
            )
        return lambda message: 0
    if by == "subject":
        return _Remembering(partitions, lambda subject: subject)
    if kind == "token" and name.isascii() and name.isdigit() and int(name) > 0:
        at = int(name) - 1
        return _Remembering(partitions, lambda subject: _token(subject, at))
    if kind == "header" and name:
        return lambda message: partition_of(_bytes(_first(message, name)), partitions)
    raise ConfigurationError(f"--partition-by {by!r}: subject, token:N (the first is 1) or header:NAME is needed")


class _Remembering:
    """Subjects come again and again."""

    def __init__(self, partitions: int, part: Callable[[str], str]) -> None:
        self._partitions, self._part = partitions, part
        self._known: dict[str, int] = {}

    def __call__(self, message: StreamMessage) -> int:
        found = self._known.get(message.subject)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = self._known[message.subject] = partition_of(_bytes(self._part(message.subject)), self._partitions)
        return found


def _token(subject: str, at: int) -> str:
    tokens = subject.split(".")
    return tokens[at] if at < len(tokens) else ""


def _first(message: StreamMessage, name: str) -> str:
    values = (message.headers or {}).get(name)
    return values[0] if values else ""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
