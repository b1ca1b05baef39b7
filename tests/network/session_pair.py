"""Two sessions and the channels between them, in memory: frames move when the test says so, and channels break then."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dynlog.network.session import Session
from dynlog.network.session_events import Attached, ChannelFailed, Event, Message, Opened, Released, SessionOver
from dynlog.network.session_handshake import Hello, Identity, judge, read_hello, write_hello, write_refusal
from dynlog.network.session_settings import Limits, Settings
from dynlog.network.session_stream import Stream
from dynlog.record import Buffer

DIALLER, ACCEPTOR = 0, 1
TARGET = b"t" * 16
FRAME_BYTES = 1 << 20
HERE, THERE = Identity(b"d" * 16, 3, "dialler"), Identity(b"a" * 16, 5, "acceptor")

SMALL = Settings(
    limits=Limits(
        window_bytes=300,
        window_messages=4,
        push_bytes=300,
        push_messages=4,
        max_streams=5,
        max_message_bytes=1000,
        ack_bytes=400,
        ack_records=6,
    ),
    chunk_bytes=64,
    resend_bytes=1500,
    resend_records=24,
)
"""So little of everything that every bound is met."""


@dataclass
class Wire:
    """One channel: frames on their way to either end, and which ends still hold it."""

    generation: int
    under_way: tuple[deque[bytes], deque[bytes]] = field(default_factory=lambda: (deque(), deque()))
    """By the end that they go to."""
    held: list[bool] = field(default_factory=lambda: [True, True])
    came: tuple[list[bytes], list[bytes]] = field(default_factory=lambda: ([], []))
    """All that was delivered, by the end that got it."""


class Pair:
    """A dialler, an acceptor that knows at most one session, and every channel there ever was."""

    def __init__(
        self,
        settings: Settings = SMALL,
        theirs: Settings | None = None,
        *,
        token: bytes | None = None,
        frame_bytes: int = FRAME_BYTES,
    ) -> None:
        self.now = 100.0
        self.settings = (settings, theirs or settings)
        self.dialler = Session.dialler(HERE, settings, b"s" * 16, self.now, wanted=THERE.entity, token=token)
        self.acceptor: Session | None = None
        self.token = token
        self.frame_bytes = frame_bytes
        self.wires: dict[int, Wire] = {}
        self.events: tuple[list[Event], list[Event]] = ([], [])
        """All that happened, by end."""

    def session(self, end: int) -> Session:
        if end == DIALLER:
            return self.dialler
        assert self.acceptor is not None
        return self.acceptor

    # What drivers do

    def dial(self) -> Wire:
        """A new channel, on which the dialler has said hello."""
        wire = Wire(len(self.wires) + 1)
        self.wires[wire.generation] = wire
        wire.under_way[ACCEPTOR].append(self.dialler.attach(wire.generation, self.frame_bytes, self.now))
        self.collect(DIALLER)
        return wire

    def move(self, end: int, most: int = 1 << 20) -> int:
        """What the end has ready goes on its way; how many frames."""
        if end == ACCEPTOR and self.acceptor is None:
            return 0
        session = self.session(end)
        active = session.active
        frames = session.take(most)
        if active is not None:
            wire = self.wires[active]
            if wire.held[end]:
                wire.under_way[1 - end].extend(b"".join(frame) for frame in frames)
        self.collect(end)
        return len(frames)

    def deliver(self, wire: Wire, end: int) -> list[Event]:
        """The next frame that is on its way to the end arrives."""
        if not wire.held[end] or not wire.under_way[end]:
            return []
        frame = wire.under_way[end].popleft()
        wire.came[end].append(frame)
        return self.arrive(wire, end, frame)

    def arrive(self, wire: Wire, end: int, frame: bytes) -> list[Event]:
        """A frame arrives at the end, whatever it is."""
        if end == ACCEPTOR and (self.acceptor is None or frame[:1] == b"\x01"):
            return self._hello(wire, frame)
        return self.told(end, self.session(end).receive(wire.generation, frame, self.now))

    def arrive_hello(self, hello: Hello) -> Wire:
        """Somebody says hello on a new channel."""
        wire = self.wires[len(self.wires) + 1] = Wire(len(self.wires) + 1)
        self.arrive(wire, ACCEPTOR, write_hello(hello))
        return wire

    def _hello(self, wire: Wire, frame: bytes) -> list[Event]:
        hello = read_hello(frame)
        refusal = judge(hello, THERE, token=self.token, known=self.acceptor is not None)
        if refusal is not None:
            wire.under_way[DIALLER].append(write_refusal(refusal))
            wire.held[ACCEPTOR] = False
            return []
        if self.acceptor is None:
            self.acceptor = Session.acceptor(THERE, self.settings[ACCEPTOR], hello, self.now)
        answer, events = self.acceptor.accept(wire.generation, hello, self.frame_bytes, self.now)
        wire.under_way[DIALLER].append(answer)
        return self.told(ACCEPTOR, events)

    def told(self, end: int, events: list[Event]) -> list[Event]:
        """Does what events ask of a driver, and keeps them."""
        for event in events:
            if isinstance(event, Released | ChannelFailed):
                self.drop(self.wires[event.generation], end)
            elif isinstance(event, SessionOver):
                for wire in self.wires.values():
                    wire.held[end] = False
        self.events[end].extend(events)
        return events

    def drop(self, wire: Wire, end: int) -> None:
        """The end lets go of the channel; the other learns of it by `learn`."""
        wire.held[end] = False

    def cut(self, wire: Wire) -> None:
        """The channel breaks; what was on its way is gone."""
        for end in (DIALLER, ACCEPTOR):
            wire.under_way[end].clear()
        for end in (DIALLER, ACCEPTOR):
            self.learn(wire, end)

    def learn(self, wire: Wire, end: int) -> None:
        """The end is told that the channel is over."""
        wire.held[end] = False
        if end == DIALLER or self.acceptor is not None:
            self.told(end, self.session(end).lost(wire.generation, self.now))

    def collect(self, end: int) -> list[Event]:
        return self.told(end, self.session(end).events())

    # Whole ways

    def settle(self) -> None:
        """Everything that can move moves, until nothing does; channels that one end dropped are told to the other."""
        moved = True
        rounds = 0
        while moved:
            rounds += 1
            assert rounds < 10_000, "the sessions never come to rest"
            moved = bool(self.move(DIALLER)) | bool(self.move(ACCEPTOR))
            for wire in list(self.wires.values()):
                for end in (DIALLER, ACCEPTOR):
                    while wire.held[end] and wire.under_way[end]:
                        self.deliver(wire, end)
                        moved = True
                    if wire.held[end] and not wire.held[1 - end]:
                        self.learn(wire, end)
                        moved = True

    def connect(self) -> Wire:
        """A channel whose handshake is done."""
        wire = self.dial()
        self.settle()
        assert Attached(wire.generation, len(self.wires) > 1) in self.events[DIALLER]
        return wire

    def wait(self, seconds: float) -> None:
        """Time passes, and both are told."""
        self.now += seconds
        for end in (DIALLER, ACCEPTOR):
            if end == DIALLER or self.acceptor is not None:
                self.told(end, self.session(end).tick(self.now))

    def clear(self) -> None:
        for events in self.events:
            events.clear()

    # Calls

    def open(
        self, body: Buffer | None = b"ask", *, end: bool = True, by: int = DIALLER, name: str = "1", within: float = 5.0
    ) -> Stream:
        """A call, which must be taken."""
        stream = self.session(by).open(
            TARGET, "topic", "", name, 1, {"tenant": "x"}, self.now + within, body, end, self.now
        )
        assert stream is not None, "there was no room for the call"
        return stream

    def of(self, end: int, kind: type[Event]) -> list[Event]:
        """The events of that kind so far."""
        return [event for event in self.events[end] if isinstance(event, kind)]

    def unread(self, end: int) -> list[bytes]:
        """The messages on streams that arrived so far."""
        return [e.body for e in self.events[end] if isinstance(e, Message | Opened) and e.body is not None]

    def served(self, end: int = ACCEPTOR) -> Stream:
        """The stream of the last call that arrived at the end."""
        return [event.stream for event in self.events[end] if isinstance(event, Opened)][-1]
