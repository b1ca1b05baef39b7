"""Snapshots of a projection: a body in an object store, made to exist by a manifest record, trusted once read back.

* The body is uploaded first, always under a key of its own; the manifest's append makes the snapshot exist; reading the
  body back makes it *verified*.  A crash in between leaves an object that nobody names and `gc` removes.
* A pinned holder keeps the log from the newest verified snapshot's predecessor on, so that one bad body costs nothing.
* `gc` writes the tombstone before it deletes a body, so no manifest ever promises what is being removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

from dynlog.batch import Position
from dynlog.errors import (
    ConfigurationError,
    DynlogError,
    ObjectCorrupt,
    ObjectNotFound,
    OffsetTruncated,
    SnapshotCorrupt,
    TopicNotFound,
)
from dynlog.log import Log
from dynlog.manifests import SUFFIX, Manifest, ManifestFold, ManifestState
from dynlog.objects import ObjectStore
from dynlog.record import Control
from dynlog.snapshot_body import encode_body
from dynlog.timing import SYSTEM_CLOCK, Clock
from dynlog.topics import Holder, HolderKind, Retention

UNNAMED_SPARED_S = 24 * 3600.0
"""A body that no manifest names may belong to a snapshot that is being written; `gc` spares it for so long."""
KEEP = 3
"""How many verified snapshots `gc` leaves: the newest, its predecessor, and one that somebody may be reading."""


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """A snapshot is written when any of the three is reached since the last one; None switches one off."""

    every_records: int | None = 1_000_000
    every_bytes: int | None = 256 << 20
    every_s: float | None = 300.0
    keep: int = KEEP

    def check(self, retention: Retention) -> None:
        """Raises ConfigurationError if the topic forgets faster than snapshots are written, or a number is 0."""
        for what, number in (
            ("keep", self.keep), ("records", self.every_records), ("bytes", self.every_bytes), ("seconds", self.every_s)
        ):  # fmt: skip
            if number is not None and number <= 0:
                raise ConfigurationError(f"snapshots: {what}={number}, a number above zero is needed")
        for name, kept, cadence in (
            ("age", retention.max_age_s, self.every_s),
            ("size", retention.max_bytes, self.every_bytes),
        ):
            if kept is not None and (cadence is None or cadence * 2 > kept):
                raise ConfigurationError(
                    f"retention by {name} keeps {kept:g}, a snapshot is written every {cadence}: a router that starts "
                    "cold would find a hole; keep at least twice the cadence, or write snapshots more often"
                )


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a collection removed."""

    snapshots: int
    unnamed_bodies: int


