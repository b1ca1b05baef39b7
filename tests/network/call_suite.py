"""What a call is, on every path: it resolves exactly once, in the way that its caller can act on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynlog.call_errors import (
    CallError,
    Cancelled,
    HandlerFailed,
    MessageTooLarge,
    NoSuchTopic,
    Overloaded,
)
from dynlog.errors import DeadlineExceeded
from dynlog.network.calls import Request
from dynlog.network.services import ServiceSettings
from dynlog.record import Buffer
from tests.network.call_backend import CALLER, PATIENCE_S, SERVER, CallBackend, numbered


async def echo(request: Request) -> Buffer:
    return request.body


class Held:
    """A handler that waits until it is let go, and tells what became of it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.running = 0
        self.most = 0

    async def __call__(self, request: Request) -> Buffer:
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        try:
            await self.let_go.wait()
            return b"done"
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1


async def soon(event: asyncio.Event) -> None:
    """Waits for what must come."""
    async with asyncio.timeout(PATIENCE_S):
        await event.wait()


class UnarySuite(CallBackend):
    async def test_a_reply_comes_back_as_it_was_given(self, place: Path) -> None:
        async with self.peer(place, echo=echo) as peer:
            assert await peer.ask("echo", b"hello") == b"hello"

    async def test_an_empty_request_and_an_empty_reply_are_calls_like_any_other(self, place: Path) -> None:
        async def nothing(request: Request) -> None:
            assert bytes(request.body) == b""

        async with self.peer(place, nothing=nothing, echo=echo) as peer:
            assert await peer.ask("nothing") == b""
            assert await peer.ask("echo", b"") == b""

    @pytest.mark.parametrize("size", [1, 4095, 65_535, 65_536, 65_537, 262_144, 1_000_000])
    async def test_a_body_of_any_size_arrives_whole(self, place: Path, size: int) -> None:
        body = bytes(range(256)) * (size // 256 + 1)
        async with self.peer(place, echo=echo) as peer:
            assert await peer.ask("echo", body[: min(size, self.max_body)]) == body[: min(size, self.max_body)]

    async def test_a_reply_over_the_limit_is_refused_by_name_and_the_server_goes_on(self, place: Path) -> None:
        async def huge(request: Request) -> Buffer:
            return bytes(40 << 20)

        async with self.peer(place, huge=huge, echo=echo) as peer:
            with pytest.raises(MessageTooLarge, match="object store"):
                await peer.ask("huge")
            assert await peer.ask("echo", b"still") == b"still"

    async def test_a_request_over_the_limit_is_refused_before_it_is_sent(self, place: Path) -> None:
        async with self.peer(place, echo=echo) as peer:
            with pytest.raises(MessageTooLarge, match="object store"):
                await peer.ask("echo", bytes(40 << 20))
            assert await peer.ask("echo", b"still") == b"still"

    async def test_what_a_handler_raises_reaches_the_caller_by_name_and_text(self, place: Path) -> None:
        async def fails(request: Request) -> Buffer:
            raise KeyError("no such model")

        async with self.peer(place, fails=fails) as peer:
            with pytest.raises(HandlerFailed, match="no such model") as caught:
                await peer.ask("fails")
            assert caught.value.kind == "KeyError"
            assert caught.value.topic == "fails"

    async def test_a_very_long_error_is_cut_and_still_arrives(self, place: Path) -> None:
        async def fails(request: Request) -> Buffer:
            raise ValueError("ä" * 100_000)

        async with self.peer(place, fails=fails) as peer:
            with pytest.raises(HandlerFailed) as caught:
                await peer.ask("fails")
            assert caught.value.text.startswith("ää")
            assert len(caught.value.text.encode()) <= 4096

    @pytest.mark.parametrize("result", [5, "text", ["list"], object()], ids=["int", "str", "list", "object"])
    async def test_a_result_of_the_wrong_type_is_the_handlers_failure(self, place: Path, result: object) -> None:
        async def odd(request: Request) -> Buffer:
            return result  # type: ignore[return-value]

        async with self.peer(place, odd=odd) as peer:
            with pytest.raises(HandlerFailed, match="bytes are needed") as caught:
                await peer.ask("odd")
            assert caught.value.kind == "TypeError"

    async def test_a_topic_that_nobody_serves_is_named(self, place: Path) -> None:
        async with self.peer(place, echo=echo) as peer:
            with pytest.raises(NoSuchTopic, match="nowhere"):
                await peer.ask("nowhere")

    async def test_headers_correlation_id_caller_and_target_reach_the_handler(self, place: Path) -> None:
        seen: list[Request] = []

        async def look(request: Request) -> Buffer:
            seen.append(request)
            return str(request.caller).encode()

        async with self.peer(place, look=look) as peer:
            call = peer.call("look", headers={"trace": "abc", "tenant": "ä"}, name="call-7")
            assert bytes(await peer.path.request(call, b"")) == str(CALLER).encode()
        (request,) = seen
        assert dict(request.headers) == {"trace": "abc", "tenant": "ä"}
        assert (request.correlation_id, request.attempt) == ("call-7", 1)
        assert (request.target, request.topic, request.caller) == (SERVER, "look", CALLER)

    async def test_the_deadline_travels_and_shrinks(self, place: Path) -> None:
        async def left(request: Request) -> Buffer:
            return str(request.deadline.remaining).encode()

        async with self.peer(place, left=left) as peer:
            assert 5.0 < float(await peer.ask("left", deadline=15.0)) <= 15.0

    async def test_a_handler_that_is_too_slow_is_cancelled_and_its_caller_is_told_in_time(self, place: Path) -> None:
        held = Held()
        async with self.peer(place, held=held) as peer:
            with pytest.raises(DeadlineExceeded):
                await peer.ask("held", deadline=0.5)
            if held.begun.is_set():
                await soon(held.cancelled)

    async def test_cancelling_the_caller_cancels_the_handler(self, place: Path) -> None:
        held = Held()
        async with self.peer(place, held=held, echo=echo) as peer:
            call = asyncio.create_task(peer.ask("held"))
            await soon(held.begun)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await soon(held.cancelled)
            assert await peer.ask("echo", b"next") == b"next"

    async def test_a_handler_that_is_cancelled_where_it_runs_tells_its_caller(self, place: Path) -> None:
        async def gives_up(request: Request) -> Buffer:
            raise asyncio.CancelledError

        async with self.peer(place, gives_up=gives_up) as peer:
            with pytest.raises(Cancelled):
                await peer.ask("gives_up")

    async def test_64_calls_at_once_each_get_their_own_reply(self, place: Path) -> None:
        async with self.peer(place, echo=echo) as peer:
            bodies = [b"%d" % number for number in range(64)]
            assert await asyncio.gather(*(peer.ask("echo", body) for body in bodies)) == bodies

    async def test_a_slow_call_holds_up_no_other(self, place: Path) -> None:
        held = Held()
        async with self.peer(place, held=held, echo=echo) as peer:
            slow = asyncio.create_task(peer.ask("held"))
            await soon(held.begun)
            assert await peer.ask("echo", b"fast") == b"fast"
            held.let_go.set()
            assert await slow == b"done"

    async def test_over_its_bounds_a_service_refuses_what_it_has_not_begun_and_says_so(self, place: Path) -> None:
        held = Held()
        async with self.peer(place, ServiceSettings(max_running=2, max_waiting=3), held=held) as peer:
            calls = [asyncio.create_task(peer.ask("held")) for _ in range(9)]
            async with asyncio.timeout(PATIENCE_S):
                while sum(call.done() for call in calls) < 4:
                    await asyncio.wait([call for call in calls if not call.done()], return_when="FIRST_COMPLETED")
            held.let_go.set()
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, Overloaded) for result in results) == 4
        assert sum(result == b"done" for result in results) == 5
        assert held.most == 2

    async def test_a_call_whose_handler_calls_again_does_not_wait_for_itself(self, place: Path) -> None:
        outer: list[bytes] = []

        async with self.peer(place, echo=echo) as peer:

            async def relay(request: Request) -> Buffer:
                return await peer.ask("echo", b"via " + bytes(request.body))

            peer.services.add(SERVER, "relay", relay)
            outer.append(await peer.ask("relay", b"x"))
        assert outer == [b"via x"]

    async def test_every_call_resolves_once_whatever_mixture_is_made(self, place: Path) -> None:
        async def mixed(request: Request) -> Buffer:
            number = int(bytes(request.body))
            if number % 4 == 1:
                raise ValueError(str(number))
            if number % 4 == 2:
                await asyncio.sleep(30)
            return request.body

        async with self.peer(place, mixed=mixed) as peer:

            async def one(number: int) -> object:
                try:
                    return await peer.ask("mixed", b"%d" % number, deadline=1.0 if number % 4 == 2 else PATIENCE_S)
                except (CallError, DeadlineExceeded) as error:
                    return type(error)

            results = await asyncio.gather(*(one(number) for number in range(40)))
        expected = [{1: HandlerFailed, 2: DeadlineExceeded}.get(number % 4, b"%d" % number) for number in range(40)]
        assert results == expected


