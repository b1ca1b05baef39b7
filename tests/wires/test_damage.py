"""Bytes that no dynlog wrote: at every place of a packet or a stream they are refused, and nothing is allocated."""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import suppress

import pytest
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from dynlog.adapters.wires.packets import HEAD, Kind, frames_of, read_packet, write_packet
from dynlog.adapters.wires.stream import PREFACE, StreamChannel
from dynlog.call_errors import ProtocolError, WireBroken
from dynlog.wire import Channel
from tests.wires.wire_backend import Box

FRAMES = [b"first", b"", b"x" * 300]


@given(st.lists(st.binary(max_size=200), max_size=8), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_packet_reads_as_it_was_written(frames: list[bytes], number: int, taken: int) -> None:
    packet = read_packet(write_packet(Kind.FRAMES, number, taken, frames))
    assert (packet.kind, packet.number, packet.taken) == (Kind.FRAMES, number, taken)
    assert frames_of(packet.body) == frames


def test_a_packet_that_was_cut_anywhere_is_refused() -> None:
    whole = write_packet(Kind.FRAMES, 7, 3, FRAMES)
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            read_packet(whole[:length])


def test_a_packet_with_any_bit_flipped_is_refused() -> None:
    whole = write_packet(Kind.FRAMES, 7, 3, FRAMES)
    for at in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(ProtocolError):
            read_packet(bytes(damaged))


@given(st.binary(max_size=80))
def test_any_bytes_are_a_packet_or_refused(junk: bytes) -> None:
    with suppress(ProtocolError):
        frames_of(read_packet(junk).body)


@given(st.binary(max_size=80))
def test_frames_of_any_bytes_under_a_right_crc_are_frames_or_refused(body: bytes) -> None:
    head = HEAD.pack(Kind.FRAMES, 1, 0, crc32c(HEAD.pack(Kind.FRAMES, 1, 0, 0) + body))
    with suppress(ProtocolError):
        frames_of(read_packet(head + body).body)


class Wireless(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def close(self) -> None:
        self.aborted = True

    def abort(self) -> None:
        self.aborted = True


def opened(checked: bool = True) -> tuple[StreamChannel, Box, Wireless]:
    """A channel over a stream whose other end has said who it is."""
    box, transport = Box(), Wireless()

    def begin(channel: Channel) -> Box:
        return box

    channel = StreamChannel("tcp", "peer", begin, set(), checked=checked)
    channel.connection_made(transport)
    channel.data_received(PREFACE)
    return channel, box, transport


def written(frames: list[bytes]) -> bytes:
    """What a channel writes for these frames."""
    channel, _, transport = opened()
    transport.written = b""
    channel.send([(frame,) for frame in frames])
    channel.connection_lost(None)
    return transport.written


async def test_a_stream_in_pieces_of_any_size_brings_the_frames_whole() -> None:
    whole = written(FRAMES)
    for size in (1, 2, 3, 7, 8, 9, 100, len(whole)):
        channel, box, _ = opened()
        for at in range(0, len(whole), size):
            channel.data_received(whole[at : at + size])
        assert box.frames == FRAMES
        channel.connection_lost(None)


async def test_a_stream_that_ends_anywhere_brings_whole_frames_alone_and_says_that_it_broke() -> None:
    whole = written(FRAMES)
    for length in range(len(whole) + 1):
        channel, box, _ = opened()
        channel.data_received(whole[:length])
        channel.connection_lost(None)
        assert box.frames == FRAMES[: len(box.frames)]
        assert isinstance(box.error, WireBroken)
        assert box.lost == 1


async def test_a_stream_with_any_bit_flipped_brings_no_frame_that_was_not_sent() -> None:
    whole = written(FRAMES)
    for at in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        channel, box, _ = opened()
        channel.data_received(bytes(damaged))
        channel.connection_lost(None)
        assert box.frames == FRAMES[: len(box.frames)]
        assert len(box.frames) < len(FRAMES)
        assert isinstance(box.error, WireBroken)


async def test_a_huge_length_is_refused_from_its_head_and_nothing_is_allocated_for_it() -> None:
    for size in (1 << 21, 1 << 31, 0xFFFFFFFE):
        channel, box, transport = opened()
        tracemalloc.start()
        channel.data_received(size.to_bytes(4, "little") + bytes(4) + b"beginning")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert transport.aborted
        assert peak < 1 << 16
        channel.connection_lost(None)
        assert isinstance(box.error, WireBroken)
        assert "was announced" in str(box.error)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"dynlog\x02\n", b"\0" * 8, b"\x16\x03\x01\x02\x00\x01"])
async def test_a_stranger_is_known_by_its_first_bytes_and_nobody_is_told_of_it(first: bytes) -> None:
    accepted: list[Channel] = []

    def begin(channel: Channel) -> Box:
        accepted.append(channel)
        return Box()

    channel, transport = StreamChannel("tcp", "peer", begin, set(), checked=True), Wireless()
    channel.connection_made(transport)
    for at in range(len(first)):
        channel.data_received(first[at : at + 1])
    assert transport.aborted
    channel.connection_lost(None)
    assert accepted == []
