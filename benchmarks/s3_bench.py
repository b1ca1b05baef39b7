"""(s) The S3 store against plain minio-py moving the same bytes to and from the same MinIO, in turns; memory meanwhile.

Plain minio-py uploads three parts at once, and downloads to a sink without hashing; the store hashes what it puts by
SHA-256, and verifies what it gets.  So there is a row in which minio-py's user verifies too, and one with the processor
time that both then take, which, unlike the rates, depends little on who else uses the machine: client and server share
its cores.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from minio import Minio

import dynlog
from benchmarks.report import Row
from dynlog.objects import ObjectStore
from dynlog.testing.minio import MinioServer

BUCKET = "bench"
MIB = 1 << 20
PROVIDER = Path(__file__).resolve().parents[1] / "scripts" / "servers" / "minio.sh"


class Endless(io.BytesIO):
    """A stream of so many MiB, the same one again and again, that costs nothing to make."""

    def __init__(self, piece: bytes, size: int) -> None:
        super().__init__()
        self._piece = piece
        self._left = size * MIB

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, at most the piece's."""
        taken = min(self._left, len(self._piece), self._left if size is None or size < 0 else size)
        self._left -= taken
        return self._piece[:taken]


class Memory:
    """How far the resident memory of this process rises above where it was."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._base = self._now()
        self.rise_mib = 0.0
        self._thread = threading.Thread(target=self._watch)

    def _now(self) -> float:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.rise_mib = max(self.rise_mib, self._now() - self._base)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


class Mover:
    """The same bytes, by the store and by minio-py."""

    def __init__(self, store: ObjectStore, plain: Minio, size: int) -> None:
        self._store = store
        self._plain = plain
        self._size = size
        self._piece = os.urandom(MIB)

    async def up(self) -> None:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(self._size):
                yield self._piece

        await self._store.put("ours.bin", body())

    async def down(self) -> None:
        size = 0
        async for piece in self._store.get("ours.bin"):
            size += len(piece)
        assert size == self._size * MIB

    def plain_up(self) -> None:
        self._plain.put_object(BUCKET, "plain.bin", Endless(self._piece, self._size), self._size * MIB)

    def plain_down(self, verify: bool = False) -> None:
        answer = self._plain.get_object(BUCKET, "plain.bin")
        digest = hashlib.sha256()
        try:
            size = 0
            for piece in answer.stream(MIB):
                size += len(piece)
                if verify:
                    digest.update(piece)
        finally:
            answer.close()
            answer.release_conn()
        assert size == self._size * MIB


async def rates(size: int, rounds: int, ours: Callable[[], object], *plain: Callable[[], object]) -> list[float]:
    """Median MiB/s of each, taking turns."""
    seconds: list[list[float]] = [[] for _ in range(1 + len(plain))]
    for _ in range(rounds):
        begun = time.perf_counter()
        await ours()  # type: ignore[misc]
        seconds[0].append(time.perf_counter() - begun)
        for number, call in enumerate(plain, 1):
            begun = time.perf_counter()
            await asyncio.to_thread(call)
            seconds[number].append(time.perf_counter() - begun)
    return [size / statistics.median(found) for found in seconds]


async def processor_s(rounds: int, ours: Callable[[], object], plain: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of processor time of this process for each, taking turns."""
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        begun = time.process_time()
        await ours()  # type: ignore[misc]
        seconds[0].append(time.process_time() - begun)
        begun = time.process_time()
        await asyncio.to_thread(plain)
        seconds[1].append(time.process_time() - begun)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


async def measure(folder: Path, program: str, quick: bool) -> list[Row]:
    size, rounds, large = (32, 2, 64) if quick else (256, 9, 1024)
    async with MinioServer(folder, program=program) as server:
        await server.make_bucket(BUCKET)
        plain = Minio(server.endpoint.removeprefix("http://"), server.user, server.password, secure=False)
        async with dynlog.open_objects(server.url(BUCKET)) as store:
            mover = Mover(store, plain, large)
            with Memory() as up:
                await mover.up()
            with Memory() as down:
                await mover.down()
            mover = Mover(store, plain, size)
            up_rate, plain_up = await rates(size, rounds, mover.up, mover.plain_up)
            down_rate, plain_down, plain_verified = await rates(
                size, rounds, mover.down, mover.plain_down, lambda: mover.plain_down(verify=True)
            )
            spent, plain_spent = await processor_s(rounds, mover.down, lambda: mover.plain_down(verify=True))
    what = f"{size} MiB"
    return [
        Row(f"upload {what}", up_rate, "MiB/s", peer=plain_up, required=">= 0.9x", note="peer: minio-py put_object"),
        Row(
            f"download {what}", down_rate, "MiB/s", peer=plain_down, required=">= 0.9x",
            note="peer: minio-py get_object to a sink, without hashing",
        ),
        Row(
            f"download {what}, both verifying", down_rate, "MiB/s", peer=plain_verified,
            note="peer: minio-py get_object and SHA-256",
        ),
        Row(
            f"processor time of the client, download {what}", spent, "s", peer=plain_spent,
            note="peer: minio-py get_object and SHA-256",
        ),
        Row(f"memory over the start, upload {large} MiB", up.rise_mib, "MiB", required="<= 100"),
        Row(f"memory over the start, download {large} MiB", down.rise_mib, "MiB", required="<= 100"),
    ]  # fmt: skip


def run(quick: bool) -> list[Row]:
    """Rows for both directions, and memory."""
    program = subprocess.run([PROVIDER], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="dynlog-bench-") as folder:
        return asyncio.run(measure(Path(folder), program, quick))
