"""Where a record came from in NATS, the same for a migration and a mirror, so that either goes on behind the other.

* **The mark is the stream's place and the sequence**, so whoever appends a message again, in whatever run, doubles
  nothing.
* What a topic holds of a stream is found in the topic itself, from its marks.

The form of a record is `dynlog.migrations.mirror.inbound`'s.
"""

from __future__ import annotations

from functools import lru_cache

from dynlog.adapters.nats.streams import StreamMessage
from dynlog.batch import Position
from dynlog.log import Log
from dynlog.migrations.mirror.inbound import SOURCE, SUBJECT, producer_of, to_record
from dynlog.migrations.mirror.path import PATH
from dynlog.record import Mark, Record

SOURCE_LABEL = "dynlog.from-nats"
"""Label of a topic that a stream was moved into: the stream's place, and how it is spread over partitions."""
MOST_BACKWARDS = 1 << 16


def record_of(message: StreamMessage, place: str) -> Record:
    """What `to_record` makes of the message, and faster for one without headers; raises as that does."""
    if message.headers or message.malformed is not None:
        return to_record(message, place)
    subject, source, path, producer = _constants(message.subject, place)
    sequence, time_ns = message.sequence, message.time_ns
    headers = {SOURCE: b"%b%d/%d" % (source, sequence, time_ns), SUBJECT: subject, PATH: path}
    return Record((message.data,), subject, headers, None, time_ns // 1_000_000, Mark(producer, 0, sequence))


@lru_cache(maxsize=1024)
def _constants(subject: str, place: str) -> tuple[bytes, bytes, bytes, str]:
    encoded = place.encode("utf-8", "replace")
    return subject.encode("utf-8", "surrogateescape"), f"{place}/".encode(), encoded, producer_of(place)


async def last_sequences(log: Log, topic: str, place: str) -> dict[int, int]:
    """Per partition the highest sequence of the stream that is there; partitions without one are left out.

    Reads backwards, in ever larger pieces, and only as far as it must.
    """
    info, producer = await log.topic(topic), producer_of(place)
    found: dict[int, int] = {}
    for state in await log.partitions(topic):
        step, upper = 64, state.end
        while upper > state.earliest and state.partition not in found:
            lower = max(upper - step, state.earliest)
            start = Position(info.name, info.incarnation, state.partition, lower)
            last = await _last_between(log, start, upper, producer)
            if last is not None:
                found[state.partition] = last
            step, upper = min(step * 8, MOST_BACKWARDS), lower
    return found


async def _last_between(log: Log, position: Position, end: int, producer: str) -> int | None:
    last: int | None = None
    while position.offset < end:
        batch = await log.read(position)
        # What lies at or beyond the end is only more of the same stream: later, and so higher.
        for run in batch.marks:
            if run.producer_id == producer:
                last = max(last or 0, run.sequence + run.length - 1)
        position = batch.next_position
        if batch.next_offset >= batch.end_offset:
            break
    return last


async def offset_behind(log: Log, position: Position, place: str, sequence: int) -> int:
    """The offset of the first record of the stream with a higher sequence; the end if there is none.

    ``position`` names the partition and its lowest offset to look at.  Bisects: some twenty short reads.
    """
    low, producer = position.offset, producer_of(place)
    high = (await log.partitions(position.topic))[position.partition].end
    while low < high:
        middle = (low + high) // 2
        at, found = await _first_from(log, position._replace(offset=middle), high, producer)
        if found is None or found > sequence:
            high = middle
        else:
            low = at + 1
    return low


async def _first_from(log: Log, position: Position, end: int, producer: str) -> tuple[int, int | None]:
    """The first record of the stream from there on: its offset and its sequence; what others wrote is passed over."""
    few: int | None = 16
    while position.offset < end:
        batch = await log.read(position, max_records=few)
        for run in batch.marks:
            if run.producer_id == producer:
                offset = batch.offsets[run.start]
                return (offset, run.sequence) if offset < end else (end, None)
        position, few = batch.next_position, None
        if batch.next_offset >= batch.end_offset:
            break
    return end, None
