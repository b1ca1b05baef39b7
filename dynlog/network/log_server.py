"""Serves calls from the log: an instance's by whoever is that instance, a collection's by whoever shares its work.

The requests to an instance lie in one partition and its latest life serves them.  Those to a collection are spread over
all partitions, which the processes that serve it share among them as a consumer group does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Self

import xxhash

from dynlog.entity import DynamoEntityID
from dynlog.errors import DynlogError, LogDiverged, OffsetTruncated, ProducerFenced
from dynlog.log import Log
from dynlog.membership import GroupTiming, Membership
from dynlog.network.deadlines import Deadlines
from dynlog.network.log_answers import Shared
from dynlog.network.log_clock import LogClock
from dynlog.network.log_lane import Lane
from dynlog.network.log_records import PARTITIONS, CallTopics
from dynlog.network.services import Services
from dynlog.timing import Backoff

GRACE_S = 10.0
LASTING_S = 30.0
"""A term that lasted so long was no false start: the next one begins at once if it fails."""
_log = logging.getLogger(__name__)


class LogServer:
    """Serves what ``services`` has of the targets; opened by `open`, which ends with what runs, or after a grace."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._lanes: dict[tuple[bytes, int], tuple[Lane, asyncio.Task[None]]] = {}
        self._sharing: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        log: Log,
        name: str,
        services: Services,
        targets: Iterable[DynamoEntityID],
        *,
        partitions: int = PARTITIONS,
        grace: float = GRACE_S,
        timing: GroupTiming | None = None,
    ) -> AsyncIterator[Self]:
        """Makes the topics under that name if need be and serves the targets' calls from it.

        An instance is served once the block begins; its earlier life is fenced.  At the end nothing more is begun, and
        what runs longer than ``grace`` seconds is left, unanswered, to the next owner.  Raises what the log raises.
        """
        topics = await CallTopics.make(log, name, partitions)
        deadlines = Deadlines(asyncio.get_running_loop())
        server = cls(Shared(log, topics, services, LogClock(), deadlines, grace))
        try:
            for target in targets:
                if target.is_collection:
                    await server._share(target, timing or GroupTiming())
                else:
                    await server._begin(target, topics.partition(target, b""))
            yield server
        finally:
            await server._close()
            deadlines.close()

    @property
    def lanes(self) -> list[Lane]:
        """What it serves now."""
        return [lane for lane, _ in self._lanes.values()]

    async def _begin(self, target: DynamoEntityID, partition: int) -> None:
        """Serves the lane; returns once it does."""
        lane = Lane(self._shared, target, partition)
        task = asyncio.create_task(_keep(lane), name=f"dynlog-lane {target} {partition}")
        self._lanes[target.key, partition] = lane, task
        serving = asyncio.create_task(lane.serving.wait())
        try:
            await asyncio.wait([serving, task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()

    async def _end(self, target: bytes, partition: int) -> None:
        lane, task = self._lanes[target, partition]
        lane.stop()
        await asyncio.wait([task])
        del self._lanes[target, partition]

    async def _share(self, target: DynamoEntityID, timing: GroupTiming) -> None:
        topic = await self._shared.log.topic(self._shared.topics.requests)
        group = f"calls:{xxhash.xxh3_64_hexdigest(topic.name.encode())}:{target.key.hex()}"
        membership = Membership(self._shared.log, topic, group, "earliest", timing)
        await membership.enter()
        self._sharing.append(asyncio.create_task(self._divide(target, membership), name=f"dynlog-lanes {target}"))

    async def _divide(self, target: DynamoEntityID, membership: Membership) -> None:
        """Serves the partitions that are this member's, and gives up those that are not."""
        running = asyncio.create_task(membership.run(), name=f"dynlog-member {target}")
        try:
            while True:
                seen = membership.changes.count
                for key, partition in [place for place in self._lanes if place[0] == target.key]:
                    lost = partition not in membership.mine or partition in membership.leaving
                    if lost or self._lanes[key, partition][1].done():
                        await self._end(key, partition)
                for partition in membership.leaving:  # also what was to go before it was begun
                    await membership.release(partition)
                for partition in membership.startable:
                    if (target.key, partition) not in self._lanes and partition in membership.startable:
                        await self._begin(target, partition)
                waiting = asyncio.create_task(membership.changes.beyond(seen))
                await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if running.done():
                    running.result()
        finally:
            for key, partition in [place for place in self._lanes if place[0] == target.key]:
                await self._end(key, partition)
            await membership.leave()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _close(self) -> None:
        for lane, _ in self._lanes.values():
            lane.stop()
        for task in self._sharing:
            task.cancel()
        outcomes = await asyncio.gather(*self._sharing, return_exceptions=True)
        await asyncio.gather(*(task for _, task in self._lanes.values()), return_exceptions=True)
        self._lanes.clear()
        for outcome in outcomes:
            if isinstance(outcome, DynlogError):
                _log.error("the work of a collection was not shared any more: %s", outcome)


async def _keep(lane: Lane) -> None:
    """Term after term, until the lane is stopped or somebody else's."""
    loop = asyncio.get_running_loop()
    pauses = iter(Backoff())
    while True:
        began = loop.time()
        try:
            await lane.term()
            return
        except ProducerFenced:
            _log.warning("the calls of %s are served by a successor", lane.target)
            return
        except LogDiverged:
            _log.exception("the calls of %s lie in a topic that was made anew", lane.target)
            return
        except (DynlogError, OffsetTruncated) as error:
            _log.warning("the calls of %s are not served for a moment: %s", lane.target, error)
        if loop.time() - began > LASTING_S:
            pauses = iter(Backoff())
        with suppress(TimeoutError):
            async with asyncio.timeout(next(pauses)):
                await lane.stopped()
                return
