"""The KV index as a projection: the state is a fold over records, and a snapshot of it goes on where it was taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from dynlog.errors import SnapshotCorrupt
from dynlog.router.fold import fold_records
from dynlog.router.image import SCHEMA, read_image, write_image
from dynlog.router.index import KvIndex


class RecordColumns(Protocol):
    """What the fold reads of a batch."""

    @property
    def keys(self) -> Sequence[bytes | None]:
        """Each record's key."""

    @property
    def bodies(self) -> Sequence[Sequence[bytes]]:
        """Each record's parts."""


class RouterProjection:
    """Folds records of KV events (see `dynlog.kvevents`) into a `KvIndex`; same records, same state, always.

    The index is another object after `restore`.
    """

    def __init__(self) -> None:
        self.index = KvIndex()

    @property
    def schema(self) -> str:
        """Name and version of the snapshot's form."""
        return SCHEMA

    @property
    def rejected(self) -> int:
        """Records that were no KV events; each was skipped whole."""
        return self.index.counters.rejected_records

    def apply(self, batch: RecordColumns) -> None:
        """Folds the batch's records in; one that is malformed is counted and skipped, nothing is raised."""
        fold_records(self.index, batch.keys, batch.bodies)

    def snapshot(self) -> Iterator[bytes]:
        """The state at the moment of the call, in parts of about 256 KiB; `apply` may run between two steps."""
        return write_image(self.index)

    def restore(self, parts: Iterable[bytes]) -> None:
        """Replaces the state by the snapshot's, wholly or not at all.

        Raises SnapshotCorrupt, and the state is then empty, for parts that are missing, cut, damaged or of a schema
        that this release does not read.
        """
        try:
            self.index = read_image(parts)
        except SnapshotCorrupt:
            self.index = KvIndex()
            raise
