"""What the members of a consumer group say to each other: the records of the group's own topic.

Each is a fact, not a request: whoever folds them in log order knows who is in and who owns what.

    part 0   msgpack [version, kind, field, ...]          part 1   of a `Picture` only: the folded state
"""

from __future__ import annotations

from typing import NamedTuple

import msgpack

from dynlog.errors import MalformedRecord
from dynlog.record import Record

VERSION = 1


class Join(NamedTuple):
    """A member is there; ``about`` tells a person which (host, process)."""

    member: str
    partitions: int
    about: str


class Beat(NamedTuple):
    """A member is still there."""

    member: str


class Leave(NamedTuple):
    """A member has committed its last and goes."""

    member: str


class Release(NamedTuple):
    """A member has committed its last of a partition and gives it to whom it is meant for."""

    member: str
    partition: int


class Expire(NamedTuple):
    """An observer has not heard of a member since the record at ``beat``; void if a newer one is ahead of this."""

    member: str
    beat: int


class Generation(NamedTuple):
    """A generation was opened in the log by somebody who had folded everything below ``covers``.

    With ``seek`` the group's positions were replaced: everybody starts over from what is committed.
    """

    number: int
    covers: int
    seek: bool


class Picture(NamedTuple):
    """The state as of everything below ``covers``: what lies below that is no longer needed."""

    covers: int
    state: bytes


Fact = Join | Beat | Leave | Release | Expire | Generation | Picture
_SHAPES: dict[str, tuple[type[Fact], tuple[type, ...]]] = {
    "join": (Join, (str, int, str)),
    "beat": (Beat, (str,)),
    "leave": (Leave, (str,)),
    "release": (Release, (str, int)),
    "expire": (Expire, (str, int)),
    "generation": (Generation, (int, int, bool)),
    "picture": (Picture, (int, bytes)),
}
_KINDS = {shape: kind for kind, (shape, _) in _SHAPES.items()}


def to_record(fact: Fact) -> Record:
    """The record that says it."""
    head = [VERSION, _KINDS[type(fact)], *fact]
    if isinstance(fact, Picture):
        return Record(parts=(msgpack.packb(head[:-1]), fact.state))
    return Record(parts=(msgpack.packb(head),))


def from_record(record: Record) -> Fact:
    """What the record says; raises MalformedRecord for one that no member of this release or the one before wrote."""
    try:
        version, kind, *fields = msgpack.unpackb(record.parts[0])
        if kind == "picture":
            fields.append(bytes(record.parts[1]))
        shape, types = _SHAPES[kind]
        if version != VERSION or tuple(map(type, fields)) != types:
            raise ValueError(f"version {version}, {kind} with {len(fields)} fields")
        fact: Fact = shape(*fields)
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
        raise MalformedRecord(f"not a record of a consumer group: {error}") from None
    return fact
