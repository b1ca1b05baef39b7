"""A migration as the command makes it, in this process, and sources for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from nats.js.api import ObjectMeta, ObjectMetaOptions, ObjectStoreConfig, StorageType
from nats.js.object_store import ObjectStore as NatsStore

from dynlog.adapters.nats.access import NatsAccess, NatsServer, open_nats
from dynlog.log import Log
from dynlog.migrations.nats.apply import apply_plan
from dynlog.migrations.nats.contract import Choices, Item, Limits, Outcome, Refusal, Run
from dynlog.migrations.nats.journal import Journal
from dynlog.migrations.nats.lock import only_one
from dynlog.migrations.nats.plan import Plan, make_plan
from dynlog.migrations.nats.rollback import roll_back
from dynlog.migrations.nats.survey import look_around
from dynlog.migrations.nats.verify import verify_plan
from dynlog.objects import ObjectStore
from tests.nats_source.source import Writer

CHUNK = 4096


@dataclass(frozen=True)
class Migrating:
    """Where from, where to, and as what."""

    nats: str
    log: Log
    objects: ObjectStore
    name: str = "test"
    choices: Choices = field(default_factory=Choices)
    limits: Limits | None = None
    ttl_s: float = 10.0

    def into(self, objects: ObjectStore) -> Migrating:
        """The same with another store."""
        return replace(self, objects=objects)

    async def plan(self, *, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> Plan:
        """What would be done."""
        async with open_nats(NatsAccess(self.nats)) as server:
            return await self._plan(server, only, exclude)

    async def apply(self, *, only: Sequence[str] = ()) -> dict[str, Outcome]:
        """What was done, by item."""
        async with open_nats(NatsAccess(self.nats)) as server:
            plan = await self._plan(server, only)
            lock, writing = only_one(self.log, self.name, ttl_s=self.ttl_s), Journal.write(self.log, self.name)
            async with lock as lease, writing as journal:
                outcomes = await apply_plan(plan, self._run(server, journal), lease)
        return {outcome.item: outcome for outcome in outcomes}

    async def differences(self) -> dict[str, list[str]]:
        """Names that differ, by item; items that are alike are left out."""
        async with open_nats(NatsAccess(self.nats)) as server:
            plan = await self._plan(server)
            verified = await verify_plan(plan, self._run(server, await self.journal()))
        return {each.item: [d.name for d in each.differences] for each in verified if each.differences}

    async def roll_back(self) -> dict[str, Outcome]:
        """What was taken back, by item; NATS is not asked."""
        async with only_one(self.log, self.name) as lease, Journal.write(self.log, self.name) as journal:
            outcomes = await roll_back(self._run(None, journal), lease)
        return {outcome.item: outcome for outcome in outcomes}

    async def journal(self) -> Journal:
        """What it says now."""
        return await Journal.read(self.log, self.name)

    async def keys(self) -> list[str]:
        """What lies in the store."""
        return [info.key async for info in self.objects.list()]

    async def _plan(self, server: NatsServer, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> Plan:
        survey = await look_around(self.name, server, self.log, self.objects, self.choices)
        return await make_plan(survey, only=only, exclude=exclude)

    def _run(self, server: NatsServer | None, journal: Journal) -> Run:
        limits = self.limits or Limits()
        return Run(self.name, server, self.log, self.objects, journal, limits, self.choices, _silent)


def _silent(item: Item, names: int, size: int) -> None:
    """Nobody looks."""


def said(refused: Sequence[Refusal]) -> dict[str, str]:
    """Why, by name."""
    return {refusal.name: refusal.why for refusal in refused}


async def emptied(writer: Writer) -> None:
    """Takes all streams away."""
    for stream in (await writer.api("STREAM.LIST")).get("streams") or ():
        await writer.js.delete_stream(stream["config"]["name"])


async def bucket(writer: Writer, name: str, **settings: Any) -> NatsStore:
    """An object bucket."""
    return await writer.js.create_object_store(
        name, ObjectStoreConfig(bucket=name, storage=StorageType.MEMORY, **settings)
    )  # fmt: skip


async def put(store: NatsStore, name: str, body: bytes, **meta: Any) -> None:
    """An object in chunks of 4 KiB."""
    await store.put(name, body, meta=ObjectMeta(name=name, options=ObjectMetaOptions(max_chunk_size=CHUNK), **meta))


def body(size: int) -> bytes:
    """Bytes that nothing else has."""
    return os.urandom(size)


@asynccontextmanager
async def holding(log: Log, name: str) -> AsyncIterator[None]:
    """Somebody is at the migration."""
    async with only_one(log, name):
        yield
