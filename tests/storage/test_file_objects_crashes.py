"""Crashes and cancellation: complete or absent, and what is left over is collected, and only that."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynlog.errors import ObjectNotFound
from dynlog.objects import PIECE_BYTES, ObjectStore
from dynlog.open import open_objects
from tests.conformance.object_backend import cancelled_after, keys, stream
from tests.storage.folder_of_objects import files, foreign


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[ObjectStore]:
    async with open_objects(f"file://{root}") as store:
        yield store


CRASHING = """
import asyncio, os, sys
from dynlog.open import open_objects

async def main(url):
    async with open_objects(url) as store:
        print("open", flush=True)
        turn = 0
        while True:
            size = 1 + (turn * 7919) % 600_000
            await store.put("d/k", b"%d:" % turn + bytes([turn % 251]) * size, metadata={"turn": str(turn)})
            print(turn, flush=True)
            if turn % 5 == 4:
                await store.delete("d/k")
                print("deleted", flush=True)
            turn += 1

asyncio.run(main(sys.argv[1]))
"""


def whole_body(turn: int) -> bytes:
    return b"%d:" % turn + bytes([turn % 251]) * (1 + (turn * 7919) % 600_000)


async def test_after_sigkill_an_object_is_complete_or_absent_and_never_older_than_acknowledged(root: Path) -> None:
    outcomes = set()
    for round_ in range(12):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CRASHING, f"file://{root}", stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"open\n"
        for _ in range(1 + round_ * 3):
            await process.stdout.readline()
        await asyncio.sleep(0.0007 * (round_ % 7))  # only varies where in a put the kill falls
        process.send_signal(signal.SIGKILL)
        told = (await process.stdout.read()).split()
        await process.wait()
        async with open_objects(f"file://{root}") as store:
            try:
                body, info = await store.get_bytes("d/k"), await store.head("d/k")
            except ObjectNotFound:
                outcomes.add("absent")
            else:
                turn = int(info.metadata["turn"])
                assert body == whole_body(turn)
                if told and told[-1] != b"deleted":
                    assert turn >= int(told[-1])
                outcomes.add("complete")
            await store.put("d/k", b"afterwards")
            assert await store.get_bytes("d/k") == b"afterwards"
            assert foreign(root) == {"d/k": b"afterwards"}
            await store.gc(older_than_s=-60)
            assert len(files(root)) == 2
    assert "complete" in outcomes


async def test_parts_of_an_upload_survive_sigkill(root: Path) -> None:
    code = (
        "import asyncio, os, signal, sys\n"
        "from dynlog.open import open_objects\n"
        "async def source():\n"
        "    yield b'x' * 1_000_000\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "async def main():\n"
        "    async with open_objects(sys.argv[1]) as store:\n"
        "        upload = await store.start_upload('k')\n"
        "        print(upload.upload_id, flush=True)\n"
        "        await upload.put_part(1, b'first')\n"
        "        await upload.put_part(2, source())\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, f"file://{root}", stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == -signal.SIGKILL
    async with open_objects(f"file://{root}") as store:
        assert await keys(store) == []
        upload = await store.resume_upload("k", out.decode().strip())
        assert [part.number for part in await upload.parts()] == [1]
        await upload.put_part(2, b"second")
        await upload.complete()
        assert await store.get_bytes("k") == b"firstsecond"


@pytest.mark.parametrize("turns", range(0, 200, 5))
async def test_a_cancelled_call_leaves_no_temporary_file(store: ObjectStore, root: Path, turns: int) -> None:
    await store.put("old", b"old")
    await cancelled_after(turns, store.put("new", stream(os.urandom(PIECE_BYTES), os.urandom(PIECE_BYTES + 1))))
    await cancelled_after(turns, store.put("old", b"new"))
    assert len(files(root)) == 2 * len(await keys(store))
    assert await store.get_bytes("old") in (b"old", b"new")
    await cancelled_after(turns, store.delete("old"))
    assert len(files(root)) == 2 * len(await keys(store))


async def test_gc_removes_what_crashed_puts_left_after_a_day_and_no_body_that_is_read(
    store: ObjectStore, root: Path
) -> None:
    (root / "taken").write_bytes(b"foreign, so the body stays in the hidden folder")
    await store.put("taken", b"x")
    left = [root / ".dynlog" / "bodies" / name for name in ("0" * 32, "1" * 32 + ".entry")]
    for path in left:
        path.write_bytes(b"half a bo")
    assert (await store.gc()).abandoned == 0
    for path in (root / ".dynlog").rglob("*"):
        os.utime(path, (1, 1))
    collected = await store.gc()
    assert (collected.abandoned, collected.bytes) == (2, 18)
    assert not any(path.exists() for path in left)
    assert await store.get_bytes("taken") == b"x"


async def test_gc_spares_bodies_while_a_sidecar_cannot_be_read(store: ObjectStore, root: Path) -> None:
    (root / "k").write_bytes(b"foreign")
    await store.put("k", b"x")
    sidecar = root / ".dynlog" / "entries" / "k.o"
    sound = sidecar.read_bytes()
    sidecar.write_bytes(b"damaged")
    await store.gc(older_than_s=-60)
    sidecar.write_bytes(sound)
    assert await store.get_bytes("k") == b"x"
