"""The session: streams between two entities that outlive their channels; bytes and time in, bytes and events out.

Every record is numbered and kept until the peer has it: over any sequence of channels each stream sees exactly what was
sent on it, in order, once.  No method blocks, waits or does I/O; ``now`` is monotonic time in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynlog.network.session_events import Event
from dynlog.network.session_handshake import Hello, Identity
from dynlog.network.session_settings import Settings
from dynlog.network.session_stream import Stream
from dynlog.record import Buffer
from dynlog.wire import Frame


@dataclass(frozen=True, slots=True)
class Stats:
    """What a session has done so far; counts only grow, the last four are what is held now."""

    records_sent: int
    records_received: int
    batches_sent: int
    batches_received: int
    bytes_sent: int
    bytes_received: int
    resent: int
    """Records that were sent again on another channel."""
    repeats: int
    """Records that came again and were dropped."""
    late: int
    """Records for streams that were over, dropped."""
    old_frames: int
    """Frames of channels that no longer counted, dropped."""
    channels: int
    streams: int
    unacknowledged_records: int
    unacknowledged_bytes: int
    unacknowledged_limit: int


class Session:
    """One end of a session; a driver moves its frames and tells it the time.

    The dialler makes one with a fresh ``session_id`` and attaches it to channels; the acceptor makes one for a `Hello`
    that it does not refuse, and gives it that and every later Hello of the same id.  ``generation`` is the driver's
    number for a channel, higher for each new one.
    After any call there may be frames to move (`wants_write`, then `take`), and after `take`, `send`, `open` and the
    like there may be events that no call returned (`events`).
    """

    @classmethod
    def dialler(
        cls,
        identity: Identity,
        settings: Settings,
        session_id: bytes,
        now: float,
        *,
        wanted: bytes | None = None,
        token: bytes | None = None,
    ) -> Session:
        """The end that makes the channels."""
        raise NotImplementedError

    @classmethod
    def acceptor(cls, identity: Identity, settings: Settings, hello: Hello, now: float) -> Session:
        """The end that takes them, for the first Hello of the session; `accept` it next."""
        raise NotImplementedError

    # --- channels -----------------------------------------------------------------------------------------------------

    def attach(self, generation: int, max_frame_bytes: int, now: float) -> bytes:
        """Dialler: the HELLO to send on a new channel; a channel that carries goes on until the new one is `Attached`.

        Raises ConfigurationError for a channel that carries less than MIN_FRAME_BYTES.
        """
        raise NotImplementedError

    def accept(self, generation: int, hello: Hello, max_frame_bytes: int, now: float) -> tuple[bytes, list[Event]]:
        """Acceptor: the frame to send on the new channel; events tell whether it is Attached now, and what to release.

        The frame is a REFUSED, and the event ChannelFailed, for an older attempt than one that was accepted, and for
        a Hello that claims to have what was never sent.
        """
        raise NotImplementedError

    def receive(self, generation: int, frame: Buffer, now: float) -> list[Event]:
        """What a frame brought.  Never raises: damage is `ChannelFailed`, and what came whole before it counts."""
        raise NotImplementedError

    def lost(self, generation: int, now: float) -> list[Event]:
        """The channel is over; the session waits for another."""
        raise NotImplementedError

    def reading(self, on: bool, now: float) -> None:
        """Whether the driver takes frames from the channel: while it does not, silence is no sign of death."""
        raise NotImplementedError

    @property
    def wants_write(self) -> bool:
        """Whether `take` would give anything now."""
        raise NotImplementedError

    def take(self, max_bytes: int, now: float) -> list[Frame]:
        """Frames for the channel that is attached, as many as there are up to about ``max_bytes``; hand them over."""
        raise NotImplementedError

    def events(self) -> list[Event]:
        """What happened that no call has returned yet."""
        raise NotImplementedError

    def next_timeout(self) -> float:
        """When `tick` is due; may be infinite, may be earlier than needed."""
        raise NotImplementedError

    def tick(self, now: float) -> list[Event]:
        """Does what is due."""
        raise NotImplementedError

    # --- streams ------------------------------------------------------------------------------------------------------

    def open(
        self,
        target: bytes,
        topic: str,
        caller: str,
        correlation_id: str,
        attempt: int,
        headers: Mapping[str, str],
        deadline: float | None,
        body: Buffer | None,
        end: bool,
        now: float,
    ) -> Stream | None:
        """A new stream, with its first message; None: there is no room now, a `Writable` of None follows.

        ``end``: the message is the whole request.  ``body`` None: a request without any message (then ``end`` must be
        true).  Raises Draining if the peer, or this end, takes no further streams, Overloaded over the peer's
        max_streams, MessageTooLarge over its max_message_bytes, Closed after the end of the session.
        """
        raise NotImplementedError

    def send(self, stream: Stream, body: Buffer, end: bool) -> bool:
        """Whether the message was taken; if not (no credit, or no room), a `Writable` of the stream follows.

        The body must not be changed afterwards.  On a stream that is over it is taken and dropped (`Stats.late`).
        Raises MessageTooLarge over the peer's max_message_bytes, and ConfigurationError after the end of this
        direction.
        """
        raise NotImplementedError

    def finish(self, stream: Stream) -> None:
        """Ends this direction; always taken."""
        raise NotImplementedError

    def fail(self, stream: Stream, code: int, kind: str, text: str) -> None:
        """Ends the stream with an error; always taken; what was not sent yet of a message in pieces is dropped."""
        raise NotImplementedError

    def cancel(self, stream: Stream, reason: str) -> None:
        """Ends the stream because nobody wants more of it; always taken.  An OPEN that has not left is taken back."""
        raise NotImplementedError

    def grant(self, stream: Stream, messages: int, size: int) -> None:
        """The reader has consumed so many messages of so many bytes together; the peer may send as many more."""
        raise NotImplementedError

    def push(self, target: bytes, topic: str, body: Buffer) -> bool:
        """Whether a message that belongs to no stream was taken; if not, a `Writable` of None follows."""
        raise NotImplementedError

    def grant_push(self, messages: int, size: int) -> None:
        """So many pushed messages have been consumed."""
        raise NotImplementedError

    # --- the end ------------------------------------------------------------------------------------------------------

    def goaway(self, reason: str) -> None:
        """Takes no further streams of the peer, and opens none; once all that run are over, `Drained` tells."""
        raise NotImplementedError

    def close(self, reason: str, now: float) -> list[Event]:
        """Ends the session at once: `Lost` for every stream, then `SessionOver`; `take` gives a last word."""
        raise NotImplementedError

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        raise NotImplementedError

    @property
    def peer(self) -> Identity | None:
        """Who stands at the other end; None before the first handshake."""
        raise NotImplementedError

    def stats(self) -> Stats:
        """Counts and what is held now."""
        raise NotImplementedError
