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
from dynlog.storage.files.layout import Layout
from dynlog.storage.files.reading import OpenBody
from dynlog.storage.files.sidecar import Sidecar
from dynlog.storage.files.vault import Description, Vault
from tests.conformance.object_backend import PATIENCE_S, cancelled_after, keys, stream
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


KILLED_AT_EVERY_STEP = """
import os, pathlib, signal, sys
from dynlog.storage.files.layout import Layout
from dynlog.storage.files.vault import Description, Vault

def put(vault, key, body):
    draft = vault.draft()
    draft.open()
    draft.write(body)
    draft.sync()
    vault.commit(draft, Description(key, {}, None), 0, if_absent=False)

def kill_at(step):
    left = step
    def guarded(call):
        def guard(*args, **kwargs):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*args, **kwargs)
        return guard
    for name in ("open", "write", "fsync", "close", "rename", "unlink", "mkdir", "rmdir"):
        setattr(os, name, guarded(getattr(os, name)))

root, what = pathlib.Path(sys.argv[1]), sys.argv[2]
step, killed = 0, True
while killed:
    vault = Vault(Layout(root / str(step)), "a store")
    vault.prepare()
    if what != "first put":
        put(vault, "d/k", b"old body")
    child = os.fork()
    if child == 0:
        kill_at(step)
        vault.delete("d/k") if what == "delete" else put(vault, "d/k", b"new")
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    step += 1
print(step)
"""


@pytest.mark.parametrize("what", ["first put", "second put", "delete"])
async def test_a_kill_at_every_system_call_leaves_the_object_as_before_or_as_after(tmp_path: Path, what: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path), what, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    steps = int(out)
    assert steps > 5
    before = None if what == "first put" else b"old body"
    after = None if what == "delete" else b"new"
    found = []
    for step in range(steps):
        root = tmp_path / str(step)
        async with open_objects(f"file://{root}") as store:
            found.append(await store.get_bytes("d/k") if await keys(store) else None)
            await store.put("d/k", b"afterwards")
            assert await store.get_bytes("d/k") == b"afterwards"
            assert foreign(root) == {"d/k": b"afterwards"}, f"killed at step {step}"
            await store.gc(older_than_s=-60)
            assert len(files(root)) == 2, f"killed at step {step}"
            await store.delete("d/k")
            assert files(root) == {}
    moment = found.index(after)
    assert found == [before] * moment + [after] * (steps - moment)
    assert 0 < moment < steps


REPLACING = """
import asyncio, sys
from dynlog.open import open_objects

async def main(url):
    async with open_objects(url) as store:
        for turn in range(150):
            await store.put("k", b"%d:" % turn + bytes(turn % 97))
            if turn == 0:
                print("first", flush=True)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_reader_sees_whole_bodies_while_another_process_replaces_them(store: ObjectStore, root: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REPLACING, f"file://{root}", stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"first\n"
    last = -1
    while last < 149:
        turn, _, rest = (await store.get_bytes("k")).partition(b":")
        assert len(rest) == int(turn) % 97
        assert int(turn) >= last, "an older body came back"
        last = int(turn)
    await process.wait()


class ReplacingVault(Vault):
    """Whenever somebody has read a sidecar, the object is replaced (by a larger body) before the next step."""

    left = 0

    def sidecar(self, key: str, now_ms: int) -> Sidecar:
        found = super().sidecar(key, now_ms)
        if self.left:
            self.left -= 1
            self.replace(key, b"x" * (10 - self.left))
        return found

    def replace(self, key: str, body: bytes) -> None:
        draft = self.draft()
        draft.open()
        draft.write(body)
        draft.sync()
        self.commit(draft, Description(key, {}, None), 0, if_absent=False)


@pytest.mark.parametrize("replacements", range(6))
def test_a_reader_between_whose_steps_the_object_is_replaced_gets_one_generation(root: Path, replacements: int) -> None:
    vault = ReplacingVault(Layout(root), "a store")
    vault.prepare()
    vault.replace("k", b"first")
    vault.left = replacements
    body = OpenBody(vault, "k")
    info = body.open(0)
    assert body.read(0, info.size) == (b"x" * 10 if replacements else b"first")
    body.verify(info)
    body.close()


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


async def test_many_calls_cancelled_again_and_again_leave_no_temporary_file(store: ObjectStore, root: Path) -> None:
    """More calls than threads, so that their clean-up has to queue, and is itself cancelled there."""
    for turns in range(0, 60, 4):
        tasks = [asyncio.create_task(store.put(f"{turns}/{n}", os.urandom(PIECE_BYTES))) for n in range(12)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(3):
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait(tasks, timeout=PATIENCE_S)
        assert all(task.done() for task in tasks)
        assert len(files(root)) == 2 * len(await keys(store)), f"cancelled after {turns} turns"


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


@pytest.mark.parametrize("taken", [False, True], ids=["own-name", "foreign-file-there"])
async def test_gc_spares_what_a_put_under_way_has_written_however_old_it_seems(
    store: ObjectStore, root: Path, taken: bool
) -> None:
    if taken:
        (root / "k").write_bytes(b"foreign")
    halfway, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(PIECE_BYTES)
        halfway.set()
        await go_on.wait()
        yield b"x"

    async with open_objects(store.url) as other:
        putting = asyncio.create_task(store.put("k", body()))
        await halfway.wait()
        assert (await other.gc(older_than_s=-60)).abandoned == 0
        go_on.set()
        await putting
        assert await other.get_bytes("k") == bytes(PIECE_BYTES) + b"x"


async def test_gc_spares_bodies_while_a_sidecar_cannot_be_read(store: ObjectStore, root: Path) -> None:
    (root / "k").write_bytes(b"foreign")
    await store.put("k", b"x")
    sidecar = root / ".dynlog" / "entries" / "k.o"
    sound = sidecar.read_bytes()
    sidecar.write_bytes(b"damaged")
    await store.gc(older_than_s=-60)
    sidecar.write_bytes(sound)
    assert await store.get_bytes("k") == b"x"
