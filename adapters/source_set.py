"""Many engines at once: one task per source, one bounded queue, and the set follows its YAML file.

An entry that goes away appends ``worker_removed`` (or clears its rank, if other ranks of the worker stay), also if it
went away while no ingest ran.  A file that cannot be read keeps the set as it was, and that is reported.  A changed
file counts once it looked the same twice, so that one that is still being written removes nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from dynlog.adapters.source_memory import SourceMemory
from dynlog.adapters.sources import ZmqSource, read_sources
from dynlog.adapters.vllm_records import Rank, gone_record
from dynlog.adapters.vllm_zmq import HEARTBEAT_S, REPLAY_TIMEOUT_S, TopicBlockSize, VllmSource
from dynlog.errors import ConfigurationError, LogError
from dynlog.ingest_items import Item, Noticed, NoticeKind, Taken
from dynlog.log import Log

QUEUE_BURSTS = 16
RELOAD_S = 1.0
SAVE_S = 5.0
"""How old a checkpoint may be: bounds what a restarted ingest has to read back, not what it knows."""

_Stamp = tuple[int, int, int] | None


class VllmSources:
    """The engines of one topic; an async context manager around the `ingest` that takes `items`.

    Its exit writes the last checkpoints, so it belongs outside the ingest.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        sources: Sequence[ZmqSource] = (),
        *,
        sources_file: Path | None = None,
        reload_s: float = RELOAD_S,
        replay_timeout_s: float = REPLAY_TIMEOUT_S,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._log = log
        self._topic = topic
        self._fixed = list(sources)
        self._file = sources_file
        self._owner = str(sources_file.resolve()) if sources_file else ""
        self._reload_s = reload_s
        self._replay_timeout = replay_timeout_s
        self._heartbeat = heartbeat_s
        self._queue: asyncio.Queue[tuple[Rank, list[Item] | Exception]] = asyncio.Queue(QUEUE_BURSTS)
        self._running: dict[ZmqSource, asyncio.Task[None]] = {}
        self._look_at = self._save_at = 0.0
        self._seen: _Stamp = None
        self._adopted: tuple[_Stamp] | None = None
        """The file as it was when the set last followed it; nothing yet."""

    async def __aenter__(self) -> Self:
        self._memory = await SourceMemory.open(self._log, self._topic)
        self._block_size = await TopicBlockSize.open(self._log, self._topic)
        self._seen = _stamp(self._file) if self._file else None
        self._listed = self._read()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._memory.save()
        except LogError:
            if error is None:
                raise
        finally:
            self._context.destroy(linger=0)

    async def items(self) -> AsyncGenerator[Item, None]:
        """What all sources bring, until it is closed; raises what any of them raises."""
        loop = asyncio.get_running_loop()
        try:
            await self._memory.recall_all([_rank(source) for source in self._listed], self._owner)
            self._start()
            self._look_at = loop.time() + self._reload_s
            while True:
                try:
                    async with asyncio.timeout(self._reload_s):
                        queued = await self._queue.get()
                except TimeoutError:
                    pass
                else:
                    for item in self._handed_on(*queued):
                        yield item
                if loop.time() >= self._look_at:
                    self._look_at = loop.time() + self._reload_s
                    async for item in self._reload():
                        yield item
                if loop.time() >= self._save_at:
                    self._save_at = loop.time() + SAVE_S
                    for notice in await self._save():
                        yield notice
        finally:
            await self._stop(list(self._running))

    def _read(self) -> list[ZmqSource]:
        """The sources as they are listed now; raises ConfigurationError."""
        listed = self._fixed + (read_sources(self._file) if self._file else [])
        ranks = [_rank(source) for source in listed]
        twice = next((rank for rank in ranks if ranks.count(rank) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"worker {twice.worker_id} rank {twice.dp_rank} is named by two sources")
        return listed

    def _handed_on(self, rank: Rank, burst: list[Item] | Exception) -> Iterator[Item]:
        if isinstance(burst, Exception):
            raise burst
        for item in burst:
            if isinstance(item, Taken) and item.on_stored is not None:
                self._memory.sent(rank)
            yield item

    async def _reload(self) -> AsyncGenerator[Item, None]:
        if self._file is None:
            return
        stamp = await asyncio.to_thread(_stamp, self._file)
        settled, self._seen = stamp == self._seen, stamp
        if not settled or self._adopted == (stamp,):
            return
        listed, refused = self._listed, ""
        try:
            listed = await asyncio.to_thread(self._read)
        except ConfigurationError as error:
            refused = f"the sources stay as they were: {error}"
        if await asyncio.to_thread(_stamp, self._file) != stamp:
            return  # it was written again while it was read; the next looks will see that
        self._adopted = (stamp,)
        if refused:
            yield Noticed(NoticeKind.SOURCES, str(self._file), refused)
            return
        self._listed = listed
        async for item in self._adjust():
            yield item

    async def _adjust(self) -> AsyncGenerator[Item, None]:
        """Stops what is no longer listed, says who is gone, starts what is new."""
        staying = {_rank(source) for source in self._listed}
        before = {_rank(source) for source in self._running} | set(self._memory.owned_by(self._owner))
        stopped = [source for source in self._running if source not in self._listed]
        await self._stop(stopped)
        while not self._queue.empty():
            for item in self._handed_on(*self._queue.get_nowait()):
                yield item
        for source in stopped:
            yield Noticed(NoticeKind.SOURCES, str(source), "it is no longer listed")
        for rank in sorted(before - staying):
            async for item in self._gone(rank, whole_worker=all(r.worker_id != rank.worker_id for r in staying)):
                yield item
        self._start()

    def _start(self) -> None:
        for source in self._listed:
            if source not in self._running:
                self._running[source] = asyncio.create_task(self._pump(source), name=f"dynlog-source-{source}")

    async def _gone(self, rank: Rank, *, whole_worker: bool) -> AsyncGenerator[Item, None]:
        entry = await self._memory.settled(rank)
        record = gone_record(rank, entry.known, entry.next_event_id, whole_worker=whole_worker)
        self._memory.sent(rank)
        detail = f"worker {rank.worker_id} rank {rank.dp_rank} went away"
        yield Noticed(NoticeKind.SOURCES, str(self._file or rank), detail)
        yield Taken(record, 1, 0, partial(self._memory.gone, rank, entry.next_event_id + 1))

    async def _pump(self, source: ZmqSource) -> None:
        engine = VllmSource(
            self._context, source, self._memory, self._block_size,
            owner=self._owner, replay_timeout_s=self._replay_timeout, heartbeat_s=self._heartbeat,
        )  # fmt: skip
        try:
            async with aclosing(engine.bursts()) as bursts:
                async for burst in bursts:
                    await self._queue.put((engine.rank, burst))
        except Exception as error:
            await self._queue.put((engine.rank, error))

    async def _stop(self, sources: Sequence[ZmqSource]) -> None:
        tasks = [self._running.pop(source) for source in sources]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _save(self) -> list[Noticed]:
        try:
            await self._memory.save()
        except LogError as error:
            # A checkpoint may be late by any time; if the log is really gone, the next append says so.
            return [Noticed(NoticeKind.SOURCES, self._topic, f"no checkpoint was written: {error}")]
        return []


def _rank(source: ZmqSource) -> Rank:
    if source.worker_id is None:
        raise ConfigurationError(f"source {source}: worker_id=N is needed, a vLLM engine does not know its own")
    return Rank(source.worker_id, source.dp_rank)


def _stamp(path: Path) -> _Stamp:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns
