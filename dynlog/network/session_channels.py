"""Which channel carries the session: the one whose handshake was done last; every other is deaf, and let go.

A channel may break at any step.  What the peer has not got by then goes again on the next, and no stream notices.
"""

from __future__ import annotations

from math import inf

from dynlog.call_errors import HandshakeRefused, ProtocolError
from dynlog.errors import Closed, ConfigurationError
from dynlog.network.frames import BYE, MAX_REASON_BYTES, FrameKind
from dynlog.network.session_events import Attached, ChannelFailed, Drained, Event, Released, SessionOver
from dynlog.network.session_handshake import (
    Hello,
    Identity,
    Refusal,
    Welcome,
    read_answer,
    write_hello,
    write_refusal,
    write_welcome,
)
from dynlog.network.session_inbox import Reading
from dynlog.network.session_settings import MIN_FRAME_BYTES, Limits, Settings
from dynlog.network.session_streams import cut
from dynlog.record import Buffer

MAX_BATCH_BYTES = 256 << 10
"""Longer batches gain nothing, and make the peer wait for their last byte before it sees the first record."""
MAX_DAMAGED_CHANNELS = 3
"""So many channels in a row that brought damage and no record end the session."""


class Channels(Reading):
    """Streams, and the channels on which they move."""

    __slots__ = (
        "_ack_at",
        "_ack_bytes",
        "_ack_delay",
        "_ack_now",
        "_ack_records",
        "_active",
        "_attempt",
        "_bytes_received",
        "_channels",
        "_damaged",
        "_damaged_at",
        "_drained",
        "_heard",
        "_last_word",
        "_lost_at",
        "_most_bytes",
        "_old_frames",
        "_pending",
        "_ping_at",
        "_ping_due",
        "_pings",
        "_pong",
        "_reading",
        "_round_trip",
        "_settings",
        "_token",
        "_unacked_bytes",
        "_unacked_from",
        "_wanted",
        "identity",
        "peer",
        "session_id",
    )

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        session_id: bytes,
        now: float,
        *,
        dialler: bool,
        wanted: bytes | None = None,
        token: bytes | None = None,
    ) -> None:
        super().__init__(settings, dialler)
        if len(session_id) != 16:
            raise ConfigurationError(f"a session id of {len(session_id)} bytes: 16 random ones are needed")
        self.identity = identity
        self.session_id = session_id
        self.peer: Identity | None = None
        """Who stands at the other end; None before the first handshake."""
        self._settings = settings
        self._wanted = wanted
        self._token = token
        self._attempt = 0
        """Of the channel that was attached or accepted last."""
        self._active: int | None = None
        """The generation of the channel that carries the session."""
        self._pending: tuple[int, int, float] | None = None
        """A channel in its handshake: generation, max_frame_bytes, since when."""
        self._most_bytes = MIN_FRAME_BYTES
        self._lost_at = now
        """Since when there is no channel."""
        self._heard = now
        self._reading = True
        self._ping_at = inf
        """When the last PING was asked for; infinite: none is unanswered."""
        self._ping_due = False
        self._pings = 0
        self._pong: int | None = None
        """The token of a PING that wants its answer."""
        self._round_trip: float | None = None
        self._ack_records, self._ack_bytes = settings.limits.ack_records, settings.limits.ack_bytes
        self._ack_delay = settings.ack_delay
        self._ack_at = inf
        self._ack_now = False
        self._unacked_from = 0
        """What the peer was told last of what came."""
        self._unacked_bytes = 0
        self._damaged = 0
        self._damaged_at = 0
        self._drained = False
        self._last_word: bytes | None = None
        self._channels = self._old_frames = self._bytes_received = 0

    # Handshakes

    def attach(self, generation: int, max_frame_bytes: int, now: float) -> bytes:
        """Dialler: the HELLO to send on a new channel; a channel that carries goes on until the new one is `Attached`.

        Raises ConfigurationError for a channel that carries less than MIN_FRAME_BYTES, Closed after the end.
        """
        if self._over:
            raise Closed("the session is over: make another")
        _check_frame_bytes(max_frame_bytes)
        if self._pending is not None:
            self._happened.append(Released(self._pending[0]))
        self._pending = (generation, max_frame_bytes, now)
        self._attempt += 1
        return write_hello(
            Hello(
                self.session_id,
                self._attempt,
                self.peer is not None,
                self._received,
                self.identity,
                self._ours,
                self._wanted,
                self._token,
            )
        )

    def accept(self, generation: int, hello: Hello, max_frame_bytes: int, now: float) -> tuple[bytes, list[Event]]:
        """Acceptor: the frame to send on the new channel; events tell whether it is Attached now, and what to release.

        The frame is a REFUSED, and the event ChannelFailed, for an older attempt than one that was accepted, and for
        a Hello of somebody else or that claims to have what was never sent.
        """
        _check_frame_bytes(max_frame_bytes)
        refusal = self._unacceptable(hello)
        if refusal is not None:
            error = HandshakeRefused(f"{refusal.text}: the channel was refused", code=refusal.code)
            return write_refusal(refusal), [ChannelFailed(generation, error)]
        self._attempt = hello.attempt
        welcome = Welcome(hello.attempt, self._received, self.identity, self._ours)
        self._carry_on(generation, hello.received, max_frame_bytes, hello.resume, now)
        return write_welcome(welcome), self.events()

    def lost(self, generation: int, now: float) -> list[Event]:
        """The channel is over; the session waits for another."""
        if self._pending is not None and self._pending[0] == generation:
            self._pending = None
        if generation == self._active:
            self._detach(now)
        return self.events()

    def reading(self, on: bool, now: float) -> None:
        """Whether the driver takes frames from the channel: while it does not, silence is no sign of death."""
        self._reading = on
        self._heard = now

    def events(self) -> list[Event]:
        """What happened that no call has returned yet."""
        events = self._happened
        self._happened = []
        if (self._going or self._peer_going) and not self._drained:
            self._check_drained(events)
        return events

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self._over

    @property
    def active(self) -> int | None:
        """The generation of the channel that carries the session now."""
        return self._active

    @property
    def draining(self) -> bool:
        """Whether either end takes no further streams."""
        return self._going or self._peer_going

    # Within

    def _introduced(self, peer: Identity, theirs: Limits) -> None:
        self.peer = peer
        self._meet(theirs)
        self._ack_records = min(self._ack_records, theirs.ack_records)
        self._ack_bytes = min(self._ack_bytes, theirs.ack_bytes)

    def _unacceptable(self, hello: Hello) -> Refusal | None:
        peer, outbox = self.peer, self._outbox
        assert peer is not None
        if self._over or hello.session_id != self.session_id:
            return Refusal("resume", f"session {hello.session_id.hex()} is over: begin a new one")
        if (hello.identity.entity, hello.identity.incarnation) != (peer.entity, peer.incarnation):
            return Refusal("resume", f"session {hello.session_id.hex()} is another entity's")
        if hello.attempt <= self._attempt:
            return Refusal("stale", f"channel {hello.attempt} of the session came after channel {self._attempt}")
        if hello.received > outbox.handed:
            return Refusal("resume", f"{hello.received} records were received, it says, of {outbox.handed} sent")
        return None

    def _answered(self, generation: int, frame: Buffer, now: float) -> None:
        """What came on a channel that does not carry the session."""
        pending = self._pending
        if pending is None or pending[0] != generation or self._over:
            self._old_frames += 1
            return
        self._bytes_received += len(frame)
        self._pending = None
        try:
            answer = read_answer(frame)
            if isinstance(answer, Welcome):
                self._welcomed(answer, generation, pending[1], now)
                return
        except ProtocolError as error:
            self._happened.append(ChannelFailed(generation, error))
            return
        refused = HandshakeRefused(f"the peer refused: {answer.text}", code=answer.code)
        self._happened.append(ChannelFailed(generation, refused))
        if answer.code not in ("stale", "busy"):
            self._end(refused, answer.text, say=False)

    def _welcomed(self, welcome: Welcome, generation: int, max_frame_bytes: int, now: float) -> None:
        resumed = self.peer is not None
        if welcome.attempt != self._attempt:
            raise ProtocolError(f"channel {welcome.attempt} is welcomed: {self._attempt} said hello")
        if welcome.received > self._outbox.handed:
            raise ProtocolError(f"the peer has {welcome.received} records, it says, of {self._outbox.handed} sent")
        if self.peer is None:
            self._introduced(welcome.identity, welcome.limits)
        elif (welcome.identity.entity, welcome.identity.incarnation) != (self.peer.entity, self.peer.incarnation):
            raise ProtocolError("another entity, or another life of it, welcomes a session that is not its own")
        self._carry_on(generation, welcome.received, max_frame_bytes, resumed, now)

    def _carry_on(self, generation: int, received: int, max_frame_bytes: int, resumed: bool, now: float) -> None:
        """The channel carries the session from now on; what the peer has not got goes again."""
        if self._active is not None:
            self._happened.append(Released(self._active))
        self._active = generation
        self._most_bytes = min(max_frame_bytes, MAX_BATCH_BYTES)
        self._channels += 1
        self._heard = now
        self._reading = True
        self._ping_at = inf
        self._ping_due = False
        self._pong = None
        self._told()
        self._outbox.rewind(received)
        if resumed:
            self._restate_deadlines(now)
        self._happened.append(Attached(generation, resumed))
        if self._starved and self._outbox.room:
            self._wake()

    def _told(self) -> None:
        """The peer is being told what came."""
        self._unacked_from = self._received
        self._unacked_bytes = 0
        self._ack_at = inf
        self._ack_now = False

    def _damage(self, generation: int, error: ProtocolError, now: float) -> None:
        self._happened.append(ChannelFailed(generation, error))
        self._damaged = self._damaged + 1 if self._received == self._damaged_at else 1
        self._damaged_at = self._received
        self._detach(now)
        if self._damaged >= MAX_DAMAGED_CHANNELS:
            self._end(error, str(error), say=False)

    def _detach(self, now: float) -> None:
        self._active = None
        self._lost_at = now
        self._ack_at = inf
        self._ack_now = self._ping_due = False
        self._pong = None

    def _end(self, error: Exception | None, reason: str, *, say: bool) -> None:
        if self._over:
            return
        self._over = True
        self._end_all()
        self._pong, self._ping_due, self._ack_now = None, False, False
        if say and self._active is not None:
            text = cut(reason, MAX_REASON_BYTES)
            self._last_word = BYE.pack(FrameKind.BYE, error is not None, len(text)) + text
        self._active = self._pending = None
        self._happened.append(SessionOver(error, reason))

    def _check_drained(self, events: list[Event]) -> None:
        if self._over or self._opened_here or self._opened_there or self._outbox.records or self._chunking:
            return
        self._drained = True
        events.append(Drained())


def _check_frame_bytes(max_frame_bytes: int) -> None:
    if max_frame_bytes < MIN_FRAME_BYTES:
        raise ConfigurationError(
            f"a channel that carries {max_frame_bytes} bytes a frame: sessions need {MIN_FRAME_BYTES} at least"
        )
