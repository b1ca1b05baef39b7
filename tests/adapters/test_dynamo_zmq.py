"""Dynamo's ZMQ event plane: messages of the real publisher, and of one built from formats.md."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import pytest

from dynlog.adapters.dynamo_envelope import Envelope, encode_frame
from dynlog.adapters.dynamo_json import router_event
from dynlog.adapters.dynamo_zmq import PublisherSequences, dynamo_items, message_items
from dynlog.adapters.sources import parse_source
from dynlog.errors import ConfigurationError
from dynlog.hashing import hash_tokens
from dynlog.ingest import ingest
from dynlog.ingest_items import Item, Noticed, NoticeKind, Refused, Taken
from dynlog.kvevents import Kind, KvEvent, decode_events, pack_hashes, unpack_hashes
from dynlog.open import open_log
from tests.adapters.dynamo_publisher import BLOCK_SIZE
from tests.adapters.harness import DEADLINE_S, TOPIC, Watcher, kinds

PUBLISHER = 0xABC


def message(sequence: int, *events: KvEvent, publisher: int = PUBLISHER, framed: bool = True) -> list[bytes]:
    payload = msgpack.packb([router_event(event) for event in events])
    frame = encode_frame(Envelope("kv-events", publisher, sequence, 1, payload), framed=framed)
    return [b"kv-events", publisher.to_bytes(8, "big"), sequence.to_bytes(8, "big"), frame]


def stored(worker_id: int, block: int) -> KvEvent:
    return KvEvent(worker_id, Kind.STORED, pack_hashes([block]), pack_hashes([block]))


def items(*messages: list[bytes]) -> list[Item]:
    sequences = PublisherSequences()
    return [item for frames in messages for item in message_items("test", frames, sequences)]


def test_a_message_becomes_a_record_for_each_worker_marked_by_publisher_and_sequence() -> None:
    first, second = items(message(0, stored(1, 10), stored(2, 20), stored(1, 11)))
    assert isinstance(first, Taken)
    assert isinstance(second, Taken)
    assert first.record.mark == ("dynamo-abc-1", 0, 0)
    assert second.record.mark == ("dynamo-abc-2", 0, 0)
    blocks = [event.block_hashes for event in decode_events(first.record.key, first.record.parts)]
    assert blocks == [pack_hashes([10]), pack_hashes([11])]


def test_a_message_that_two_brokers_bring_is_taken_once() -> None:
    taken, duplicate = items(message(0, stored(1, 10)), message(0, stored(1, 10), framed=False))
    assert isinstance(taken, Taken)
    assert isinstance(duplicate, Noticed)
    assert duplicate.kind is NoticeKind.DUPLICATE


def test_a_gap_is_counted_per_publisher() -> None:
    seen = items(message(0, stored(1, 1)), message(0, stored(1, 1), publisher=5), message(4, stored(1, 2)))
    gaps = [item for item in seen if isinstance(item, Noticed)]
    assert [(gap.kind, gap.times) for gap in gaps] == [(NoticeKind.GAP, 3)]


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        ([b"a"], "a message of frames"),
        ([b"a", b"1", b"2", b"c"], "a message of frames"),
        ([*message(0, stored(1, 1))[:3], b"\x01"], "header"),
        ([*message(0, stored(1, 1))[:3], message(1, stored(1, 1))[3]], "the envelope says"),
    ],
)
def test_a_message_that_does_not_fit_is_refused_by_name(frames: list[bytes], named: str) -> None:
    (refused,) = items(frames)
    assert isinstance(refused, Refused)
    assert named in refused.reason


def test_a_message_larger_than_a_record_is_split_and_nothing_of_it_is_lost() -> None:
    blocks = list(range(1, 30_001))
    event = KvEvent(1, Kind.STORED, pack_hashes(blocks), pack_hashes(blocks), parent_hash=99_999)
    taken = [item for item in items(message(0, event)) if isinstance(item, Taken)]
    assert len({item.record.mark for item in taken}) == len(taken) > 1
    pieces = [piece for item in taken for piece in decode_events(item.record.key, item.record.parts)]
    assert [block for piece in pieces for block in unpack_hashes(piece.block_hashes)] == blocks
    assert [piece.parent_hash for piece in pieces] == [99_999] + [
        unpack_hashes(piece.block_hashes)[-1] for piece in pieces[:-1]
    ]  # fmt: skip


async def test_options_that_mean_nothing_here_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="knows topic= only"):
        await anext(dynamo_items([parse_source("tcp://a:1?worker_id=5")]))


@asynccontextmanager
async def real_publisher(folder: Path) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str], None]:
    """The wheel's publisher and the address at which it publishes."""
    script = str(Path(__file__).with_name("dynamo_publisher.py"))
    environment = os.environ | {"DYN_FILE_KV": str(folder), "DYN_EVENT_PLANE_HOST": "127.0.0.1", "DYN_LOG": "error"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), DEADLINE_S) == b"ready\n"
        async with asyncio.timeout(DEADLINE_S):
            while not (found := _address(folder)):  # noqa: ASYNC110 - another process writes it when it likes
                await asyncio.sleep(0.02)
        yield process, found
    finally:
        process.kill()
        await process.wait()


def _address(folder: Path) -> str | None:
    for path in folder.rglob("event_channels/*"):
        for file in [path, *path.rglob("*")]:
            found = re.search(r"tcp://[0-9.:]+", file.read_text()) if file.is_file() else None
            if found:
                return found[0]
    return None


async def command(process: asyncio.subprocess.Process, line: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line.encode() + b"\n")
    assert await asyncio.wait_for(process.stdout.readline(), DEADLINE_S) == b"done\n"


async def test_the_publisher_of_ai_dynamo_runtime_is_understood(tmp_path: Path) -> None:
    async with open_log("memory://") as log, real_publisher(tmp_path) as (process, address):
        await log.create_topic(TOPIC)
        stop = asyncio.Event()
        running = asyncio.create_task(ingest(log, TOPIC, dynamo_items([parse_source(address)]), stop=stop))
        # A PUB socket drops what it sends before the subscription arrived, so a first event is repeated until seen.
        seen: list[KvEvent] = []
        async with asyncio.timeout(DEADLINE_S):
            while not seen:
                await command(process, "store 1")
                batch = await log.read(await log.position(TOPIC, 0), wait=0.2)
                seen = [event for one in batch for event in decode_events(one.record.key, one.record.parts)]
        await command(process, "store 11 -12")
        await command(process, "remove 11")
        events = await Watcher(log).until(lambda events: Kind.REMOVED in kinds(events))
        stop.set()
        stats = await running
    two = next(event for event in events if len(event.block_hashes) == 16)
    assert (two.worker_id, two.dp_rank, two.kind) == (4242, 1, Kind.STORED)
    assert list(unpack_hashes(two.block_hashes)) == [11, 2**64 - 12]
    assert list(unpack_hashes(two.tokens_hashes)) == hash_tokens(range(2 * BLOCK_SIZE), BLOCK_SIZE)
    assert stats.rejected == 0
