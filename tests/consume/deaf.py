"""A log whose user can be cut off from its group: records and commits go through, what the members say does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from dynlog.batch import Batch, Position
from dynlog.log import DEFAULT_READ_BYTES, Log
from dynlog.record import Record
from dynlog.topics import Appended

GROUPS = "dynlog.groups."


class DeafLog:
    """Delegates to a real log; while it is cut off, reads and appends of groups' own topics wait."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._through, self._out = asyncio.Event(), asyncio.Event()
        self.said = 0
        """How many appends to groups' topics went through."""
        self.mend()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    @property
    def log(self) -> Log:
        """Itself, for those who want a `Log`."""
        return cast(Log, self)

    def cut(self) -> None:
        """From now on nothing of the group comes or goes."""
        self._through.clear()
        self._out.clear()

    def let_speak(self) -> None:
        """What is said goes through again, what others said has yet to come."""
        self._out.set()

    def mend(self) -> None:
        """Everything goes through again."""
        self._through.set()
        self._out.set()

    async def append(self, topic: str, partition: int, records: Sequence[Record], **options: Any) -> Appended:
        if topic.startswith(GROUPS):
            await self._out.wait()
        done = await self._log.append(topic, partition, records, **options)
        self.said += topic.startswith(GROUPS)
        return done

    async def read(
        self,
        position: Position,
        *,
        max_records: int | None = None,
        max_bytes: int = DEFAULT_READ_BYTES,
        wait: float = 0.0,
    ) -> Batch:
        batch = await self._log.read(position, max_records=max_records, max_bytes=max_bytes, wait=wait)
        if position.topic.startswith(GROUPS):
            await self._through.wait()
        return batch
