"""The smallest projection that notices everything: which records it folded, in which order, per partition."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from dynlog import Batch
from dynlog.errors import SnapshotCorrupt


class Tally:
    """Keeps every record's body per partition; its snapshot is a picture of the moment, several parts long."""

    schema = "tally/1"

    def __init__(self) -> None:
        self.seen: dict[int, list[str]] = {}

    def apply(self, batch: Batch) -> None:
        self.seen.setdefault(batch.partition, []).extend(bytes(body[0]).decode() for body in batch.bodies)

    def snapshot(self) -> Iterator[bytes]:
        rows = [(partition, list(texts)) for partition, texts in sorted(self.seen.items())]
        return (json.dumps(row).encode() for row in rows)

    def restore(self, parts: Iterable[bytes]) -> None:
        self.seen = {}
        try:
            self.seen = dict(map(json.loads, parts))
        except ValueError as error:
            raise SnapshotCorrupt(f"not a tally: {error}") from None
