"""``sse://`` among what HTTP puts between two ends: proxies that cut, repeat and lose; requests that nobody made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from dynlog.adapters.wires import sse_server
from dynlog.adapters.wires.packets import Kind, write_packet
from dynlog.call_errors import WireBroken
from dynlog.wire import make_wire
from tests.wires.reverse_proxy import PREFIX, ReverseProxy
from tests.wires.wire_backend import PATIENCE_S, Ends, Place, body


@asynccontextmanager
async def listening() -> AsyncIterator[Place]:
    here, there = make_wire("sse"), make_wire("sse")
    places: list[Place] = []
    listener = await there.listen("sse://127.0.0.1:0/dynlog", lambda channel: places[0].accept(channel))
    places.append(Place(here, there, listener, listener.address))
    try:
        yield places[0]
    finally:
        await here.close()
        await there.close()
        assert not any(box.late for box in places[0].boxes)


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[ReverseProxy, Place]]:
    """A wire whose peers reach each other through a reverse proxy alone."""
    async with listening() as place:
        target = place.address.replace("sse://", "http://").removesuffix("/dynlog")
        async with ReverseProxy(target).running() as proxy:
            place.address = f"sse://127.0.0.1:{proxy.port}{PREFIX}/dynlog"
            yield proxy, place
            await place.here.close()


async def carries(ends: Ends, count: int, size: int) -> None:
    """Frames both ways at once, in order, none lost and none twice."""
    for number in range(count):
        ends.near.send([(body(number, size),)])
        ends.far.send([(body(number, size + 1),)])
        if number % 10 == 9:
            await asyncio.sleep(0.001)
    assert await ends.far_box.has(count) == [body(number, size) for number in range(count)]
    assert await ends.near_box.has(count) == [body(number, size + 1) for number in range(count)]


async def test_a_channel_goes_through_a_reverse_proxy() -> None:
    async with proxied() as (proxy, place):
        ends = await place.dial()
        await carries(ends, 300, 200)
        longest = bytes(ends.near.max_frame_bytes)
        ends.near.send([(longest,)])
        ends.far.send([(longest,)])
        assert (await ends.far_box.has(301))[300] == (await ends.near_box.has(301))[300] == longest
        ends.near.close()
        assert await ends.far_box.ended() is None
        assert proxy.gets == 1


async def test_a_proxy_that_cuts_every_response_within_its_events_loses_and_doubles_nothing() -> None:
    async with proxied() as (proxy, place):
        proxy.cut_gets_after = 20_000
        ends = await place.dial()
        await carries(ends, 150, 1000)
        assert proxy.gets > 5
        ends.far.close()
        assert await ends.near_box.ended() is None


async def test_posts_whose_answers_are_lost_are_applied_once() -> None:
    async with proxied() as (proxy, place):
        proxy.lose_answer_of = lambda number: number % 2 == 0
        ends = await place.dial()
        await carries(ends, 200, 500)
        assert proxy.posts > 3


async def test_posts_that_a_proxy_delivers_twice_are_applied_once() -> None:
    async with proxied() as (proxy, place):
        ends = await place.dial()
        proxy.every_post = 2
        await carries(ends, 200, 500)


async def test_a_proxy_that_has_nothing_behind_it_for_a_while_only_delays() -> None:
    async with proxied() as (proxy, place):
        ends = await place.dial()
        proxy.away = True
        ends.near.send([(b"patience",)])
        await asyncio.sleep(0.3)
        assert ends.far_box.frames == []
        proxy.away = False
        assert await ends.far_box.has(1) == [b"patience"]
        assert ends.near_box.lost == 0


async def test_a_quiet_channel_is_kept_awake_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse_server, "HEARTBEAT_S", 0.05)
    async with listening() as place, httpx.AsyncClient(trust_env=False) as client:
        base = place.address.replace("sse://", "http://")
        name = (await client.post(f"{base}/open")).text
        async with client.stream("GET", f"{base}/{name}") as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.headers["x-accel-buffering"] == "no"
            assert "no-transform" in answer.headers["cache-control"]
            async with asyncio.timeout(PATIENCE_S):
                pieces = answer.aiter_raw()
                assert await anext(pieces) == await anext(pieces) == b": \n\n"


async def test_a_client_that_vanishes_ends_its_channel_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse_server, "RESUME_S", 0.2)
    async with listening() as place, httpx.AsyncClient(trust_env=False) as client:
        base = place.address.replace("sse://", "http://")
        name = (await client.post(f"{base}/open")).text
        async with client.stream("GET", f"{base}/{name}"):
            pass
        (box,) = place.boxes
        assert isinstance(await box.ended(), WireBroken)
        assert (await client.get(f"{base}/{name}")).status_code == 404


@asynccontextmanager
async def by_hand() -> AsyncIterator[tuple[Place, httpx.AsyncClient, str]]:
    """A channel whose requests are made one by one."""
    async with listening() as place, httpx.AsyncClient(trust_env=False) as client:
        base = place.address.replace("sse://", "http://")
        yield place, client, f"{base}/{(await client.post(f'{base}/open')).text}"
        await client.post(f"{base}/none?n=1")


def post(*packets: bytes) -> bytes:
    return b"".join(len(packet).to_bytes(4, "little") + packet for packet in packets)


async def test_a_post_that_is_out_of_turn_is_refused_and_one_that_comes_again_is_applied_once() -> None:
    async with by_hand() as (place, client, url):
        first = post(write_packet(Kind.FRAMES, 1, 0, [b"one"]), write_packet(Kind.FRAMES, 2, 0, [b"two"]))
        assert (await client.post(f"{url}?n=2", content=first)).status_code == 409
        for _ in range(3):
            assert (await client.post(f"{url}?n=1", content=first)).status_code == 204
        assert (await client.post(f"{url}?n=2", content=post(write_packet(Kind.BYE, 2, 0)))).status_code == 204
        (box,) = place.boxes
        assert await box.ended() is None
        assert box.frames == [b"one", b"two"]


@pytest.mark.parametrize("query", ["", "?n=", "?n=-1", "?n=x", "?n=" + "9" * 40, "?m=1"])
async def test_a_post_without_a_number_is_refused_and_changes_nothing(query: str) -> None:
    async with by_hand() as (place, client, url):
        assert (await client.post(f"{url}{query}", content=post(write_packet(Kind.BYE, 0, 0)))).status_code == 400
        assert place.boxes[0].lost == 0


@pytest.mark.parametrize("content", [b"x", b"\xff\xff\xff\xff", b"\4\0\0\0abcd", post(b"no packet"), b"\0" * 100])
async def test_a_post_of_garbage_ends_the_channel_and_the_listener_goes_on(content: bytes) -> None:
    async with by_hand() as (place, client, url):
        await client.post(f"{url}?n=1", content=content)
        assert isinstance(await place.boxes[0].ended(), WireBroken)
        ends = await place.dial()
        ends.near.send([(b"next",)])
        assert await ends.far_box.has(1) == [b"next"]


async def test_a_post_that_is_too_large_is_refused_before_it_was_read() -> None:
    async with by_hand() as (place, client, url):

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield bytes(1 << 16)

        assert (await client.post(f"{url}?n=1", content=endless())).status_code == 413
        assert place.boxes[0].frames == []


async def test_events_come_again_from_where_the_client_was_and_those_it_has_are_gone() -> None:
    async with by_hand() as (place, client, url):
        channel = place.boxes[0].channel
        assert channel is not None
        for number in range(3):
            channel.send([(body(number),)])
            await asyncio.sleep(0)

        async def events(last: int, count: int) -> list[bytes]:
            async with client.stream("GET", url, headers={"last-event-id": str(last)}) as answer:
                if answer.status_code != 200:
                    return [b"%d" % answer.status_code]
                lines: list[bytes] = []
                async for line in answer.aiter_lines():
                    lines += [line.encode()] if line.startswith("id:") else []
                    if len(lines) == count:
                        break
                return lines

        assert await events(0, 3) == [b"id: 1", b"id: 2", b"id: 3"]
        assert await events(1, 2) == [b"id: 2", b"id: 3"]
        assert await events(2, 1) == [b"id: 3"]
        assert await events(0, 3) == [b"410"]
        assert (await client.get(url, headers={"last-event-id": "last"})).status_code == 400


async def test_names_of_channels_are_secrets_and_other_methods_are_refused() -> None:
    async with by_hand() as (place, client, url):
        base, _, name = url.rpartition("/")
        assert len(name) >= 32
        assert place.boxes[0].channel is not None
        assert name not in place.boxes[0].channel.peer
        for other in ("open", "", name[:-1], f"{name}x", "../open"):
            assert (await client.get(f"{base}/{other}")).status_code == 404
        assert (await client.put(url)).status_code == 405
        assert (await client.post(base.replace("/dynlog", "/else") + "/open")).status_code == 404
