"""TLS of ``tcp://``: who is not believed is told so, and handshakes that fail leave nothing with anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from dynlog.call_errors import WireUnavailable
from dynlog.errors import ConfigurationError, DeadlineExceeded
from dynlog.wire import Wire, make_wire
from tests.wires.certificates import make_certificates
from tests.wires.wire_backend import PATIENCE_S, Box, Place


@asynccontextmanager
async def listening(options: str, host: str = "127.0.0.1") -> AsyncIterator[Place]:
    """A listener with these options; both wires close within seconds, whatever happened."""
    here, there = make_wire("tcp"), make_wire("tcp")
    places: list[Place] = []
    listener = await there.listen(f"tcp://{host}:0{options}", lambda channel: places[0].accept(channel))
    places.append(Place(here, there, listener, listener.address))
    try:
        yield places[0]
    finally:
        async with asyncio.timeout(8):
            await here.close()
            await there.close()


def serving(folder: Path) -> str:
    return f"?cert={folder}/server.crt&key={folder}/server.key"


async def refused(wire: Wire, address: str, match: str = "tcp://") -> None:
    with pytest.raises((WireUnavailable, DeadlineExceeded), match=match):
        await wire.connect(address, lambda channel: Box(), timeout=3)


async def test_a_listener_of_another_authority_is_not_believed(certificates: Path, tmp_path: Path) -> None:
    others = make_certificates(tmp_path / "others")
    async with listening(serving(others)) as place:
        await refused(place.here, f"{place.address}?ca={certificates}/ca.crt", "(?i)certificate")
        assert place.boxes == []
        (await place.dial(f"{place.address}?ca={others}/ca.crt")).near.send([(b"believed",)])
        assert await place.boxes[0].has(1) == [b"believed"]


async def test_a_listener_under_another_name_is_not_believed(certificates: Path) -> None:
    async with listening(serving(certificates), "127.0.0.2") as place:
        await refused(place.here, f"{place.address}?ca={certificates}/ca.crt", "(?i)certificate")
        assert place.boxes == []


async def test_who_speaks_plainly_to_tls_and_tls_to_who_speaks_plainly_is_refused(certificates: Path) -> None:
    async with listening(serving(certificates)) as place:
        await refused(place.here, place.address)
    async with listening("") as place:
        await refused(place.here, f"{place.address}?ca={certificates}/ca.crt")
        assert place.boxes == []


async def test_a_listener_that_asks_for_certificates_takes_only_those_of_its_authority(
    certificates: Path, tmp_path: Path
) -> None:
    others = make_certificates(tmp_path / "others")
    async with listening(f"{serving(certificates)}&ca={certificates}/ca.crt") as place:
        ours = f"{place.address}?ca={certificates}/ca.crt"
        await refused(place.here, ours)
        await refused(place.here, f"{ours}&cert={others}/client.crt&key={others}/client.key")
        assert place.boxes == []
        ends = await place.dial(f"{ours}&cert={certificates}/client.crt&key={certificates}/client.key")
        ends.near.send([(b"known",)])
        assert await ends.far_box.has(1) == [b"known"]


async def test_handshakes_that_are_never_finished_keep_nobody_out(certificates: Path) -> None:
    async with listening(serving(certificates)) as place:
        port = int(place.address.rpartition(":")[2])
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        for number, (_, writer) in enumerate(strangers):
            writer.write(b"\x16\x03\x01\x02\x00\x01"[: number % 7])
        ends = await place.dial(f"{place.address}?ca={certificates}/ca.crt")
        ends.near.send([(b"served",)])
        assert await ends.far_box.has(1) == [b"served"]
        for reader, writer in strangers:
            writer.close()
            with suppress(OSError):
                await asyncio.wait_for(reader.read(), PATIENCE_S)
                await writer.wait_closed()


@pytest.mark.parametrize(
    "options", ["?cert=/nowhere", "?key=/nowhere", "?ca=/nowhere", "?cert=/dev/null", "?verify=no"]
)
async def test_options_that_cannot_work_are_refused_by_name(options: str) -> None:
    wire = make_wire("tcp")
    with pytest.raises(ConfigurationError):
        await wire.listen(f"tcp://127.0.0.1:0{options}", lambda channel: Box())
    with pytest.raises(ConfigurationError):
        await wire.connect(f"tcp://127.0.0.1:1{options}", lambda channel: Box(), timeout=1)
    await wire.close()
