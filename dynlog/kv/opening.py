"""How a bucket's state comes to be: the newest snapshot that verifies, else the start of the log; then to its end.

The start of the log is enough if it is offset 0, or if a compaction that covered everything lies in it; else the state
is unrecoverable and that is said.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dynlog.batch import Batch, Position
from dynlog.dedupe import DedupeTable
from dynlog.errors import (
    DynlogError,
    LogDiverged,
    LogFull,
    MalformedRecord,
    ObjectStoreUnavailable,
    OffsetTruncated,
    SnapshotCorrupt,
    StateUnrecoverable,
)
from dynlog.kv.fold import KvFold
from dynlog.kv.recent import Recent
from dynlog.kv.records import MARKS, Picture, from_parts
from dynlog.kv.rows import Row
from dynlog.log import Log
from dynlog.manifests import Manifest
from dynlog.replay import DEDUPE_SECTION, HEARTBEAT_S, MAX_STARTS, STATE_SECTION, CooperativeFold
from dynlog.snapshot_body import decode_body
from dynlog.snapshots import Snapshots
from dynlog.topics import Holder, HolderKind, Topic

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
"""Called with (offset reached, offset to reach)."""


@dataclass(slots=True)
class Opened:
    """A state, where in the log it stands, and what of it is known of marks (where readers have to)."""

    fold: KvFold
    offset: int
    dedupe: DedupeTable | None
    recent: Recent
    started_from: str


class Opening:
    """Rebuilds the state of one bucket, under a holder that the caller keeps alive or releases afterwards."""

    def __init__(
        self,
        log: Log,
        topic: Topic,
        history: int,
        holder: str,
        *,
        snapshots: Snapshots | None = None,
    ) -> None:
        self._log, self._topic, self._history = log, topic, history
        self._snapshots = snapshots
        self._progress: Progress | None = None
        self._holder = holder

    async def run(self, progress: Progress | None = None) -> Opened:
        """The state at the end that the log had when the call began.

        Raises StateUnrecoverable, ObjectStoreUnavailable if only a snapshot could help, and what `Log.read` raises.
        """
        self._progress = progress
        for _ in range(MAX_STARTS):
            try:
                return await self._run()
            except OffsetTruncated as error:
                last = error
        raise StateUnrecoverable(f"truncation overtook the opening {MAX_STARTS} times, the last time: {last}") from last

    async def hold(self, offset: int) -> None:
        """Keeps the log from there on."""
        holder = Holder(self._holder, HolderKind.EPHEMERAL, {0: offset})
        try:
            await self._log.hold(self._topic.name, holder, incarnation=self._topic.incarnation)
        except LogFull as error:  # what cannot be written to can still be read
            logger.warning("topic %s: opening unheld, truncation may overtake it: %s", self._topic.name, error)

    async def keep_holding(self, offset: Callable[[], int]) -> None:
        """Keeps the log from where ``offset`` says, again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self.hold(offset())
            except DynlogError as error:  # following meets the same trouble and deals with it
                logger.warning("topic %s: no heartbeat: %s", self._topic.name, error)
            except Exception:  # a defect must not let the holder expire in silence
                logger.exception("topic %s: no heartbeat", self._topic.name)

    async def _run(self) -> Opened:
        rejected: list[str] = []
        unavailable: ObjectStoreUnavailable | None = None
        end = (await self._log.partitions(self._topic.name))[0].end
        opened: Opened | None = None
        snapshots = self._snapshots
        for candidate in await snapshots.candidates(self._topic.incarnation) if snapshots is not None else []:
            try:
                opened = await self._restored(candidate.manifest)
                break
            except (OffsetTruncated, LogDiverged, SnapshotCorrupt) as error:
                rejected.append(f"snapshot {candidate.manifest.id}: {error}")
            except ObjectStoreUnavailable as error:
                unavailable = error
                rejected.append(f"snapshot {candidate.manifest.id}: {error}")
        if opened is None:
            # Both as of one moment: the compaction that cut off what was below may lie behind the earlier end.
            state = (await self._log.partitions(self._topic.name))[0]
            opened, end = await self._from_the_start(state.earliest), state.end
        await self._replay(opened, end)
        if not opened.fold.complete:
            if unavailable is not None:
                raise unavailable
            why = "; ".join(rejected) or "no snapshot was found"
            raise StateUnrecoverable(
                f"topic {self._topic.name!r} begins at {opened.started_from.removeprefix('offset ')} and neither a "
                f"compaction nor a snapshot has what was before ({why}); name the object store that its snapshots lie "
                "in, or start a new bucket"
            )
        return opened

    async def _from_the_start(self, start: int) -> Opened:
        await self.hold(start)
        recent = Recent()
        recent.begin(start)
        fold = KvFold(self._history, complete=start == 0)
        return Opened(fold, start, self._new_dedupe(), recent, f"offset {start}")

    async def _restored(self, manifest: Manifest) -> Opened:
        assert self._snapshots is not None
        fold, dedupe, offset = KvFold(self._history), self._new_dedupe(), manifest.positions.get(0, 0)
        if manifest.schema_version != fold.schema:
            raise SnapshotCorrupt(f"it is of schema {manifest.schema_version!r}, this dynlog reads {fold.schema!r}")
        await self.hold(offset)
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

            fold.restore(of(STATE_SECTION))
            if dedupe is not None:
                dedupe.restore(of(DEDUPE_SECTION))
            for _ in of(DEDUPE_SECTION):
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
        await self.hold(offset)  # it may have expired, if the store was very slow
        recent = Recent()
        recent.begin(offset)
        return Opened(fold, offset, dedupe, recent, f"snapshot {manifest.id}")

    def _new_dedupe(self) -> DedupeTable | None:
        return None if self._log.capabilities.checks_marks else DedupeTable()

    async def _replay(self, opened: Opened, end: int) -> None:
        cooperative, held = CooperativeFold(), time.monotonic()
        fold, recent, first = opened.fold, opened.recent, opened.offset
        changed: list[tuple[str, Row]] = []
        fold.changed = changed

        def applied(piece: Batch) -> None:
            if fold.complete:
                if recent.floor < fold.whole_from:
                    recent.begin(fold.whole_from)
                recent.add(changed)
            changed.clear()

        position = Position(self._topic.name, self._topic.incarnation, 0, opened.offset)
        while position.offset < end:
            batch = await self._log.read(position, wait=5.0)
            for piece in _cut_behind_marks(batch, fold, opened.dedupe):
                await cooperative.apply(fold, piece, applied)
                if fold.marks is not None and opened.dedupe is not None:
                    opened.dedupe.restore(fold.marks)
                    fold.marks = None
            position = batch.next_position
            if self._progress is not None:
                self._progress(min(position.offset, end) - first, end - first)
            if time.monotonic() - held > HEARTBEAT_S:
                held = time.monotonic()
                await self.hold(position.offset)
        opened.offset = position.offset


def _cut_behind_marks(batch: Batch, fold: KvFold, dedupe: DedupeTable | None) -> Iterator[Batch]:
    """The batch without repeats.  Where a compaction says which marks are known, what follows is judged by that."""
    if dedupe is None:
        yield batch
        return
    start = 0
    if not fold.complete:
        for index, (key, parts) in enumerate(zip(batch.keys, batch.bodies, strict=True), 1):
            if key is None and _is_of_marks(key, parts):
                yield dedupe.filter(batch.slice(start, index))
                start = index
    yield dedupe.filter(batch.slice(start, len(batch)))


def _is_of_marks(key: bytes | None, parts: Sequence[bytes]) -> bool:
    try:
        fact = from_parts(key, parts)
    except MalformedRecord:
        return False
    return isinstance(fact, Picture) and fact.section == MARKS
