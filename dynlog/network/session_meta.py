"""What a call says of itself, as bytes: who is called by whom, under which id, and how long it may take.

What is the same for every call of one caller to one topic is packed, read and checked once and then remembered; both
memories are bounded, and hold nothing long.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import msgpack

from dynlog.errors import ConfigurationError
from dynlog.network.calls import MAX_HEADERS, MAX_TOPIC_BYTES
from dynlog.network.frames import MAX_META_BYTES, MAX_TEXT, NO_DEADLINE, OPEN, Violation
from dynlog.network.session_events import Meta

REMEMBERED = 256
REMEMBERED_BYTES = 512
"""A longer meta, as of a call with many headers, is not remembered."""
_TYPES = [bytes, str, str, dict]
_pack_open = OPEN.pack
_unpack_open = OPEN.unpack_from
_new = tuple.__new__
_Route = tuple[bytes, str, str, Mapping[str, str]]


def write_meta(
    target: bytes,
    topic: str,
    caller: str,
    correlation_id: str,
    attempt: int,
    headers: Mapping[str, str],
    seconds: float | None,
) -> bytes:
    """The body of OPEN before its message; raises ConfigurationError for what no peer would take."""
    if seconds is None:
        ms = NO_DEADLINE
    else:
        left = seconds * 1000
        ms = int(left) if 0 <= left < NO_DEADLINE else 0 if left < 0 else NO_DEADLINE
    try:
        route = _route_with(target, topic, caller, headers) if headers else _route(target, topic, caller)
        name = correlation_id.encode()
    except ValueError as error:
        raise ConfigurationError(f"the call to {topic!r} says of itself what is no UTF-8: {error}") from None
    if not 0 < attempt < 1 << 16 or len(name) > MAX_TEXT:
        raise ConfigurationError(f"attempt {attempt} of a call with an id of {len(name)} bytes cannot be made")
    return _pack_open(ms, attempt, len(name), len(route)) + name + route


def read_meta(frame: bytes, at: int, stop: int, number: int) -> tuple[int, Meta, int]:
    """The remaining milliseconds of an OPEN, what it says of itself, and where its message begins; or Violation."""
    name_at = at + OPEN.size
    if name_at > stop:
        raise Violation(f"OPEN of record {number}: {stop - at} bytes are there and {OPEN.size} are needed")
    ms, attempt, name_size, route_size = _unpack_open(frame, at)
    route_at = name_at + name_size
    body_at = route_at + route_size
    if body_at > stop or name_size > MAX_TEXT or route_size > MAX_META_BYTES:
        raise Violation(
            f"OPEN of record {number}: a correlation id of {name_size} bytes and a meta of {route_size} in "
            f"{stop - name_at}; at most {MAX_TEXT} and {MAX_META_BYTES} are allowed"
        )
    try:
        correlation_id = frame[name_at:route_at].decode()
        route = frame[route_at:body_at]
        target, topic, caller, headers = _known(route) if route_size <= REMEMBERED_BYTES else _read(route)
    except ValueError as error:
        raise Violation(f"OPEN of record {number}: {error}") from None
    if not attempt:
        raise Violation(f"OPEN of record {number}: attempt 0; the first is 1")
    return ms, _new(Meta, (target, topic, caller, correlation_id, attempt, headers)), body_at


def restated(body: bytes, seconds: float) -> bytes:
    """The body of an OPEN with that time left."""
    left = max(min(int(seconds * 1000), NO_DEADLINE - 1), 0)
    return left.to_bytes(4, "big") + body[4:]


@lru_cache(maxsize=REMEMBERED)
def _route(target: bytes, topic: str, caller: str) -> bytes:
    return _route_with(target, topic, caller, {})


def _route_with(target: bytes, topic: str, caller: str, headers: Mapping[Any, Any]) -> bytes:
    # What headers really are is looked at here: compiled, a narrower type would be enforced first, by a bare TypeError.
    if len(headers) > MAX_HEADERS or not all(type(k) is str and type(v) is str for k, v in headers.items()):
        raise ConfigurationError(f"headers are at most {MAX_HEADERS} texts by name, not {dict(headers)!r:.200}")
    route = bytes(msgpack.packb((target, topic, caller, dict(headers))))
    if len(target) != 16 or len(topic.encode()) > MAX_TOPIC_BYTES or len(caller.encode()) > MAX_TEXT:
        raise ConfigurationError(
            f"an id of {len(target)} bytes, topic {topic!r:.300} and caller {caller!r:.100}: 16 bytes, at most "
            f"{MAX_TOPIC_BYTES} and at most {MAX_TEXT} are needed"
        )
    if len(route) > MAX_META_BYTES:
        raise ConfigurationError(f"a call to {topic!r} with {len(route)} bytes of headers: at most {MAX_META_BYTES}")
    return route


def _read(raw: bytes) -> _Route:
    """Raises ValueError for what is not as docs/protocol.md says."""
    try:
        said: Any = msgpack.unpackb(raw, use_list=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"its meta of {len(raw)} bytes is no msgpack: {error!r}") from None
    if type(said) is not tuple or [*map(type, said[: len(_TYPES)])] != _TYPES:
        raise ValueError(f"its meta is {str(said)[:200]}, not an array of id, topic, caller, headers")
    target, topic, caller, headers = said[: len(_TYPES)]
    if len(target) != 16 or len(topic.encode()) > MAX_TOPIC_BYTES or len(caller.encode()) > MAX_TEXT:
        raise ValueError(
            f"its meta has an id of {len(target)} bytes, a topic of {len(topic)} characters, a caller of {len(caller)}"
        )
    if len(headers) > MAX_HEADERS or not all(type(k) is str and type(v) is str for k, v in headers.items()):
        raise ValueError(f"its headers are not at most {MAX_HEADERS} texts by name")
    return target, topic, caller, MappingProxyType(headers)


_known = lru_cache(maxsize=REMEMBERED)(_read)
