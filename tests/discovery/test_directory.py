"""Lists, watches and registrations: who is there is seen by all, and of two lives of one name the later one has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from dynlog.discovery.directory import Directory, DirectoryWatch, Joined, Left, Seen, Unreadable
from dynlog.discovery.models import Entity
from dynlog.discovery.names import InstanceName, ModelName
from dynlog.discovery.registration import Registration
from dynlog.discovery.tree import listing_json, tree_lines
from dynlog.errors import Closed, ConfigurationError, EntityFenced, KeyNotFound, LeaseLost, MalformedRecord
from dynlog.kv import Bucket, Ready, open_kv
from dynlog.log import Log
from dynlog.open import open_log
from tests.conformance.backend import after_turns
from tests.discovery.backend import (
    PATIENCE_S,
    FoldLease,
    directory,
    dynamo_card,
    dynamo_instance,
    name,
    opened,
)


async def over(registration: Registration) -> Exception:
    async with asyncio.timeout(PATIENCE_S):
        await registration.over.wait()
    assert registration.reason is not None
    return registration.reason


async def next_of(watch: AsyncIterator[Seen]) -> Seen:
    async with asyncio.timeout(PATIENCE_S):
        return await anext(watch)


async def seen_until_ready(watch: AsyncIterator[Seen]) -> list[Seen]:
    found: list[Seen] = []
    while not isinstance(event := await next_of(watch), Ready):
        found.append(event)
    return found


@pytest.mark.dynlog_engines("memory", "sqlite", "redis", "kafka")
async def test_who_registers_is_seen_by_others_until_its_block_ends(dynlog_log: Log) -> None:
    async with opened(dynlog_log) as here, opened(dynlog_log) as there, there.watch("dynamo") as watch:
        events = aiter(watch)
        assert await seen_until_ready(events) == []
        lease = await FoldLease.grant(here.bucket)
        entity = Entity.of(name(), {"tcp": "10.0.0.7:5555"}, {"zone": "a"})
        async with here.register(entity, lease) as registration:
            joined = await next_of(events)
            assert isinstance(joined, Joined)
            assert joined.found.entity.reached_at == {"tcp": "10.0.0.7:5555"}
            assert joined.found.entity.incarnation == lease.token
            assert joined.found.lease == lease.id
            (found,) = (await there.list(linearizable=True)).entities
            assert found == joined.found
            await registration.update(addresses={"tcp": "10.0.0.8:5555"}, metadata={"zone": "b"})
            changed = await next_of(events)
            assert isinstance(changed, Joined)
            assert changed.found.entity.transport == {"tcp": "10.0.0.8:5555"}
            assert changed.found.entity.metadata == {"zone": "b"}
            assert not registration.over.is_set()
        left = await next_of(events)
        assert isinstance(left, Left)
        assert (left.name, left.lease_ended) == (name(), False)
        assert (await there.list(linearizable=True)).entities == []


@pytest.mark.dynlog_engines("memory", "sqlite", "redis", "kafka")
async def test_a_later_life_of_a_name_takes_its_place_and_the_earlier_one_is_told(dynlog_log: Log) -> None:
    async with opened(dynlog_log) as before, opened(dynlog_log) as after:
        old, new = await FoldLease.grant(before.bucket), await FoldLease.grant(after.bucket)
        async with (
            before.register(Entity.of(name(), {"tcp": "old:1"}), old) as zombie,
            after.register(Entity.of(name(), {"tcp": "new:1"}), new) as alive,
        ):
            reason = await over(zombie)
            assert isinstance(reason, EntityFenced)
            assert reason.incarnation == new.token
            with pytest.raises(EntityFenced):
                await zombie.update(metadata={"still": "here"})
            with pytest.raises(EntityFenced, match=rf"incarnation {new.token} .* this is {old.token}"):
                async with before.register(Entity.of(name()), old):
                    pass
            await old.revoke()
            found = await after.get(name(), linearizable=True)
            assert found is not None, "what hangs on the old lease is not the new life"
            assert found.entity.incarnation == new.token
            assert not alive.over.is_set()
        # The zombie's block ended after the new one's: nothing is there that it could have taken away.
        assert await after.get(name(), linearizable=True) is None


async def test_a_zombie_that_ends_takes_nothing_away_from_the_life_that_replaced_it() -> None:
    async with directory() as there:
        old, new = await FoldLease.grant(there.bucket), await FoldLease.grant(there.bucket)
        async with there.register(Entity.of(name()), new):
            with pytest.raises(EntityFenced):
                async with there.register(Entity.of(name()), old):
                    pass
            assert await there.get(name()) is not None
        async with there.register(Entity.of(name()), old):
            replaced = there.register(Entity.of(name()), new)
            await replaced.__aenter__()
        assert await there.get(name()) is not None
        await replaced.__aexit__(None, None, None)


async def test_a_registration_is_over_when_its_lease_ends_or_its_holder_must_stop_or_somebody_deletes_it() -> None:
    async with directory() as there:
        revoked, lost, deleted = [await FoldLease.grant(there.bucket) for _ in range(3)]
        async with (
            there.register(Entity.of(name(1)), revoked) as one,
            there.register(Entity.of(name(2)), lost) as two,
            there.register(Entity.of(name(3)), deleted) as three,
        ):
            await revoked.revoke()
            assert isinstance(await over(one), LeaseLost)
            lost.lost.set()
            assert isinstance(await over(two), LeaseLost)
            await there.bucket.delete(name(3).key)
            assert isinstance(await over(three), KeyNotFound)
            for ended, why in ((one, LeaseLost), (two, LeaseLost), (three, KeyNotFound)):
                with pytest.raises(why):
                    await ended.update(metadata={"still": "here"})
            assert await there.get(name(3)) is None
        with pytest.raises(LeaseLost):
            async with there.register(Entity.of(name(1)), revoked):
                pass


class Vanishing:
    """A bucket in which what is created is gone again at once."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    async def create(self, key: str, value: bytes, **rest: Any) -> int:
        revision = await self._bucket.create(key, value, **rest)
        await self._bucket.delete(key)
        return revision


