"""What is written to a bucket's topic: facts, each one record, and nothing that would have to be asked back.

A fact states what its author wanted; whether it came to pass is decided by whoever folds the log, from its order alone.

    key      the key in UTF-8, of facts about one key
    part 0   msgpack [version, kind, field, ...]
    part 1   the value of a `Put`, `Create`, `Update`; the body of a `Picture`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from dynlog.errors import MalformedRecord
from dynlog.record import Record

VERSION = 1
MAX_KEY_BYTES = 1024
MAX_LEASE_BYTES = 128
MAX_OWNER_BYTES = 1024
MAX_BEAT_LEASES = 4096
"""A heartbeat names at most so many leases; a process that has more says it in several."""
U63_MAX = 2**63 - 1


class Put(NamedTuple):
    """The key has this value from now on, whatever it had; with a lease only as long as that lives."""

    key: str
    value: bytes
    lease: str = ""
    ttl_ms: int = 0


class Create(NamedTuple):
    """The key has this value from now on; loses if it is there."""

    key: str
    value: bytes
    lease: str = ""
    ttl_ms: int = 0


class Update(NamedTuple):
    """The key has this value from now on; loses unless ``revision`` is its present one."""

    key: str
    value: bytes
    revision: int
    lease: str = ""
    ttl_ms: int = 0


class Delete(NamedTuple):
    """The key is gone; with a ``revision`` (-1 is none) it loses unless that is the present one."""

    key: str
    revision: int = -1


class Purge(NamedTuple):
    """The key's past is forgotten; a key that is gone is forgotten altogether."""

    key: str


class Lapse(NamedTuple):
    """The time of the key's value is over; void if the key has another revision, or if by log time it is not over."""

    key: str
    revision: int


class Barrier(NamedTuple):
    """Nothing; whoever has folded it knows everything that was acknowledged before it was appended."""


class Pause(NamedTuple):
    """The compaction that began at ``start`` lost to writers: whoever writes leaves it a moment (`dynlog.kv.pause`)."""

    start: int


class Grant(NamedTuple):
    """A lease; its record's offset is the fencing token.  Loses if a lease of that id lives."""

    lease: str
    ttl_ms: int
    owner: str


class Beat(NamedTuple):
    """A process is alive, and with it the leases that it names."""

    process: str
    leases: tuple[str, ...]


class Revoke(NamedTuple):
    """The lease ends by its holder's will; the keys bound to it are gone."""

    lease: str


class Expire(NamedTuple):
    """An observer has heard nothing of the lease since the record at ``beat``; void if a newer one is ahead of this.
    Else the lease ends, and the keys bound to it are gone."""

    lease: str
    beat: int


class Picture(NamedTuple):
    """The truth at this place of the log about a range of keys (or leases, or all marks), written by a compaction.

    It covers what lies above ``after`` up to ``upto`` ("" is the end of all) of one section; ``more`` says that the
    next record goes on with it.  ``start`` is where the compaction began, a barrier of its own, so no other one has it;
    once it has covered everything, a reader may begin there.
    """

    start: int
    section: int
    after: str
    upto: str
    more: bool
    body: bytes


MARKS, LEASES, KEYS = 0, 1, 2
"""The sections of a compaction, in their order: whether a key lives depends on its lease, and both on which records
are repeats, which some engines leave to the reader (`dynlog.dedupe`)."""

Fact = Put | Create | Update | Delete | Purge | Lapse | Barrier | Pause | Grant | Beat | Revoke | Expire | Picture
_SHAPES: dict[int, tuple[type[Any], tuple[type, ...], bool, bool]] = {
    # kind: the fact, the types of its fields in part 0, whether it has a key, whether it has a second part
    1: (Put, (str, int), True, True),
    2: (Create, (str, int), True, True),
    3: (Update, (int, str, int), True, True),
    4: (Delete, (int,), True, False),
    5: (Purge, (), True, False),
    6: (Lapse, (int,), True, False),
    7: (Barrier, (), False, False),
    8: (Grant, (str, int, str), False, False),
    9: (Beat, (str, list), False, False),
    10: (Revoke, (str,), False, False),
    11: (Expire, (str, int), False, False),
    12: (Picture, (int, int, str, str, bool), False, True),
    13: (Pause, (int,), False, False),
}
_KINDS = {shape[0]: kind for kind, shape in _SHAPES.items()}
PLAIN_PUT: bytes = msgpack.packb([VERSION, _KINDS[Put], "", 0])
"""Part 0 of a put with neither lease nor time to live."""


def to_record(fact: Fact) -> Record:
    """The record that says it; raises MalformedRecord for a fact over a bound."""
    key, parts = to_body(fact)
    return Record(parts, key)


