"""From where a caller that was killed has to look for what it left open: a holder on both topics, moved as calls end.

**The hold never passes a call whose outcome was not handed out.**  It moves to ends that were seen at some moment, once
every call that was made until then is over: so it moves too while there is never a moment without open calls.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from dynlog.errors import OffsetTruncated
from dynlog.log import Log
from dynlog.network.log_records import CallTopics
from dynlog.timing import SYSTEM_CLOCK, Clock
from dynlog.topics import Holder, HolderKind

REPEAT_S = 3600.0
"""How often a hold that stands still is repeated, which tells the log that its holder lives."""

Positions = dict[int, int]
Calls = Callable[[], tuple[int, int]]
"""Gives the number of the oldest call that is open (the next call's if none is), and the number of the next one."""


class Keeping:
    """Where one caller's open calls begin, in the requests and in the replies."""

    def __init__(self, log: Log, topics: CallTopics, name: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._log, self._name, self._clock = log, name, clock
        self._topics = topics.requests, topics.replies
        self.first: tuple[Positions, Positions] = {}, {}
        """Where an earlier life's open calls begin, or this one's if there was none."""
        self.left = False
        """Whether an earlier life may have left some for which nobody looked yet: the hold stays for them."""
        self._held: tuple[Positions, Positions] = {}, {}
        self._held_at = 0.0
        self._mark: tuple[int, tuple[Positions, Positions]] | None = None

    async def begin(self) -> None:
        """Finds and repeats the hold of an earlier life, or takes one.  Raises what the log raises."""
        found: list[Positions] = []
        for topic in self._topics:
            holders = {state.holder.name: state.holder for state in await self._log.holders(topic)}
            held = holders.get(self._name)
            self.left = self.left or held is not None
            found.append({
                state.partition: max(held.positions.get(state.partition, 0) if held else 0, state.earliest)
                for state in await self._log.partitions(topic)
            })  # fmt: skip
        self.first = found[0], found[1]
        await self._hold(self.first)

    async def move(self, calls: Calls) -> None:
        """Called now and then: holds from where the ends were once, if what was open then is over.

        Raises what the log raises.
        """
        if self.left:
            return
        if self._mark is not None:
            number, ends = self._mark
            if calls()[0] < number:
                return
            await self._hold(ends)
        # In this order: a request below the ends was made before them, so its number lies below the next one's.
        ends = await self._ends()
        self._mark = calls()[1], ends

    async def _ends(self) -> tuple[Positions, Positions]:
        requests, replies = self._topics
        return (
            {state.partition: state.end for state in await self._log.partitions(requests)},
            {state.partition: state.end for state in await self._log.partitions(replies)},
        )

    async def _hold(self, positions: tuple[Positions, Positions]) -> None:
        now = self._clock.monotonic()
        if positions == self._held and now - self._held_at < REPEAT_S:
            return
        for topic, place in zip(self._topics, positions, strict=True):
            with suppress(OffsetTruncated):
                await self._log.hold(topic, Holder(self._name, HolderKind.NAMED, place))
        self._held, self._held_at = positions, now
