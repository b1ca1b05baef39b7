"""Where a mirror goes on: found in the target itself, by what each of its records says of where it came from.

The book says up to where nothing has to be looked at any more; behind that the topic is read from its end backwards, or
the stream forwards, until what is there is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.streams import StreamInfo, read_stream
from dynlog.batch import Position
from dynlog.errors import OffsetTruncated
from dynlog.log import Log
from dynlog.migrations.mirror.inbound import Source, source_of
from dynlog.migrations.mirror.outbound import MESSAGE_ID, read_message_id
from dynlog.migrations.mirror.path import stream_place
from dynlog.topics import Topic

FIRST_STEP, LAST_STEP = 64, 1 << 14


async def newest_in_topic(log: Log, topic: Topic, place: str, floors: Mapping[int, int]) -> dict[int, Source]:
    """By partition where the newest record that came from that place lay, if there is one at or above the floor."""
    found = {}
    for state in await log.partitions(topic.name):
        floor = max(floors.get(state.partition, 0), state.earliest)
        newest = await _newest(log, topic, state.partition, place, floor, state.end)
        if newest is not None:
            found[state.partition] = newest
    return found


async def _newest(log: Log, topic: Topic, partition: int, place: str, floor: int, end: int) -> Source | None:
    """Backwards in growing steps.  Within a partition the sequences of a place rise, but for repeats that an engine
    left to the reader: the highest of a step is the one."""
    step, upper = FIRST_STEP, end
    while upper > floor:
        lower = max(upper - step, floor)
        newest: Source | None = None
        position = Position(topic.name, topic.incarnation, partition, lower)
        while position.offset < upper:
            try:
                batch = await log.read(position)
            except OffsetTruncated as error:  # meanwhile, by retention
                position = position._replace(offset=error.earliest)
                continue
            for offset, headers in zip(batch.offsets, batch.columns.headers or [], strict=False):
                source = source_of(headers) if offset < upper else None
                if source is not None and source.place == place:
                    newest = source if newest is None or source.sequence > newest.sequence else newest
            position = batch.next_position
        if newest is not None:
            return newest
        upper, step = lower, min(step * 4, LAST_STEP)
    return None


async def in_streams(
    server: NatsServer,
    streams: Sequence[StreamInfo],
    incarnation: str,
    starts: Mapping[int, int],
    floors: Mapping[str, int],
) -> dict[int, set[int]]:
    """By partition the offsets at or above its start which are in one of the streams above its floor."""
    found: dict[int, set[int]] = {}
    for info in streams:
        first = max(floors.get(stream_place(info), 0) + 1, info.first_seq)
        if first > info.last_seq:
            continue
        async for message in read_stream(server, info, first=first, last=info.last_seq):
            for text in (message.headers or {}).get(MESSAGE_ID, ()):
                at = read_message_id(text, incarnation)
                if at is not None and at[1] >= starts.get(at[0], 0):
                    found.setdefault(at[0], set()).add(at[1])
    return found
