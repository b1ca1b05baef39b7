"""A life takes its place once: no update brings it back, and neither does a write of its own that is stored late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest

from dynlog import Batch, Log, Position
from dynlog.discovery.foreign import FOREIGN, ForeignMark
from dynlog.discovery.models import Entity
from dynlog.discovery.registration import Registration
from dynlog.errors import Closed, DynlogError, EntityFenced, KeyNotFound, LogUnavailable, OutcomeUnknown
from dynlog.kv import Bucket
from dynlog.open import open_log
from tests.conformance.backend import after_turns
from tests.discovery.backend import PATIENCE_S, FoldLease, directory, dynamo_instance, name, opened
from tests.faulty import FaultyLog


async def over(registration: Registration) -> DynlogError:
    async with asyncio.timeout(PATIENCE_S):
        await registration.over.wait()
    assert registration.reason is not None
    return registration.reason


async def refused(call: Awaitable[object]) -> None:
    with suppress(DynlogError):
        await call


class CutOff(FaultyLog):
    """While ``hears`` is not set, what was read does not arrive."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.hears = asyncio.Event()
        self.hears.set()

    async def read(self, position: Position, **how: Any) -> Batch:
        batch = await super().read(position, **how)
        await self.hears.wait()
        return batch


async def test_no_update_of_an_old_self_that_was_cut_off_brings_it_back_after_a_later_life_came_and_left() -> None:
    url = f"memory://{uuid4().hex}"
    async with open_log(url) as one, open_log(url) as other:
        cut = CutOff(one)
        async with opened(cut.log) as here, opened(other) as there:
            old = await FoldLease.grant(here.bucket)
            async with here.register(Entity.of(name(), {"tcp": "old:1"}), old) as zombie:
                cut.hears.clear()
                async with there.register(Entity.of(name(), {"tcp": "new:1"}), await FoldLease.grant(there.bucket)):
                    pass
                update = asyncio.create_task(zombie.update(metadata={"load": 1}))
                await after_turns(20)
                assert not zombie.over.is_set()
                cut.hears.set()
                with pytest.raises((KeyNotFound, EntityFenced)):
                    await update
                assert isinstance(await over(zombie), EntityFenced)
            assert await there.get(name(), linearizable=True) is None


async def test_an_update_does_not_take_the_place_of_a_foreign_entity_that_took_its_own() -> None:
    async with directory() as there, there.register(Entity.of(name()), await FoldLease.grant(there.bucket)) as ours:
        await there.bucket.put(name().key, dynamo_instance(name()))
        with pytest.raises(EntityFenced, match="foreign"):
            await ours.update(metadata={"load": 1})
        found = await there.get(name())
        assert found is not None
        assert found.entity.foreign


async def test_no_update_brings_back_what_somebody_deletes_in_the_same_moment() -> None:
    async with directory() as there:
        lease = await FoldLease.grant(there.bucket)
        for turns in range(12):  # how far the deletion has come when the update begins
            async with there.register(Entity.of(name()), lease) as deleted:
                async with asyncio.TaskGroup() as together:
                    together.create_task(there.bucket.delete(name().key))
                    await after_turns(turns)
                    together.create_task(refused(deleted.update(metadata={"load": 1})))
                assert isinstance(await over(deleted), KeyNotFound)
            assert await there.get(name(), linearizable=True) is None


async def test_an_update_that_is_under_way_as_its_block_ends_leaves_nothing() -> None:
    async with directory() as there:
        lease = await FoldLease.grant(there.bucket)
        for turns in range(12):  # how far the update has come when the block ends
            async with there.register(Entity.of(name()), lease) as registration:
                update = asyncio.create_task(refused(registration.update(metadata={"load": 1})))
                await after_turns(turns)
            await update
            assert await there.get(name(), linearizable=True) is None


async def test_before_its_block_begins_and_once_it_has_ended_an_entity_is_not_updated() -> None:
    async with directory() as there:
        registration = there.register(Entity.of(name()), await FoldLease.grant(there.bucket))
        with pytest.raises(Closed, match="has not begun"):
            await registration.update(metadata={"load": 1})
        async with registration:
            pass
        with pytest.raises(Closed, match="has ended"):
            await registration.update(metadata={"load": 1})
        assert await there.get(name(), linearizable=True) is None


