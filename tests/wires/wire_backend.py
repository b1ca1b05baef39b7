"""What a wire gives to the suite (an address), and the few words in which all scenarios are written."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dynlog.record import Buffer
from dynlog.wire import Channel, Listener, Wire, make_wire
from tests.conformance.possessions import descriptors

PATIENCE_S = 20.0
"""No scenario waits longer than this for something that must come; it only bounds a failure."""


class Box:
    """A receiver that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.calls = 0
        self.lost = 0
        self.error: Exception | None = None
        self.late: list[str] = []
        """What was called after the end."""
        self.room = asyncio.Event()
        self.channel: Channel | None = None
        self.on_frames: Callable[[Sequence[Buffer]], None] = lambda frames: None
        self._changed = asyncio.Event()

    def frames_received(self, frames: Sequence[Buffer]) -> None:
        if self.lost:
            self.late.append("frames_received")
        self.calls += 1
        self.frames += [bytes(frame) for frame in frames]
        self.on_frames(frames)
        self._changed.set()

    def writable(self) -> None:
        if self.lost:
            self.late.append("writable")
        self.room.set()
        self._changed.set()

    def channel_lost(self, error: Exception | None) -> None:
        self.lost += 1
        self.error = error
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what must come."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def has(self, count: int) -> list[bytes]:
        """Waits for so many frames; all that came."""
        await self.until(lambda: len(self.frames) >= count)
        return self.frames

    async def ended(self) -> Exception | None:
        """Waits for the end; why."""
        await self.until(lambda: bool(self.lost))
        return self.error


@dataclass(slots=True)
class Ends:
    """Both ends of a channel with their boxes."""

    near: Channel
    near_box: Box
    far: Channel
    far_box: Box


class Place:
    """A wire that listens, a wire that dials, and the boxes of whoever dialled."""

    def __init__(self, here: Wire, there: Wire, listener: Listener, address: str) -> None:
        self.here, self.there, self.listener, self.address = here, there, listener, address
        self.boxes: list[Box] = []
        self.accepted = asyncio.Event()

    def accept(self, channel: Channel) -> Box:
        box = Box()
        box.channel = channel
        self.boxes.append(box)
        self.accepted.set()
        return box

    async def dial(self, address: str | None = None, timeout: float = PATIENCE_S) -> Ends:
        """A new channel."""
        before = len(self.boxes)
        box = Box()

        def receiver(channel: Channel) -> Box:
            box.channel = channel
            return box

        near = await self.here.connect(address or self.address, receiver, timeout=timeout)
        async with asyncio.timeout(PATIENCE_S):
            while len(self.boxes) <= before:
                self.accepted.clear()
                await self.accepted.wait()
        far_box = self.boxes[before]
        assert far_box.channel is not None
        return Ends(near, box, far_box.channel, far_box)


class WireBackend(ABC):
    """A wire under test: a subclass says at which address a new listener is."""

    scheme: str
    sees_death = True
    """Whether a channel ends by itself when the other process is killed; else the session's pings find out."""
    reads_on = True
    """Whether a wire that closes takes what its peers still say, so that they read its last words; else they may be
    told that the channel broke, and the session sends again."""

    @abstractmethod
    def address(self, tmp_path: Path) -> str:
        """Where nobody listens yet."""

    @abstractmethod
    def nowhere(self, tmp_path: Path) -> str:
        """Where nobody ever listens."""

    def dialled(self, address: str) -> str:
        """What a dialler makes of a listener's address."""
        return address

    @pytest.fixture(autouse=True)
    async def nothing_is_left(self) -> AsyncIterator[None]:
        """Whatever a scenario does, no task and no descriptor is left behind."""
        await _first_stream()
        before, opened = asyncio.all_tasks(), descriptors()
        yield
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=PATIENCE_S)
        assert not [task for task in left if not task.done()]
        for _ in range(100):
            if descriptors() <= opened:
                return
            await asyncio.sleep(0)
        assert descriptors() <= opened

    @asynccontextmanager
    async def place(self, tmp_path: Path) -> AsyncIterator[Place]:
        """A listener, and a wire to dial it with."""
        here, there = make_wire(self.scheme), make_wire(self.scheme)
        waiting: list[Place] = []
        listener = await there.listen(self.address(tmp_path), lambda channel: waiting[0].accept(channel))
        place = Place(here, there, listener, self.dialled(listener.address))
        waiting.append(place)
        try:
            yield place
        finally:
            await here.close()
            await there.close()
            for box in place.boxes:
                assert not box.late

    @asynccontextmanager
    async def channel(self, tmp_path: Path) -> AsyncIterator[Ends]:
        """A channel."""
        async with self.place(tmp_path) as place:
            ends = await place.dial()
            yield ends
        assert ends.near_box.lost == 1
        assert ends.far_box.lost == 1
        assert not ends.near_box.late


async def _first_stream() -> None:
    """uvloop's loop opens a descriptor with its first stream, for when it has none left, and keeps it."""
    near, far = socket.socketpair()
    with far:
        _, writer = await asyncio.open_connection(sock=near)
        writer.close()
        await writer.wait_closed()


def body(number: int, size: int = 16) -> bytes:
    """A frame that no other number has."""
    return number.to_bytes(8, "big").ljust(size, b"%d" % (number % 10))[: max(size, 8)]
