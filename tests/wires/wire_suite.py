"""What a wire is: frames in order, whole, once; whatever breaks ends the channel, once, and says why."""

from __future__ import annotations

import asyncio
import signal
import sys
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from dynlog.adapters.wires import packets, stream
from dynlog.call_errors import WireBroken, WireUnavailable
from dynlog.errors import Closed, ConfigurationError, DeadlineExceeded
from dynlog.record import Buffer
from dynlog.wire import HIGH_WATER_BYTES, Channel, make_wire
from tests.wires.wire_backend import PATIENCE_S, Box, Ends, Place, WireBackend, body

MANY = 2000


async def fill(channel: Channel, box: Box, size: int, most: int = 64 << 20) -> int:
    """Sends until the channel says that it has enough; how many frames it took."""
    sent = 0
    while channel.send([(body(sent, size),)]):
        sent += 1
        await asyncio.sleep(0)
        assert sent * size < most, "the channel takes without end"
    return sent + 1


class WireSuite(WireBackend):
    # Carrying.

    async def test_a_frame_arrives_as_it_was_sent(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.send([(b"hello",)])
            assert await ends.far_box.has(1) == [b"hello"]

    async def test_frames_go_both_ways(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.send([(b"there",)])
            await ends.far_box.has(1)
            ends.far.send([(b"and back",)])
            assert await ends.near_box.has(1) == [b"and back"]

    async def test_whoever_was_dialled_may_speak_first(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far.send([(b"welcome",)])
            assert await ends.near_box.has(1) == [b"welcome"]

    async def test_what_a_receiver_sends_while_it_is_made_arrives(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            box = Box()

            def receiver(channel: Channel) -> Box:
                channel.send([(b"at once",)])
                return box

            channel = await place.here.connect(place.address, receiver, timeout=PATIENCE_S)
            await box.until(lambda: bool(place.boxes)) if place.boxes else await asyncio.wait_for(
                place.accepted.wait(), PATIENCE_S
            )
            assert await place.boxes[0].has(1) == [b"at once"]
            channel.close()

    async def test_a_frame_of_several_pieces_arrives_as_one(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.send([(b"he", memoryview(b"ll"), b"o"), (b"", b"x")])
            assert await ends.far_box.has(2) == [b"hello", b"x"]

    async def test_an_empty_frame_is_a_frame(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.send([(b"",), (b"1",), (b"",)])
            assert await ends.far_box.has(3) == [b"", b"1", b""]

    @pytest.mark.parametrize("size", [1, 255, 256, 4096, 65_535, 65_536, 131_072])
    async def test_frames_of_any_size_arrive_whole(self, tmp_path: Path, size: int) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.send([(bytes([number]) * size,) for number in range(5)])
            assert await ends.far_box.has(5) == [bytes([number]) * size for number in range(5)]

    async def test_the_longest_frame_arrives_whole(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            longest = bytes(range(256)) * (ends.near.max_frame_bytes // 256)
            longest += b"." * (ends.near.max_frame_bytes - len(longest))
            ends.near.send([(longest,)])
            assert await ends.far_box.has(1) == [longest]

    async def test_a_frame_that_is_too_long_is_refused_and_the_channel_goes_on(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            with pytest.raises(ConfigurationError, match="over the"):
                ends.near.send([(bytes(ends.near.max_frame_bytes + 1),)])
            ends.near.send([(b"next",)])
            assert await ends.far_box.has(1) == [b"next"]

    async def test_it_carries_what_sessions_need(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            assert ends.near.max_frame_bytes >= 128 << 10
            assert ends.far.max_frame_bytes >= 128 << 10

    async def test_frames_keep_their_order_and_none_is_lost_or_doubled(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            for start in range(0, MANY, 50):
                if not ends.near.send([(body(number),) for number in range(start, start + 50)]):
                    await ends.near_box.room.wait()
            assert await ends.far_box.has(MANY) == [body(number) for number in range(MANY)]

    async def test_both_ends_may_send_at_once(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            for number in range(MANY):
                ends.near.send([(body(number, 100),)])
                ends.far.send([(body(number, 200),)])
                if number % 50 == 0:
                    await asyncio.sleep(0)
            assert await ends.far_box.has(MANY) == [body(number, 100) for number in range(MANY)]
            assert await ends.near_box.has(MANY) == [body(number, 200) for number in range(MANY)]

    async def test_what_is_handed_over_at_once_arrives_in_few_calls(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.send([(body(number),) for number in range(1000)])
            await ends.far_box.has(1000)
            assert ends.far_box.calls <= 50

    async def test_small_and_large_frames_mix_in_order(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            sent = [body(number, 8 if number % 3 else 70_000) for number in range(60)]
            for frame in sent:
                ends.near.send([(frame,)])
            assert await ends.far_box.has(60) == sent

    async def test_an_echo_within_the_callback_keeps_order(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:

            def back(frames: Sequence[Buffer]) -> None:
                ends.far.send([(frame,) for frame in frames])

            ends.far_box.on_frames = back
            for number in range(500):
                ends.near.send([(body(number),)])
            assert await ends.near_box.has(500) == [body(number) for number in range(500)]

    async def test_a_received_frame_stays_as_it_is(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            kept: list[object] = []
            ends.far_box.on_frames = kept.extend
            mutable = bytearray(b"before")
            ends.near.send([(memoryview(mutable), b"!")])
            mutable[:] = b"behind"
            for number in range(200):
                ends.near.send([(body(number, 2000),)])
            await ends.far_box.has(201)
            assert bytes(kept[0]) == b"before!"  # type: ignore[call-overload]

    async def test_a_buffer_may_be_written_into_once_it_was_handed_over(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            small, large = bytearray(b"before"), bytearray(b"x" * 100_000)
            ends.near.send([(memoryview(small),), (memoryview(large),)])
            small[:] = b"behind"
            large[:] = b"y" * 100_000
            assert await ends.far_box.has(2) == [b"before", b"x" * 100_000]

    async def test_of_frames_with_one_that_is_too_long_none_is_sent_nor_counted(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            for _ in range(40):
                with pytest.raises(ConfigurationError):
                    ends.near.send([(bytes(100_000),), (bytes(ends.near.max_frame_bytes + 1),)])
            assert ends.near.send([(b"next",)])
            assert await ends.far_box.has(1) == [b"next"]

    # Backpressure.

    async def test_a_paused_reader_makes_the_sender_wait_in_bounded_memory(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far.pause()
            sent = await fill(ends.near, ends.near_box, 50_000)
            got = len(ends.far_box.frames)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(ends.far_box.frames) == got
            ends.far.resume()
            assert await ends.far_box.has(sent) == [body(number, 50_000) for number in range(sent)]

    async def test_room_is_told_after_a_refusal(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far.pause()
            await fill(ends.near, ends.near_box, 50_000)
            ends.near_box.room.clear()
            ends.far.resume()
            await asyncio.wait_for(ends.near_box.room.wait(), PATIENCE_S)
            assert ends.near.send([(b"more",)])

    async def test_frames_that_were_handed_over_after_a_refusal_arrive_as_well(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far.pause()
            sent = await fill(ends.near, ends.near_box, 50_000)
            for number in range(sent, sent + 10):
                ends.near.send([(body(number, 50_000),)])
            ends.far.resume()
            assert await ends.far_box.has(sent + 10) == [body(number, 50_000) for number in range(sent + 10)]

    async def test_a_paused_end_may_still_send(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.pause()
            ends.near.send([(b"question",)])
            await ends.far_box.has(1)
            ends.far.send([(b"answer",)])
            ends.near.resume()
            assert await ends.near_box.has(1) == [b"answer"]

    async def test_pausing_twice_and_resuming_twice_is_pausing_and_resuming(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far.pause()
            ends.far.pause()
            ends.near.send([(b"1",)])
            ends.far.resume()
            ends.far.resume()
            ends.near.send([(b"2",)])
            assert await ends.far_box.has(2) == [b"1", b"2"]

    async def test_a_reader_that_pauses_in_its_callback_is_left_alone_until_it_resumes(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far_box.on_frames = lambda frames: ends.far.pause()
            ends.near.send([(b"1",)])
            await ends.far_box.has(1)
            ends.near.send([(b"2",)])
            for _ in range(100):
                await asyncio.sleep(0)
            assert ends.far_box.calls == 1
            ends.far_box.on_frames = lambda frames: None
            ends.far.resume()
            assert await ends.far_box.has(2) == [b"1", b"2"]

    async def test_a_receiver_that_pauses_while_it_is_made_is_left_alone(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            box = Box()

            def receiver(channel: Channel) -> Box:
                channel.pause()
                return box

            def greet(channel: Channel) -> Box:
                channel.send([(b"welcome",)])
                return Place.accept(place, channel)

            place.accept = greet  # type: ignore[method-assign]
            channel = await place.here.connect(place.address, receiver, timeout=PATIENCE_S)
            await (await place.dial()).near_box.has(1)  # by then the first would have come, too
            assert box.frames == []
            channel.resume()
            assert await box.has(1) == [b"welcome"]
            channel.close()
            await box.ended()

    async def test_frames_of_no_size_fill_a_channel_too(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far.pause()
            sent = 0
            while ends.near.send([(b"",)] * 1000):
                sent += 1000
                assert sent < 4_000_000, "the channel takes without end"
                await asyncio.sleep(0)
            ends.far.resume()
            assert len(await ends.far_box.has(sent + 1000)) == sent + 1000

    async def test_a_long_transfer_takes_little_memory(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far_box.frames_received = lambda frames: counts.append(len(frames))  # type: ignore[method-assign]
            counts: list[int] = []
            frame = bytes(60_000)
            tracemalloc.start()
            for _ in range(1500):
                if not ends.near.send([(frame,)]):
                    ends.near_box.room.clear()
                    async with asyncio.timeout(PATIENCE_S):
                        await ends.near_box.room.wait()
            async with asyncio.timeout(PATIENCE_S):
                while sum(counts) < 1500:  # noqa: ASYNC110 - the receiver is no more than a counter
                    await asyncio.sleep(0)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 40 * HIGH_WATER_BYTES, "of 90 MB that were sent"

    # The end.

    async def test_what_was_handed_over_before_the_close_arrives(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            for number in range(200):
                ends.near.send([(body(number, 5000),)])
            ends.near.close()
            assert await ends.far_box.ended() is None
            assert ends.far_box.frames == [body(number, 5000) for number in range(200)]

    async def test_what_was_handed_over_before_the_close_arrives_while_the_other_end_is_speaking(
        self, tmp_path: Path
    ) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far.pause()
            for number in range(100):
                ends.far.send([(body(number, 9000),)])
            for number in range(20):
                ends.near.send([(body(number, 50_000),)])
            ends.near.close()
            for _ in range(20):
                await asyncio.sleep(0)
            ends.far.resume()
            assert await ends.far_box.ended() is None
            assert ends.far_box.frames == [body(number, 50_000) for number in range(20)]

    async def test_what_a_wire_that_was_dialled_sent_before_its_close_arrives_while_the_dialler_is_speaking(
        self, tmp_path: Path
    ) -> None:
        async with self.place(tmp_path) as place:
            ends = await place.dial()
            ends.near.pause()
            for number in range(100):
                ends.near.send([(body(number, 9000),)])
            for number in range(20):
                ends.far.send([(body(number, 50_000),)])
            closing = asyncio.create_task(place.there.close())
            for _ in range(20):
                await asyncio.sleep(0)
            ends.near.resume()
            error = await ends.near_box.ended()
            assert error is None or not self.reads_on
            if error is None:
                assert ends.near_box.frames == [body(number, 50_000) for number in range(20)]
            await closing

    async def test_what_was_handed_over_before_the_close_waits_for_a_reader_that_pauses(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.send([(b"first",)])
            await ends.far_box.has(1)
            ends.far.pause()
            ends.near.send([(b"second",), (b"third",)])
            ends.near.close()
            await ends.near_box.ended()
            assert ends.far_box.frames == [b"first"]
            ends.far.resume()
            assert await ends.far_box.ended() is None
            assert ends.far_box.frames == [b"first", b"second", b"third"]

    async def test_a_channel_that_was_closed_brings_nothing_more(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.close()
            for number in range(20):
                ends.far.send([(body(number, 5000),)])
            assert await ends.far_box.ended() is None
            await ends.near_box.ended()
            assert ends.near_box.frames == []

    async def test_a_receiver_that_aborts_in_its_callback_hears_only_of_the_end(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far_box.on_frames = lambda frames: ends.far.abort()
            for number in range(50):
                ends.near.send([(body(number, 60_000),)])
            await ends.far_box.ended()
            await ends.near_box.ended()
            assert ends.far_box.calls == 1

    async def test_a_receiver_that_ends_its_channel_while_it_is_made_hears_of_the_end(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:

            def refuse(channel: Channel) -> Box:
                channel.abort()
                return Place.accept(place, channel)

            place.accept = refuse  # type: ignore[method-assign]
            box = Box()

            def receiver(channel: Channel) -> Box:
                channel.send([(b"too late",)])
                return box

            with suppress(WireUnavailable):  # where that is known before the dial is done
                await place.here.connect(place.address, receiver, timeout=PATIENCE_S)
                await box.ended()
            await asyncio.wait_for(place.accepted.wait(), PATIENCE_S)
            await place.boxes[0].ended()
            assert place.boxes[0].frames == []

    async def test_a_close_is_no_error_at_either_end(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far.close()
            assert await ends.near_box.ended() is None
            assert await ends.far_box.ended() is None

    async def test_closing_at_both_ends_at_once_ends_once(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.close()
            ends.far.close()
            ends.near.close()
            await ends.near_box.ended()
            await ends.far_box.ended()

    async def test_an_abort_ends_both_ends(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.abort()
            assert await ends.near_box.ended() is None
            await ends.far_box.ended()

    async def test_after_the_end_nothing_is_sent_and_nothing_raises(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.near.close()
            await ends.near_box.ended()
            ends.near.send([(b"late",)])
            ends.near.pause()
            ends.near.resume()
            ends.near.close()
            ends.near.abort()
            await ends.far_box.ended()
            assert ends.far_box.frames == []

    async def test_a_peer_that_closes_within_the_callback_ends_the_channel(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            ends.far_box.on_frames = lambda frames: ends.far.close()
            ends.near.send([(b"go",)])
            assert await ends.near_box.ended() is None

    async def test_a_reader_that_never_resumes_does_not_keep_a_closed_channel(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream, "LINGER_S", 1.2)
        monkeypatch.setattr(packets, "LINGER_S", 0.5)
        async with self.channel(tmp_path) as ends:
            ends.far.pause()
            await fill(ends.near, ends.near_box, 50_000)
            ends.near.close()
            await ends.near_box.ended()
            ends.far.abort()

    async def test_closing_the_wire_ends_its_channels(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            ends = await place.dial()
            await place.here.close()
            assert ends.near_box.lost == 1
            await ends.far_box.ended()
            with pytest.raises(Closed):
                await place.here.connect(place.address, lambda channel: Box(), timeout=1)
            with pytest.raises(Closed):
                await place.here.listen(self.address(tmp_path / "other"), lambda channel: Box())

    async def test_a_killed_process_ends_its_channels(self, tmp_path: Path) -> None:
        if self.scheme == "inproc" or not self.sees_death:
            return  # there is no other process; or the session's pings find out (tests/network)
        async with self.place(tmp_path) as place:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.wires.other_end", place.address, stdout=asyncio.subprocess.PIPE
            )
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await place.accepted.wait()
                    (box,) = place.boxes
                await box.has(1)
                process.send_signal(signal.SIGKILL)
                assert isinstance(await box.ended(), WireBroken)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.communicate()

    # Listening and dialling.

    async def test_many_channels_live_side_by_side(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            many: list[Ends] = [await place.dial() for _ in range(20)]
            for number, ends in enumerate(many):
                ends.near.send([(body(number),)])
            for number, ends in enumerate(many):
                assert await ends.far_box.has(1) == [body(number)]
            many[3].near.close()
            await many[3].far_box.ended()
            many[4].near.send([(b"still",)])
            assert (await many[4].far_box.has(2))[1] == b"still"

    async def test_nobody_there_is_said_so(self, tmp_path: Path) -> None:
        wire = make_wire(self.scheme)
        try:
            with pytest.raises(WireUnavailable, match=r"reached|answered"):
                await wire.connect(self.nowhere(tmp_path), lambda channel: Box(), timeout=PATIENCE_S)
        finally:
            await wire.close()

    async def test_a_place_that_is_taken_is_refused(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            other = make_wire(self.scheme)
            try:
                with pytest.raises(WireUnavailable, match="listened at"):
                    await other.listen(place.listener.address, lambda channel: Box())
            finally:
                await other.close()
            ends = await place.dial()
            ends.near.send([(b"unharmed",)])
            assert await ends.far_box.has(1) == [b"unharmed"]

    async def test_a_place_is_free_again_after_the_wire_was_closed(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            address = place.listener.address
            await place.dial()
        again = make_wire(self.scheme)
        try:
            assert (await again.listen(address, lambda channel: Box())).address == address
        finally:
            await again.close()

    async def test_channels_go_on_after_their_listener_is_closed_and_no_other_comes(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            ends = await place.dial()
            await place.listener.close()
            ends.near.send([(b"still",)])
            assert await ends.far_box.has(1) == [b"still"]
            with pytest.raises((WireUnavailable, DeadlineExceeded)):
                await place.here.connect(place.address, lambda channel: Box(), timeout=0.5)

    async def test_a_place_is_free_once_its_listener_is_closed_and_its_channels_are_over(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            ends = await place.dial()
            await place.listener.close()
            ends.near.close()
            await ends.far_box.ended()
            other = make_wire(self.scheme)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with suppress(WireUnavailable):
                        await other.listen(place.listener.address, lambda channel: Box())
                        break
                    await asyncio.sleep(0.02)
            await other.close()

    async def test_closing_a_listener_twice_is_closing_it(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            await place.listener.close()
            await place.listener.close()

    async def test_a_dial_that_is_cancelled_leaves_nothing(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            dialling = asyncio.create_task(place.here.connect(place.address, lambda channel: Box(), timeout=5))
            await asyncio.sleep(0)
            dialling.cancel()
            with suppress(asyncio.CancelledError):
                (await dialling).abort()  # where dialling takes no time
            box = Box()
            channel = await place.here.connect(place.address, lambda channel: box, timeout=PATIENCE_S)
            channel.send([(b"next",)])
            async with asyncio.timeout(PATIENCE_S):
                while not any(there.frames == [b"next"] for there in place.boxes):  # noqa: ASYNC110 - any of them
                    await asyncio.sleep(0)
            channel.close()

    async def test_a_dial_that_is_cancelled_at_any_moment_leaves_nothing(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            for turns in (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 130, 180, 250, 400, 800):
                wire = make_wire(self.scheme)
                dialling = asyncio.create_task(wire.connect(place.address, lambda channel: Box(), timeout=PATIENCE_S))
                for _ in range(turns):
                    await asyncio.sleep(0)
                dialling.cancel()
                with suppress(asyncio.CancelledError):
                    await dialling
                async with asyncio.timeout(PATIENCE_S):
                    await wire.close()
            await place.dial()

    async def test_dials_that_are_cancelled_harm_no_channel_of_the_wire(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            ends = await place.dial()
            for turns in (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 60, 100):
                dialling = asyncio.create_task(
                    place.here.connect(place.address, lambda channel: Box(), timeout=PATIENCE_S)
                )
                for _ in range(turns):
                    await asyncio.sleep(0)
                dialling.cancel()
                with suppress(asyncio.CancelledError):
                    await dialling
                ends.near.send([(body(turns),)])
                assert (await ends.far_box.has(1)).pop() == body(turns)
            assert ends.near_box.lost == 0
            await place.dial()

    async def test_a_wire_that_is_closed_twice_is_closed(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            await place.dial()
            await asyncio.gather(place.here.close(), place.here.close())
            await place.here.close()

    @pytest.mark.parametrize("rest", ["", "//", "://", "?x=1"])
    async def test_an_address_that_is_none_is_refused_before_anything_is_tried(self, tmp_path: Path, rest: str) -> None:
        wire = make_wire(self.scheme)
        try:
            for address in (f"{self.scheme}://{rest}" if rest != "://" else "other://place", self.scheme):
                with pytest.raises(ConfigurationError):
                    await wire.listen(address, lambda channel: Box())
                with pytest.raises(ConfigurationError):
                    await wire.connect(address, lambda channel: Box(), timeout=1)
        finally:
            await wire.close()

    async def test_the_other_end_is_named_for_people(self, tmp_path: Path) -> None:
        async with self.channel(tmp_path) as ends:
            assert ends.near.scheme == ends.far.scheme == self.scheme
            assert ends.near.peer
            assert ends.far.peer

    async def test_a_wire_may_dial_itself(self, tmp_path: Path) -> None:
        async with self.place(tmp_path) as place:
            box = Box()
            channel = await place.there.connect(place.address, lambda channel: box, timeout=PATIENCE_S)
            channel.send([(b"to myself",)])
            async with asyncio.timeout(PATIENCE_S):
                await place.accepted.wait()
            assert await place.boxes[0].has(1) == [b"to myself"]