async def test_an_entity_that_is_gone_before_it_is_watched_is_over_too() -> None:
    async with directory() as there:
        lease = await FoldLease.grant(there.bucket)
        async with Registration(cast(Bucket, Vanishing(there.bucket)), Entity.of(name()), lease) as registration:
            assert isinstance(await over(registration), LeaseLost)


async def test_a_registration_is_over_when_its_bucket_is_closed_and_leaves_no_task() -> None:
    async with open_log("memory://") as log:
        async with open_kv(log, compaction=None) as kv:
            there = Directory(await kv.create("discovery"))
            registration = there.register(Entity.of(name()), await FoldLease.grant(there.bucket))
            await registration.__aenter__()
        assert isinstance(await over(registration), Closed)
        await registration.__aexit__(None, None, None)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_what_is_no_entity_and_a_foreign_one_make_room_for_who_registers() -> None:
    async with directory() as there:
        await there.bucket.put(name(1).key, b"rubbish")
        await there.bucket.put(name(2).key, dynamo_instance(name(2)))
        lease = await FoldLease.grant(there.bucket)
        async with there.register(Entity.of(name(1)), lease), there.register(Entity.of(name(2)), lease):
            listing = await there.list()
            assert [found.entity.incarnation for found in listing.entities] == [lease.token] * 2
            assert listing.unreadable == {}


async def test_a_list_is_of_the_part_that_is_asked_for_in_order_and_names_what_it_cannot_read() -> None:
    async with directory() as there:
        names = [
            InstanceName(n, c, e, i) for n in ("a", "ab") for c in ("x", "xy") for e in ("e", "f") for i in (2, 16, 1)
        ]
        for each in names:
            await there.bucket.put(each.key, dynamo_instance(each))
        await there.bucket.put("v1/instances/a/x/e/no-id", b"{}")
        await there.bucket.put("v1/instances/a/x/e/3", b"{}")
        assert [found.name for found in (await there.list()).entities] == sorted(names)
        assert {found.name.namespace for found in (await there.list("a")).entities} == {"a"}
        assert len((await there.list("a", "x")).entities) == 6
        listing = await there.list("a", "x", "e")
        assert [found.name.instance_id for found in listing.entities] == [1, 2, 16]
        assert listing.unreadable.keys() == {"v1/instances/a/x/e/3", "v1/instances/a/x/e/no-id"}
        with pytest.raises(MalformedRecord, match="no entity"):
            await there.get(InstanceName("a", "x", "e", 3))
        with pytest.raises(ConfigurationError):
            await there.list(component="x")


