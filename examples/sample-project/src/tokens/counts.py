"""The state: tokens by worker, a fold over the log that a restart does not lose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from dynlog import Batch, Log, Producer, Record
from dynlog.errors import SnapshotCorrupt

TOPIC = "tokens"


class TokenCounts:
    """A projection (see `dynlog.Projection`): no clock, no I/O, and a record that makes no sense is only counted."""

    schema = "token-counts/1"

    def __init__(self) -> None:
        self.by_worker: dict[str, int] = {}
        self.refused = 0

    def apply(self, batch: Batch) -> None:
        for key, parts in zip(batch.keys, batch.bodies, strict=True):
            try:
                worker, tokens = (key or b"").decode(), int(parts[0])
            except (ValueError, IndexError):
                self.refused += 1
                continue
            self.by_worker[worker] = self.by_worker.get(worker, 0) + tokens

    def snapshot(self) -> Iterator[bytes]:
        return iter([json.dumps([self.by_worker, self.refused]).encode()])

    def restore(self, parts: Iterable[bytes]) -> None:
        self.by_worker, self.refused = {}, 0
        try:
            self.by_worker, self.refused = json.loads(b"".join(parts))
        except ValueError as error:
            raise SnapshotCorrupt(f"not token counts: {error}") from None


async def report(log: Log, generated: Iterable[tuple[str, int]]) -> None:
    """Appends (worker, tokens) pairs; they are durable when this returns."""
    await log.create_topic(TOPIC, partitions=4, exist_ok=True)
    async with Producer(log, TOPIC) as producer:
        for worker, tokens in generated:
            await producer.submit(Record(key=worker.encode(), parts=(str(tokens).encode(),)))
