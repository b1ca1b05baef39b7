"""The session: streams between two entities that outlive their channels; bytes and time in, bytes and events out.

Every record is numbered and kept until the peer has it: over any sequence of channels each stream sees exactly what was
sent on it, in order, once.  No method blocks, waits or does I/O; ``now`` is monotonic time in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from dynlog.call_errors import HandshakeRefused, ProtocolError, WireBroken
from dynlog.errors import ConfigurationError
from dynlog.network.frames import (
    BATCH,
    BYE,
    IGNORABLE,
    MAX_REASON_BYTES,
    PING,
    RECORD,
    FrameKind,
    RecordKind,
    Violation,
    damaged,
)
from dynlog.network.session_events import (
    Answered,
    Attached,
    ChannelFailed,
    Drained,
    Event,
    Released,
    SessionOver,
)
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
from dynlog.wire import Frame

MAX_BATCH_BYTES = 256 << 10
"""Longer batches gain nothing, and make the peer wait for their last byte before it sees the first record."""
_BATCH = int(FrameKind.BATCH)
MAX_DAMAGED_CHANNELS = 3
"""So many channels in a row that brought damage and no record end the session."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a session has done so far; counts only grow, the last five are what is held now."""

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
    round_trip: float | None
    """Of the last PING that was answered, in seconds."""


