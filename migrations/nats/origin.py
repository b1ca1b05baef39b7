"""Where a record came from in NATS: said in its headers and its mark, the same for a migration and a mirror.

* **The mark is the stream and the sequence**, so whoever appends a message again, in whatever run, doubles nothing.
* **Nothing of a message is lost**: several values of one header are joined by CR LF, which no NATS header can hold; a
  header block that follows no rule is kept whole.
* The stream is named with its creation, so one that was made anew under the same name is another source.

    key        the subject                      timestamp   when the stream took it
    part 0     the data                         mark        ("nats:<id of the stream>", 0, sequence)
    headers    dynlog-nats-from     stream/sequence/time in ns
               dynlog-nats-subject  the subject
               dynlog-nats-headers  the header block as it was, where it follows no rule
               and the message's own, except any of these names
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import xxhash

from dynlog.adapters.nats.streams import StreamInfo, StreamMessage
from dynlog.batch import Position
from dynlog.log import Log
from dynlog.record import Mark, Record

FROM = "dynlog-nats-from"
SUBJECT = "dynlog-nats-subject"
BLOCK = "dynlog-nats-headers"
OWN = frozenset({FROM, SUBJECT, BLOCK})
SOURCE_LABEL = "dynlog.from-nats"
"""Label of a topic that a stream was moved into: ``stream/id``, and how it is spread where that is not into one."""
SEVERAL = "\r\n"
MOST_BACKWARDS = 1 << 16


@dataclass(frozen=True, slots=True)
class StreamSource:
    """A stream as a source of records."""

    name: str
    id: str
    producer: str = field(init=False)
    """The producer of its records' marks."""
    prefix: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "producer", f"nats:{self.id}")
        object.__setattr__(self, "prefix", f"{self.name}/".encode())


class Origin(NamedTuple):
    """Where a record lay."""

    stream: str
    sequence: int
    time_ns: int


def source_of(info: StreamInfo) -> StreamSource:
    """Names the stream for ever: a later one of the same name is another."""
    return StreamSource(info.name, xxhash.xxh3_64_hexdigest(f"{info.name}\0{info.created}".encode()))


def record_of(message: StreamMessage, source: StreamSource) -> Record:
    """The record that a message becomes."""
    sequence, time_ns = message.sequence, message.time_ns
    subject = _subject(message.subject)
    headers = {FROM: b"%b%d/%d" % (source.prefix, sequence, time_ns), SUBJECT: subject}
    if message.headers:
        for name, values in message.headers.items():
            if name not in OWN:
                headers[name] = SEVERAL.join(values).encode("utf-8", "surrogateescape")
    if message.malformed is not None:
        headers[BLOCK] = message.malformed
    mark = Mark(source.producer, 0, sequence)
    return Record((message.data,), subject, headers, None, time_ns // 1_000_000, mark)


@lru_cache(maxsize=1024)
def _subject(subject: str) -> bytes:
    return subject.encode("utf-8", "surrogateescape")


def origin_of(record: Record) -> Origin | None:
    """Where the record came from, None if not from a stream."""
    try:
        stream, sequence, time_ns = record.headers[FROM].decode().rsplit("/", 2)
        return Origin(stream, int(sequence), int(time_ns))
    except (KeyError, ValueError):
        return None


def original_headers(record: Record) -> dict[str, list[str]]:
    """The message's own headers, as NATS had them."""
    return {
        name: value.decode("utf-8", "surrogateescape").split(SEVERAL)
        for name, value in record.headers.items()
        if name not in OWN
    }


async def last_sequences(log: Log, topic: str, source: StreamSource) -> dict[int, int]:
    """Per partition the highest sequence of the stream that is there; partitions without one are left out.

    Reads backwards, in ever larger pieces, and only as far as it must.
    """
    info = await log.topic(topic)
    found: dict[int, int] = {}
    for state in await log.partitions(topic):
        step, upper = 64, state.end
        while upper > state.earliest and state.partition not in found:
            lower = max(upper - step, state.earliest)
            start = Position(info.name, info.incarnation, state.partition, lower)
            last = await _last_between(log, start, upper, source.producer)
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


async def offset_behind(log: Log, position: Position, source: StreamSource, sequence: int) -> int:
    """The offset of the first record of the stream with a higher sequence; the end if there is none.

    ``position`` names the partition and its lowest offset to look at.  Bisects: some twenty short reads.
    """
    low = position.offset
    high = (await log.partitions(position.topic))[position.partition].end
    while low < high:
        middle = (low + high) // 2
        at, found = await _first_from(log, position._replace(offset=middle), high, source.producer)
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
