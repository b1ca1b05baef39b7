"""How a consumer comes to its partitions: as a member of a group, as the only reader of a name, or as a passer-by.

The consumer asks a `Holding` what it may read, and tells it what it has done; who else there is, is the holding's
business.  `Sole` and `Follower` are the broadcast ways: they see every partition.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from dynlog.errors import CommitFenced, DeadlineExceeded, LogUnavailable, OffsetTruncated
from dynlog.log import Log, Where
from dynlog.topics import Holder, HolderKind, Topic

HOLDER_BEAT_S = 60.0
"""How often a broadcast reader says that it still needs its records."""

Epoch = tuple[int, int]


class Changes:
    """Lets any number of tasks wait until something has changed since they looked."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()
        self._awaited = False

    def notify(self) -> None:
        """Something has changed."""
        self.count += 1
        if self._awaited:
            event, self._event, self._awaited = self._event, asyncio.Event(), False
            event.set()

    async def beyond(self, count: int) -> None:
        """Waits until ``self.count`` is above ``count``."""
        while self.count <= count:
            self._awaited = True
            await self._event.wait()


class Holding(Protocol):
    """What a consumer may read.  Everything here is said of the present ``epoch``; what was begun under another one
    is void and starts over from what is committed."""

    changes: Changes

    @property
    def epoch(self) -> Epoch:
        """Changes when everything has to start over: (times expired, times sought)."""

    @property
    def mine(self) -> frozenset[int]:
        """Partitions that may be committed now."""

    @property
    def startable(self) -> frozenset[int]:
        """Those of ``mine`` that may be begun now."""

    @property
    def leaving(self) -> frozenset[int]:
        """Those of ``mine`` that somebody else waits for: finish, commit, `release`."""

    @property
    def healthy(self) -> bool:
        """False while others may take this consumer for dead: nothing new is to be begun."""

    async def enter(self) -> None:
        """Before `run`: says that somebody is there."""

    async def run(self) -> None:
        """Keeps the holding alive until it is cancelled."""

    async def starts(self, partitions: frozenset[int]) -> Mapping[int, int]:
        """The offsets to read first."""

    async def commit(self, epoch: Epoch, positions: Mapping[int, int]) -> frozenset[int]:
        """Stores the offsets to read next and returns for which partitions; those that were lost are left out.

        Raises CommitFenced if nobody in the group knows the generation that fences it.
        """

    async def release(self, partition: int) -> None:
        """Gives a partition to whom it is meant for."""

    async def leave(self) -> None:
        """The last word, after the last commit."""


async def first_offsets(log: Log, topic: Topic, where: Where) -> dict[int, int]:
    """Where somebody begins who never committed."""
    states = await log.partitions(topic.name)
    if isinstance(where, int):
        return {s.partition: where for s in states}
    return {s.partition: s.earliest if where == "earliest" else s.end for s in states}


class Sole:
    """The only reader of a name: it sees everything, remembers its place, and opening it again fences the old one."""

    def __init__(self, log: Log, topic: Topic, name: str, start: Where) -> None:
        self._log, self._topic, self._name, self._start = log, topic, name, start
        self._generation = 0
        self.changes = Changes()
        self.epoch: Epoch = (0, 0)
        self.mine = self.startable = frozenset(range(topic.partitions))
        self.leaving: frozenset[int] = frozenset()
        self.healthy = True

    async def enter(self) -> None:
        name = self._topic.name
        self._generation = await self._log.open_generation(self._name, name)
        known = (await self._log.committed(self._name, name)).positions
        first = await first_offsets(self._log, self._topic, self._start)
        missing = {p: offset for p, offset in first.items() if p not in known}
        await self._log.commit(self._name, name, missing, generation=self._generation)

    async def run(self) -> None:
        """Commits nothing new now and then, which counts as a sign of life and notices a successor."""
        while True:
            await asyncio.sleep(HOLDER_BEAT_S)
            with suppress(LogUnavailable, DeadlineExceeded):
                await self._log.commit(self._name, self._topic.name, {}, generation=self._generation)

    async def starts(self, partitions: frozenset[int]) -> Mapping[int, int]:
        positions = (await self._log.committed(self._name, self._topic.name)).positions
        return {p: positions[p] for p in partitions}

    async def commit(self, epoch: Epoch, positions: Mapping[int, int]) -> frozenset[int]:
        await self._log.commit(self._name, self._topic.name, positions, generation=self._generation)
        return frozenset(positions)

    async def release(self, partition: int) -> None:
        raise CommitFenced("the only reader of a name has nobody to release to", topic=self._topic.name)

    async def leave(self) -> None:
        return


class Follower:
    """A passer-by: it sees everything from its start on, keeps it from truncation meanwhile, and leaves no trace."""

    def __init__(self, log: Log, topic: Topic, start: Where) -> None:
        self._log, self._topic, self._start = log, topic, start
        self._name = f"follower-{uuid.uuid4().hex}"
        self._first: dict[int, int] = {}
        self._positions: dict[int, int] = {}
        self.changes = Changes()
        self.epoch: Epoch = (0, 0)
        self.mine = self.startable = frozenset(range(topic.partitions))
        self.leaving: frozenset[int] = frozenset()
        self._saying = asyncio.Lock()
        self._left = False
        self.healthy = True

    async def enter(self) -> None:
        self._first = await first_offsets(self._log, self._topic, self._start)
        self._positions = dict(self._first)
        await self._hold()

    async def _hold(self) -> None:
        async with self._saying:
            while not self._left:
                holder = Holder(self._name, HolderKind.EPHEMERAL, dict(self._positions))
                try:
                    await self._log.hold(self._topic.name, holder)
                    return
                except OffsetTruncated as error:  # whether that is a loss is for whoever reads there to find out
                    self._positions[error.partition or 0] = error.earliest

    async def run(self) -> None:
        while True:
            await asyncio.sleep(HOLDER_BEAT_S)
            with suppress(LogUnavailable, DeadlineExceeded):
                await self._hold()

    async def starts(self, partitions: frozenset[int]) -> Mapping[int, int]:
        return {p: self._first[p] for p in partitions}

    async def commit(self, epoch: Epoch, positions: Mapping[int, int]) -> frozenset[int]:
        self._positions |= positions
        await self._hold()
        return frozenset(positions)

    async def release(self, partition: int) -> None:
        raise CommitFenced("a follower has nobody to release to", topic=self._topic.name)

    async def leave(self) -> None:
        async with self._saying:  # a heartbeat or a commit that is under way would leave the holder behind its release
            self._left = True
            with suppress(LogUnavailable, DeadlineExceeded):
                await self._log.release(self._topic.name, self._name, timeout=10.0)
