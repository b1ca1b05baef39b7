"""Rebuilding state: the newest snapshot that verifies, else an older one, else offset 0; then the log to its end.

If the log no longer reaches back to where the best usable snapshot ends, the state is *unrecoverable* and that is said:
a rebuild never yields a state with a hole in its history.  While it folds, no other task on the event loop waits for
more than some milliseconds, but for a full pass of Python's collector (`dynlog.heap.settle_heap` makes that short).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from dynlog.batch import Batch, Position
from dynlog.dedupe import DedupeTable
from dynlog.errors import (
    DynlogError,
    LogDiverged,
    LogFull,
    LogUnavailable,
    ObjectStoreUnavailable,
    OffsetTruncated,
    SnapshotCorrupt,
    StateUnrecoverable,
)
from dynlog.log import Log
from dynlog.manifests import Manifest, ManifestState
from dynlog.projection import Projection
from dynlog.reader import Reader
from dynlog.snapshot_body import decode_body
from dynlog.snapshots import Snapshots
from dynlog.timing import Deadline
from dynlog.topics import Holder, HolderKind, Topic

P = TypeVar("P", bound=Projection)
logger = logging.getLogger(__name__)
STATE_SECTION, DEDUPE_SECTION = 0, 1
SLICE_S = 0.003
"""A fold gives the event loop back after about so many seconds."""
READ_BYTES = 1 << 20
HEARTBEAT_S = 30.0
"""An ephemeral holder expires after 600 s; so many heartbeats may be missed before that."""
IDLE_S = 60.0
RELEASE_S = 5.0
MAX_STARTS = 5
"""How often a rebuild begins anew because truncation overtook it, before it gives up."""

ReplayProgress = Callable[[int, int], None]
"""Called with (records folded, records to fold in all, holes counted)."""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """How the state came to be; ``started_from`` is ``offset 0`` or ``snapshot <id>``, taken at ``snapshot_ms``."""

    started_from: str
    snapshot_ms: int | None
    records: int
    seconds: float
    snapshots_rejected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rebuilt(Generic[P]):
    """A state, and the reader that stands exactly behind it."""

    state: P
    reader: Reader
    dedupe: DedupeTable | None
    report: RebuildReport


class CooperativeFold:
    """Folds batches in slices of about SLICE_S, measured as it goes, giving the event loop back in between."""

    def __init__(self) -> None:
        self._records = 64.0

    async def apply(self, state: Projection, batch: Batch, applied: Callable[[Batch], None]) -> None:
        """Folds the batch; ``applied`` is called after each slice, before anybody else runs."""
        start = 0
        while start < len(batch) or start == 0:
            count = max(int(self._records), 1)
            piece = batch.slice(start, start + count)
            begun = time.perf_counter()
            if len(piece):
                state.apply(piece)
            applied(piece)
            taken = time.perf_counter() - begun
            start += count
            if len(piece) == count:
                self._records = min(max(self._records * SLICE_S / max(taken, 1e-6), 1), 2 * self._records, 1e6)
            if taken > SLICE_S / 4 or start < len(batch):
                await asyncio.sleep(0)


class Replayer(Generic[P]):
    """Rebuilds projections of one topic; ``make`` gives an empty one."""

    def __init__(
        self,
        log: Log,
        topic: str,
        make: Callable[[], P],
        *,
        snapshots: Snapshots | None = None,
        holder: str | None = None,
    ) -> None:
        self._log = log
        self._topic = topic
        self._make = make
        self._snapshots = snapshots
        self._held: Mapping[int, int] | None = None
        self.holder = holder or f"replay:{uuid.uuid4().hex}"

    async def rebuild(self, progress: ReplayProgress | None = None) -> Rebuilt[P]:
        """The state at the end of the log as it was when the call began.

        Registers an ephemeral holder first, so that truncation cannot overtake it (a log that is full is read without
        one); the caller keeps it alive or releases it.  Raises StateUnrecoverable saying what is missing, and what
        `Log.read` raises.
        """
        begun = time.monotonic()
        beating = asyncio.create_task(self._beat())
        rebuilt: Rebuilt[P] | None = None
        try:
            rebuilt = await self._rebuild_patiently(begun, progress)
        finally:
            beating.cancel()
            try:
                await asyncio.gather(beating, return_exceptions=True)
            except asyncio.CancelledError:
                if rebuilt is not None:  # which nobody will get, and so nobody would close
                    await rebuilt.reader.close()
                raise
        return rebuilt

    async def _rebuild_patiently(self, begun: float, progress: ReplayProgress | None) -> Rebuilt[P]:
        for _ in range(MAX_STARTS):
            try:
                return await self._rebuild(begun, progress)
            except OffsetTruncated as error:
                last = error
        raise StateUnrecoverable(f"truncation overtook the rebuild {MAX_STARTS} times, the last time: {last}") from last

    async def _rebuild(self, begun: float, progress: ReplayProgress | None) -> Rebuilt[P]:
        topic = await self._log.topic(self._topic)
        ends = {state.partition: state.end for state in await self._log.partitions(self._topic)}
        rejected: list[str] = []
        state, dedupe, offsets, manifest = await self._start(topic, rejected)
        positions = {p: Position(topic.name, topic.incarnation, p, offsets[p]) for p in range(topic.partitions)}
        reader = Reader(self._log, positions, dedupe=dedupe, max_bytes=READ_BYTES)
        try:
            records = await self._replay(reader, state, offsets, ends, progress)
        except BaseException:
            await reader.close()
            raise
        report = RebuildReport(
            started_from="offset 0" if manifest is None else f"snapshot {manifest.id}",
            snapshot_ms=None if manifest is None else manifest.created_ms,
            records=records,
            seconds=time.monotonic() - begun,
            snapshots_rejected=tuple(rejected),
        )
        return Rebuilt(state, reader, dedupe, report)

    async def _start(
        self, topic: Topic, rejected: list[str]
    ) -> tuple[P, DedupeTable | None, Mapping[int, int], Manifest | None]:
        """The state to begin with: a snapshot's, newest first, or an empty one."""
        candidates = await self._snapshots.candidates(topic.incarnation) if self._snapshots is not None else []
        unavailable: ObjectStoreUnavailable | None = None
        remedy = "" if self._snapshots is not None else "name the object store that its snapshots lie in, or "
        for candidate in candidates:
            manifest = candidate.manifest
            offsets = {p: manifest.positions.get(p, 0) for p in range(topic.partitions)}
            try:
                await self._hold(offsets)
                state, dedupe = await self._restore(manifest)
                await self._hold(offsets)  # it may have expired, if the store was very slow
            except (OffsetTruncated, LogDiverged, SnapshotCorrupt) as error:
                rejected.append(f"snapshot {manifest.id}: {error}")
                if isinstance(error, SnapshotCorrupt):
                    remedy = "bring a body back from a copy of the store, or "
                continue
            except ObjectStoreUnavailable as error:
                unavailable = error
                rejected.append(f"snapshot {manifest.id}: {error}")
                continue
            return state, dedupe, offsets, manifest
        offsets = dict.fromkeys(range(topic.partitions), 0)
        try:
            await self._hold(offsets)
        except OffsetTruncated:
            if unavailable is not None:  # what it has may be all that is needed
                raise unavailable from None
            if await self._newer(topic, candidates):
                raise  # what there was has been replaced meanwhile; begin anew
            now = await self._log.partitions(topic.name)
            starts = [f"partition {state.partition} begins at {state.earliest}" for state in now if state.earliest]
            why = "; ".join(rejected) or "there is none that could be looked at"
            raise StateUnrecoverable(
                f"topic {topic.name!r} cannot be rebuilt: {', '.join(starts)} and no snapshot has what was before "
                f"({why}); {remedy}start a new topic and have the workers report anew"
            ) from None
        return self._make(), self._new_dedupe(), offsets, None

    async def _newer(self, topic: Topic, tried: list[ManifestState]) -> bool:
        if self._snapshots is None:
            return False
        known = {state.manifest.id for state in tried}
        return any(state.manifest.id not in known for state in await self._snapshots.candidates(topic.incarnation))

    def _new_dedupe(self) -> DedupeTable | None:
        return None if self._log.capabilities.checks_marks else DedupeTable()

    async def _beat(self) -> None:
        """Keeps the holder alive, however long a snapshot takes to load."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self._held is not None:
                with suppress(DynlogError):  # the rebuild itself meets the same trouble
                    await self._hold(self._held)

    async def _hold(self, offsets: Mapping[int, int]) -> None:
        self._held = offsets
        try:
            await self._log.hold(self._topic, Holder(self.holder, HolderKind.EPHEMERAL, offsets))
        except LogFull as error:
            # What cannot be written to can still be read, and a state is worth more than a promise that nobody will
            # truncate under it; if somebody does, the rebuild begins anew.
            logger.warning("topic %s: rebuilding unheld, truncation may overtake it: %s", self._topic, error)
            for part in await self._log.partitions(self._topic):
                if offsets.get(part.partition, part.earliest) < part.earliest:
                    raise OffsetTruncated(
                        "nothing of it is left", topic=self._topic, partition=part.partition,
                        offset=offsets[part.partition], earliest=part.earliest,
                    ) from None  # fmt: skip

    async def _restore(self, manifest: Manifest) -> tuple[P, DedupeTable | None]:
        assert self._snapshots is not None
        state, dedupe = self._make(), self._new_dedupe()
        if manifest.schema_version != state.schema:
            raise SnapshotCorrupt(f"it is of schema {manifest.schema_version!r}, this dynlog reads {state.schema!r}")
        pieces = await self._snapshots.load(manifest)

        def restore() -> None:
            # The parts are a stream, so the sections follow each other and each is restored from a generator.
            parts = decode_body(pieces)
            section, part = next(parts, (None, b""))

            def of(wanted: int) -> Iterator[bytes]:
                nonlocal section, part
                while section == wanted:
                    yield part
                    section, part = next(parts, (None, b""))

            state.restore(of(STATE_SECTION))
            if dedupe is not None:
                dedupe.restore(of(DEDUPE_SECTION))
            for _ in of(DEDUPE_SECTION):  # written by an engine that did not check marks, read by one that does
                pass
            if section is not None:
                raise SnapshotCorrupt(f"a snapshot with an unknown section {section}")

        # In a thread, because a restore is one long call; nobody uses this state yet.
        thread = asyncio.get_running_loop().run_in_executor(None, restore)
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            await asyncio.wait([thread])  # a thread cannot be cancelled, and must not outlive us
            raise
        return state, dedupe

    async def _replay(
        self,
        reader: Reader,
        state: Projection,
        offsets: Mapping[int, int],
        ends: Mapping[int, int],
        progress: ReplayProgress | None,
    ) -> int:
        fold, idle = CooperativeFold(), Deadline(IDLE_S)
        total = sum(max(end - offsets[p], 0) for p, end in ends.items())
        records = 0
        while any(reader.positions[p].offset < end for p, end in ends.items()):
            batch = await reader.next(wait=5.0)
            if batch is None:
                if idle.passed:
                    raise LogUnavailable(f"the log has records up to {dict(ends)} and gave none for {IDLE_S:g} s")
                continue
            idle = Deadline(IDLE_S)
            self._held = {p: position.offset for p, position in reader.positions.items()}
            records += len(batch)
            await fold.apply(state, batch, lambda piece: None)
            if progress is not None:
                done = sum(min(reader.positions[p].offset, end) - offsets[p] for p, end in ends.items())
                progress(done, total)
        return records


async def release_quietly(log: Log, topic: str, holder: str) -> None:
    """Forgets a holder where nothing more can be done about a failure: an ephemeral one expires by itself."""
    try:
        await log.release(topic, holder, timeout=RELEASE_S)
    except DynlogError:
        return
