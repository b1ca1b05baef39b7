"""What is known of an object, and where that is written: in its headers, or in a *note* when it was not known in time.

The headers of an upload in parts are fixed before its SHA-256 can be known.  Its note is written when it is, and before
the object appears; the headers name the note.  So no object is ever seen without its digest.  A note also holds
metadata that is too much for headers (S3 takes 2 KB).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, unquote

from pydantic import BaseModel, ValidationError

from dynlog.objects import ObjectInfo

MOST_HEADER_BYTES = 2000
_META = "x-amz-meta-"
_OURS = "dynlog-"
_ESCAPED = "dynlog-x-"
_PRINTABLE = "".join(chr(c) for c in range(33, 127) if chr(c) != "%")
_RUNS_OF_BLANKS = re.compile(r"^ +| +$|  +")


class Note(BaseModel):
    """What lies beside an object that was put in parts.

    While the upload runs, ``sha256`` is empty; ``upload`` then tells garbage collection what to free if it was left.
    """

    version: int = 1
    name: str
    upload: str
    modified_ms: int
    size: int = 0
    sha256: str = ""
    xxh3: str = ""
    expires_ms: int | None = None
    metadata: dict[str, str] = {}


class Known(NamedTuple):
    """An object, and the XXH3-128 of its body; empty if an older dynlog put it."""

    info: ObjectInfo
    xxh3: str


@dataclass(frozen=True, slots=True)
class Reference:
    """An object's headers that name its note; ``id`` is the object's own and unique."""

    id: str
    note: str


def new_id() -> str:
    """What makes one put different from all others."""
    return uuid.uuid4().hex


def headers_of(info: ObjectInfo, xxh3: str, object_id: str) -> dict[str, str] | None:
    """The headers that say all of it; None if they would be too large."""
    headers = {
        f"{_OURS}sha256": info.sha256,
        f"{_OURS}xxh3": xxh3,
        **_times(info, object_id),
        **_metadata_headers(info.metadata),
    }
    return _as_headers(headers, info.metadata) if _size(headers) <= MOST_HEADER_BYTES else None


def headers_naming(note: str, info: ObjectInfo, object_id: str) -> dict[str, str]:
    """Headers for an object with a note; what else fits is for other tools to read."""
    headers = {f"{_OURS}note": quote(note), **_times(info, object_id)}
    metadata = _metadata_headers(info.metadata)
    if _size(headers | metadata) <= MOST_HEADER_BYTES:
        headers |= metadata
    return _as_headers(headers, info.metadata)


def id_of(headers: Mapping[str, str]) -> str:
    """The id of the put that an object comes from; empty if that was not ours."""
    return headers.get(f"{_META}{_OURS}id", "")


def info_of(key: str, size: int, headers: Mapping[str, str]) -> Known | Reference | None:
    """What headers say; None if something else put the object."""

    def ours(name: str) -> str:
        return headers.get(f"{_META}{_OURS}{name}", "")

    if ours("note"):
        return Reference(ours("id"), unquote(ours("note")))
    if not re.fullmatch("[0-9a-f]{64}", ours("sha256")) or not ours("modified").isdecimal():
        return None
    expires = ours("expires")
    metadata = {}
    for header, value in headers.items():
        name = header.lower()
        if name.startswith(_META) and not name.startswith(_META + _OURS):
            metadata[name.removeprefix(_META)] = _decoded(value)
        elif name.startswith(_META + _ESCAPED):
            metadata[_OURS + name.removeprefix(_META + _ESCAPED)] = _decoded(value)
    info = ObjectInfo(
        key, size, ours("sha256"), int(ours("modified")), MappingProxyType(metadata), int(expires) if expires else None
    )
    return Known(info, ours("xxh3"))


def noted(key: str, size: int, body: bytes) -> Known | None:
    """What a note says; None unless it is one of a whole object of that size."""
    try:
        note = Note.model_validate_json(body)
    except ValidationError:
        return None
    if not note.sha256 or note.size != size:
        return None
    info = ObjectInfo(key, size, note.sha256, note.modified_ms, MappingProxyType(note.metadata), note.expires_ms)
    return Known(info, note.xxh3)


def _times(info: ObjectInfo, object_id: str) -> dict[str, str]:
    times = {f"{_OURS}id": object_id, f"{_OURS}modified": str(info.modified_ms)}
    if info.expires_ms is not None:
        times[f"{_OURS}expires"] = str(info.expires_ms)
    return times


def _metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    return {
        _ESCAPED + name.removeprefix(_OURS) if name.startswith(_OURS) else name: _encoded(value)
        for name, value in metadata.items()
    }


def _as_headers(headers: Mapping[str, str], metadata: Mapping[str, str]) -> dict[str, str]:
    kind = metadata.get("content-type", "")
    usual = kind if kind.isascii() and "/" in kind else "application/octet-stream"
    return {"Content-Type": usual} | {_META + name: value for name, value in headers.items()}


def _size(headers: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in headers.items())


def _encoded(value: str) -> str:
    """ASCII that no proxy trims or joins: as it is but for %, other characters, and blanks at an end or in a row."""
    if not value:
        return "%"
    text = quote(value, safe=_PRINTABLE + " ")
    return _RUNS_OF_BLANKS.sub(lambda found: "%20" * len(found[0]), text)


def _decoded(value: str) -> str:
    return "" if value == "%" else unquote(value)
