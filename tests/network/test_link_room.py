"""A session whose buffers are full makes callers wait in line; whoever gives up leaves it, and nobody is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.errors import DeadlineExceeded
from dynlog.network.calls import Request
from dynlog.network.services import Services
from dynlog.network.session_settings import Limits, Settings
from dynlog.record import Buffer
from tests.network.call_backend import PATIENCE_S, SERVER, Peer
from tests.network.sessions import session_pair

TIGHT = Settings(Limits(ack_bytes=64 << 10, ack_records=16), resend_bytes=256 << 10, resend_records=64)


async def echo(request: Request) -> Buffer:
    return request.body


async def test_more_calls_than_there_is_room_for_are_all_answered() -> None:
    services = Services()
    services.add(SERVER, "echo", echo)
    async with session_pair(["tcp://127.0.0.1:0"], services, TIGHT) as pair:
        peer = Peer(pair.path, services)
        bodies = [number.to_bytes(4, "big") * 5000 for number in range(300)]
        assert await asyncio.gather(*(peer.ask("echo", body) for body in bodies)) == bodies


async def test_whoever_gives_up_in_line_holds_up_nobody_behind() -> None:
    services = Services()
    services.add(SERVER, "echo", echo)
    async with session_pair(["tcp://127.0.0.1:0"], services, TIGHT) as pair:
        peer = Peer(pair.path, services)
        await peer.ask("echo")
        assert pair.dialler.link is not None
        assert pair.dialler.link.channel is not None
        # Nothing is acknowledged while the caller's end takes no frames: the room fills and stays full.
        pair.dialler.link.channel.pause()
        patient = [asyncio.create_task(peer.ask("echo", bytes(20_000))) for _ in range(40)]
        hasty = [asyncio.create_task(peer.ask("echo", bytes(20_000), deadline=0.2)) for _ in range(20)]
        cancelled = [asyncio.create_task(peer.ask("echo", bytes(20_000))) for _ in range(20)]
        for call in hasty:
            with pytest.raises(DeadlineExceeded):
                await call
        for call in cancelled:
            call.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        pair.dialler.link.channel.resume()
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.gather(*patient) == [bytes(20_000)] * 40
