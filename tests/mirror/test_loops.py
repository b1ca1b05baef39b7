"""What came from a place never goes back to it, whatever mirrors there are between it and anywhere."""

from __future__ import annotations

import itertools
import random
from contextlib import AsyncExitStack

from dynlog.adapters.nats.streams import StreamMessage
from dynlog.batch import StoredRecord
from dynlog.log import Log
from dynlog.migrations.mirror.inbound import path_of, to_record
from dynlog.migrations.mirror.outbound import to_message
from dynlog.migrations.mirror.path import MOST_PLACES, has_been, path_of_headers
from dynlog.migrations.mirror.running import mirror_out, mirror_stream, mirror_subject
from tests.mirror.sides import OldSide, Told, append, bodies, once_in, once_out, running


async def test_both_directions_on_the_same_pair_move_everything_once_and_come_to_rest(old: OldSide, log: Log) -> None:
    await log.create_topic("t")
    inward, outward = Told(), Told()
    async with AsyncExitStack() as both:
        await both.enter_async_context(
            running(lambda server: mirror_stream(server, log, old.name, "t", inward), old.access)
        )
        await both.enter_async_context(
            running(lambda server: mirror_out(server, old.access, log, "t", [f"{old.name}.new"], outward), old.access)
        )
        for number in range(20):
            await old.publish("old", b"old %d" % number)
            await append(log, "t", b"new %d" % number)
        await inward.until(lambda now: now.counts.copied == now.counts.returned == 20 and not now.behind)
        await outward.until(lambda now: now.counts.copied == now.counts.returned == 20 and not now.behind)
    for side in (await bodies(log, "t"), await old.bodies()):
        assert [body for body in side if body.startswith(b"old")] == [b"old %d" % n for n in range(20)]
        assert [body for body in side if body.startswith(b"new")] == [b"new %d" % n for n in range(20)]
        assert len(side) == 40


async def test_a_ring_over_two_streams_and_two_topics_comes_to_rest(old: OldSide, log: Log) -> None:
    other = f"{old.name}-b"
    await old.js.add_stream(name=other, subjects=[f"{other}.>"])
    await old.publish("a", b"1")
    other_side = OldSide(old.url, other, old.client, old.js)
    await log.create_topic("t2")
    for _ in range(3):
        await once_in(old, log, "t1")
        await once_out(other_side, log, "t1", f"{other}.x")
        await once_in(other_side, log, "t2")
        await once_out(old, log, "t2", f"{old.name}.x")
    assert await old.bodies() == [b"1"]
    assert await old.bodies(other) == [b"1"]
    assert await bodies(log, "t1") == await bodies(log, "t2") == [b"1"]
    await old.js.delete_stream(other)


async def test_a_core_subject_and_a_topic_in_both_directions_come_to_rest(old: OldSide, log: Log) -> None:
    subject = f"core-{old.name}"
    await log.create_topic("t")
    inward, outward = Told(), Told()
    heard = await old.client.subscribe(subject)
    async with AsyncExitStack() as both:
        await both.enter_async_context(
            running(lambda server: mirror_subject(server, log, subject, "t", inward), old.access)
        )
        await both.enter_async_context(
            running(lambda server: mirror_out(server, old.access, log, "t", [subject], outward), old.access)
        )
        await inward.until(lambda now: True)
        await old.client.publish(subject, b"old")
        await append(log, "t", b"new")
        await inward.until(lambda now: (now.counts.copied, now.counts.returned) == (1, 1))
        await outward.until(lambda now: (now.counts.copied, now.counts.returned) == (1, 1))
    assert sorted(await bodies(log, "t")) == [b"new", b"old"]
    assert sorted([(await heard.next_msg(5)).data for _ in range(2)]) == [b"new", b"old"]
    assert heard.pending_msgs == 0


async def test_a_stream_made_anew_under_a_mirror_outwards_gets_nothing_of_its_own_back(old: OldSide, log: Log) -> None:
    config = (await old.js.stream_info(old.name)).config
    await log.create_topic("t")
    told = Told()
    async with running(lambda server: mirror_out(server, old.access, log, "t", [f"{old.name}.x"], told), old.access):
        await append(log, "t", b"1")
        await told.until(lambda now: now.counts.copied == 1)
        await old.js.delete_stream(old.name)
        await old.js.add_stream(config)
        await old.publish("a", b"2")
        await once_in(old, log, "t")
        await told.until(lambda now: now.counts.returned == 1)
        await append(log, "t", b"3")
        await told.until(lambda now: now.position == {0: 3})
    assert await old.bodies() == [b"2", b"3"]


def test_no_walk_over_any_mirrors_visits_a_place_twice() -> None:
    dice = random.Random(7)
    streams, topics = [f"stream:{n}@1" for n in range(4)], [f"topic:{n}@1" for n in range(4)]
    for _ in range(200):
        message = StreamMessage(1, "s", None, b"x", 0)
        visited = [dice.choice(streams)]
        for hop in itertools.count():
            if hop % 2 == 0:
                goal = dice.choice(topics)
                if has_been(path_of(message), (goal,)):
                    break
                record = to_record(message, visited[-1])
            else:
                goal = dice.choice(streams)
                if has_been(path_of_headers(record.headers), (goal,)):
                    break
                out = to_message(StoredRecord(0, 0, 0, record), visited[-1], "1", "s")
                message = StreamMessage(1, "s", {name: [value] for name, value in out.headers.items()}, b"x", 0)
            visited.append(goal)
        assert len(set(visited)) == len(visited) <= 8


def test_a_path_too_long_to_be_one_ends() -> None:
    assert has_been(tuple(f"topic:{n}" for n in range(MOST_PLACES + 1)), ())
