"""Loops are impossible: every message and record says through which places it came, and goes to none of them again.

A place is a stream or a topic in one life of it (a stream that is made anew is another place), or a core subject.  The
header `PATH` lists the places, oldest first; a mirror adds the place that it reads from and leaves out what has been
where it writes to.  That holds for any number of mirrors in any shape, not only for two in opposite directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import xxhash

from dynlog.topics import Topic

if TYPE_CHECKING:
    from dynlog.adapters.nats.streams import StreamInfo

PATH = "dynlog-mirror"
"""Header, on both sides: places in the order in which they were passed, with commas between them."""
MOST_PLACES = 16
"""A path with more of them is taken for damage: whoever chains so many mirrors has a loop of another kind."""

Path = tuple[str, ...]


def stream_place(stream: StreamInfo) -> str:
    """``stream:NAME@LIFE``: the same for as long as the stream is not deleted and made anew."""
    return stream_place_of(stream.name, stream.created)


def stream_place_of(name: str, created: str) -> str:
    """The place of the stream of that name which was made at that time."""
    return f"stream:{quote(name, safe='')}@{xxhash.xxh3_64_hexdigest(created.encode())}"


def stream_name(place: str) -> str | None:
    """The name of the stream that the place is a life of; None for any other place."""
    kind, _, rest = place.partition(":")
    return unquote(rest.rpartition("@")[0]) if kind == "stream" else None


def topic_place(topic: Topic) -> str:
    """``topic:NAME@INCARNATION``."""
    return f"topic:{topic.name}@{topic.incarnation}"


def subject_place(subject: str) -> str:
    """``subject:SUBJECT``: servers have no lasting name, so a subject is the same place on all of them."""
    return f"subject:{quote(subject, safe='')}"


def read_path(text: str | bytes | None) -> Path:
    """The places of a header; none if there is no header."""
    if not text:
        return ()
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return tuple(place for place in (part.strip() for part in said.split(",")) if place)


def write_path(path: Path) -> str:
    """The header of that path."""
    return ",".join(path)


def longer(path: Path, place: str) -> Path:
    """The path of what is read at ``place``."""
    return path if path and path[-1] == place else (*path, place)


def has_been(path: Path, places: Iterable[str]) -> bool:
    """Whether the path leads through one of the places, or is too long to be one."""
    return len(path) > MOST_PLACES or not set(places).isdisjoint(path)


def path_of_headers(headers: Mapping[str, bytes]) -> Path:
    """The path of a record."""
    return read_path(headers.get(PATH))
