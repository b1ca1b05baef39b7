"""A bucket that changes while it is copied, and a store that says no."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

import dynlog
from dynlog.errors import ConfigurationError, KeyExists, LeaseLost, ObjectStoreUnavailable
from dynlog.kv import open_kv
from dynlog.kv.records import Revoke
from dynlog.migrations.nats.contract import Limits
from dynlog.objects import Body, ObjectInfo, ObjectStore
from tests.migrate.migrating import CHUNK, Migrating, body, bucket, holding, put, said
from tests.nats_source.source import Writer

Before = Callable[[str], Awaitable[None]]


class Watched(ObjectStore):
    """A store that asks before every put, and in the middle of it."""

    def __init__(self, store: ObjectStore, before: Before | None = None, within: Before | None = None) -> None:
        self._store, self._before, self._within = store, before, within

    @property
    def url(self) -> str:
        return self._store.url

    async def put(self, key: str, body: Body, **options: Any) -> ObjectInfo:
        if self._before is not None:
            await self._before(key)
        within = self._within
        if within is None or isinstance(body, bytes):
            return await self._store.put(key, body, **options)

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in body:
                await within(key)
                yield piece

        return await self._store.put(key, pieces(), **options)

    def get(self, key: str, **options: Any) -> AsyncIterator[bytes]:
        return self._store.get(key, **options)

    def list(self, prefix: str = "", **options: Any) -> AsyncIterator[ObjectInfo]:
        return self._store.list(prefix, **options)

    async def head(self, key: str, **options: Any) -> ObjectInfo:
        return await self._store.head(key, **options)

    async def delete(self, key: str, **options: Any) -> None:
        await self._store.delete(key, **options)

    async def close(self) -> None:
        await self._store.close()

    async def gc(self, **options: Any) -> Any:
        return await self._store.gc(**options)

    async def start_upload(self, key: str, **options: Any) -> Any:
        return await self._store.start_upload(key, **options)

    async def resume_upload(self, key: str, upload_id: str, **options: Any) -> Any:
        return await self._store.resume_upload(key, upload_id, **options)


def once(action: Callable[[], Awaitable[object]], key: str) -> Before:
    """Does something the first time that the key comes."""
    pending = [action]

    async def before(now: str) -> None:
        if now == key and pending:
            await pending.pop()()

    return before


async def test_an_object_that_is_deleted_while_it_is_copied_is_not_in_the_copy(
    migrating: Migrating, writer: Writer
) -> None:
    source = await bucket(writer, "weights")
    await put(source, "gone", body(5000 * CHUNK))
    await put(source, "stays", body(CHUNK))
    watched = Watched(migrating.objects, within=once(lambda: source.delete("gone"), "nats/weights/gone"))
    outcome = (await migrating.into(watched).apply())["objects:weights"]
    assert outcome.refused == ()
    assert await migrating.keys() == ["nats/weights/stays"]
    assert await migrating.differences() == {}


async def test_an_object_that_is_replaced_while_it_is_copied_arrives_as_it_is_afterwards(
    migrating: Migrating, writer: Writer
) -> None:
    source = await bucket(writer, "weights")
    await put(source, "a", body(5000 * CHUNK))
    watched = Watched(migrating.objects, within=once(lambda: put(source, "a", b"new"), "nats/weights/a"))
    assert (await migrating.into(watched).apply())["objects:weights"].refused == ()
    assert await migrating.objects.get_bytes("nats/weights/a") == b"new"


async def test_what_is_put_into_a_bucket_while_it_is_copied_is_copied_too(migrating: Migrating, writer: Writer) -> None:
    source = await bucket(writer, "weights")
    await put(source, "a", b"a")
    watched = Watched(migrating.objects, before=once(lambda: put(source, "late", b"late"), "nats/weights/a"))
    assert (await migrating.into(watched).apply())["objects:weights"].moved == 2
    assert await migrating.differences() == {}


async def test_a_bucket_that_never_stands_still_is_named_and_the_next_apply_goes_on(
    migrating: Migrating, writer: Writer
) -> None:
    source = await bucket(writer, "weights")
    await put(source, "a", b"a")
    number = 0

    async def one_more(key: str) -> None:
        nonlocal number
        number += 1
        await put(source, f"more{number}", b"m")

    outcome = (await migrating.into(Watched(migrating.objects, before=one_more)).apply())["objects:weights"]
    assert "keeps changing" in said(outcome.refused)["weights"]
    await migrating.apply()
    assert await migrating.differences() == {}


async def test_what_the_store_refuses_is_named_and_the_rest_goes_on(migrating: Migrating, writer: Writer) -> None:
    source = await bucket(writer, "weights")
    for name in ("a", "denied", "z"):
        await put(source, name, body(10))

    async def deny(key: str) -> None:
        if key.endswith("denied"):
            raise ConfigurationError("the user may not put there")

    outcome = (await migrating.into(Watched(migrating.objects, before=deny)).apply())["objects:weights"]
    assert said(outcome.refused) == {"denied": "the user may not put there"}
    assert outcome.moved == 2
    assert (await migrating.apply())["objects:weights"].moved == 1


async def test_a_store_that_is_full_is_not_tried_for_every_object_of_every_bucket(
    migrating: Migrating, writer: Writer
) -> None:
    tried = 0
    for number in range(8):
        source = await bucket(writer, f"b{number}")
        for name in range(8):
            await put(source, f"o{name}", body(10))

    async def full(key: str) -> None:
        nonlocal tried
        tried += 1
        raise ObjectStoreUnavailable("no space left", key=key)

    outcomes = await migrating.into(Watched(migrating.objects, before=full)).apply()
    assert tried <= 3 * 8
    assert len(outcomes) == 8
    assert "not tried" in outcomes["objects:b7"].refused[0].why
    assert all(outcome.moved == 0 for outcome in outcomes.values())
    assert sum(outcome.moved for outcome in (await migrating.apply()).values()) == 64


async def test_a_store_that_is_full_still_gets_what_is_smaller_and_the_rest_is_named(
    migrating: Migrating, writer: Writer
) -> None:
    source = await bucket(writer, "weights")
    for number in range(9):
        await put(source, f"large{number}", body(1000))
    await put(source, "small", body(10))
    tried = set()

    async def full(key: str) -> None:
        if "large" in key:
            tried.add(key)
            raise ObjectStoreUnavailable("no space left", key=key)

    outcome = (await migrating.into(Watched(migrating.objects, before=full)).apply())["objects:weights"]
    assert outcome.moved == 1
    assert len(tried) < 9
    assert said(outcome.refused).keys() == {f"large{number}" for number in range(9)}
    assert "not tried, because of what the store said of others: no space left" in outcome.refused[-1].why
    assert (await migrating.apply())["objects:weights"].moved == 9


async def test_a_second_apply_at_the_same_time_is_refused_and_told_who_is_at_it(
    migrating: Migrating, writer: Writer
) -> None:
    await put(await bucket(writer, "weights"), "a", b"a")
    async with holding(migrating.log, migrating.name):
        with pytest.raises(KeyExists, match=r"process [0-9]+ on .* is at this migration"):
            await migrating.apply()
    assert await migrating.keys() == []
    assert (await migrating.apply())["objects:weights"].moved == 1


async def test_an_apply_whose_log_is_taken_from_it_stops(migrating: Migrating, writer: Writer) -> None:
    source = await bucket(writer, "weights")
    await put(source, "a", b"a")

    async def taken(key: str) -> None:
        await migrating.log.register_producer(f"dynlog.migration:{migrating.name}")
        async with dynlog.Producer(
            migrating.log, "dynlog.migration", producer_id=f"dynlog.migration:{migrating.name}"
        ) as producer:
            await producer.send(dynlog.Record((b"{}",), b"other"), partition=0)

    outcome = (await migrating.into(Watched(migrating.objects, before=taken)).apply())["objects:weights"]
    assert "another instance took over" in outcome.refused[0].why


async def test_an_apply_whose_lease_has_ended_stops_in_the_middle_of_what_it_does(
    migrating: Migrating, writer: Writer
) -> None:
    await put(await bucket(writer, "weights"), "a", b"a")

    async def ended(key: str) -> None:
        async with open_kv(migrating.log) as kv:
            lock = await kv.bucket("migrations")
            entry = await lock.get(migrating.name)
            assert entry is not None
            await lock.say(Revoke(entry.lease))
        await asyncio.Event().wait()

    migrating = replace(migrating, objects=Watched(migrating.objects, before=ended), ttl_s=0.5)
    with pytest.raises(LeaseLost):
        await migrating.apply()
    assert await migrating.keys() == []


async def test_a_bucket_that_was_made_anew_under_its_name_is_not_mixed_with_the_old_one(
    migrating: Migrating, writer: Writer
) -> None:
    await put(await bucket(writer, "weights"), "a", b"a")
    await migrating.apply()
    await writer.js.delete_object_store("weights")
    await put(await bucket(writer, "weights"), "b", b"b")
    outcome = (await migrating.apply())["objects:weights"]
    assert "made anew" in said(outcome.refused)["weights"]
    assert await migrating.keys() == ["nats/weights/a"]
    await migrating.roll_back()
    await migrating.apply()
    assert await migrating.keys() == ["nats/weights/b"]


async def test_what_is_taken_from_the_source_keeps_to_the_rate() -> None:
    limits = Limits(bytes_per_s=1000)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await limits.pay(100)  # the first is free, and the next pays for it
    await limits.pay(50)
    assert loop.time() - begun >= 0.1
