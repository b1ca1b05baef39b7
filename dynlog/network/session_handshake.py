"""How two ends agree to talk: HELLO of the dialler, then WELCOME or REFUSED of the acceptor, on every channel anew.

Nothing of a session moves on a channel before its handshake is done.  Whoever is unknown, unwanted or late is told why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hmac import compare_digest
from struct import Struct
from typing import Any

import msgpack

from dynlog.call_errors import ProtocolError
from dynlog.network.frames import MAGIC, VERSION, FrameKind, damaged
from dynlog.network.session_settings import Limits
from dynlog.record import Buffer

HEAD = Struct(">B6sHH")
"""Kind, MAGIC, lowest and highest version (WELCOME: the chosen one, twice); a msgpack map follows."""
MAX_HANDSHAKE_BYTES = 8 << 10
MAX_TOKEN_BYTES = 4 << 10
MAX_FEATURES = 64
_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Identity:
    """Who stands at one end of a session."""

    entity: bytes
    """Its id, 16 bytes."""
    incarnation: int = 0
    name: str | None = None
    features: frozenset[str] = frozenset()
    """What it can do beyond this version of the protocol; both must say a feature before either uses it."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a dialler says first on every channel."""

    session_id: bytes
    """16 random bytes; the same on every channel of a session."""
    attempt: int
    """Counts the channels of the session from 1: of two the later holds."""
    resume: bool
    """Whether the session was welcomed before."""
    received: int
    """The number of the next record that it waits for."""
    identity: Identity
    limits: Limits
    wanted: bytes | None = None
    """The id of the entity that it wants to talk to; None: whoever is here."""
    token: bytes | None = field(default=None, repr=False)
    lowest_version: int = VERSION
    highest_version: int = VERSION


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the acceptor answers if it will talk."""

    attempt: int
    """The one of the Hello that it answers."""
    received: int
    identity: Identity
    limits: Limits
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the acceptor answers if it will not; ``code``: version, token, entity, incarnation, resume, stale, busy."""

    code: str
    text: str


def write_hello(hello: Hello) -> bytes:
    """The first frame of a dialler."""
    more = {
        "session": hello.session_id,
        "attempt": hello.attempt,
        "resume": hello.resume,
        "received": hello.received,
        "wanted": hello.wanted,
        "token": hello.token,
    }
    return _write(FrameKind.HELLO, hello.lowest_version, hello.highest_version, hello.identity, hello.limits, more)


def read_hello(frame: Buffer) -> Hello:
    """The first frame of an accepted channel; raises ProtocolError for anything but a HELLO.

    Of a HELLO whose versions do not hold ours nothing but the versions is read: `judge` refuses it.
    """
    kind, lowest, highest = _head(frame)
    if kind != FrameKind.HELLO:
        raise ProtocolError(f"the first frame of a channel is of kind {kind}: {FrameKind.HELLO:d} (HELLO) is needed")
    if not lowest <= VERSION <= highest:
        nobody = Identity(bytes(16))
        return Hello(bytes(16), 0, False, 0, nobody, Limits(), lowest_version=lowest, highest_version=highest)
    said = _body(frame)
    return Hello(
        session_id=_id(said, "session"),
        attempt=_number(said, "attempt"),
        resume=said.get("resume") is True,
        received=_number(said, "received"),
        identity=_identity(said),
        limits=_limits(said),
        wanted=None if said.get("wanted") is None else _id(said, "wanted"),
        token=_token(said),
        lowest_version=lowest,
        highest_version=highest,
    )


def judge(
    hello: Hello, here: Identity, *, token: bytes | None = None, newest_incarnation: int = 0, known: bool = False
) -> Refusal | None:
    """Why an acceptor must refuse, or None; compares tokens in constant time.

    ``newest_incarnation`` is the highest life of the dialling entity that was seen here; ``known`` whether a session
    of that id is here.
    """
    if not hello.lowest_version <= VERSION <= hello.highest_version:
        return Refusal(
            "version",
            f"versions {hello.lowest_version} to {hello.highest_version} are offered and {VERSION} is spoken here",
        )
    if token is not None and not compare_digest(token, hello.token or b""):
        return Refusal("token", "the token is missing or wrong")
    if hello.wanted is not None and hello.wanted != here.entity:
        return Refusal("entity", f"0x{hello.wanted.hex()} is wanted and 0x{here.entity.hex()} is here")
    if hello.identity.incarnation < newest_incarnation:
        return Refusal(
            "incarnation",
            f"life {hello.identity.incarnation} of 0x{hello.identity.entity.hex()} is over: {newest_incarnation} was "
            "seen; an entity with this name runs elsewhere, or this one must be registered anew",
        )
    if hello.resume and not known:
        return Refusal("resume", f"session {hello.session_id.hex()} is not known here, or no longer: begin a new one")
    return None


