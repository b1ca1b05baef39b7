"""One partition in the hands of a consumer: what is outstanding, and which record of each key may go next.

* Records of one key are handed out one at a time, in offset order; records without a key wait for nobody.
* Everything outstanding is in `Lane.live`; when the partition is lost, all of it is lost at once.
* A record that is not done holds the watermark, so no more than `MOST_AHEAD` records are taken from it on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from typing import NamedTuple

from dynlog.batch import Position
from dynlog.budget import Budget
from dynlog.holding import Epoch
from dynlog.received import Delivery, DeliveryState
from dynlog.watermark import Watermark

MOST_AHEAD = 1 << 16
"""Records of a partition that are taken, done or not, from its first on that is not done: what a handler that never
returns lets a consumer remember.  At the bound the partition waits for that record, and the others go on."""


class LaneState(Enum):
    """OPEN hands out; DRAINING only waits for what is in hands; LOST is nobody's here."""

    OPEN = "open"
    DRAINING = "draining"
    LOST = "lost"


class Room(NamedTuple):
    """What a consumer may have in flight over all its partitions."""

    records: Budget
    bytes: Budget

    async def take(self, size: int) -> None:
        """Waits for room for a record; a cancelled wait has taken nothing."""
        await self.records.take(1)
        try:
            await self.bytes.take(size)
        except BaseException:
            self.records.give(1)
            raise

    def give(self, size: int) -> None:
        """A record is out of the way."""
        self.records.give(1)
        self.bytes.give(size)


class Ready:
    """Deliveries that may be handed out, over all partitions, first come first served."""

    def __init__(self) -> None:
        self._queue: deque[Delivery] = deque()  # bounded by `Room`
        self._event = asyncio.Event()

    def put(self, delivery: Delivery) -> None:
        """It may be handed out."""
        self._queue.append(delivery)
        self._event.set()

    def pop(self) -> Delivery | None:
        """The next one, now, or None; lost ones are passed over."""
        while self._queue:
            delivery = self._queue.popleft()
            if delivery.state is DeliveryState.WAITING:
                return delivery
        return None

    def wake(self) -> None:
        """Whoever waits is to look around."""
        self._event.set()

    async def wait(self, timeout: float | None) -> None:
        """Until something was put, or `wake`, or the time is over."""
        self._event.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return


class Lane:
    """A partition from ``start`` on, begun in ``epoch``."""

    def __init__(self, start: Position, epoch: Epoch, room: Room, ready: Ready) -> None:
        self.epoch = epoch
        self.partition = start.partition
        self.position = start
        self.watermark = Watermark(start.offset)
        self.committed = start.offset
        self.state = LaneState.OPEN
        self.live: dict[int, Delivery] = {}
        self.pump: asyncio.Task[None] | None = None
        self._behind: dict[object, deque[Delivery]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._room, self._ready = room, ready
        self._handed = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._moved = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether no record may be added before the one at the watermark is done."""
        return self.watermark.span >= MOST_AHEAD

    async def not_full(self) -> None:
        """Waits until a record may be added."""
        while self.full:
            self._moved.clear()
            await self._moved.wait()

    def add(self, delivery: Delivery) -> None:
        """A record that was read; its room is taken already."""
        self.live[delivery.offset] = delivery
        self.watermark.begin(delivery.offset)
        if delivery.order in self._behind:
            self._behind[delivery.order].append(delivery)
            return
        self._behind[delivery.order] = deque()
        self._ready.put(delivery)

    def hand(self, delivery: Delivery) -> None:
        """It goes into the user's hands."""
        delivery.state = DeliveryState.HANDED
        self._handed += 1
        self._quiet.clear()

    def take_back(self, delivery: Delivery) -> None:
        """It was not handed over after all."""
        if delivery.state is DeliveryState.HANDED:
            self._returned()
            delivery.state = DeliveryState.WAITING
            if self.state is LaneState.OPEN:
                self._ready.put(delivery)
            else:
                self._lose(delivery)

    def finish(self, delivery: Delivery) -> None:
        """It is done: the next of its key may go."""
        delivery.state = DeliveryState.DONE
        del self.live[delivery.offset]
        self.watermark.finish(delivery.offset)
        self._moved.set()
        self._room.give(delivery.size)
        behind = self._behind[delivery.order]
        if behind:
            self._ready.put(behind.popleft())
        else:
            del self._behind[delivery.order]
        self._returned()

    def again(self, delivery: Delivery, delay: float) -> None:
        """It comes again after that many seconds; what is behind it waits."""
        self._returned()
        if self.state is not LaneState.OPEN:
            self._lose(delivery)
            return
        attempt = self.live[delivery.offset] = delivery.another()
        self._timers[delivery.offset] = asyncio.get_running_loop().call_later(delay, self._due, attempt)

    def _due(self, delivery: Delivery) -> None:
        del self._timers[delivery.offset]
        self._ready.put(delivery)

    def drain(self) -> None:
        """Nothing new is read or handed out: what is not in hands is lost, and comes again from the watermark on."""
        if self.state is LaneState.OPEN:
            self.state = LaneState.DRAINING
        if self.pump is not None:
            self.pump.cancel()
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        for delivery in [d for d in self.live.values() if d.state is DeliveryState.WAITING]:
            self._lose(delivery)

    async def quiet(self, timeout: float) -> bool:
        """Waits until nothing is in hands; False if the time was over first."""
        try:
            async with asyncio.timeout(timeout):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    def lose(self) -> None:
        """All that is outstanding is lost; handlers at work on it are stopped."""
        self.drain()
        self.state = LaneState.LOST
        for delivery in list(self.live.values()):
            self._lose(delivery)
        self._quiet.set()

    def _lose(self, delivery: Delivery) -> None:
        del self.live[delivery.offset]
        self._room.give(delivery.size)
        delivery.lose()

    def _returned(self) -> None:
        self._handed -= 1
        if not self._handed:
            self._quiet.set()
