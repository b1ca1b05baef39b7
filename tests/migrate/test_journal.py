"""The journal says what is in the target, whoever reads it, and nobody else's lines get into it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import dynlog
from dynlog.errors import ConfigurationError, KeyExists, ProducerFenced
from dynlog.log import Log
from dynlog.migrations.nats.contract import Item, Moved, Outcome, Refusal
from dynlog.migrations.nats.journal import TOPIC, Journal, Stage
from dynlog.migrations.nats.keys import decode_name, encode_name, key_of
from dynlog.migrations.nats.lock import only_one
from dynlog.migrations.nats.status import status_of
from tests.migrate.test_objects import NAMES

ITEM = Item(kind="objects", source="weights", target="nats/weights/", count=2, last_seq=9)


@pytest_asyncio.fixture
async def log() -> AsyncIterator[Log]:
    """An empty log."""
    async with dynlog.open_log("memory://") as log:
        yield log


def line(name: str, sequence: int, size: int = 1) -> Moved:
    return Moved(item=ITEM.id, name=name, source_seq=sequence, target=f"t/{name}", size=size, checksum="c")


async def test_what_was_written_is_read_by_whoever_comes_later(log: Log) -> None:
    async with Journal.write(log, "m") as journal:
        await journal.begin(ITEM, "nats://there")
        await journal.making(ITEM.id, "topic", "t")
        await journal.making(ITEM.id, "topic", "t")
        await journal.moved(line("a", 3))
        await journal.moved_soon(line("b", 7))
        await journal.moved(line("a", 5))
        await journal.end(Outcome(item=ITEM.id, moved=2))
    read = await Journal.read(log, "m")
    assert read.items == journal.items
    assert read.lines(ITEM.id) == {"a": line("a", 5), "b": line("b", 7)}
    assert (read.last_seq(ITEM.id), read.made(ITEM.id, "topic"), read.made(ITEM.id, "object")) == (7, ["t"], [])
    (status,) = status_of(read)
    assert (status.stage, status.moved, status.source_seq, status.source) == (Stage.DONE, 2, 7, "nats://there")
    assert (await log.partitions(TOPIC))[0].end == 6


async def test_an_item_with_something_refused_is_partial_and_begins_again(log: Log) -> None:
    async with Journal.write(log, "m") as journal:
        await journal.begin(ITEM, "nats://there")
        await journal.end(Outcome(item=ITEM.id, refused=(Refusal(name="a", why="torn"),)))
        assert journal.items[ITEM.id].stage is Stage.PARTIAL
        await journal.begin(ITEM, "nats://there")
        assert journal.items[ITEM.id].stage is Stage.BEGUN


async def test_what_was_taken_back_is_forgotten_unless_something_stays(log: Log) -> None:
    async with Journal.write(log, "m") as journal:
        await journal.begin(ITEM, "nats://there")
        await journal.moved(line("a", 3))
        await journal.taken_back(Outcome(item=ITEM.id, refused=(Refusal(name="a", why="changed"),)))
        assert (journal.items[ITEM.id].stage, journal.last_seq(ITEM.id)) == (Stage.PARTIAL, 3)
        await journal.taken_back(Outcome(item=ITEM.id))
        assert (journal.items[ITEM.id].stage, journal.last_seq(ITEM.id)) == (Stage.TAKEN_BACK, 0)


async def test_migrations_of_other_names_and_lines_of_newer_releases_are_passed_over(log: Log) -> None:
    async with Journal.write(log, "m") as journal, Journal.write(log, "other") as other:
        await other.begin(ITEM, "nats://other")
        await journal.begin(ITEM, "nats://there")
    async with dynlog.Producer(log, TOPIC) as producer:
        await producer.send(dynlog.Record((b'{"line": "of the future"}',), b"m"), partition=0)
    read = await Journal.read(log, "m")
    assert (read.items[ITEM.id].source, read.unreadable) == ("nats://there", 1)


async def test_an_earlier_writer_is_fenced_by_a_later_one(log: Log) -> None:
    async with Journal.write(log, "m") as first:
        await first.begin(ITEM, "nats://there")
        async with Journal.write(log, "m") as second:
            await second.begin(ITEM, "nats://there")
            with pytest.raises(ProducerFenced):
                await first.moved(line("a", 1))


async def test_a_journal_that_was_opened_to_be_read_is_not_written(log: Log) -> None:
    with pytest.raises(ConfigurationError, match="opened to be read"):
        await (await Journal.read(log, "m")).begin(ITEM, "nats://there")


HOLDER = """
import asyncio, sys
import dynlog
from dynlog.migrations.nats.lock import only_one

async def hold():
    async with dynlog.open_log(sys.argv[1]) as log, only_one(log, "m"):
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


async def test_the_lock_of_a_process_that_was_killed_here_is_free_at_once(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/log.db"
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, url, stdout=asyncio.subprocess.PIPE
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        async with asyncio.timeout(60):
            assert await holder.stdout.readline() == b"held\n"
        async with dynlog.open_log(url) as log:
            with pytest.raises(KeyExists, match=f"process {holder.pid} on .* is at this migration"):
                async with only_one(log, "m"):
                    pass
            async with only_one(log, "other"):
                pass
            holder.kill()
            await holder.wait()
            begun = asyncio.get_running_loop().time()
            async with only_one(log, "m", ttl_s=600):
                pass
            assert asyncio.get_running_loop().time() - begun < 60
    finally:
        if holder.returncode is None:
            holder.kill()
        await holder.wait()


@pytest.mark.parametrize("name", [*NAMES, "\U0010ffff", "%~", "/", "//", "a/..", "../.."])
def test_a_key_leads_back_to_its_name(name: str) -> None:
    assert key_of("nats", "b", name)
    assert decode_name(encode_name(name)) in (name, None)
    assert (decode_name(encode_name(name)) is None) == (len(name) > 600)
