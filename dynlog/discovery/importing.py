"""Takes over what a fleet still keeps elsewhere: values byte for byte, marked as foreign.

An import run again changes what changed in the source and removes what is gone there, and touches nothing else: what
was registered here, or imported from another source, is never written over.  `dynlog.discovery.following` says for how
long it stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from dynlog.discovery.foreign import FOREIGN, ForeignMark
from dynlog.discovery.models import Entity
from dynlog.discovery.names import INSTANCES, MODELS, parse_key
from dynlog.errors import EntryTooLarge, KeyExists, MalformedRecord, RevisionConflict
from dynlog.kv.bucket import Bucket
from dynlog.timing import Deadline

ROOTS = (INSTANCES, MODELS)
AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A key as the source has it; ``key`` is bytes, for nobody keeps a source from having others than text."""

    key: bytes
    value: bytes
    mod_revision: int
    lease: int = 0
    lease_left_s: int | None = None


@dataclass(slots=True)
class Imported:
    """What an import did."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    leased: int = 0
    """Of the source's keys, those that hang on a living lease there."""
    kept: dict[str, str] = field(default_factory=dict)
    """Keys that were not written over, and whose they are."""
    refused: dict[str, str] = field(default_factory=dict)
    """Keys of the source that cannot be taken over, and why."""


async def import_keys(
    bucket: Bucket, source: str, keys: Sequence[ForeignKey], *, lease: str = "", timeout: float = 60.0
) -> Imported:
    """Makes the bucket hold what the source holds, and gives an account of it.

    ``source`` names where it comes from.  With a ``lease`` all of it is gone when that ends; else it stays until an
    import finds that the source no longer has it.  Killed in the middle, it is completed by running it again.  Raises
    what `Bucket.put` raises.
    """
    deadline = Deadline(timeout)
    work = _Import(bucket, source, lease, deadline)
    await bucket.barrier(deadline.remaining)
    readable = dict(work.readable(keys))
    for chunk in _chunks(readable.items()):
        await _together(work.take(key, foreign) for key, foreign in chunk)
    marks = await bucket.entries(FOREIGN)
    gone = [entry.key.removeprefix(FOREIGN) for entry in marks if entry.key.removeprefix(FOREIGN) not in readable]
    for names in _chunks(gone):
        await _together(work.drop(key) for key in names)
    return work.done


class _Import:
    """One run."""

    def __init__(self, bucket: Bucket, source: str, lease: str, deadline: Deadline) -> None:
        self._bucket, self._source, self._lease, self._deadline = bucket, source, lease, deadline
        self.done = Imported()

    def readable(self, keys: Iterable[ForeignKey]) -> Iterator[tuple[str, ForeignKey]]:
        """What has a name of Dynamo's; notes the rest."""
        for foreign in keys:
            try:
                key = foreign.key.decode()
                parse_key(key)
            except (UnicodeDecodeError, MalformedRecord) as error:
                self.done.refused[repr(foreign.key)[1:].strip("'\"")] = str(error)
            else:
                self.done.leased += foreign.lease_left_s is not None
                yield key, foreign

    async def take(self, key: str, foreign: ForeignKey) -> None:
        """Makes the bucket hold this key as the source does, unless it is somebody else's."""
        bucket, done = self._bucket, self.done
        there, (mark, marked_under) = await bucket.get(key), await self._mark(key)
        if there is not None and (whose := _owner(there.value, mark, self._source)) is not None:
            done.kept[key] = whose
            return
        wanted = ForeignMark(
            source=self._source,
            mod_revision=foreign.mod_revision,
            lease=foreign.lease,
            lease_left_s=foreign.lease_left_s,
        )
        lasts = there is not None and there.lease == marked_under == self._lease
        if lasts and there is not None and there.value == foreign.value and mark is not None and _same(mark, wanted):
            done.unchanged += 1
            return
        marked: int | None = None
        try:
            # The mark goes first, and stays as long: a value without one would be taken for somebody's own, for ever.
            lease, left = self._lease or None, self._deadline
            marked = await bucket.put(FOREIGN + key, wanted.to_bytes(), lease=lease, timeout=left.remaining)
            if there is None:
                await bucket.create(key, foreign.value, lease=lease, timeout=left.remaining)
                done.added += 1
            elif there.value != foreign.value or there.lease != self._lease:
                await bucket.update(key, foreign.value, there.revision, lease=lease, timeout=left.remaining)
                done.changed += 1
            else:
                done.changed += 1
        except (KeyExists, RevisionConflict):
            done.kept[key] = "written by somebody in the same moment"
            assert marked is not None, "a put loses to nobody"
            await self._unmark(key, foreign.value, marked)
        except (EntryTooLarge, MalformedRecord) as error:
            if marked is None:
                done.refused[key] = f"it cannot be marked as imported: {error}"
                return
            done.refused[key] = str(error)
            if there is None:  # else what was imported before stays, and stays marked
                await bucket.delete(FOREIGN + key, timeout=self._deadline.remaining)

    async def _unmark(self, key: str, value: bytes, marked: int) -> None:
        """Takes the mark away from beside what somebody else wrote, or the next import would take that for its own."""
        there = await self._bucket.get(key)
        if there is not None and (there.value == value or there.lease == self._lease != ""):
            return  # another import of this source was faster: the mark is that one's too
        with suppress(RevisionConflict):
            await self._bucket.delete(FOREIGN + key, marked, timeout=self._deadline.remaining)

    async def drop(self, key: str) -> None:
        """Removes what this source no longer has."""
        mark, _ = await self._mark(key)
        if mark is None or mark.source != self._source:
            return
        there = await self._bucket.get(key)
        if there is not None and _owner(there.value, mark, self._source) is None:
            try:
                await self._bucket.delete(key, there.revision, timeout=self._deadline.remaining)
            except RevisionConflict:
                self.done.kept[key] = "written by somebody in the same moment"
                return
            self.done.removed += 1
        await self._bucket.delete(FOREIGN + key, timeout=self._deadline.remaining)

    async def _mark(self, key: str) -> tuple[ForeignMark | None, str]:
        """The mark of that key, and its lease."""
        entry = await self._bucket.get(FOREIGN + key)
        try:
            return (None, "") if entry is None else (ForeignMark.from_bytes(entry.value), entry.lease)
        except MalformedRecord:
            return None, ""


def _owner(value: bytes, mark: ForeignMark | None, source: str) -> str | None:
    """Whose a value is if it is not this import's."""
    try:
        if not Entity.from_bytes(value).foreign:
            return "registered here"
    except MalformedRecord:
        pass  # no entity, so no registration
    if mark is None:
        return "written here by somebody"
    return None if mark.source == source else f"imported from {mark.source}"


def _same(one: ForeignMark, other: ForeignMark) -> bool:
    """Whether two marks say the same, but for the seconds: they pass without anything happening."""
    alive = one.lease_left_s is not None, other.lease_left_s is not None
    return (one.mod_revision, one.lease) == (other.mod_revision, other.lease) and alive[0] == alive[1]


T = TypeVar("T")


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    waiting = iter(items)
    while chunk := list(islice(waiting, AT_ONCE)):
        yield chunk


async def _together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All at once, for they share appends; raises the first error, when all have ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