def to_body(fact: Fact) -> tuple[bytes | None, tuple[bytes, ...]]:
    """Key and parts of the record that says it; raises as `to_record`."""
    check_fact(fact)
    if type(fact) is Put and fact.lease == "" and fact.ttl_ms == 0:  # nearly all are
        return encode_key(fact.key), (PLAIN_PUT, fact.value)
    kind = _KINDS[type(fact)]
    _, _, keyed, valued = _SHAPES[kind]
    fields: tuple[Any, ...] = fact
    key = encode_key(fields[0]) if keyed else None
    if not valued:
        return key, (msgpack.packb([VERSION, kind, *fields[keyed:]]),)
    if keyed:
        return key, (msgpack.packb([VERSION, kind, *fields[2:]]), fields[1])
    return None, (msgpack.packb([VERSION, kind, *fields[:-1]]), fields[-1])


def from_parts(key: bytes | None, parts: Sequence[bytes]) -> Fact:
    """What a record says; raises MalformedRecord for one that no released dynlog wrote."""
    try:
        if parts[0] == PLAIN_PUT and len(parts) == 2:  # nearly all are, and nothing of it needs another look
            return Put(decode_key(key), bytes(parts[1]))
        version, kind, *fields = msgpack.unpackb(parts[0])
        shape, types, keyed, valued = _SHAPES[kind]
        if version != VERSION:
            raise ValueError(f"version {version}")
        if tuple(map(type, fields)) != types or len(parts) != 1 + valued or keyed != (key is not None):
            raise ValueError(f"a {shape.__name__} with {len(fields)} fields in {len(parts)} parts")
        if valued and keyed:
            fact: Fact = shape(decode_key(key), bytes(parts[1]), *fields)
        elif keyed:
            fact = shape(decode_key(key), *fields)
        elif valued:
            fact = shape(*fields, bytes(parts[1]))
        else:
            fact = Beat(fields[0], tuple(fields[1])) if kind == _KINDS[Beat] else shape(*fields)
        check_fact(fact)
    except MalformedRecord:
        raise
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
        raise MalformedRecord(f"not a record of a key-value bucket: {error}") from None
    return fact


def encode_key(key: str) -> bytes:
    """The key in UTF-8; raises MalformedRecord naming the rule."""
    try:
        encoded = key.encode()
    except (UnicodeEncodeError, AttributeError):
        raise MalformedRecord(f"key {key!r}: a key is text that has a form in UTF-8") from None
    if not 0 < len(encoded) <= MAX_KEY_BYTES:
        raise MalformedRecord(f"a key has 1 to {MAX_KEY_BYTES} bytes in UTF-8, this {len(encoded)}: {key[:40]!r}")
    return encoded


def decode_key(key: bytes | None) -> str:
    """The key; raises MalformedRecord or UnicodeDecodeError (a ValueError) for anything else."""
    if key is None or not 0 < len(key) <= MAX_KEY_BYTES:
        raise MalformedRecord("a record without a key, or with one over its bound")
    return key.decode()


def check_fact(fact: Fact) -> None:
    """Raises MalformedRecord for a field over its bound."""
    match fact:
        case Put(_, _, lease, ttl_ms) | Create(_, _, lease, ttl_ms) | Update(_, _, _, lease, ttl_ms):
            if lease:
                _check_lease(lease)
            _check_number("ttl_ms", ttl_ms)
        case Grant(lease, ttl_ms, owner):
            _check_lease(lease)
            _check_number("ttl_ms", ttl_ms, least=1)
            _check_text("owner", owner, MAX_OWNER_BYTES)
        case Beat(process, leases):
            _check_text("process", process, MAX_OWNER_BYTES)
            if len(leases) > MAX_BEAT_LEASES:
                raise MalformedRecord(f"a heartbeat names at most {MAX_BEAT_LEASES} leases, this {len(leases)}")
            for lease in leases:
                _check_lease(lease)
        case Revoke(lease) | Expire(lease, _):
            _check_lease(lease)
        case Pause(start):
            _check_number("start", start)
        case Picture(start, section, after, upto, _, _):
            _check_number("start", start)
            if section not in (MARKS, LEASES, KEYS) or (upto and upto <= after):
                raise MalformedRecord(f"a picture of section {section} from {after!r} to {upto!r}")
        case _:
            pass


def _check_lease(lease: str) -> None:
    if type(lease) is not str or not lease or len(lease.encode()) > MAX_LEASE_BYTES:
        raise MalformedRecord(f"a lease's id is text of 1 to {MAX_LEASE_BYTES} bytes, not {lease!r:.80}")


def _check_text(what: str, text: str, most: int) -> None:
    if len(text.encode()) > most:
        raise MalformedRecord(f"{what}: {len(text.encode())} bytes, at most {most} are allowed")


def _check_number(what: str, number: int, least: int = 0) -> None:
    if type(number) is not int or not least <= number <= U63_MAX:
        raise MalformedRecord(f"{what}={number!r}: a number from {least} on is needed")
