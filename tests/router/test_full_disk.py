"""A log on a disk that is full: it takes nothing, and everything that only reads goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import dynlog
from dynlog.errors import LogFull
from dynlog.kvevents import Kind, KvEvent, encode_events, pack_hashes
from dynlog.record import Record
from dynlog.router.state import RouterState


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "disk"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(point)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small filesystem needs root")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


async def test_a_router_that_restarts_on_a_full_disk_rebuilds_and_answers(small_disk: Path, tmp_path: Path) -> None:
    url, hashes = f"sqlite://{small_disk}/events.db", pack_hashes([1, 2, 3])
    async with dynlog.open_log(url) as log, dynlog.open_objects(f"file://{tmp_path}/objects") as objects:
        await log.create_topic("kv")
        await log.append("kv", 0, [encode_events([KvEvent(7, Kind.STORED, hashes, hashes)])])
        with suppress(LogFull):
            while True:
                await log.append("kv", 0, [Record((os.urandom(20_000),), key=b"not an event")])
        with (small_disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        async with RouterState.open(log, "kv", objects=objects) as router:
            await router.ready(timeout=20)
            assert router.find_matches([1, 2, 3, 4]) == {(7, 0): 3}
