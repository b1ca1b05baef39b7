"""A router's state for one command: rebuilt as a service would, with progress on stderr, and nothing left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import NamedTuple

from dynlog.cli.log_open import open_existing
from dynlog.cli.output import progress
from dynlog.heap import settle_heap
from dynlog.log import Log
from dynlog.objects import ObjectStore
from dynlog.open import open_objects
from dynlog.replay import Rebuilt, Replayer, release_quietly
from dynlog.router.counters import Counters
from dynlog.router.projection import RouterProjection
from dynlog.router.state import PROJECTION
from dynlog.snapshots import Snapshots


class Work(NamedTuple):
    """What a rebuild did beside what its snapshot had done before."""

    events: int
    block_ops: int


class NotedProjection(RouterProjection):
    """A router's projection that remembers what its snapshot had counted already."""

    noted = Work(0, 0)

    def restore(self, parts: Iterable[bytes]) -> None:
        super().restore(parts)
        self.noted = counted(self.index.counters)


class Opened(NamedTuple):
    """The log, the object store if one was named, and the state at the log's end."""

    log: Log
    snapshots: Snapshots | None
    rebuilt: Rebuilt[NotedProjection]


def counted(counters: Counters) -> Work:
    """Events, and the blocks that they stored (again) or removed."""
    return Work(counters.events, counters.blocks_stored + counters.blocks_repeated + counters.blocks_removed)


@asynccontextmanager
async def rebuilt_router(log_url: str, topic: str, objects_url: str | None) -> AsyncIterator[Opened]:
    """Opens what the URLs name and rebuilds the topic's router; raises what a router that starts would raise."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_existing(log_url))
        await log.topic(topic)
        store: ObjectStore | None = None
        if objects_url is not None:
            store = await stack.enter_async_context(open_objects(objects_url))
        settle_heap()
        snapshots = Snapshots(log, topic, store, PROJECTION) if store is not None else None
        replayer = Replayer(log, topic, NotedProjection, snapshots=snapshots)
        stack.push_async_callback(release_quietly, log, topic, replayer.holder)
        with ExitStack() as bar:
            rebuilt = await replayer.rebuild(replay_progress(bar))
        stack.push_async_callback(rebuilt.reader.close)
        yield Opened(log, snapshots, rebuilt)


def replay_progress(bar: ExitStack) -> Callable[[int, int], None]:
    """A replay's progress as a bar (or lines) on stderr, which ends with the stack."""
    update: Callable[[int], None] | None = None

    def show(done: int, total: int) -> None:
        nonlocal update
        if update is None:
            update = bar.enter_context(progress("replaying", total))
        update(done)

    return show
