"""Streams: listed whole, and read in order with every message as it was stored."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from nats.js.api import ConsumerConfig, StorageType, StreamConfig

from dynlog.adapters.nats.access import NatsAccess, NatsServer, open_nats
from dynlog.adapters.nats.streams import list_consumers, list_streams, read_stream, stream_info, subjects_of
from dynlog.errors import ConfigurationError, SourceNotFound
from dynlog.testing.kinds import RunningServer
from tests.nats_source.source import Writer, all_of, name_of, publish_raw, sequences

both_ways = pytest.mark.parametrize("direct", [True, False], ids=["direct", "leader"])


@both_ways
async def test_a_message_comes_as_it_was_stored(
    source: NatsServer, writer: Writer, nats_server: RunningServer, direct: bool
) -> None:
    name = name_of("whole")
    await writer.stream(name, direct=direct)
    await publish_raw(
        nats_server.url, f"{name}.é", b"NATS/1.0\r\nA: 1\r\nB:two\r\nA:   3 \r\na: \xff\r\nEmpty:\r\n\r\n", b"\x00body"
    )
    await writer.reached(name, 1)
    await writer.client.publish(f"{name}.plain", b"")
    await writer.reached(name, 2)
    info = await stream_info(source, name)
    first, second = await all_of(read_stream(source, info, first=1, last=2))
    assert (first.sequence, first.subject, first.data, first.malformed) == (1, f"{name}.é", b"\x00body", None)
    assert first.headers == {"A": ["1", "3"], "B": ["two"], "a": ["\udcff"], "Empty": [""]}
    assert first.headers["a"][0].encode("utf-8", "surrogateescape") == b"\xff"
    assert (second.subject, second.data, second.headers) == (f"{name}.plain", b"", None)
    said = (await writer.api(f"STREAM.MSG.GET.{name}", {"seq": 1}))["message"]["time"]
    assert f"{first.time_ns % 1_000_000_000:09d}".rstrip("0") == said.rstrip("Z").partition(".")[2]


@both_ways
@pytest.mark.parametrize(
    "block",
    [
        b"xyz", b"\r\n\r\n", b"NATS/1.0", b"NATS/1.0\r\nCut: of", b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n: 1\r\n\r\n",
        b"NATS/1.0\r\nNats-Sequence: 77\r\nNats-Stream: other\r\nNats-Subject: other\r\nA b: 1\r\n\r\n",
        b"NATS/1.0 404 Message Not Found\r\nbad name: 1\r\n\r\n", b"\xff" * 300,
    ],
)  # fmt: skip
async def test_a_header_block_that_follows_no_rule_comes_whole_and_the_rest_goes_on(
    source: NatsServer, writer: Writer, nats_server: RunningServer, direct: bool, block: bytes
) -> None:
    name = name_of("hostile")
    await writer.stream(name, direct=direct)
    await writer.fill(name, 1)
    await publish_raw(nats_server.url, f"{name}.s", block, b"body")
    await writer.reached(name, 2)
    await writer.fill(name, 1)
    said = (await writer.api(f"STREAM.MSG.GET.{name}", {"seq": 2}))["message"]
    messages = await all_of(read_stream(source, await stream_info(source, name), first=1, last=3))
    assert [(m.sequence, m.subject, m.data) for m in messages] == [
        (1, f"{name}.s", b"1 "), (2, f"{name}.s", b"body"), (3, f"{name}.s", b"3 "),
    ]  # fmt: skip
    assert messages[1].malformed is not None or "hdrs" not in said
    if direct:
        await writer.js.update_stream(
            StreamConfig(name=name, subjects=[f"{name}.>"], storage=StorageType.MEMORY, allow_direct=False)
        )
        assert await all_of(read_stream(source, await stream_info(source, name), first=1, last=3)) == messages


@both_ways
async def test_what_a_publisher_writes_cannot_pass_for_what_the_server_knows(
    source: NatsServer, writer: Writer, nats_server: RunningServer, direct: bool
) -> None:
    name = name_of("forged")
    await writer.stream(name, direct=direct)
    forged = (
        b"NATS/1.0\r\nNats-Stream: other\r\nNats-Subject: other\r\nNats-Sequence: 77\r\n"
        b"Nats-Time-Stamp: 2001-01-01T00:00:00Z\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 0\r\n\r\n"
    )
    await publish_raw(nats_server.url, f"{name}.s", forged, b"NATS/1.0 204 EOB\r\n\r\n")
    await writer.reached(name, 1)
    (message,) = await all_of(read_stream(source, await stream_info(source, name), first=1, last=1))
    assert (message.sequence, message.subject, message.malformed) == (1, f"{name}.s", None)
    assert message.headers is not None
    assert message.headers["Nats-Sequence"] == ["77"]


@both_ways
async def test_deleted_messages_are_left_out_and_nothing_else_is(
    source: NatsServer, writer: Writer, direct: bool
) -> None:
    name = name_of("gaps")
    await writer.stream(name, direct=direct)
    await writer.fill(name, 3000, b"x" * 400)
    gone = {1, 2, 700, 1023, 1024, 1025, 2998, 2999, 3000, *range(1500, 1800)}
    for sequence in gone:
        await writer.js.delete_msg(name, sequence)
    info = await stream_info(source, name)
    messages = await all_of(read_stream(source, info, first=0, last=9_999))
    assert sequences(messages) == [number for number in range(1, 3001) if number not in gone]
    assert all(message.data.startswith(b"%d " % message.sequence) for message in messages)
    assert sequences(await all_of(read_stream(source, info, first=699, last=1026))) == [
        699, *range(701, 1023), 1026,
    ]  # fmt: skip
    assert sequences(await all_of(read_stream(source, info, first=1500, last=1799))) == []


@both_ways
async def test_only_one_subject_is_read_where_one_is_named(source: NatsServer, writer: Writer, direct: bool) -> None:
    name = name_of("subjects")
    await writer.stream(name, direct=direct)
    for turn in range(6):
        await writer.fill(name, 150, subject="many.a")
        await writer.fill(name, 1 + turn % 2, subject="few.b")
    info = await stream_info(source, name)
    few = await all_of(read_stream(source, info, first=1, last=info.last_seq, subject=f"{name}.few.b"))
    assert len(few) == 9
    assert {message.subject for message in few} == {f"{name}.few.b"}
    many = await all_of(read_stream(source, info, first=100, last=info.last_seq, subject=f"{name}.many.*"))
    assert sequences(many) == [n for n in range(100, info.last_seq + 1) if n not in set(sequences(few))]
    assert await subjects_of(source, name) == {f"{name}.few.b": 9, f"{name}.many.a": 900}
    assert await subjects_of(source, name, f"{name}.few.>") == {f"{name}.few.b": 9}


@both_ways
async def test_an_empty_stream_and_an_empty_range_give_nothing(
    source: NatsServer, writer: Writer, direct: bool
) -> None:
    name = name_of("empty")
    await writer.stream(name, direct=direct)
    info = await stream_info(source, name)
    assert await all_of(read_stream(source, info, first=1, last=info.last_seq)) == []
    assert await all_of(read_stream(source, info, first=1, last=100)) == []
    await writer.fill(name, 3)
    assert await all_of(read_stream(source, info, first=3, last=2)) == []
    await writer.js.purge_stream(name)
    assert await all_of(read_stream(source, info, first=1, last=3)) == []


async def test_a_mirror_that_answers_for_a_stream_and_has_kept_less_hides_nothing(
    source: NatsServer, writer: Writer
) -> None:
    name = name_of("origin")
    await writer.stream(name)
    await writer.fill(name, 40)
    await writer.api(
        f"STREAM.CREATE.{name}-copy",
        {
            "name": f"{name}-copy", "mirror": {"name": name}, "mirror_direct": True, "allow_direct": True,
            "storage": "memory", "max_msgs": 5,
        },
    )  # fmt: skip
    while (await writer.js.stream_info(f"{name}-copy")).state.last_seq < 40:
        pass
    info = await stream_info(source, name)
    for _ in range(8):  # who answers is chance
        assert sequences(await all_of(read_stream(source, info, first=1, last=40))) == list(range(1, 41))


async def test_large_messages_come_whole_and_few_at_a_time(source: NatsServer, writer: Writer) -> None:
    name = name_of("large")
    await writer.stream(name, direct=False)
    await writer.fill(name, 200)
    await writer.fill(name, 12, b"x" * (source.max_payload - 16))
    await writer.fill(name, 20)
    info = await stream_info(source, name)
    assert sequences(await all_of(read_stream(source, info, first=1, last=232))) == list(range(1, 233))


async def test_streams_are_listed_by_name_over_all_pages(source: NatsServer, writer: Writer) -> None:
    prefix = name_of("page")
    names = [f"{prefix}-{number:03d}" for number in range(260)]
    for name in reversed(names):
        await writer.stream(name)
    try:
        listed = [info for info in await list_streams(source) if info.name.startswith(prefix)]
        assert [info.name for info in listed] == names
        assert listed[0].subjects == (f"{names[0]}.>",)
        assert listed[0].config["storage"] == "memory"
        assert listed[0].created == (await stream_info(source, names[0])).created
    finally:
        for name in names:
            await writer.js.delete_stream(name)


async def test_consumers_are_listed_with_where_they_stand(source: NatsServer, writer: Writer) -> None:
    name = name_of("consumed")
    await writer.stream(name)
    await writer.fill(name, 10)
    consumer = await writer.js.pull_subscribe(f"{name}.>", durable="router", stream=name)
    for message in (await consumer.fetch(6))[:4]:
        await message.ack_sync()
    await writer.js.add_consumer(name, ConsumerConfig(name="passing", inactive_threshold=60))
    passing, router = await list_consumers(source, name)
    assert (router.stream, router.name, router.durable) == (name, "router", True)
    assert (router.ack_floor, router.delivered, router.pending, router.ack_pending) == (4, 6, 4, 2)
    assert router.config["ack_policy"] == "explicit"
    assert (passing.name, passing.durable, passing.ack_floor) == ("passing", False, 0)


async def test_a_stream_that_is_not_there_is_named(source: NatsServer) -> None:
    with pytest.raises(SourceNotFound, match="stream not found"):
        await stream_info(source, name_of("nowhere"))
    with pytest.raises(SourceNotFound, match="stream not found"):
        await list_consumers(source, name_of("nowhere"))
    with pytest.raises(ConfigurationError, match="cannot be the name of a stream"):
        await stream_info(source, "a.b")


async def test_a_server_that_knows_no_batches_is_read_message_by_message(source: NatsServer, writer: Writer) -> None:
    name = name_of("old")
    await writer.stream(name, direct=False)
    await writer.fill(name, 20)

    async def answered(message: Any) -> None:
        """As a server before 2.11 does."""
        request = json.loads(message.data)
        stored = await writer.js.get_msg(name, request["seq"])
        headers = {
            "Nats-Stream": name, "Nats-Subject": str(stored.subject), "Nats-Sequence": str(stored.seq),
            "Nats-Time-Stamp": "2025-01-01T00:00:00Z",
        }  # fmt: skip
        await writer.client.publish(message.reply, stored.data or b"", headers=headers)

    await writer.client.subscribe(f"$JS.API.DIRECT.GET.{name}", cb=answered)
    await writer.client.flush()
    info = await stream_info(source, name)
    direct = replace(info, config={**info.config, "allow_direct": True})
    messages = await all_of(read_stream(source, direct, first=1, last=20))
    assert [message.data for message in messages] == [b"%d " % number for number in range(1, 21)]


@pytest.mark.parametrize("said", ["a time that is none", "nothing"])
async def test_a_stream_that_is_no_longer_direct_is_read_on_whatever_answers_in_its_place(
    nats_server: RunningServer, writer: Writer, said: str
) -> None:
    name = name_of("strange")
    await writer.stream(name, direct=False)
    await writer.fill(name, 3)

    async def answered(message: Any) -> None:
        headers = {"Nats-Stream": name, "Nats-Subject": "s", "Nats-Sequence": "1", "Nats-Time-Stamp": said}
        if said != "nothing":
            await writer.client.publish(message.reply, b"", headers=headers)

    await writer.client.subscribe(f"$JS.API.DIRECT.GET.{name}", cb=answered)
    await writer.client.flush()
    async with open_nats(NatsAccess(nats_server.url), answer=0.2) as source:
        info = await stream_info(source, name)
        direct = replace(info, config={**info.config, "allow_direct": True})
        assert sequences(await all_of(read_stream(source, direct, first=1, last=3))) == [1, 2, 3]