class Snapshots:
    """The snapshots of one projection of one topic; opens nothing that has to be closed."""

    def __init__(
        self, log: Log, topic: str, objects: ObjectStore, projection: str, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._log = log
        self._topic = topic
        self._objects = objects
        self._projection = projection
        self._clock = clock
        self._manifests = topic + SUFFIX
        self._prefix = f"snapshots/{topic}/{projection}/"
        self._writer = f"{platform.node()}-{os.getpid()}"

    async def known(self) -> ManifestFold:
        """All manifests, folded to the end of the manifest topic; empty if there is no such topic."""
        fold = ManifestFold()
        try:
            position = await self._log.position(self._manifests, 0)
        except TopicNotFound:
            return fold
        while True:
            try:
                batch = await self._log.read(position)
            except OffsetTruncated as error:  # another one's gc; what it cut away is tombstoned
                position = position._replace(offset=error.earliest)
                fold = ManifestFold()
                continue
            fold.apply(batch)
            position = batch.next_position
            if batch.next_offset >= batch.end_offset:
                return fold

    async def candidates(self, incarnation: str) -> list[ManifestState]:
        """The snapshots of that incarnation of the topic, newest first."""
        return (await self.known()).of(self._projection, incarnation)[::-1]

    async def write(
        self, sections: Mapping[int, Iterator[bytes]], schema: str, positions: Mapping[int, Position]
    ) -> Manifest:
        """Uploads the body, makes the snapshot exist, verifies it, and moves the pin.

        The projection may go on folding meanwhile (its iterator is a picture of the moment).  Raises SnapshotCorrupt
        if the body does not read back, and what the store and the log raise; then nothing counts as verified.
        """
        incarnation = next(iter(positions.values())).incarnation
        identity = uuid.uuid4().hex
        key = f"{self._prefix}{incarnation}/{self._clock.time_ms()}-{identity}"
        digest, size = hashlib.sha256(), 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal size
            for piece in encode_body(sections):
                digest.update(piece)
                size += len(piece)
                yield piece
                await asyncio.sleep(0)

        await self._objects.put(key, body(), metadata={"projection": self._projection, "schema": schema})
        manifest = Manifest(
            id=identity,
            projection=self._projection,
            schema_version=schema,
            topic=self._topic,
            incarnation=incarnation,
            positions={partition: position.offset for partition, position in positions.items()},
            key=key,
            size=size,
            sha256=digest.hexdigest(),
            created_ms=self._clock.time_ms(),
            writer=self._writer,
        )
        await self._log.create_topic(self._manifests, exist_ok=True)
        await self._log.append(self._manifests, 0, [manifest.record(Control.DATA)])
        try:
            async for _ in self._read(manifest):
                pass
        except SnapshotCorrupt as error:
            raise SnapshotCorrupt(f"snapshot {identity}: {error}") from error
        await self._log.append(self._manifests, 0, [manifest.record(Control.END)])
        await self._pin(incarnation)
        return manifest

    async def load(self, manifest: Manifest) -> list[bytes]:
        """The body in pieces, size and SHA-256 checked; raises SnapshotCorrupt, which does not name the snapshot, for
        anything else."""
        return [piece async for piece in self._read(manifest)]

    async def gc(self, *, keep: int = KEEP, spare_s: float = UNNAMED_SPARED_S) -> GcReport:
        """Removes all but the newest ``keep`` verified snapshots, and bodies that no manifest names and that are older
        than ``spare_s``; a snapshot that is not verified (yet) goes once it is that old as well.

        Bodies lie under their topic's incarnation, so that logs that share a store do not take each other's for
        unnamed; only a backup that is opened as a log beside its original needs a store of its own.
        """
        if keep < 1:
            raise ConfigurationError(f"snapshots: keep={keep}, at least the newest one has to stay")
        fold = await self.known()
        if not len(list(fold)):
            return GcReport(0, 0)
        current = (await self._log.topic(self._topic)).incarnation
        old_ms = self._clock.time_ms() - round(spare_s * 1000)
        verified = [state for state in fold.of(self._projection, current) if state.verified]
        kept = {state.manifest.id for state in verified[-keep:]}
        doomed = [
            state
            for state in fold.of(self._projection)
            if state.manifest.id not in kept
            and ((state.verified and state.manifest.incarnation == current) or state.manifest.created_ms < old_ms)
        ]
        if doomed:
            tombstones = [state.manifest.record(Control.TOMBSTONE) for state in doomed]
            await self._log.append(self._manifests, 0, tombstones)
            for state in doomed:
                await self._objects.delete(state.manifest.key)
        named = {state.manifest.key for state in await self.known()}
        unnamed = [
            info.key
            async for info in self._objects.list(self._prefix + current + "/")
            if info.key not in named and info.modified_ms < old_ms
        ]
        for key in unnamed:
            await self._objects.delete(key)
        await self._shorten()
        return GcReport(len(doomed), len(unnamed))

    async def _read(self, manifest: Manifest) -> AsyncIterator[bytes]:
        digest, size = hashlib.sha256(), 0
        try:
            async for piece in self._objects.get(manifest.key):
                digest.update(piece)
                size += len(piece)
                yield piece
        except (ObjectNotFound, ObjectCorrupt) as error:
            said = error.reason if error.reason.startswith("its body ") else f"its body cannot be read: {error.reason}"
            raise SnapshotCorrupt(f"{said} (store {error.store!r}, key {manifest.key!r})") from error
        if size != manifest.size or digest.hexdigest() != manifest.sha256:
            raise SnapshotCorrupt(
                f"its body is another: {size} bytes with SHA-256 {digest.hexdigest()[:16]}... instead of "
                f"{manifest.size} with {manifest.sha256[:16]}... (store {self._objects.url!r}, key {manifest.key!r})"
            )

    async def _pin(self, incarnation: str) -> None:
        """Holds the log from the newest verified snapshot's predecessor on (all of it while there is only one)."""
        verified = [s.manifest for s in (await self.known()).of(self._projection, incarnation) if s.verified]
        if not verified:
            return
        earliest = {state.partition: state.earliest for state in await self._log.partitions(self._topic)}
        positions = dict(earliest)
        if len(verified) > 1:
            for partition, start in earliest.items():
                # Two routers that snapshot at once may finish in either order, so the lower of the two counts.
                positions[partition] = max(start, min(m.positions.get(partition, 0) for m in verified[-2:]))
        try:
            await self._log.hold(
                self._topic,
                Holder(f"snapshot:{self._projection}", HolderKind.PINNED, positions),
                incarnation=incarnation,
            )
        except OffsetTruncated:  # somebody forced a truncation in between; the next snapshot pins anew
            return
        except TopicNotFound:  # it was deleted, and what has its name now is not ours to hold
            return

    async def _shorten(self) -> None:
        """Cuts the manifest topic below the oldest snapshot that is still there."""
        offsets = [state.offset for state in await self.known()]
        if offsets:
            try:
                await self._log.truncate(self._manifests, 0, min(offsets))
            except DynlogError:
                return