class StreamSuite(CallBackend):
    async def test_replies_come_in_order_each_once(self, place: Path) -> None:
        async def count(request: Request) -> AsyncIterator[Buffer]:
            for number in range(int(bytes(request.body))):
                yield b"%d" % number

        async with self.peer(place, count=count) as peer:
            assert await peer.all("count", b"1000") == [b"%d" % number for number in range(1000)]

    async def test_a_stream_of_no_replies_ends(self, place: Path) -> None:
        async def none(request: Request) -> AsyncIterator[Buffer]:
            if request.body:
                yield b"never"

        async with self.peer(place, none=none) as peer:
            assert await peer.all("none") == []

    async def test_what_came_before_an_error_is_given_first(self, place: Path) -> None:
        async def breaks(request: Request) -> AsyncIterator[Buffer]:
            yield b"1"
            yield b"2"
            raise ValueError("then no more")

        async with self.peer(place, breaks=breaks) as peer, peer.stream("breaks") as replies:
            assert [bytes(await anext(replies)) for _ in range(2)] == [b"1", b"2"]
            with pytest.raises(HandlerFailed, match="then no more"):
                await anext(replies)

    async def test_leaving_a_stream_early_cancels_its_handler(self, place: Path) -> None:
        over = asyncio.Event()

        async def endless(request: Request) -> AsyncIterator[Buffer]:
            try:
                while True:
                    yield b"token"
                    await asyncio.sleep(0)
            finally:
                over.set()

        async with self.peer(place, endless=endless, echo=echo) as peer:
            async with peer.stream("endless") as replies:
                assert bytes(await anext(replies)) == b"token"
            await soon(over)
            assert await peer.ask("echo", b"next") == b"next"

    async def test_a_stream_past_its_deadline_ends_with_that(self, place: Path) -> None:
        async def slow(request: Request) -> AsyncIterator[Buffer]:
            yield b"first"
            await asyncio.sleep(30)
            yield b"never"

        async with self.peer(place, slow=slow) as peer, peer.stream("slow", deadline=1.0) as replies:
            assert bytes(await anext(replies)) == b"first"
            with pytest.raises(DeadlineExceeded):
                await anext(replies)

    async def test_a_request_of_many_messages_arrives_in_order(self, place: Path) -> None:
        async def total(request: Request) -> Buffer:
            numbers = [int.from_bytes(bytes(message)[:4], "big") async for message in request.messages()]
            assert numbers == list(range(len(numbers)))
            return b"%d" % len(numbers)

        async with self.peer(place, total=total) as peer:
            assert await peer.all("total", numbered(1000)) == [b"1000"]

    async def test_a_request_of_no_messages_is_one(self, place: Path) -> None:
        async def total(request: Request) -> Buffer:
            return b"%d" % len([message async for message in request.messages()])

        async with self.peer(place, total=total) as peer:
            assert await peer.all("total", numbered(0)) == [b"0"]

    async def test_both_sides_may_talk_in_turns(self, place: Path) -> None:
        async def answer(request: Request) -> AsyncIterator[Buffer]:
            async for message in request.messages():
                yield b"re: " + bytes(message)

        turns: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def questions() -> AsyncIterator[Buffer]:
            while (question := await turns.get()) is not None:
                yield question

        async with self.peer(place, answer=answer) as peer:
            turns.put_nowait(b"0")
            async with peer.stream("answer", questions()) as replies:
                for number in range(1, 20):
                    assert bytes(await anext(replies)) == b"re: %d" % (number - 1)
                    turns.put_nowait(b"%d" % number)
                turns.put_nowait(None)
                assert [bytes(reply) async for reply in replies] == [b"re: 19"]

    async def test_a_request_whose_messages_fail_is_cancelled_and_its_caller_gets_the_failure(
        self, place: Path
    ) -> None:
        begun, over = asyncio.Event(), asyncio.Event()

        async def total(request: Request) -> Buffer:
            begun.set()
            try:
                return b"%d" % len([message async for message in request.messages()])
            finally:
                over.set()

        async def broken() -> AsyncIterator[Buffer]:
            yield b"1"
            await soon(begun)  # what has not left is taken back, and never begun
            raise RuntimeError("the tokenizer died")

        async with self.peer(place, total=total) as peer:
            with pytest.raises(RuntimeError, match="the tokenizer died"):
                await peer.all("total", broken())
            await soon(over)

    async def test_replies_may_be_large(self, place: Path) -> None:
        async def large(request: Request) -> AsyncIterator[Buffer]:
            for number in range(6):
                yield bytes([number]) * 300_000

        async with self.peer(place, large=large) as peer:
            assert [(reply[0], len(reply)) for reply in await peer.all("large")] == [(n, 300_000) for n in range(6)]

    async def test_streams_side_by_side_do_not_mix(self, place: Path) -> None:
        async def own(request: Request) -> AsyncIterator[Buffer]:
            for number in range(50):
                yield bytes(request.body) + b":%d" % number

        async with self.peer(place, own=own) as peer:
            got = await asyncio.gather(*(peer.all("own", b"%d" % stream) for stream in range(16)))
        assert got == [[b"%d:%d" % (stream, number) for number in range(50)] for stream in range(16)]


