"""When a snapshot is written: by records and bytes as they come, by time if anything came, and one at a time.

A failure is counted and logged and the next occasion is taken, also if nothing came since; the state that is being
snapshotted never notices.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple

from dynlog.batch import Position
from dynlog.errors import DynlogError
from dynlog.manifests import Manifest
from dynlog.snapshots import SnapshotPolicy, Snapshots
from dynlog.timing import Clock

logger = logging.getLogger(__name__)


class Picture(NamedTuple):
    """A state at one moment: its sections, still to be stepped through, and the positions that they cover."""

    sections: Mapping[int, Iterator[bytes]]
    schema: str
    positions: Mapping[int, Position]


class SnapshotWriter:
    """Writes snapshots of what ``take`` pictures, as the policy says."""

    def __init__(
        self, snapshots: Snapshots, policy: SnapshotPolicy, take: Callable[[], Awaitable[Picture]], clock: Clock
    ) -> None:
        self._snapshots, self._policy, self._take, self._clock = snapshots, policy, take, clock
        self._one_at_a_time = asyncio.Lock()
        self._due = asyncio.Event()
        self._records = self._bytes = 0
        self._owed = False
        self.written = 0
        self.failures = 0
        self.last_ms: int | None = None

    def note(self, records: int, size: int) -> None:
        """So much came into the state since."""
        self._records += records
        self._bytes += size
        policy = self._policy
        if (policy.every_records is not None and self._records >= policy.every_records) or (
            policy.every_bytes is not None and self._bytes >= policy.every_bytes
        ):
            self._due.set()

    async def write(self) -> Manifest:
        """Writes one now and collects old ones; raises what the store and the log raise."""
        async with self._one_at_a_time:
            picture = await self._take()
            taken_ms = self._clock.time_ms()
            self._records = self._bytes = 0
            self._owed = True
            manifest = await self._snapshots.write(picture.sections, picture.schema, picture.positions)
            self._owed = False
            self.written += 1
            self.last_ms = taken_ms
            await self._snapshots.gc(keep=self._policy.keep)
            return manifest

    async def run(self) -> None:
        """Writes whenever one is due, until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._policy.every_s):
                    await self._due.wait()
            except TimeoutError:
                if not self._records and not self._owed:
                    continue
            self._due.clear()
            try:
                await self.write()
            except DynlogError as error:
                self.failures += 1
                logger.warning("no snapshot: %s", error)
            except Exception:  # a store's or a projection's defect must not end all later snapshots in silence
                self.failures += 1
                logger.exception("no snapshot")
