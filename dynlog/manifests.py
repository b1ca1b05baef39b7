"""Manifests: a snapshot exists once its manifest record is in the log, and log order settles which is the newest.

The topic ``<topic>.snapshots`` (one partition) holds, per snapshot, a DATA record (it exists), an END record (its body
was read back and verified) and a TOMBSTONE record (its body is being removed).  The body of each record is JSON, so
that ``dynlog log read`` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, ValidationError

from dynlog.batch import Batch
from dynlog.record import Control, Record

SUFFIX = ".snapshots"


class Manifest(BaseModel):
    """What a snapshot covers and where its body lies; ``positions`` are the offsets to read next, per partition."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    projection: str
    schema_version: str
    topic: str
    incarnation: str
    positions: Mapping[int, int]
    key: str
    size: int
    sha256: str
    created_ms: int
    writer: str

    def record(self, control: Control) -> Record:
        """The log record that says so of this snapshot."""
        return Record(
            key=self.projection.encode(),
            parts=(self.model_dump_json().encode(),),
            control=control,
            timestamp_ms=self.created_ms,
        )


@dataclass(frozen=True, slots=True)
class ManifestState:
    """A manifest, where it stands in the manifest topic, and whether its body was read back."""

    manifest: Manifest
    offset: int
    verified: bool = False


class ManifestFold:
    """The fold of the manifest topic: which snapshots exist, oldest first."""

    def __init__(self) -> None:
        self._live: dict[str, ManifestState] = {}
        self.unreadable = 0

    def apply(self, batch: Batch) -> None:
        """Folds manifest records; what is not a manifest is counted."""
        for stored in batch:
            try:
                manifest = Manifest.model_validate_json(bytes(stored.record.parts[0]))
            except (ValidationError, IndexError):
                self.unreadable += 1
                continue
            known = self._live.get(manifest.id)
            match stored.record.control:
                case Control.DATA if known is None:
                    self._live[manifest.id] = ManifestState(manifest, stored.offset)
                case Control.END if known is not None:
                    self._live[manifest.id] = replace(known, verified=True)
                case Control.TOMBSTONE:
                    self._live.pop(manifest.id, None)
                case _:
                    self.unreadable += 1

    def of(self, projection: str, incarnation: str | None = None) -> list[ManifestState]:
        """The snapshots of a projection (and of one incarnation of its topic), oldest first in log order."""
        return [
            state
            for state in self._live.values()
            if state.manifest.projection == projection
            and (incarnation is None or state.manifest.incarnation == incarnation)
        ]

    def __iter__(self) -> Iterator[ManifestState]:
        return iter(self._live.values())
