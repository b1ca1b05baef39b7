"""Two sessions over channels that break, switch and repeat, against an oracle that keeps lists.

Whatever happens: each direction of each stream sees exactly what was sent, in order, once; a stream ends once at each
end; what is held stays within what was promised.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dynlog.call_errors import Draining, MessageTooLarge, Overloaded
from dynlog.network.session_events import (
    CancelledByPeer,
    Drained,
    Ended,
    Event,
    Failed,
    Lost,
    Message,
    Opened,
    Pushed,
    SessionOver,
    Writable,
)
from dynlog.network.session_stream import Stream
from tests.network.session_pair import ACCEPTOR, DIALLER, SMALL, TARGET, Pair

ends = st.integers(DIALLER, ACCEPTOR)
sizes = st.sampled_from([0, 1, 63, 64, 65, 200, 299, 300, 301, 999, 1000, 1001])
LIMITS = SMALL.limits


@dataclass
class Side:
    """One end of one call, as the oracle sees it."""

    stream: Stream | None = None
    sent: list[bytes] = field(default_factory=list)
    got: list[bytes] = field(default_factory=list)
    unread: list[bytes] = field(default_factory=list)
    finished: bool = False
    """This end sends no more."""
    peer_finished: bool = False
    """And heard that the peer does not."""
    over: str = ""
    """How it ended at this end, if by anything but both directions."""
    waits: bool = False
    closed: bool = False
    """It had ended when the events before were heard; what comes in one go with the end may come before or after."""

    @property
    def ended(self) -> bool:
        sent_all = self.stream is not None and not self.stream.sending  # pieces of its last message may still leave
        return bool(self.over) or (self.finished and self.peer_finished and sent_all)


class Call:
    """Both ends of one call."""

    def __init__(self, name: str, opener: int) -> None:
        self.name = name
        self.opener = opener
        self.sides = (Side(), Side())

    @property
    def broken(self) -> bool:
        return any(side.over for side in self.sides)


class SessionMachine(RuleBasedStateMachine):
    """Rules are what drivers, users, networks and time do."""

    @initialize()
    def two_sessions(self) -> None:
        self.pair = Pair()
        self.calls: list[Call] = []
        self.by_stream: dict[Stream, tuple[Call, int]] = {}
        self.numbers = 0
        self.told = [0, 0]
        self.pushed: tuple[list[bytes], list[bytes]] = ([], [])
        self.pushes_got: tuple[list[bytes], list[bytes]] = ([], [])
        self.pushes_unread: tuple[list[bytes], list[bytes]] = ([], [])
        self.drained = [0, 0]
        self.pair.connect()
        self.heard()

    def body(self, size: int) -> bytes:
        self.numbers += 1
        return (b"%d." % self.numbers * (size + 1))[:size]

    # What users do

    @rule(end=ends, size=sizes, whole=st.booleans(), message=st.booleans())
    def a_call_is_made(self, end: int, size: int, whole: bool, message: bool) -> None:
        call = Call(f"call-{len(self.calls)}", end)
        body = self.body(size) if message or not whole else None
        session = self.pair.session(end)
        try:
            stream = session.open(TARGET, "t", "", call.name, 1, {}, self.pair.now + 60, body, whole, self.pair.now)
        except Overloaded:
            assert sum(not c.sides[end].ended for c in self.calls if c.opener == end) >= LIMITS.max_streams
            return
        except MessageTooLarge:
            assert size > LIMITS.max_message_bytes
            return
        except Draining:
            assert session.draining
            return
        if stream is None:
            return
        self.calls.append(call)
        side = call.sides[end]
        side.stream, side.finished = stream, whole
        if body is not None:
            side.sent.append(body)
        self.by_stream[stream] = (call, end)
        self.heard()

    def side_of(self, data: st.DataObject, end: int, *, sending: bool = False) -> Side | None:
        sides = [call.sides[end] for call in self.calls]
        sides = [s for s in sides if s.stream is not None and not s.ended and not (sending and s.finished)]
        return sides[data.draw(st.integers(0, len(sides) - 1))] if sides else None

    @rule(data=st.data(), end=ends, size=sizes, last=st.booleans())
    def a_message_is_sent(self, data: st.DataObject, end: int, size: int, last: bool) -> None:
        side = self.side_of(data, end, sending=True)
        if side is None:
            return
        assert side.stream is not None
        body = self.body(size)
        try:
            taken = self.pair.session(end).send(side.stream, body, last)
        except MessageTooLarge:
            assert size > LIMITS.max_message_bytes
            return
        if taken:
            side.sent.append(body)
            side.finished = last
        side.waits = not taken
        self.heard()

    @rule(data=st.data(), end=ends)
    def a_direction_is_finished(self, data: st.DataObject, end: int) -> None:
        if side := self.side_of(data, end, sending=True):
            assert side.stream is not None
            self.pair.session(end).finish(side.stream)
            side.finished = True

    @rule(data=st.data(), end=ends, fails=st.booleans())
    def a_stream_is_ended(self, data: st.DataObject, end: int, fails: bool) -> None:
        if side := self.side_of(data, end):
            assert side.stream is not None
            if fails:
                self.pair.session(end).fail(side.stream, 1, "ValueError", "no")
            else:
                self.pair.session(end).cancel(side.stream, "enough")
            side.over = "here"

    @rule(data=st.data(), end=ends, count=st.integers(1, 3))
    def messages_are_read(self, data: st.DataObject, end: int, count: int) -> None:
        if side := self.side_of(data, end):
            self.read(side, end, count)

    def read(self, side: Side, end: int, count: int) -> None:
        taken, side.unread = side.unread[:count], side.unread[count:]
        if taken and side.stream is not None:
            self.pair.session(end).grant(side.stream, len(taken), sum(map(len, taken)))

    @rule(end=ends, size=sizes)
    def a_message_is_pushed(self, end: int, size: int) -> None:
        body = self.body(size)
        try:
            if self.pair.session(end).push(TARGET, "news", body):
                self.pushed[end].append(body)
        except MessageTooLarge:
            assert size > LIMITS.max_message_bytes

    @rule(end=ends)
    def pushed_messages_are_read(self, end: int) -> None:
        taken = self.pushes_unread[end]
        self.pair.session(end).grant_push(len(taken), sum(map(len, taken)))
        taken.clear()

    # What networks and drivers do

    @rule(end=ends, most=st.sampled_from([1, 100, 1 << 20]))
    def frames_leave(self, end: int, most: int) -> None:
        self.pair.move(end, most)
        self.heard()

    @rule(data=st.data(), end=ends, count=st.integers(1, 4))
    def frames_arrive(self, data: st.DataObject, end: int, count: int) -> None:
        wires = [n for n, wire in self.pair.wires.items() if wire.held[end] and wire.under_way[end]]
        if wires:
            wire = self.pair.wires[data.draw(st.sampled_from(wires))]
            for _ in range(count):
                self.pair.deliver(wire, end)
            self.heard()

    @rule()
    def everything_arrives(self) -> None:
        self.pair.settle()
        self.heard()

    @rule(data=st.data(), end=ends)
    def a_frame_comes_again(self, data: st.DataObject, end: int) -> None:
        """On the channel on which it came, or, being of an old channel, when another carries."""
        wires = [n for n, wire in self.pair.wires.items() if wire.came[end]]
        if not wires:
            return
        wire = self.pair.wires[data.draw(st.sampled_from(wires))]
        frame = wire.came[end][data.draw(st.integers(0, len(wire.came[end]) - 1))]
        if frame[0] != 4:
            return  # a handshake is not repeated by a channel, and does not resume
        self.pair.arrive(wire, end, frame)
        self.heard()

    @rule()
    def another_channel_is_dialled(self) -> None:
        if len(self.pair.wires) < 12:
            self.pair.dial()
            self.heard()

    @rule(data=st.data(), both=st.booleans(), end=ends)
    def a_channel_breaks(self, data: st.DataObject, both: bool, end: int) -> None:
        wires = [n for n, wire in self.pair.wires.items() if any(wire.held)]
        if not wires:
            return
        wire = self.pair.wires[data.draw(st.sampled_from(wires))]
        if both:
            self.pair.cut(wire)
        else:
            wire.under_way[end].clear()
            self.pair.learn(wire, end)
        self.heard()

    @rule(seconds=st.sampled_from([0.02, 0.5, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.pair.wait(seconds if self.connected() else min(seconds, 0.5))
        self.heard()

    def connected(self) -> bool:
        return self.pair.dialler.active is not None

    # What the oracle says

    def heard(self) -> None:
        for end in (DIALLER, ACCEPTOR):
            self.pair.collect(end)
            events = self.pair.events[end]
            for event in events[self.told[end] :]:
                self.hear(end, event)
            self.told[end] = len(events)
        for call in self.calls:
            for side in call.sides:
                side.closed = side.closed or side.ended

    def hear(self, end: int, event: Event) -> None:
        match event:
            case Opened(stream, meta, body, last):
                call = next(call for call in self.calls if call.name == meta.correlation_id)
                assert call.opener == 1 - end
                side = call.sides[end]
                assert side.stream is None, "the call was opened twice"
                side.stream = stream
                self.by_stream[stream] = (call, end)
                if body is not None:
                    self.got(call, end, body)
                side.peer_finished = last
            case Message(stream, body, last):
                call, _ = self.by_stream[stream]
                side = call.sides[end]
                assert not side.over
                assert not side.peer_finished
                self.got(call, end, body)
                side.peer_finished = last
            case Ended(stream):
                side = self.by_stream[stream][0].sides[end]
                assert not side.over
                assert not side.peer_finished
                side.peer_finished = True
            case Failed(stream):
                self.over(stream, end, "failed")
            case CancelledByPeer(stream):
                self.over(stream, end, "cancelled")
            case Lost(stream):
                self.over(stream, end, "lost")
            case Writable(stream) if stream is not None:
                side = self.by_stream[stream][0].sides[end]
                assert not side.closed, "told to send on what has ended"
                assert not side.over
                side.waits = False
            case Pushed(_, _, body):
                got = self.pushes_got[end]
                got.append(body)
                self.pushes_unread[end].append(body)
                assert got == self.pushed[1 - end][: len(got)]
            case Drained():
                self.drained[end] += 1
            case SessionOver(error):
                raise AssertionError(f"the session ended: {error}")

    def got(self, call: Call, end: int, body: bytes) -> None:
        side, sent = call.sides[end], call.sides[1 - end].sent
        side.got.append(body)
        side.unread.append(body)
        assert side.got == sent[: len(side.got)], "lost, doubled or out of order"

    def over(self, stream: Stream, end: int, how: str) -> None:
        call, _ = self.by_stream[stream]
        side = call.sides[end]
        assert not side.closed, f"{how} after its end"
        assert not side.over, f"{how} after it was {side.over}"
        assert stream.over
        side.over = how

    @invariant()
    @precondition(lambda self: hasattr(self, "pair"))
    def what_is_held_is_bounded(self) -> None:
        for end in (DIALLER, ACCEPTOR):
            stats = self.pair.session(end).stats()
            reserved = 200 * (len(self.calls) + 12)
            assert stats.unacknowledged_bytes <= SMALL.resend_bytes + LIMITS.max_message_bytes + reserved
            assert stats.streams <= 2 * LIMITS.max_streams
            for call in self.calls:
                unread = call.sides[end].unread
                if not call.sides[end].ended:
                    assert sum(map(len, unread)) < LIMITS.window_bytes + LIMITS.max_message_bytes
                    assert len(unread) <= LIMITS.window_messages
            assert len(self.pushes_unread[end]) <= LIMITS.push_messages

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        pair = self.pair
        for wire in list(pair.wires.values()):
            pair.cut(wire)
        self.heard()
        pair.connect()
        self.heard()
        for _ in range(4 + self.numbers):  # readers read everything, so that nothing waits for credit
            for end in (DIALLER, ACCEPTOR):
                for call in self.calls:
                    self.read(call.sides[end], end, len(call.sides[end].unread))
                self.pushed_messages_are_read(end)
            pair.settle()
            self.heard()
        for call in self.calls:
            for end in (DIALLER, ACCEPTOR):
                side = call.sides[end]
                if not call.broken:
                    assert side.got == call.sides[1 - end].sent, "not all of it came"
                if side.stream is not None and not side.ended and not side.finished:
                    pair.session(end).finish(side.stream)
                    side.finished = True
        for end in (DIALLER, ACCEPTOR):
            assert self.pushes_got[end] == self.pushed[1 - end]
            pair.session(end).goaway("done")
        pair.settle()
        pair.wait(1)
        pair.settle()
        self.heard()
        for end in (DIALLER, ACCEPTOR):
            stats = pair.session(end).stats()
            assert (stats.streams, stats.unacknowledged_records, stats.unacknowledged_bytes) == (0, 0, 0)
            assert self.drained[end] == 1
            for call in self.calls:
                side = call.sides[end]
                assert side.ended or side.stream is None
                assert not side.waits or side.ended


SessionMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSessionModel = SessionMachine.TestCase