async def test_updates_at_once_all_count() -> None:
    async with directory() as there, there.register(Entity.of(name()), await FoldLease.grant(there.bucket)) as ours:
        await asyncio.gather(ours.update(metadata={"load": 1}), ours.update(addresses={"tcp": "new:1"}))
        found = await there.get(name())
        assert found is not None
        assert (found.entity.metadata, found.entity.addresses) == ({"load": 1}, {"tcp": "new:1"})
        assert (found.entity, found.revision) == (ours.entity, ours.revision)


async def test_an_update_whose_time_is_over_and_that_is_stored_all_the_same_goes_with_its_block() -> None:
    async with open_log("memory://") as log:
        faulty = FaultyLog(log)
        async with opened(faulty.log) as there:
            lease = await FoldLease.grant(there.bucket)
            async with there.register(Entity.of(name()), lease, timeout=0.5) as registration:
                faulty.gate.clear()
                with pytest.raises(OutcomeUnknown):
                    await registration.update(metadata={"load": 1})
                faulty.gate.set()
            assert await there.get(name(), linearizable=True) is None


@pytest.mark.parametrize("crowded", [False, True])
async def test_an_update_that_is_given_up_and_stored_late_goes_with_its_block(crowded: bool) -> None:
    async with open_log("memory://") as log:
        faulty = FaultyLog(log)
        async with opened(faulty.log) as there:
            async with there.register(Entity.of(name()), await FoldLease.grant(there.bucket)) as registration:
                await late(there.bucket, faulty, registration.update(metadata={"load": 1}), crowded)
            assert await there.get(name(), linearizable=True) is None


@pytest.mark.parametrize("crowded", [False, True])
async def test_a_block_that_is_cancelled_as_it_begins_leaves_nothing_however_late_its_write_is_stored(
    crowded: bool,
) -> None:
    async with open_log("memory://") as log:
        faulty = FaultyLog(log)
        async with opened(faulty.log) as there:
            registration = there.register(Entity.of(name()), await FoldLease.grant(there.bucket))
            await late(there.bucket, faulty, registration.__aenter__(), crowded)
            assert await there.get(name(), linearizable=True) is None


async def late(bucket: Bucket, faulty: FaultyLog, call: Coroutine[Any, Any, object], crowded: bool) -> None:
    """The call is cancelled, and cancelled again, while its append is on its way, which then goes through.

    After a crowd it is the bucket's writer that appends for it, else the call itself.
    """
    if crowded:
        await asyncio.gather(*(bucket.put(f"other/{n}", b"") for n in range(3)))
    faulty.gate.clear()
    calling = asyncio.create_task(call)
    for _ in range(2):
        await after_turns(20)
        calling.cancel()
    await after_turns(20)
    faulty.gate.set()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(asyncio.CancelledError):
            await calling


async def test_a_block_that_fails_to_begin_behind_its_write_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with directory() as there:
        delete = Bucket.delete

        async def failing(self: Bucket, key: str, revision: int | None = None, **rest: Any) -> int | None:
            if key.startswith(FOREIGN):
                raise LogUnavailable("the server is away")
            return await delete(self, key, revision, **rest)

        monkeypatch.setattr(Bucket, "delete", failing)
        await there.bucket.put(FOREIGN + name().key, ForeignMark(source="etcd", mod_revision=1).to_bytes())
        await there.bucket.put(name().key, dynamo_instance(name()))
        with pytest.raises(LogUnavailable):
            async with there.register(Entity.of(name()), await FoldLease.grant(there.bucket)):
                raise AssertionError("the block began")
        assert await there.get(name(), linearizable=True) is None


async def test_a_block_that_cannot_begin_fails_within_its_time_and_leaves_no_task() -> None:
    async with open_log("memory://") as log:
        faulty = FaultyLog(log)
        async with opened(faulty.log) as there:
            lease = await FoldLease.grant(there.bucket)
            before = asyncio.all_tasks()
            faulty.gate.clear()
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(OutcomeUnknown):
                    await there.register(Entity.of(name()), lease, timeout=0.1).__aenter__()
            named = {task.get_name() for task in asyncio.all_tasks() - before}
            assert not any(task.startswith(("dynlog-registration", "dynlog-leaving")) for task in named), named
            faulty.gate.set()
