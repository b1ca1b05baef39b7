"""State is a fold over the log: everything that a process knows is a projection of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from dynlog.batch import Batch


@runtime_checkable
class Projection(Protocol):
    """A deterministic fold without clock and I/O.

    The law that every projection keeps, for any records and any cut:
    ``restore(snapshot(fold(prefix)))``, then the rest, equals ``fold(all)``.
    """

    @property
    def schema(self) -> str:
        """Name and version of the snapshot's form, ``name/1``; `restore` reads this version and the one before."""

    def apply(self, batch: Batch) -> None:
        """Folds the records in; a record that makes no sense is counted, never raised, never half applied."""

    def snapshot(self) -> Iterator[bytes]:
        """The state *at the moment of the call* as parts; `apply` may run between two steps and changes nothing
        of what is still to come.  Each step is a few milliseconds of work at most."""

    def restore(self, parts: Iterable[bytes]) -> None:
        """Replaces the state by that of the snapshot; raises SnapshotCorrupt and leaves it empty otherwise."""
