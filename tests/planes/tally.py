"""The smallest projection that notices everything: which records it folded, in which order, per partition."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from dynlog import Batch
from dynlog.errors import SnapshotCorrupt


class Tally:
    """Keeps every record's body per partition; its snapshot is a picture of the moment, several parts long."""

    schema = "tally/1"
    step = 1000
    """So many texts in a part: a step of a snapshot is to be short."""

    def __init__(self) -> None:
        self.seen: dict[int, list[str]] = {}

    def apply(self, batch: Batch) -> None:
        self.seen.setdefault(batch.partition, []).extend(bytes(body[0]).decode() for body in batch.bodies)

    def snapshot(self) -> Iterator[bytes]:
        rows = [(partition, list(texts)) for partition, texts in sorted(self.seen.items())]
        return (
            json.dumps((partition, texts[start : start + self.step])).encode()
            for partition, texts in rows
            for start in range(0, len(texts), self.step)
        )

    def restore(self, parts: Iterable[bytes]) -> None:
        self.seen = {}
        restored: dict[int, list[str]] = {}
        try:
            for partition, texts in map(json.loads, parts):
                restored.setdefault(partition, []).extend(texts)
        except ValueError as error:
            raise SnapshotCorrupt(f"not a tally: {error}") from None
        self.seen = restored
