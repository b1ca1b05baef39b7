"""How two ends agree to talk: HELLO of the dialler, then WELCOME or REFUSED of the acceptor, on every channel anew.

Nothing of a session moves on a channel before its handshake is done.  Whoever is unknown, unwanted or late is told why.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dynlog.network.session_settings import Limits
from dynlog.record import Buffer


@dataclass(frozen=True, slots=True)
class Identity:
    """Who stands at one end of a session."""

    entity: bytes
    """Its id, 16 bytes."""
    incarnation: int = 0
    name: str | None = None
    features: frozenset[str] = field(default_factory=frozenset)


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
    lowest_version: int = 1
    highest_version: int = 1


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the acceptor answers if it will talk."""

    attempt: int
    received: int
    identity: Identity
    limits: Limits
    version: int = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the acceptor answers if it will not; ``code``: version, token, entity, incarnation, resume, stale, busy."""

    code: str
    text: str


def read_hello(frame: Buffer) -> Hello:
    """The first frame of an accepted channel; raises ProtocolError for anything but a HELLO."""
    raise NotImplementedError


def judge(
    hello: Hello, here: Identity, *, token: bytes | None = None, newest_incarnation: int = 0, known: bool = False
) -> Refusal | None:
    """Why an acceptor must refuse, or None; compares tokens in constant time.

    ``newest_incarnation`` is the highest life of the dialling entity that was seen here; ``known`` whether a session
    of that id is here.
    """
    raise NotImplementedError


def write_refusal(refusal: Refusal) -> bytes:
    """The frame to send before the channel is closed."""
    raise NotImplementedError