async def test_a_list_of_thousands_and_a_watch_from_its_revision_miss_nobody_who_leaves_meanwhile() -> None:
    async with directory() as there:
        everybody = [name(n) for n in range(1, 1501)]  # more than are listed in one turn of the event loop
        await asyncio.gather(*(there.bucket.put(each.key, dynamo_instance(each)) for each in everybody))
        for turns in range(12):  # how far the departure has come when the list begins
            async with asyncio.TaskGroup() as together:
                together.create_task(there.bucket.delete(everybody[turns].key))
                await after_turns(turns)
                listing = await there.list()
            alive = {found.name for found in listing.entities}
            async with there.watch(from_revision=listing.revision) as watch:
                alive -= {event.name for event in await seen_until_ready(aiter(watch)) if isinstance(event, Left)}
            assert alive == set(everybody[turns + 1 :])


async def test_a_watch_tells_of_what_it_cannot_read_and_goes_on() -> None:
    async with directory() as there, there.watch() as watch:
        events = aiter(watch)
        assert await seen_until_ready(events) == []
        await there.bucket.put("v1/instances/a/x/e/no-id", b"{}")
        await there.bucket.put(name().key, b"{}")
        await there.bucket.put(name().key, dynamo_instance(name()))
        told = [await next_of(events) for _ in range(3)]
        assert [type(event) for event in told] == [Unreadable, Unreadable, Joined]


async def test_a_watch_goes_on_from_the_revision_to_which_another_had_come() -> None:
    async with directory() as there:
        revision = await there.bucket.put(name(1).key, dynamo_instance(name(1)))
        await there.bucket.put(name(2).key, dynamo_instance(name(2)))
        await there.bucket.delete(name(1).key)
        async with there.watch(from_revision=revision) as watch:
            joined, left = await seen_until_ready(aiter(watch))
        assert isinstance(joined, Joined)
        assert joined.found.name == name(2)
        assert isinstance(left, Left)
        assert left.name == name(1)
        assert isinstance(watch, DirectoryWatch)


async def test_the_tree_shows_ids_both_ways_who_is_foreign_and_the_models_of_each() -> None:
    async with directory() as there:
        await there.bucket.put(name(0x10).key, dynamo_instance(name(0x10)))
        for model in (ModelName(name()), ModelName(name(), "lora-a"), ModelName(name(99))):
            await there.bucket.put(model.key, dynamo_card(model))
        await there.bucket.put("v1/instances/dynamo/backend/generate/zzz", b"{}")
        lease = await FoldLease.grant(there.bucket)
        async with there.register(Entity.of(name(), {"tcp": "10.0.0.7:5555"}), lease):
            listing = await there.list()
    assert list(tree_lines(listing))[:7] == [
        "dynamo",
        "  backend",
        "    generate",
        "      10 (16)  tcp=10.0.0.7:5555/x  foreign",
        f"      4d2 (1234)  tcp=10.0.0.7:5555  incarnation {lease.token}  lease {lease.id}",
        "        model Qwen/Qwen3-0.6B",
        "        model Qwen/Qwen3-0.6B (lora-a)",
    ]
    assert [line.split(":")[0] for line in list(tree_lines(listing))[7:]] == [
        "model Qwen/Qwen3-0.6B of dynamo/backend/generate/63, which is not there",
        "unreadable v1/instances/dynamo/backend/generate/zzz",
    ]
    said = listing_json(listing)
    assert [(e["instance_id"], e["instance_hex"], e["foreign"]) for e in said["entities"]] == [
        (16, "10", True),
        (1234, "4d2", False),
    ]
