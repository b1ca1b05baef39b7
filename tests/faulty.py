"""A log with faults on purpose: what it is told goes wrong, everything else is the log behind it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, cast

from dynlog import Batch, Log, Position, Record
from dynlog.errors import LogUnavailable, OutcomeUnknown
from dynlog.log import DEFAULT_READ_BYTES
from dynlog.topics import Appended, Capabilities

NEEDS_THE_LOG = {"topic", "topics", "partitions", "hold", "holders", "release", "commit", "committed", "position"}


class Fault(Enum):
    """What happens to the next append."""

    NOT_STORED = "not stored, and it says so"
    STORED_UNSAID = "stored, but the acknowledgement is lost"
    LOST_UNSAID = "not stored, and nobody knows"
    GHOST = "nobody knows; it arrives later, when told"


class FaultyLog:
    """Delegates to a real log; faults are consumed one per append, ``down`` refuses everything while it is set."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.faults: deque[Fault] = deque()
        self.down = False
        self.appends: list[int] = []
        self.ghosts: list[tuple[str, int, Sequence[Record]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._late: set[asyncio.Future[Appended]] = set()
        self.reads = 0
        self.reads_latest = log.capabilities.reads_latest

    @property
    def capabilities(self) -> Capabilities:
        """The engine's, but for what a test has said."""
        return replace(self._log.capabilities, reads_latest=self.reads_latest)

    def __getattr__(self, name: str) -> Any:
        return self._refused if self.down and name in NEEDS_THE_LOG else getattr(self._log, name)

    async def _refused(self, *_: object, **__: object) -> None:
        self._refuse()

    @property
    def log(self) -> Log:
        """Itself, for those who want a `Log`."""
        return cast(Log, self)

    async def append(self, topic: str, partition: int, records: Sequence[Record], **options: Any) -> Appended:
        if self.gate.is_set():
            return await self._append(topic, partition, records, **options)
        # It is in the log's hands: whoever gives up does not call it back.
        late = asyncio.ensure_future(self._behind_the_gate(topic, partition, records, **options))
        self._late.add(late)
        late.add_done_callback(self._over)
        return await asyncio.shield(late)

    def _over(self, late: asyncio.Future[Appended]) -> None:
        self._late.discard(late)
        if not late.cancelled():
            late.exception()

    async def _behind_the_gate(self, *append: Any, **options: Any) -> Appended:
        await self.gate.wait()
        return await self._append(*append, **options)

    async def _append(self, topic: str, partition: int, records: Sequence[Record], **options: Any) -> Appended:
        self._refuse()
        self.appends.append(len(records))
        fault = self.faults.popleft() if self.faults else None
        if fault is Fault.NOT_STORED:
            raise LogUnavailable("the server is away", topic=topic, partition=partition)
        if fault is Fault.LOST_UNSAID:
            raise OutcomeUnknown("the connection broke", topic=topic, partition=partition)
        if fault is Fault.GHOST:
            assert options.get("expect") is None, "a ghost is appended wherever the log ends by then"
            self.ghosts.append((topic, partition, records))
            raise OutcomeUnknown("the connection broke", topic=topic, partition=partition)
        done = await self._log.append(topic, partition, records, **options)
        if fault is Fault.STORED_UNSAID:
            raise OutcomeUnknown("the connection broke", topic=topic, partition=partition)
        return done

    async def read(
        self,
        position: Position,
        *,
        max_records: int | None = None,
        max_bytes: int = DEFAULT_READ_BYTES,
        wait: float = 0.0,
    ) -> Batch:
        self._refuse()
        self.reads += 1
        return await self._log.read(position, max_records=max_records, max_bytes=max_bytes, wait=min(wait, 0.05))

    async def register_producer(self, producer_id: str, *, after: int | None = None, timeout: float = 30.0) -> int:
        self._refuse()
        return await self._log.register_producer(producer_id, after=after, timeout=timeout)

    def _refuse(self) -> None:
        if self.down:
            raise LogUnavailable("the server is away")
