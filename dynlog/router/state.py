"""`RouterState` is what a service embeds: a KV router's index that rebuilds itself from the log and follows it.

    async with dynlog.open_log(url) as log, RouterState.open(log, "kv-events", objects=store) as router:
        await router.ready()
        router.find_matches(tokens_hashes)

It answers from memory, always: while it rebuilds anew, while a snapshot is being written, and while the log cannot be
read (`status` says since when).  Whoever embeds it never waits more than some milliseconds for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from dynlog.kvevents import Kind, KvEvent, Tier, encode_events
from dynlog.live import LiveProjection
from dynlog.live_status import LiveStatus
from dynlog.log import Log
from dynlog.manifests import Manifest
from dynlog.objects import ObjectStore
from dynlog.producer import Producer
from dynlog.replay import ReplayProgress
from dynlog.router.dump import dump_events
from dynlog.router.index import KvIndex
from dynlog.router.projection import RouterProjection
from dynlog.snapshots import SnapshotPolicy
from dynlog.tickets import Stored
from dynlog.timing import SYSTEM_CLOCK, Clock

PROJECTION = "router"


class RouterState:
    """A live router index over one topic of KV events; get it by `open`."""

    def __init__(self, log: Log, topic: str, live: LiveProjection[RouterProjection]) -> None:
        self._log = log
        self._topic = topic
        self._live = live

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        log: Log,
        topic: str,
        *,
        objects: ObjectStore | None = None,
        policy: SnapshotPolicy | None = None,
        clock: Clock = SYSTEM_CLOCK,
        progress: ReplayProgress | None = None,
    ) -> AsyncIterator[Self]:
        """Begins to rebuild (newest snapshot, then the log) and to follow; ends everything at the end of the block.

        Without ``objects`` it writes no snapshots and rebuilds from offset 0.  Raises TopicNotFound, and
        ConfigurationError if the topic's retention is shorter than the snapshot cadence.
        """
        async with LiveProjection.open(
            log, topic, RouterProjection, PROJECTION, objects=objects, policy=policy, clock=clock, progress=progress
        ) as live:
            yield cls(log, topic, live)

    async def ready(self, timeout: float = 600.0) -> None:
        """Returns once the index holds everything that the log held when the rebuild began.

        Raises StateUnrecoverable, LogCorrupt and the like if that cannot be, DeadlineExceeded after ``timeout`` s.
        """
        await self._live.ready(timeout)

    async def caught_up(self, timeout: float = 60.0) -> None:
        """Returns once every event that the log holds now is in the index; raises DeadlineExceeded."""
        await self._live.caught_up(timeout)

    def status(self) -> LiveStatus:
        """Phase, lag, staleness, positions, how the state was rebuilt, and snapshots."""
        return self._live.status()

    @property
    def index(self) -> KvIndex:
        """The index as it is now; after a rebuild it is another object, so do not keep it."""
        return self._live.state.index

    @property
    def rejected(self) -> int:
        """Records of the topic that were no KV events."""
        return self._live.state.rejected

    def find_matches(
        self, tokens_hashes: Sequence[int] | bytes, *, tier: Tier = Tier.DEVICE, early_exit: bool = False
    ) -> dict[tuple[int, int], int]:
        """Per (worker_id, dp_rank), how many blocks from the root it holds, gapless; see `KvIndex.find_matches`."""
        return self._live.state.index.find_matches(tokens_hashes, tier=tier, early_exit=early_exit)

    def workers(self) -> Mapping[tuple[int, int], int]:
        """Blocks held per (worker_id, dp_rank), over all tiers."""
        return self._live.state.index.workers()

    def dump(self) -> Iterator[dict[str, Any]]:
        """The state as Dynamo's RouterEvents, in the one canonical order."""
        return dump_events(self._live.state.index)

    async def snapshot(self) -> Manifest:
        """Writes a snapshot now; it counts once it was read back."""
        return await self._live.snapshot()

    async def remove_worker(self, worker_id: int) -> Stored:
        """Says in the log that the worker is gone, so that no rebuild resurrects it."""
        async with Producer(self._log, self._topic) as producer:
            return await producer.send(encode_events([KvEvent(worker_id, Kind.WORKER_REMOVED)]))
