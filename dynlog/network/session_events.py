"""What a session has to tell: every stream that was surfaced ends exactly once, by one of the events that say so.

Events are tuples with names; drivers tell them apart by ``type(event) is Message`` and the like.
A stream is over for good once it `Failed`, was `CancelledByPeer` or `Lost`, or once both of its directions ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from dynlog.network.session_stream import Stream


class Meta(NamedTuple):
    """What a call says of itself, beside its deadline and its body."""

    target: bytes
    """The id of the entity that is called: 16 bytes (`DynamoEntityID.key`)."""
    topic: str
    caller: str
    """Text of the calling entity (``str(DynamoEntityID)``); empty: the entity at the other end of the session."""
    correlation_id: str
    attempt: int
    headers: Mapping[str, str]


class Opened(NamedTuple):
    """The peer opened a stream; its first message is here whole.  The deadline is in ``stream.deadline``."""

    stream: Stream
    meta: Meta
    body: bytes | None
    """The first message; None: the request is a stream that ended without any."""
    end: bool
    """Nothing follows: the first message is the whole request."""


class Message(NamedTuple):
    """A message of the peer on a stream, whole."""

    stream: Stream
    body: bytes
    end: bool
    """Whether the peer's direction ended with it."""


class Ended(NamedTuple):
    """The peer's direction of the stream ended without a further message."""

    stream: Stream


class Failed(NamedTuple):
    """The peer ended the stream with an error (codes: `dynlog.network.frames.Code`); it is over."""

    stream: Stream
    code: int
    kind: str
    text: str


class CancelledByPeer(NamedTuple):
    """The peer ended the stream because it wants no more of it; it is over."""

    stream: Stream
    reason: str


class Lost(NamedTuple):
    """The session ended under the stream; it is over."""

    stream: Stream
    sent: bool
    """Whether its OPEN was ever handed to a channel: if not, nobody has begun it."""


class Writable(NamedTuple):
    """Try again what was not taken: `send` on that stream; with None `open`, and `push`."""

    stream: Stream | None


class Pushed(NamedTuple):
    """A message on a topic that belongs to no stream; hand back its credit with `Session.grant_push`."""

    target: bytes
    topic: str
    body: bytes


class Attached(NamedTuple):
    """The handshake on that channel is done: from now on it carries the session."""

    generation: int
    resumed: bool


class Released(NamedTuple):
    """The session has no further use for that channel: close it."""

    generation: int


class ChannelFailed(NamedTuple):
    """The channel brought bytes that are no frames, fell silent, or was refused: abort it.

    The session has let go of it already and goes on with another, unless `SessionOver` follows.
    """

    generation: int
    error: Exception
    """ProtocolError, WireBroken or HandshakeRefused."""


class Answered(NamedTuple):
    """The peer answered a PING."""

    seconds: float
    """From asking to answer."""


class GoingAway(NamedTuple):
    """The peer takes no further streams from this end; those that run go on."""

    reason: str


class Drained(NamedTuple):
    """After `Session.goaway` or `GoingAway`: no stream is left, and the peer has everything that was sent to it."""


class SessionOver(NamedTuple):
    """The last event: every stream has ended before it, and nothing is taken any more."""

    error: Exception | None
    """None if either end closed it on purpose."""
    reason: str = ""
    """What was said about it, here or there."""


Event: TypeAlias = (
    Opened
    | Message
    | Ended
    | Failed
    | CancelledByPeer
    | Lost
    | Writable
    | Pushed
    | Attached
    | Released
    | ChannelFailed
    | Answered
    | GoingAway
    | Drained
    | SessionOver
)