def write_welcome(welcome: Welcome) -> bytes:
    """The first frame of an acceptor that will talk."""
    more = {"attempt": welcome.attempt, "received": welcome.received}
    return _write(FrameKind.WELCOME, welcome.version, welcome.version, welcome.identity, welcome.limits, more)


def write_refusal(refusal: Refusal) -> bytes:
    """The frame to send before the channel is closed."""
    body = msgpack.packb({"code": refusal.code, "text": refusal.text[:1024]})
    return HEAD.pack(FrameKind.REFUSED, MAGIC, VERSION, VERSION) + bytes(body)


def read_answer(frame: Buffer) -> Welcome | Refusal:
    """The first frame that a dialler gets; raises ProtocolError for anything but a WELCOME or a REFUSED."""
    kind, lowest, highest = _head(frame)
    if kind == FrameKind.REFUSED:
        said = _body(frame)
        return Refusal(_text(said, "code"), _text(said, "text"))
    if kind != FrameKind.WELCOME:
        raise ProtocolError(f"a HELLO is answered by a frame of kind {kind}: WELCOME or REFUSED is needed")
    if not lowest == highest == VERSION:
        raise ProtocolError(f"version {lowest} was chosen, which this end did not offer: {VERSION} is spoken here")
    said = _body(frame)
    return Welcome(_number(said, "attempt"), _number(said, "received"), _identity(said), _limits(said), lowest)


def _write(
    kind: FrameKind, lowest: int, highest: int, identity: Identity, limits: Limits, more: Mapping[str, object]
) -> bytes:
    said = {
        "entity": identity.entity,
        "incarnation": identity.incarnation,
        "name": identity.name,
        "features": sorted(identity.features),
        "limits": {limit.name: getattr(limits, limit.name) for limit in fields(limits)},
        **more,
    }
    return HEAD.pack(kind, MAGIC, lowest, highest) + bytes(msgpack.packb(said))


def _head(frame: Buffer) -> tuple[int, int, int]:
    if len(frame) < HEAD.size:
        raise damaged("handshake", len(frame), HEAD.size)
    if len(frame) > MAX_HANDSHAKE_BYTES:
        raise ProtocolError(f"handshake: {len(frame)} bytes are there and at most {MAX_HANDSHAKE_BYTES} are allowed")
    kind, magic, lowest, highest = HEAD.unpack_from(frame)
    if magic != MAGIC:
        raise ProtocolError(f"a channel begins with {bytes(frame[:16])!r}: this is not a peer that speaks dynlog")
    return kind, lowest, highest


def _body(frame: Buffer) -> Mapping[str, Any]:
    try:
        said = msgpack.unpackb(frame[HEAD.size :], use_list=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the {len(frame) - HEAD.size} bytes of a handshake are no msgpack: {error!r}") from None
    if type(said) is not dict:
        raise ProtocolError(f"a handshake carries a {type(said).__name__}: a map is needed")
    return said


def _wrong(name: str, value: object, need: str) -> ProtocolError:
    return ProtocolError(f"handshake: {name} is {str(value)[:40]!r}: {need} is needed")


def _id(said: Mapping[str, Any], name: str) -> bytes:
    value = said.get(name)
    if type(value) is not bytes or len(value) != 16:
        raise _wrong(name, value, "an id of 16 bytes")
    return value


def _number(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    if type(value) is not int or not 0 <= value <= _U64:
        raise _wrong(name, value, "a number from 0 below 2**64")
    return value


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if type(value) is not str:
        raise _wrong(name, value, "text")
    return value


def _token(said: Mapping[str, Any]) -> bytes | None:
    value = said.get("token")
    if value is not None and (type(value) is not bytes or len(value) > MAX_TOKEN_BYTES):
        raise ProtocolError(f"handshake: the token is not of at most {MAX_TOKEN_BYTES} bytes")
    return value


def _identity(said: Mapping[str, Any]) -> Identity:
    features = said.get("features")
    if type(features) is not tuple or len(features) > MAX_FEATURES or not all(type(one) is str for one in features):
        raise _wrong("features", features, f"an array of at most {MAX_FEATURES} texts")
    name = None if said.get("name") is None else _text(said, "name")
    return Identity(_id(said, "entity"), _number(said, "incarnation"), name, frozenset(features))


def _limits(said: Mapping[str, Any]) -> Limits:
    given = said.get("limits")
    if type(given) is not dict:
        raise _wrong("limits", given, "a map")
    for limit in fields(Limits):
        if not 1 <= _number(given, limit.name) < 1 << 32:
            raise _wrong(limit.name, given[limit.name], "a number from 1 below 2**32")
    return Limits(**{limit.name: given[limit.name] for limit in fields(Limits)})
