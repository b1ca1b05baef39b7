"""The session: streams between two entities that outlive their channels; bytes and time in, bytes and events out.

Every record is numbered and kept until the peer has it: over any sequence of channels each stream sees exactly what was
sent on it, in order, once.  No method blocks, waits or does I/O; ``now`` is monotonic time in seconds.
"""

from __future__ import annotations

from math import inf

from dynlog.call_errors import ProtocolError, WireBroken
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
from dynlog.network.session_channels import Channels
from dynlog.network.session_events import Answered, ChannelFailed, Event
from dynlog.network.session_handshake import Hello, Identity
from dynlog.network.session_settings import MIN_FRAME_BYTES, Settings
from dynlog.network.session_stats import Stats
from dynlog.network.session_streams import cut
from dynlog.record import Buffer
from dynlog.wire import Frame

_BATCH = int(FrameKind.BATCH)


class Session(Channels):
    """One end of a session; a driver moves its frames and tells it the time.

    The dialler makes one with a fresh ``session_id`` and attaches it to channels; the acceptor makes one for a `Hello`
    that it does not refuse, and gives it that and every later Hello of the same id.  ``generation`` is the driver's
    number for a channel, higher for each new one.
    After any call there may be frames to move (`wants_write`, then `take`), and after `take`, `send`, `open` and the
    like there may be events that no call returned (`events`).
    """

    __slots__ = ()

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

    # Frames

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
        except ProtocolError as damage:
            self._damage(generation, damage, now)
        self._happened = []
        if (self._going or self._peer_going) and not self._drained:
            self._check_drained(events)
        return events

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

    # Time

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
            due = min(due, self._sign_due())
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
        if self._reading and now >= self._sign_due():
            if self._ping_at == inf:
                self.ping(now)
            else:
                error = WireBroken(f"nothing came for {now - self._heard:.1f} s")
                self._happened.append(ChannelFailed(self._active, error))
                self._detach(now)
        return self.events()

    def ping(self, now: float) -> None:
        """Asks the peer for a sign of life, unless it is being asked; `Answered` tells how long it took."""
        if self._ping_at == inf:
            self._pings += 1
            self._ping_at = now
            self._ping_due = True

    # The end

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

    # Within

    def _sign_due(self) -> float:
        """When to ask for a sign of life and, once asked, to give up; a loop that stood still asks first."""
        if self._ping_at == inf:
            return self._heard + self._settings.ping_after
        return max(self._heard, self._ping_at) + self._settings.dead_after - self._settings.ping_after

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
