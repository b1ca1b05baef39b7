"""Files of events: the same file makes the same records, whatever happened in between."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from dynlog.adapters.dynamo_json import decode_line, encode_line
from dynlog.errors import ConfigurationError, MalformedEvent
from dynlog.ingest import IngestStats, ingest
from dynlog.ingest_items import Item, Refused, Taken
from dynlog.ingest_lines import line_items
from dynlog.kvevents import Kind, KvEvent, decode_events, pack_hashes
from dynlog.log import Log
from dynlog.open import open_log

TOPIC = "kv"


@pytest.fixture
async def log() -> AsyncGenerator[Log, None]:
    async with open_log("memory://") as opened:
        await opened.create_topic(TOPIC, partitions=3)
        yield opened


def fleet(events: int = 1000) -> list[KvEvent]:
    """Events of five workers, one block each."""
    return [
        KvEvent(n % 5, Kind.STORED, pack_hashes([n + 1]), pack_hashes([n + 1]), event_id=n // 5) for n in range(events)
    ]  # fmt: skip


def write(path: Path, events: list[KvEvent]) -> Path:
    body = b"".join(encode_line(event) + b"\n" for event in events)
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


async def items_of(path: Path | str) -> list[Item]:
    return [item async for item in line_items(str(path), decode_line)]


async def run(log: Log, path: Path | str) -> IngestStats:
    return await ingest(log, TOPIC, line_items(str(path), decode_line))


async def events_by_worker(log: Log) -> dict[int, list[KvEvent]]:
    found: dict[int, list[KvEvent]] = {}
    for state in await log.partitions(TOPIC):
        position = await log.position(TOPIC, state.partition)
        while position.offset < state.end:
            batch = await log.read(position)
            for stored in batch:
                for event in decode_events(stored.record.key, stored.record.parts):
                    found.setdefault(event.worker_id, []).append(event)
            position = batch.next_position
    return found


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
async def test_every_event_is_stored_in_its_workers_order(log: Log, tmp_path: Path, name: str) -> None:
    events = fleet()
    stats = await run(log, write(tmp_path / name, events))
    assert stats.events == stats.blocks == 1000
    assert stats.records < 50  # what stands together is stored together
    assert await events_by_worker(log) == {w: [e for e in events if e.worker_id == w] for w in range(5)}


async def test_marks_are_the_files_digest_and_lines_and_are_the_same_in_every_run(tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", fleet())
    first, second = await items_of(path), await items_of(path)
    assert first == second
    marks = [item.record.mark for item in first if isinstance(item, Taken) and item.record.mark]
    assert len({mark.producer_id for mark in marks}) == 1
    assert marks[0].producer_id.startswith("file:")
    assert [mark.sequence for mark in marks] == sorted({mark.sequence for mark in marks})


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
async def test_groups_begin_at_fixed_lines_however_the_file_is_read(tmp_path: Path, name: str) -> None:
    events = [event._replace(worker_id=1) for event in fleet(12_000)]
    taken = [item for item in await items_of(write(tmp_path / name, events)) if isinstance(item, Taken)]
    assert [item.record.mark.sequence for item in taken if item.record.mark] == list(range(1, 12_001, 256))


async def test_a_file_that_is_ingested_twice_changes_nothing(log: Log, tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", fleet())
    await run(log, path)
    before = await log.partitions(TOPIC)
    stats = await run(log, path)
    assert await log.partitions(TOPIC) == before
    assert stats.repeats == stats.records


async def test_malformed_lines_are_parked_with_their_number_and_the_others_are_taken(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [encode_line(event) for event in fleet(4)]
    lines[1:1] = [b"{nonsense", b"", b"   ", b"x" * 5_000_000]
    path.write_bytes(b"\r\n".join(lines))
    stats = await run(log, path)
    assert (stats.events, stats.rejected) == (4, 2)
    parked = [stored.record for stored in await log.read(await log.position(f"{TOPIC}.rejected", 0))]
    assert [record.headers["place"] for record in parked] == [b"line 2", b"line 5"]
    assert b"not JSON" in parked[0].headers["reason"]
    assert b"a line of more than" in parked[1].headers["reason"]


async def test_a_last_line_without_an_end_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(encode_line(fleet(1)[0]) + b"\n" + encode_line(fleet(1)[0])[:-5])
    taken, refused = sorted(await items_of(path), key=lambda item: isinstance(item, Refused))
    assert isinstance(taken, Taken)
    assert isinstance(refused, Refused)
    assert refused.place == "line 2"


async def test_a_worker_with_much_to_say_gets_several_records_that_each_fit_an_append(log: Log, tmp_path: Path) -> None:
    hashes = [pack_hashes(range(n * 8192 + 1, (n + 1) * 8192 + 1)) for n in range(30)]
    events = [KvEvent(1, Kind.STORED, packed, packed) for packed in hashes]
    stats = await run(log, write(tmp_path / "events.jsonl", events))
    assert stats.records > 10
    assert await events_by_worker(log) == {1: events}


def cut_short(body: bytes) -> bytes:
    return body[:-40]


def wrong_crc(body: bytes) -> bytes:
    return body[:-8] + bytes([body[-8] ^ 1]) + body[-7:]


@pytest.mark.parametrize("spoil", [cut_short, wrong_crc])
async def test_a_broken_gzip_says_where_how_many_events_were_taken_and_what_the_good_file_will_do(
    log: Log, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "events.jsonl.gz", fleet(20_000))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(MalformedEvent, match=r"breaks off after \d+ bytes of content") as broken:
        await run(log, path)
    taken = sum(map(len, (await events_by_worker(log)).values()))
    assert taken > 10_000
    assert f"the {taken} events of its first {taken} lines were taken" in str(broken.value)
    assert "another digest" in str(broken.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
async def test_a_file_that_cannot_be_read_is_named(log: Log, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        await run(log, tmp_path / name)


PIPED = """
import asyncio, sys
from dynlog.adapters.dynamo_json import decode_line
from dynlog.ingest import ingest
from dynlog.ingest_lines import line_items
from dynlog.open import open_log

async def main():
    async with open_log("memory://") as log:
        await log.create_topic("kv")
        print("ready", flush=True)
        items = line_items("-", decode_line)
        stats = await ingest(log, "kv", items, progress=lambda s: print("events", s.events, flush=True))
        (batch,) = [await log.read(await log.position("kv", 0))]
        print("producer", next(iter(batch)).record.mark.producer_id.split(":")[0], flush=True)

asyncio.run(main())
"""


async def test_a_pipe_is_read_as_it_comes_and_a_redirected_file_counts_as_that_file(tmp_path: Path) -> None:
    line = encode_line(fleet(1)[0]) + b"\n"
    root = {"cwd": str(Path(__file__).parents[2]), "stdout": asyncio.subprocess.PIPE}
    pipe, feed = os.pipe()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PIPED, stdin=pipe, **root)  # type: ignore[arg-type]
    os.close(pipe)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    os.write(feed, line)
    assert await asyncio.wait_for(process.stdout.readline(), 20) == b"events 1\n"
    os.write(feed, line)
    os.close(feed)
    assert (await asyncio.wait_for(process.stdout.read(), 20)).endswith(b"producer pipe\n")
    assert await process.wait() == 0

    path = tmp_path / "events.jsonl"
    path.write_bytes(line)
    with path.open("rb") as file:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PIPED, stdin=file, **root)  # type: ignore[arg-type]
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert out.endswith(b"producer file\n")


def test_lines_that_python_writes_are_lines_that_are_read() -> None:
    assert json.loads(encode_line(fleet(1)[0]))["event"]["data"]["stored"]["parent_hash"] is None
