"""What a publisher of Dynamo's event plane says, whichever way it comes: each (publisher, sequence) once, gaps counted.

The plane has no replay: what was lost is lost, which is said and counted.  Marks are (``dynamo-<publisher>-<worker>``,
0, sequence), so two brokers, or two ingests, that bring the same message store it once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from dynlog.adapters.dynamo_envelope import decode_frame, decode_payload
from dynlog.adapters.event_groups import event_groups
from dynlog.errors import MalformedEvent
from dynlog.ingest_items import Item, Noticed, NoticeKind, Refused, Taken
from dynlog.kvevents import KvEvent, encode_events
from dynlog.record import Mark

MAX_PUBLISHERS = 1 << 16
"""Publishers whose last sequence is remembered; the longest silent one is forgotten first."""


class PublisherSequences:
    """What came last of each publisher; (publisher, sequence) names a message wherever it comes from."""

    def __init__(self) -> None:
        self._last: OrderedDict[int, int] = OrderedDict()

    def judge(self, publisher: int, sequence: int) -> tuple[bool, int]:
        """Whether the message is new, and how many before it are missing; a first message misses all before it."""
        last = self._last.get(publisher, -1)
        if sequence <= last:
            return False, 0
        self._last[publisher] = sequence
        self._last.move_to_end(publisher)
        if len(self._last) > MAX_PUBLISHERS:
            self._last.popitem(last=False)
        return True, sequence - last - 1


def published_items(
    source: str, publisher: int, sequence: int, frame: bytes, sequences: PublisherSequences
) -> Iterator[Item]:
    """One message as items: a record for each worker in it."""
    new, missing = sequences.judge(publisher, sequence)
    place = f"publisher {publisher} sequence {sequence}"
    if not new:
        yield Noticed(NoticeKind.DUPLICATE, source, f"{place} came again")
        return
    if missing:
        yield Noticed(NoticeKind.GAP, source, f"{place}: {missing} messages before it never came", missing)
    try:
        envelope = decode_frame(frame)
        if (envelope.publisher_id, envelope.sequence) != (publisher, sequence):
            raise MalformedEvent(
                f"the envelope says publisher {envelope.publisher_id} sequence {envelope.sequence}, the message {place}"
            )
        events = decode_payload(envelope.payload)
    except MalformedEvent as error:
        yield Refused(source, place, str(error), frame, Mark(f"dynamo-{publisher:x}", 0, sequence))
        return
    by_worker: dict[int, list[KvEvent]] = {}
    for event in events:
        by_worker.setdefault(event.worker_id, []).append(event)
    for worker_id, of_worker in by_worker.items():
        for part, group in enumerate(event_groups(of_worker)):
            mark = Mark(f"dynamo-{publisher:x}-{worker_id}" + (f"+{part}" if part else ""), 0, sequence)
            blocks = sum(len(event.block_hashes) for event in group) // 8
            yield Taken(encode_events(group, mark=mark, timestamp_ms=envelope.published_ms), len(group), blocks)
