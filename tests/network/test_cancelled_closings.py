"""Whoever is cancelled while he closes something of the network is cancelled, and what he closes is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from dynlog.call_errors import NotSent
from dynlog.entity import DynamoEntityID
from dynlog.kv import open_kv
from dynlog.network.bucket_registry import open_registry
from dynlog.network.calls import Request
from dynlog.network.deadlines import Deadlines
from dynlog.network.dialling import Dialler
from dynlog.network.hierarchy import Member
from dynlog.network.services import Services
from dynlog.network.session_handshake import Identity
from dynlog.network.session_settings import Settings
from dynlog.open import open_log
from dynlog.record import Buffer
from tests.cancelling import cancelled_as_it_ends, task_called
from tests.network.call_backend import CALLER, SERVER, Peer
from tests.network.log_calls import LogBackend
from tests.network.registry_backend import on_log
from tests.network.sessions import Wires, session_pair

ENTITY = DynamoEntityID.from_name("leaver")


async def first(request: Request) -> AsyncIterator[Buffer]:
    """Answers as soon as it is asked, and then nothing."""
    async for message in request.messages():
        yield message


async def questions() -> AsyncIterator[Buffer]:
    """One, and another that never comes."""
    yield b"one"
    await asyncio.Event().wait()


async def left_as_its_request_ends(peer: Peer) -> None:
    """Whoever leaves a stream whose request is still being sent is cancelled."""
    replies = peer.stream("first", questions())
    await replies.__aenter__()
    await anext(aiter(replies))
    await cancelled_as_it_ends(replies.__aexit__(None, None, None), task_called("dynlog-request first"))


async def test_leaving_a_stream_over_a_session() -> None:
    services = Services()
    services.add(SERVER, "first", first)
    async with session_pair(["tcp://127.0.0.1:0"], services, Settings()) as pair:
        await left_as_its_request_ends(Peer(pair.path, services))


async def test_leaving_a_stream_over_the_log(tmp_path: Path) -> None:
    class OnMemory(LogBackend):
        def url(self, tmp_path: Path) -> str:
            return f"memory://{uuid4().hex}"

    services = Services()
    services.add(SERVER, "first", first)
    async with OnMemory().serving(services, tmp_path) as path:
        await left_as_its_request_ends(Peer(path, services))


async def test_closing_a_dialler_ends_its_session() -> None:
    wires, deadlines = Wires(), Deadlines(asyncio.get_running_loop())
    dialler = Dialler(
        wires, Identity(CALLER.key, 1, "caller"), Settings(), Services(), deadlines, ["tcp://127.0.0.1:1"]
    )
    with pytest.raises(NotSent):
        await dialler.connect(0.05)
    link = dialler.link
    assert link is not None
    await cancelled_as_it_ends(dialler.close(), task_called("dynlog-dialler"))
    assert link.session.over
    deadlines.close()
    await wires.close()


async def test_leaving_a_registry_gives_the_place_back() -> None:
    async with on_log(f"memory://{uuid4().hex}") as world:
        place = await world.registry.join(Member(ENTITY))
        await world.elsewhere.refresh()
        assert world.elsewhere.view.get(ENTITY) is not None
        watching = place._watching  # type: ignore[attr-defined]
        await cancelled_as_it_ends(place.leave(), watching)
        await world.elsewhere.refresh()
        assert world.elsewhere.view.get(ENTITY) is None


async def test_closing_a_registry_ends_its_leases() -> None:
    async with open_log("memory://") as log, open_kv(log, compaction=None) as kv:
        opening = open_registry(await kv.create("network"))
        registry = await opening.__aenter__()
        await registry.join(Member(ENTITY))
        await cancelled_as_it_ends(opening.__aexit__(None, None, None), task_called("dynlog-registry"))
        async with open_registry(await kv.bucket("network")) as another:
            assert another.view.get(ENTITY) is None
