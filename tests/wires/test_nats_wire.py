"""What only NATS can do to a wire: servers that die and come back, users, inboxes that are none, too small messages."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import nats
import pytest

from dynlog.adapters.wires.packets import Kind, write_packet
from dynlog.call_errors import WireBroken, WireUnavailable
from dynlog.errors import ConfigurationError, DeadlineExceeded, DynlogError
from dynlog.testing.kinds import RunningServer
from dynlog.testing.nats import NatsServer
from dynlog.wire import Wire, make_wire
from tests.faults.proxy import Network, Proxy
from tests.nats_source.source import Configured
from tests.wires.wire_backend import PATIENCE_S, Box, Ends, Place, body


async def listening(wire: Wire, address: str) -> Place:
    """A listener of a wire that also dials it."""
    places: list[Place] = []
    listener = await wire.listen(address, lambda channel: places[0].accept(channel))
    places.append(Place(wire, wire, listener, address))
    return places[0]


async def dialled(place: Place) -> Ends:
    """Dials until it goes through."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(WireUnavailable, DeadlineExceeded):
                return await place.dial(timeout=1.0)
            await asyncio.sleep(0.05)


async def test_a_server_that_is_killed_ends_channels_and_its_listeners_come_back_with_it(tmp_path: Path) -> None:
    wire = make_wire("nats")
    async with NatsServer(tmp_path / "nats") as server:
        place = await listening(wire, f"{server.url}/dynlog.{uuid4().hex}")
        ends = await place.dial()
        ends.near.send([(body(1),)])
        await ends.far_box.has(1)
        await server.kill()
        assert isinstance(await ends.near_box.ended(), WireBroken)
        assert isinstance(await ends.far_box.ended(), WireBroken)
        with pytest.raises((WireUnavailable, DeadlineExceeded)):
            await place.dial(timeout=1.0)
        await server.start()
        again = await dialled(place)
        again.near.send([(body(2),)])
        assert await again.far_box.has(1) == [body(2)]
        await wire.close()


async def test_a_listener_outlives_a_connection_that_a_dial_has_given_up(nats_server: RunningServer) -> None:
    wire = make_wire("nats")
    async with Proxy(nats_server.port) as proxy:
        place = await listening(wire, f"nats://127.0.0.1:{proxy.port}/dynlog.{uuid4().hex}")
        proxy.set(Network.HELD)
        with pytest.raises((WireUnavailable, DeadlineExceeded)):
            await place.dial(timeout=1.5)
        proxy.mend()
        ends = await dialled(place)
        ends.near.send([(b"heard",)])
        assert await ends.far_box.has(1) == [b"heard"]
        await wire.close()


async def test_users_do_not_share_a_connection(tmp_path: Path) -> None:
    server = Configured(tmp_path / "nats")
    server.lines = "authorization { users = [{user: alice, password: secret}] }\n"
    wire = make_wire("nats")
    async with server:
        place = await listening(wire, f"nats://alice:secret@127.0.0.1:{server.port}/dynlog.users")
        await place.dial()
        for other in ("nats://127.0.0.1", "nats://alice:guess@127.0.0.1", "nats://token@127.0.0.1"):
            with pytest.raises(WireUnavailable) as refused:
                await place.dial(f"{other}:{server.port}/dynlog.users")
            assert "secret" not in str(refused.value)
            assert "guess" not in str(refused.value)
        await wire.close()


async def test_a_server_that_takes_too_little_in_a_message_is_refused_by_name(tmp_path: Path) -> None:
    server = Configured(tmp_path / "nats")
    server.lines = "max_payload: 65536\n"
    wire = make_wire("nats")
    async with server:
        with pytest.raises(ConfigurationError, match="max_payload"):
            await wire.connect(f"{server.url}/dynlog.small", lambda channel: Box(), timeout=PATIENCE_S)
        await wire.close()


@pytest.mark.parametrize(
    "said",
    [
        b"", b"\0" * 30, write_packet(Kind.OPEN, 0, 0), write_packet(Kind.OPEN, 0, 0, raw=b"_INBOX.dynlog.x"),
        write_packet(Kind.OPEN, 0, 0, raw=b"victim 3\r\nabc\r\nPUB victim"),
        write_packet(Kind.OPEN, 0, 0, raw=b"victim"),
        write_packet(Kind.FRAMES, 1, 0, [b"frame"]), write_packet(Kind.BYE, 0, 0),
    ],
)  # fmt: skip
async def test_strangers_on_a_subject_get_no_channel_and_nobody_is_told_of_them(
    nats_server: RunningServer, said: bytes
) -> None:
    wire = make_wire("nats")
    place = await listening(wire, f"{nats_server.url}/dynlog.{uuid4().hex}")
    stranger = await nats.connect(nats_server.url)
    overheard: list[bytes] = []

    async def hear(message: object) -> None:
        overheard.append(b"")

    await stranger.subscribe("victim", cb=hear)
    await stranger.publish(place.address.rpartition("/")[2], said, reply="victim")
    await stranger.flush()
    ends = await place.dial()
    ends.near.send([(b"still",)])
    assert await ends.far_box.has(1) == [b"still"]
    await stranger.flush()
    assert place.boxes == [ends.far_box]
    assert overheard == []
    await stranger.close()
    await wire.close()


@pytest.mark.parametrize("address", ["nats://127.0.0.1:1", "nats://127.0.0.1:1/a.*", "nats://127.0.0.1:1/a/b",
                                     "nats://127.0.0.1:1/a b", "nats://127.0.0.1:1/a..b", "nats://127.0.0.1:1/.a",
                                     "nats://127.0.0.1:1/a.", "nats://127.0.0.1:1/a%0d%0ab"])  # fmt: skip
async def test_subjects_that_are_none_are_refused_before_anything_is_tried(address: str) -> None:
    wire = make_wire("nats")
    with pytest.raises(ConfigurationError):
        await wire.connect(address, lambda channel: Box(), timeout=1)
    with pytest.raises(DynlogError):
        await wire.listen(address, lambda channel: Box())
    await wire.close()