class BackpressureSuite(CallBackend):
    """For paths on which whoever reads slowly makes the other side wait."""

    async def test_a_reader_that_takes_nothing_makes_the_handler_wait(self, place: Path) -> None:
        given = 0

        async def endless(request: Request) -> AsyncIterator[Buffer]:
            nonlocal given
            while True:
                given += 1
                yield bytes(10_000)

        async with self.peer(place, endless=endless, echo=echo) as peer, peer.stream("endless") as replies:
            await anext(replies)
            # Calls pass on the same session while the stream stands still: whatever it could send, it has sent.
            for _ in range(50):
                await peer.ask("echo")
            standing = given
            for _ in range(50):
                await peer.ask("echo")
            assert given == standing
            assert given * 10_000 < 4 << 20
            for _ in range(200):
                await anext(replies)
            assert given > standing

    async def test_a_handler_that_takes_nothing_makes_the_caller_wait(self, place: Path) -> None:
        sent = 0
        let_go = asyncio.Event()

        async def lazy(request: Request) -> Buffer:
            await let_go.wait()
            return b"%d" % len([message async for message in request.messages()])

        async def endless() -> AsyncIterator[Buffer]:
            nonlocal sent
            for _ in range(1000):
                sent += 1
                yield bytes(10_000)

        async with self.peer(place, lazy=lazy, echo=echo) as peer, peer.stream("lazy", endless()) as replies:
            for _ in range(50):
                await peer.ask("echo")
            assert sent * 10_000 < 4 << 20
            let_go.set()
            assert bytes(await anext(replies)) == b"1000"
