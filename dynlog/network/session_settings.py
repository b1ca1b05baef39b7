"""What one end of a session promises to hold, and what it does by itself: every buffer has its bound here.

`Limits` are told to the peer in the handshake and bind the peer; `Settings` are an end's own business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dynlog.errors import ConfigurationError

KIB, MIB = 1 << 10, 1 << 20
MIN_FRAME_BYTES = 128 * KIB
"""The least that a channel must carry in one frame: the longest record (OPEN with all its headers and a chunk) fits."""
MAX_CHUNK_BYTES = 64 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """What this end takes from its peer; the same for every stream, and for the life of the session.

    A peer may begin a message on a stream while it has credit for at least one message and one byte; it may end it
    whatever its length, so that a reader who takes nothing holds less than ``window_bytes + max_message_bytes``.
    """

    window_bytes: int = 256 * KIB
    """The credit in bytes with which every stream begins, in this direction."""
    window_messages: int = 64
    """The credit in messages with which every stream begins."""
    push_bytes: int = 1 * MIB
    """The credit in bytes of all pushed messages together."""
    push_messages: int = 1024
    max_streams: int = 1024
    """How many streams that the peer opened may be open at once."""
    max_message_bytes: int = 16 * MIB
    ack_bytes: int = 1 * MIB
    """After so many bytes of frames the peer acknowledges at once."""
    ack_records: int = 1024
    """After so many records the peer acknowledges at once."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value < 1 << 32:
                raise ConfigurationError(f"limit {name} of a session is {value!r}: a number from 1 below 2**32 needed")


@dataclass(frozen=True, slots=True)
class Settings:
    """How one end of a session behaves; times are in seconds.

    Raises ConfigurationError for values with which a session would stall.
    """

    limits: Limits = field(default_factory=Limits)
    chunk_bytes: int = 64 * KIB
    """A longer message leaves in pieces of this size, and messages of other streams pass between them."""
    resend_bytes: int = 8 * MIB
    """Frames that the peer has not acknowledged; when full, nothing new is taken."""
    resend_records: int = 8192
    ack_delay: float = 0.02
    """An acknowledgement that finds no batch to ride on leaves after this time."""
    ping_after: float = 5.0
    """A channel that was silent for so long is asked for a sign of life."""
    dead_after: float = 15.0
    """A channel that was silent for so long is given up."""
    handshake_within: float = 5.0
    """A channel on which the handshake takes longer is given up."""
    resume_within: float = 30.0
    """A session without a channel for so long ends, and with it every stream."""

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_bytes <= MAX_CHUNK_BYTES:
            raise ConfigurationError(f"chunk_bytes is {self.chunk_bytes}: from 1 to {MAX_CHUNK_BYTES} is allowed")
        if self.resend_bytes < 2 * self.limits.ack_bytes or self.resend_records < 2 * self.limits.ack_records:
            raise ConfigurationError(
                f"a resend buffer of {self.resend_bytes} bytes and {self.resend_records} records holds less than two "
                f"acknowledgements of {self.limits.ack_bytes} bytes or {self.limits.ack_records} records: raise one or "
                f"lower the other"
            )
        if not 0 < self.ping_after < self.dead_after:
            raise ConfigurationError(f"dead_after {self.dead_after} s must be longer than ping_after {self.ping_after}")
        if min(self.ack_delay, self.handshake_within, self.resume_within) <= 0:
            raise ConfigurationError("ack_delay, handshake_within and resume_within must be longer than 0 s")
