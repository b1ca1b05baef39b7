"""A rollback leaves a topic to whoever reads it, and says who that is and what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import pytest_asyncio
from nats.js.api import ConsumerConfig

from dynlog.adapters.nats.access import NatsAccess
from dynlog.adapters.nats.streams import stream_info
from dynlog.consumer import Consumer
from dynlog.group_admin import remove_group
from dynlog.kv import open_kv
from dynlog.log import Log
from dynlog.migrations.mirror.book import open_book
from dynlog.migrations.mirror.choice import Choice
from dynlog.migrations.mirror.counts import Standing
from dynlog.migrations.mirror.cutover import cut_over
from dynlog.migrations.mirror.inward import StreamMirror
from dynlog.migrations.mirror.running import mirror_out, mirror_stream
from dynlog.migrations.nats.contract import Item, Outcome
from dynlog.migrations.nats.kv import KvMover
from dynlog.migrations.nats.streams import StreamMover
from tests.migrate_streams.source import Migration, Source

pytestmark = pytest.mark.dynlog_engines("sqlite")


class Moved(Migration):
    """Stream S with six messages, of which its consumer w has acknowledged two, applied."""

    item: Item
    source: Source

    async def back(self) -> Outcome:
        """The rollback."""
        return await self.rollback(self.item)

    async def acknowledge(self, count: int) -> None:
        """The consumer goes on in NATS."""
        subscription = await self.source.js.pull_subscribe_bind("w", "S")
        for message in await subscription.fetch(count, timeout=5):
            await message.ack_sync()
        await subscription.unsubscribe()


@pytest_asyncio.fixture
async def moved(source: Source, dynlog_log: Log) -> Moved:
    await source.stream("S", "s")
    await source.fill("s", 6)
    await source.js.add_consumer("S", ConsumerConfig(durable_name="w"))
    moved = Moved(StreamMover(), source.server, dynlog_log)
    moved.source = source
    await moved.acknowledge(2)
    moved.item = await moved.planned("S")
    await moved.apply(moved.item)
    return moved


def whys(outcome: Outcome) -> Sequence[str]:
    """Why the topic stays, which it does as a whole."""
    assert outcome.moved == 0
    assert {refusal.name for refusal in outcome.refused} == {"S"}
    return [refusal.why for refusal in outcome.refused]


def silent(standing: Standing) -> None:
    """Nobody looks."""


async def gone_on(log: Log, offset: int) -> None:
    """A worker of the group takes some, and ends."""
    generation = await log.open_generation("w", "S")
    await log.commit("w", "S", {0: offset}, generation=generation)


async def test_a_group_that_only_stands_where_applies_set_it_does_not_keep_a_topic(moved: Moved) -> None:
    await moved.acknowledge(2)
    await moved.apply(moved.item)
    outcome = await moved.back()
    assert (outcome.moved, outcome.refused) == (6, ())


async def test_a_group_that_went_on_from_where_it_was_set_keeps_its_topic_until_it_is_forgotten(moved: Moved) -> None:
    await gone_on(moved.log, 5)
    (why,) = whys(await moved.back())
    assert "group w reads it (at 0/5, the migration set 0/2): it stays" in why
    assert "dynlog group remove S w" in why
    await remove_group(moved.log, "S", "w")
    assert (await moved.back()).moved == 6


async def test_a_group_that_a_later_apply_moved_further_is_still_somebodys(moved: Moved) -> None:
    await gone_on(moved.log, 3)
    await moved.acknowledge(4)
    await moved.apply(moved.item)
    (why,) = whys(await moved.back())
    assert "(at 0/6, the migration set 0/2)" in why


async def test_a_group_of_others_keeps_a_topic(moved: Moved) -> None:
    await moved.log.commit("audit", "S", {0: 6}, generation=await moved.log.open_generation("audit", "S"))
    (why,) = whys(await moved.back())
    assert "group audit reads it (at 0/6)" in why


async def test_a_group_with_a_live_member_keeps_its_topic_although_it_has_done_nothing_yet(moved: Moved) -> None:
    async with Consumer.open(moved.log, "S", group="w") as consumer:
        assert await consumer.next(wait=20) is not None
        (why,) = whys(await moved.back())
        assert "group w has a live member" in why
    assert (await moved.back()).moved == 6


async def test_a_mirror_of_the_stream_keeps_the_topic_although_all_in_it_was_the_streams(moved: Moved) -> None:
    await moved.source.fill("s", 1, start=7)
    await mirror_stream(moved.server, moved.log, "S", "S", silent, once=True)
    (why,) = whys(await moved.back())
    assert "a mirror brings stream 'S' into it (at 7): it stays; stop the mirror" in why
    assert "dynlog log delete S" in why


async def test_a_topic_to_which_its_stream_was_cut_over_stays(moved: Moved) -> None:
    book, info = await open_book(moved.log), await stream_info(moved.server, "S")
    mirror = StreamMirror(moved.server, moved.log, book, info, await moved.log.topic("S"), Choice())
    await mirror.open((await book.read())[0])
    await cut_over(moved.server, book, mirror, 0.01, silent)
    (why,) = whys(await moved.back())
    assert "stream 'S' was cut over to it (at 6), so it goes on here" in why


async def test_a_mirror_outwards_keeps_its_topic_until_its_position_is_forgotten(moved: Moved) -> None:
    access = NatsAccess("nats://{}:{}".format(*moved.source.place))
    await mirror_out(moved.server, access, moved.log, "S", ["out.s"], silent, once=True)
    (why,) = whys(await moved.back())
    assert "a mirror outwards to out.s reads it (at 0/6)" in why
    (group,) = re.findall(r"dynlog group remove S (mirror\.\w+)", why)
    await moved.log.release("S", f"group:{group}")  # as after a day: the position is kept, and still somebody's
    assert whys(await moved.back()) == [why]
    await remove_group(moved.log, "S", group)
    assert (await moved.back()).moved == 6


async def test_a_bucket_that_somebody_watches_stays_until_he_has_ended(source: Source, dynlog_log: Log) -> None:
    await (await source.js.create_key_value(bucket="B")).put("k", b"v")
    moving = Migration(KvMover(), source.server, dynlog_log)
    item = await moving.planned("B")
    await moving.apply(item)
    async with open_kv(dynlog_log) as kv:
        assert await (await kv.bucket("B")).get("k") is not None
        outcome = await moving.rollback(item)
        assert outcome.moved == 0
        assert "follows it (heard of" in outcome.refused[0].why
        assert "dynlog log holders dynlog.kv.B --release kv:" in outcome.refused[0].why
    assert (await moving.rollback(item)).moved == 1
