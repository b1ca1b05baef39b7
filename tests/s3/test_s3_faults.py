"""Servers killed, paused and cut off in the middle of puts and gets: what was acknowledged is there, nothing is half.

Every scenario ends with an oracle that reads the bucket by plain minio-py, and with the threads and tasks counted.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from dynlog.errors import DeadlineExceeded, DynlogError, ObjectStoreUnavailable
from dynlog.objects import ObjectStore
from dynlog.open import open_objects
from dynlog.storage.s3.client import Client
from dynlog.storage.s3.failures import Unreached
from dynlog.testing.minio import MinioServer
from dynlog.testing.process import START_TIMEOUT_S
from tests.conformance.object_backend import PATIENCE_S, keys
from tests.conformance.possessions import possessions
from tests.rounds import brief, outage_s, rounds
from tests.s3.conftest import BUCKET
from tests.s3.oracle import Oracle
from tests.s3.proxy import Proxy

MIB = 1 << 20
PREFIX = "f"
WRITERS = 3
AWAY = (ObjectStoreUnavailable, DeadlineExceeded)
ROUNDS, OUTAGE_S = rounds(), outage_s()
STUCK_S = 2 * PATIENCE_S + OUTAGE_S
pytestmark = pytest.mark.timeout(120 + ROUNDS * (3 * STUCK_S + START_TIMEOUT_S))


async def settled(before: tuple[int, int, int]) -> None:
    """Waits until no more tasks and threads are there than before."""
    async with asyncio.timeout(PATIENCE_S):
        while possessions()[0] > before[0] or possessions()[1] > before[1]:  # noqa: ASYNC110 - threads set no event
            await asyncio.sleep(0.02)


async def collect(pieces: AsyncIterator[bytes], into: list[bytes]) -> None:
    async for piece in pieces:
        into.append(piece)  # noqa: PERF401 - what came before an error counts


class Load:
    """Tasks that put small and large objects and get them back without end, and an oracle that is told of it."""

    def __init__(self, store: ObjectStore, oracle: Oracle, dice: random.Random) -> None:
        self._store, self._oracle = store, oracle
        self._seeds = [dice.randrange(1 << 32) for _ in range(WRITERS)]
        self._dice = dice
        self._puts = self._gets = 0
        self._progress = asyncio.Condition()
        self._began = asyncio.get_running_loop().time()

    def note(self, step: str) -> None:
        """Prints what comes next and how far the load is: pytest shows it when the test fails."""
        at = asyncio.get_running_loop().time() - self._began
        print(f"{at:7.2f} s: {step}, {self._puts} puts and {self._gets} gets done")

    async def more(self) -> None:
        """Until some more puts were acknowledged, and bodies got."""
        self.note("more")
        puts, gets = self._puts + 4, self._gets + 2
        async with asyncio.timeout(STUCK_S), self._progress:
            await self._progress.wait_for(lambda: self._puts >= puts and self._gets >= gets)

    async def _put(self, number: int) -> None:
        chance = random.Random(self._seeds[number])
        for turn in itertools.count():
            key = f"{number}/{turn % 6}.bin"
            body = chance.randbytes(chance.choice([0, 10, MIB, 6 * MIB, 11 * MIB]))
            self._oracle.trying(key, body)
            try:
                await self._store.put(key, body, timeout=PATIENCE_S)
            except AWAY as error:
                self.note(f"a put failed ({error})")
                await asyncio.sleep(0.05)
                continue
            self._oracle.acknowledged(key, body)
            async with self._progress:
                self._puts += 1
                self._progress.notify_all()

    async def _get(self) -> None:
        while True:
            if not self._oracle.count:
                async with self._progress:
                    await self._progress.wait()
            key = self._dice.choice(self._oracle.keys)
            read = self._oracle.reading(key)
            try:
                read(await self._store.get_bytes(key, timeout=PATIENCE_S))
            except AWAY:  # also where it was replaced in the middle of a get that had to begin anew
                await asyncio.sleep(0.05)
                continue
            async with self._progress:
                self._gets += 1
                self._progress.notify_all()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """While the block goes on; fails if a task ended before."""
        tasks = [asyncio.create_task(self._put(number)) for number in range(WRITERS)]
        tasks.append(asyncio.create_task(self._get()))
        try:
            yield
        finally:
            self.note("ending")
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes


@pytest.mark.parametrize("fault", ["kill", "pause", "cut"])
async def test_no_acknowledged_object_is_missing_or_half_after(
    own_minio: MinioServer, dice: random.Random, fault: str
) -> None:
    oracle = Oracle()
    before = possessions()
    async with (
        Proxy(own_minio.port) as proxy,
        open_objects(own_minio.url(BUCKET, PREFIX, endpoint=proxy.endpoint)) as store,
    ):
        load = Load(store, oracle, dice)
        async with load.at_work():
            for number in range(ROUNDS):
                await load.more()
                load.note(fault)
                await proxy.after(dice.randrange(16 * MIB), within_s=STUCK_S)  # in the middle of a body, nearly always
                if fault == "kill":
                    await own_minio.kill()
                    load.note("start")
                    await own_minio.start()
                elif fault == "pause":
                    own_minio.pause()
                    await asyncio.sleep(brief(number, dice))  # what is tested is this very time
                    own_minio.resume()
                else:
                    proxy.refuse()
                    await asyncio.sleep(brief(number, dice))
                    proxy.heal()
                await load.more()
    await settled(before)
    async with open_objects(own_minio.url(BUCKET, PREFIX)) as store:
        await oracle.check(store, own_minio, PREFIX)
        await store.gc(older_than_s=0)
        await oracle.check(store, own_minio, PREFIX)
    assert oracle.count > 6


@pytest.mark.parametrize("at", [100_000, 3 * MIB, 9 * MIB])
async def test_a_get_goes_on_over_a_connection_that_was_cut(minio: MinioServer, prefix: str, at: int) -> None:
    body = os.urandom(12 * MIB)
    async with Proxy(minio.port) as proxy, open_objects(minio.url(BUCKET, prefix, endpoint=proxy.endpoint)) as store:
        await store.put("k.bin", body)
        proxy.cut_after(at)
        assert await store.get_bytes("k.bin") == body
        assert proxy.was_cut.is_set()


@pytest.mark.parametrize("size", [24 * MIB, 10, 0])
async def test_a_get_that_was_cut_never_goes_on_with_another_body(minio: MinioServer, prefix: str, size: int) -> None:
    async with (
        Proxy(minio.port) as proxy,
        open_objects(minio.url(BUCKET, prefix, endpoint=proxy.endpoint)) as store,
        open_objects(minio.url(BUCKET, prefix)) as other,
    ):
        await store.put("k.bin", b"a" * 24 * MIB)
        reading = store.get("k.bin")
        assert set(await anext(reading)) == {ord("a")}
        proxy.refuse()  # first, since MinIO lets a put wait for whoever is reading the body
        await other.put("k.bin", b"b" * size)
        proxy.heal()
        rest: list[bytes] = []
        with pytest.raises(ObjectStoreUnavailable, match="replaced"):
            await collect(reading, rest)
        assert set(b"".join(rest)) <= {ord("a")}


@pytest.mark.parametrize("at", [1000, 3 * MIB, 8 * MIB])
async def test_a_put_goes_on_over_a_connection_that_was_cut(minio: MinioServer, prefix: str, at: int) -> None:
    body = os.urandom(12 * MIB)
    async with Proxy(minio.port) as proxy, open_objects(minio.url(BUCKET, prefix, endpoint=proxy.endpoint)) as store:
        proxy.cut_after(at)
        await store.put("k.bin", body)
        assert proxy.was_cut.is_set()
        assert await store.get_bytes("k.bin") == body


async def test_a_put_whose_server_is_gone_fails_and_leaves_nothing_that_can_be_read(own_minio: MinioServer) -> None:
    before = possessions()
    began = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield os.urandom(MIB)
        began.set()
        await own_minio.kill()
        for _ in range(12):
            yield os.urandom(MIB)

    async with open_objects(own_minio.url(BUCKET, PREFIX)) as store:
        # On a loaded machine the deadline may pass before the first refused connection.
        with pytest.raises((ObjectStoreUnavailable, DeadlineExceeded), match=own_minio.endpoint):
            await store.put("k.bin", body(), timeout=2)
    await settled(before)
    await own_minio.start()
    async with open_objects(own_minio.url(BUCKET, PREFIX)) as store:
        assert await keys(store) == []
        collected = await store.gc(older_than_s=0)
        assert collected.abandoned == 1
        await Oracle().check(store, own_minio, PREFIX)


async def test_a_paused_server_costs_the_deadline_and_neither_a_thread_nor_the_closing(own_minio: MinioServer) -> None:
    before = possessions()
    async with open_objects(own_minio.url(BUCKET, PREFIX)) as store:
        await store.put("k.bin", b"x")
        own_minio.pause()
        calls: list[Awaitable[object]] = [store.head("k.bin", timeout=0.3) for _ in range(20)]
        calls += [store.put("n.bin", b"y", timeout=0.3) for _ in range(4)]
        async with asyncio.timeout(PATIENCE_S):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, DeadlineExceeded) for outcome in outcomes), outcomes
        waiting = asyncio.create_task(store.head("k.bin", timeout=600))
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await store.close()
            with pytest.raises(DynlogError):
                await waiting
    await settled(before)
    own_minio.resume()
    async with open_objects(own_minio.url(BUCKET, PREFIX)) as store:
        assert await store.get_bytes("k.bin") == b"x"


async def test_what_makes_an_object_and_gets_no_answer_for_long_fails_with_an_error_of_ours(
    minio: MinioServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than one request is tried again: each request that makes, completes or removes something, in turn."""
    monkeypatch.setattr("dynlog.storage.s3.work.PERSISTENCE_S", 0.2)

    def unreached(*_: object) -> None:
        raise Unreached(ConnectionResetError("reset"))

    async with open_objects(minio.url(BUCKET, prefix)) as store:
        await store.put("k.bin", b"x")
        upload = await store.start_upload("u.bin")
        await upload.put_part(1, b"y")
        calls: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            ("put", lambda: store.put("n.bin", b"n")),
            ("put", lambda: upload.put_part(2, b"z")),
            ("put", lambda: store.start_upload("v.bin")),
            ("complete", lambda: store.put("n.bin", bytes(12 * MIB))),
            ("complete", upload.complete),
            ("delete", lambda: store.delete("k.bin")),
            ("head", lambda: upload.put_part(2, b"z")),
        ]
        for request, call in calls:
            with monkeypatch.context() as failing:
                failing.setattr(Client, request, unreached)
                with pytest.raises(ObjectStoreUnavailable, match="broke") as caught:
                    await call()
            assert caught.value.key
        await upload.complete()
        assert await keys(store) == ["k.bin", "u.bin"]
