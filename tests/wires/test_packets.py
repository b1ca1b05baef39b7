"""Channels over packets, with no carrier: what a carrier drops, doubles or exchanges ends the channel, named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dynlog.adapters.wires.packets import (
    HEAD,
    WINDOW_BYTES,
    WINDOW_PACKETS,
    Kind,
    PacketChannel,
    read_packet,
    write_packet,
)
from dynlog.call_errors import WireBroken
from tests.wires.wire_backend import Box, body

MOST = 64 << 10


async def turn() -> None:
    """Lets what was handed over leave."""
    await asyncio.sleep(0)


class End:
    """One end whose packets are kept in hand."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.ended = 0
        self.box = Box()
        self.channel = PacketChannel("packets", "peer", MOST, self.sent.append, self._ended)
        self.channel.begin(lambda channel: self.box)

    def _ended(self, _: PacketChannel) -> None:
        self.ended += 1

    def hear(self, *packets: bytes) -> None:
        for packet in packets:
            self.channel.received(read_packet(packet))

    async def say(self, count: int, size: int = 100) -> list[bytes]:
        """The packets of so many frames, a packet for each."""
        self.sent.clear()
        for number in range(count):
            self.channel.send([(body(number, size),)])
            await turn()
        return list(self.sent)


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    near, far = End(), End()
    yield near, far
    near.channel.abort()
    far.channel.abort()


async def test_packets_in_order_are_frames(ends: tuple[End, End]) -> None:
    near, far = ends
    far.hear(*await near.say(5))
    assert far.box.frames == [body(number, 100) for number in range(5)]


@pytest.mark.parametrize("order", [(0, 2), (1,), (0, 0), (1, 0), (0, 1, 3, 2), (0, 1, 2, 0)])
async def test_a_packet_that_is_lost_doubled_or_exchanged_ends_the_channel(
    ends: tuple[End, End], order: tuple[int, ...]
) -> None:
    near, far = ends
    packets = await near.say(4)
    far.hear(*(packets[number] for number in order))
    assert isinstance(far.box.error, WireBroken)
    assert "was lost on the way" in str(far.box.error)
    assert (far.box.lost, far.ended) == (1, 1)
    assert far.box.frames == [body(number, 100) for number in range(len(far.box.frames))]
    assert read_packet(far.sent[-1]).kind == Kind.BYE, "the other end is told"


async def test_a_lost_last_packet_is_known_by_the_goodbye(ends: tuple[End, End]) -> None:
    near, far = ends
    packets = await near.say(3)
    near.channel.close()
    await turn()
    far.hear(*packets[:2], near.sent[-1])
    assert isinstance(far.box.error, WireBroken)


async def test_no_more_than_a_window_is_on_its_way(ends: tuple[End, End]) -> None:
    near, far = ends
    assert len(await near.say(2 * WINDOW_PACKETS)) == WINDOW_PACKETS
    far.hear(*near.sent)
    for packet in far.sent:
        assert read_packet(packet).kind == Kind.TAKEN
    near.hear(*far.sent)
    await turn()
    assert len(near.sent) > WINDOW_PACKETS
    assert sum(map(len, await large(End()))) < WINDOW_BYTES + MOST + HEAD.size


async def large(end: End) -> list[bytes]:
    packets = await end.say(200, MOST - 100)
    end.channel.abort()
    return packets


async def test_an_end_that_pauses_takes_nothing_and_so_gets_no_more_than_a_window(ends: tuple[End, End]) -> None:
    near, far = ends
    far.channel.pause()
    far.hear(*await near.say(2 * WINDOW_PACKETS))
    assert far.sent == []
    assert far.box.frames == []
    far.channel.resume()
    assert len(far.box.frames) == WINDOW_PACKETS
    near.hear(*far.sent)
    await turn()
    far.hear(*near.sent[WINDOW_PACKETS:])
    assert far.box.frames == [body(number, 100) for number in range(2 * WINDOW_PACKETS)]


@pytest.mark.parametrize("taken", [1 << 63, 10_000, 3])
async def test_an_end_that_claims_to_have_taken_what_was_never_sent_opens_no_window(
    ends: tuple[End, End], taken: int
) -> None:
    near, _ = ends
    near.hear(write_packet(Kind.TAKEN, 0, taken))
    assert len(await near.say(2 * WINDOW_PACKETS)) == WINDOW_PACKETS


async def test_after_the_goodbye_of_the_other_end_what_it_had_sent_is_given_and_no_break_is_told(
    ends: tuple[End, End],
) -> None:
    near, far = ends
    far.channel.pause()
    far.hear(*await near.say(3))
    near.channel.close()
    await turn()
    far.hear(near.sent[-1])
    far.channel.broke("the carrier hung up, as it may")
    assert far.box.lost == 0
    far.channel.resume()
    assert len(far.box.frames) == 3
    assert (far.box.lost, far.box.error, far.ended) == (1, None, 1)


async def test_a_paused_end_that_is_closed_after_the_goodbye_is_over(ends: tuple[End, End]) -> None:
    near, far = ends
    far.channel.pause()
    far.hear(*await near.say(3))
    near.channel.close()
    await turn()
    far.hear(near.sent[-1])
    far.channel.close()
    assert (far.box.lost, far.box.error, far.box.frames) == (1, None, [])