class Session(Reading):
    """One end of a session; a driver moves its frames and tells it the time.

    The dialler makes one with a fresh ``session_id`` and attaches it to channels; the acceptor makes one for a `Hello`
    that it does not refuse, and gives it that and every later Hello of the same id.  ``generation`` is the driver's
    number for a channel, higher for each new one.
    After any call there may be frames to move (`wants_write`, then `take`), and after `take`, `send`, `open` and the
    like there may be events that no call returned (`events`).
    """

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
        return cls(identity, settings, session_id, now, dialler=True, wanted=wanted, token=token)

    @classmethod
    def acceptor(cls, identity: Identity, settings: Settings, hello: Hello, now: float) -> Session:
        """The end that takes them, for the first Hello of the session; `accept` it next."""
        session = cls(identity, settings, hello.session_id, now, dialler=False)
        session._introduced(hello.identity, hello.limits)
        return session

    # --- channels -----------------------------------------------------------------------------------------------------

    def attach(self, generation: int, max_frame_bytes: int, now: float) -> bytes:
        """Dialler: the HELLO to send on a new channel; a channel that carries goes on until the new one is `Attached`.

        Raises ConfigurationError for a channel that carries less than MIN_FRAME_BYTES.
        """
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

    def receive(self, generation: int, frame: Buffer, now: float) -> list[Event]:
        """What a frame brought.  Never raises: damage is `ChannelFailed`, and what came whole before it counts."""
        if generation != self._active:
            self._answered(generation, frame, now)
            return self.events()
        events = self._happened
        self._heard = now
        self._bytes_received += len(frame)
        if type(frame) is not bytes:
            frame = bytes(frame)
        try:
            if frame and frame[0] == _BATCH:
                self._batch(frame, now, events)
                self._unacked_bytes += len(frame)
                came = self._received - self._unacked_from
                if came >= self._ack_records or self._unacked_bytes >= self._ack_bytes:
                    self._ack_now = came > 0
                elif came and self._ack_at == inf:
                    self._ack_at = now + self._ack_delay
                if self._outbox.next - self._outbox.acked > self._most_records:
                    raise Violation(f"the peer acknowledges nothing: {self._outbox.records} records wait for it")
            else:
                self._sign(frame, now)
        except Violation as error:
            self._end(error, str(error), say=True)
        except ProtocolError as error:
            self._damage(generation, error, now)
        self._happened = []
        if (self._going or self._peer_going) and not self._drained:
            self._check_drained(events)
        return events

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

    @property
    def wants_write(self) -> bool:
        """Whether `take` would give anything now."""
        if self._active is None:
            return self._last_word is not None
        outbox = self._outbox
        return bool(
            outbox.ready
            or self._ack_now
            or self._granting
            or (self._chunking and outbox.room)
            or self._ping_due
            or self._pong is not None
        )

    def take(self, max_bytes: int) -> list[Frame]:
        """Frames for the channel that is attached, as many as there are up to about ``max_bytes``; hand them over.

        After the end of the session: its last word, once, for the channel that was attached then.
        """
        frames: list[Frame] = []
        if self._active is None:
            if self._last_word is not None:
                frames.append((self._last_word,))
                self._last_word = None
            return frames
        if self._pong is not None or self._ping_due:
            self._signs(frames)
        if self._granting:
            self._put_credits()
        outbox = self._outbox
        while max_bytes > 0 and (outbox.ready or self._chunking):
            most = self._most_bytes
            if max_bytes < most:
                most = max(max_bytes, MIN_FRAME_BYTES)
            frame = outbox.batch(self._received, most, self._more if self._chunking else None)
            if frame is None:
                break
            frames.append((frame,))
            max_bytes -= len(frame)
            if self._received != self._unacked_from:
                self._told()
        if self._chunking and outbox.ready and outbox.room:
            head, body = self._next_piece()  # so that long messages get on, however many short ones there are
            outbox.put(head + body)
        if self._ack_now:
            frames.append((BATCH.pack(_BATCH, 0, outbox.first, self._received),))
            self._told()
        return frames

    def events(self) -> list[Event]:
        """What happened that no call has returned yet."""
        events = self._happened
        self._happened = []
        if (self._going or self._peer_going) and not self._drained:
            self._check_drained(events)
        return events

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `tick` is due; may be infinite, may be earlier than needed."""
        if self._over:
            return inf
        due = self._ack_at
        settings = self._settings
        if self._pending is not None:
            due = min(due, self._pending[2] + settings.handshake_within)
        if self._active is None:
            return min(due, self._lost_at + settings.resume_within)
        if self._reading:
            silence = settings.ping_after if self._ping_at == inf else settings.dead_after
            due = min(due, self._heard + silence)
        return due

    def tick(self, now: float) -> list[Event]:
        """Does what is due."""
        settings = self._settings
        if self._over:
            return self.events()
        if self._pending is not None and now >= self._pending[2] + settings.handshake_within:
            error = WireBroken(f"no answer to the handshake within {settings.handshake_within} s")
            self._happened.append(ChannelFailed(self._pending[0], error))
            self._pending = None
        if self._active is None:
            if now >= self._lost_at + settings.resume_within:
                reason = f"no channel to the peer for {settings.resume_within} s: the session is over"
                self._end(WireBroken(reason), reason, say=False)
            return self.events()
        if now >= self._ack_at:
            self._ack_now = True
            self._ack_at = inf
        if self._reading:
            silent = now - self._heard
            if silent >= settings.dead_after:
                error = WireBroken(f"nothing came for {silent:.1f} s")
                self._happened.append(ChannelFailed(self._active, error))
                self._detach(now)
            elif silent >= settings.ping_after and self._ping_at == inf:
                self.ping(now)
        return self.events()

    def ping(self, now: float) -> None:
        """Asks the peer for a sign of life; `Answered` tells how long it took."""
        self._pings += 1
        self._ping_at = now
        self._ping_due = True

    # --- the end ------------------------------------------------------------------------------------------------------

    def goaway(self, reason: str) -> None:
        """Takes no further streams of the peer, and opens none; once all that run are over, `Drained` tells."""
        if not self._going and not self._over:
            self._going = True
            body = cut(reason, MAX_REASON_BYTES)
            self._outbox.put(RECORD.pack(len(body), RecordKind.GOAWAY, 0, 0) + body)

    def close(self, reason: str, now: float) -> list[Event]:
        """Ends the session at once: `Lost` for every stream, then `SessionOver`; `take` gives a last word."""
        self._end(None, reason, say=True)
        return self.events()

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

    def stats(self) -> Stats:
        """Counts and what is held now."""
        outbox = self._outbox
        return Stats(
            records_sent=outbox.handed,
            records_received=self._received,
            batches_sent=outbox.batches,
            batches_received=self._batches_received,
            bytes_sent=outbox.bytes_sent,
            bytes_received=self._bytes_received,
            resent=outbox.resent,
            repeats=self._repeats,
            late=self._late,
            old_frames=self._old_frames,
            channels=self._channels,
            streams=self._opened_here + self._opened_there,
            unacknowledged_records=outbox.records,
            unacknowledged_bytes=outbox.held,
            unacknowledged_limit=self._settings.resend_bytes,
            round_trip=self._round_trip,
        )

    # --- within -------------------------------------------------------------------------------------------------------

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

    def _sign(self, frame: bytes, now: float) -> None:
        """Every frame but a batch."""
        if not frame:
            raise damaged("frame", 0, 1)
        kind = frame[0]
        if kind in (FrameKind.PING, FrameKind.PONG):
            if len(frame) != PING.size:
                raise damaged("PING or PONG", len(frame), PING.size)
            token = PING.unpack(frame)[1]
            if kind == FrameKind.PING:
                self._pong = token
            elif token == self._pings and self._ping_at != inf:
                self._round_trip = now - self._ping_at
                self._ping_at = inf
                self._happened.append(Answered(self._round_trip))
        elif kind == FrameKind.BYE:
            if len(frame) < BYE.size:
                raise damaged("BYE", len(frame), BYE.size)
            _, broken, size = BYE.unpack_from(frame)
            if len(frame) != BYE.size + size:
                raise damaged("BYE", len(frame), BYE.size + size)
            reason = frame[BYE.size :].decode(errors="replace")
            error = ProtocolError(f"the peer ended the session, as it could not follow: {reason}") if broken else None
            self._end(error, reason, say=False)
        elif kind < IGNORABLE:
            raise ProtocolError(f"a frame of {len(frame)} bytes is of kind {kind}, which has no place here")

    def _signs(self, frames: list[Frame]) -> None:
        if self._pong is not None:
            frames.append((PING.pack(FrameKind.PONG, self._pong),))
            self._pong = None
        if self._ping_due:
            frames.append((PING.pack(FrameKind.PING, self._pings),))
            self._ping_due = False

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
