"""A stored message as it was sent: from the answer to a direct get, and from the JSON of the other kind of get.

A direct get puts what the server knows (subject, sequence, time) behind the message's own headers, so it is read from
the end: nothing that a publisher wrote can pass for it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from dynlog.errors import SourceUnavailable

Headers = dict[str, list[str]]

_TAIL = re.compile(
    rb"Nats-Stream: ([^\r\n]*)\r\nNats-Subject: ([^\r\n]*)\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: ([^\r\n]*)\r\n"
    rb"(Nats-Num-Pending: \d+\r\nNats-Last-Sequence: \d+\r\n)?\r\n\Z"
)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_NAME = re.compile(rb"[!-9;-~]+")
_VERSION = b"NATS/1.0\r\n"
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """A message as it is stored.

    A header's values stand in their order; what in them is no UTF-8 is kept as surrogate escapes, so
    ``value.encode("utf-8", "surrogateescape")`` gives the bytes.  ``malformed`` holds a header block that follows no
    rule, whole; ``headers`` is then what could be read of it.
    """

    sequence: int
    subject: str
    headers: Headers | None
    data: bytes
    time_ns: int
    malformed: bytes | None = None


class Direct(NamedTuple):
    """A direct get's answer: which stream it is from, and whether it is one of a batch."""

    stream: str
    batched: bool
    message: StreamMessage


def direct_message(headers: bytes, data: bytes) -> Direct | None:
    """The message of an answer, or None if it has none; raises ValueError for a time that is none."""
    found = _TAIL.search(headers, max(headers.rfind(b"Nats-Stream: "), 0))
    if found is None:
        return None
    stream, subject, sequence, time, batched = found.groups()
    own: Headers | None = None
    malformed = None
    if found.start() > len(_VERSION) or not headers.startswith(_VERSION):
        own, malformed = read_headers(headers[: found.start()] + b"\r\n")
    name, place = stream.decode("utf-8", "surrogateescape"), subject.decode("utf-8", "surrogateescape")
    message = StreamMessage(int(sequence), place, own, data, time_ns(time.decode("ascii", "replace")), malformed)
    return Direct(name, batched is not None, message)


def stored_message(answer: Any, where: str) -> StreamMessage:
    """The message of a get's JSON; raises SourceUnavailable if it is none."""
    try:
        said = answer["message"]
        own: Headers | None = None
        malformed = None
        if said.get("hdrs"):
            own, malformed = read_headers(base64.b64decode(said["hdrs"], validate=True))
        data = base64.b64decode(said["data"], validate=True) if said.get("data") else b""
        return StreamMessage(int(said["seq"]), str(said["subject"]), own, data, time_ns(said["time"]), malformed)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise SourceUnavailable(f"{where}: the answer holds no message that we know ({error!r})") from None


def read_headers(block: bytes) -> tuple[Headers, bytes | None]:
    """The headers of a block, and the block itself if it follows no rule."""
    good = block.startswith(_VERSION) and (block.endswith(_END) or block == _VERSION)
    headers: Headers = {}
    lines = block.split(b"\r\n")
    for line in lines if not block.startswith(b"NATS/1.0") else lines[1:]:
        if not line:
            continue
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            good = False
            continue
        headers.setdefault(name.decode(), []).append(value.strip(b" \t").decode("utf-8", "surrogateescape"))
    return headers, None if good else block


def time_ns(text: str) -> int:
    """Nanoseconds since the epoch of a server's time; raises ValueError."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time of NATS")
    return _second(found[1]) * 1_000_000_000 + int((found[2] or "").ljust(9, "0"))


@lru_cache(maxsize=64)
def _second(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
