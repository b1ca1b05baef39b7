"""Registries under test, and managers on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dynlog.entity import DynamoEntityID
from dynlog.kv import open_kv
from dynlog.log import Log
from dynlog.network.bucket_registry import open_registry
from dynlog.network.hierarchy import Member
from dynlog.network.manager import DynamoNetworkManager
from dynlog.network.registry import LocalRegistry, Registry
from dynlog.open import open_log

FLEET = DynamoEntityID.collection("fleet")
BACKEND = DynamoEntityID.collection("fleet/backend")
FRONTEND = DynamoEntityID.collection("fleet/frontend")


class World:
    """A registry as several processes see it, and a log, if there is one."""

    def __init__(self, stack: AsyncExitStack, log: Log | None) -> None:
        self.log = log
        self._stack = stack
        self._registries: list[Registry] = []

    def see(self, *registries: Registry) -> None:
        self._registries += registries

    @property
    def registry(self) -> Registry:
        """As one process sees it."""
        return self._registries[0]

    @property
    def elsewhere(self) -> Registry:
        """As another does."""
        return self._registries[-1]

    async def tree(self) -> None:
        """Backend and frontend belong to the fleet."""
        for collection in (BACKEND, FRONTEND):
            await self.registry.join(Member(collection, (FLEET,)))
        await self.elsewhere.refresh()

    async def manager(
        self, name: str, *parents: DynamoEntityID, elsewhere: bool = False, **options: Any
    ) -> DynamoNetworkManager:
        """A manager that is open until the end of the test."""
        options.setdefault("listen", [f"inproc://{uuid4().hex}"])
        options.setdefault("log", self.log)
        registry = self.elsewhere if elsewhere else self.registry
        manager = DynamoNetworkManager(DynamoEntityID.from_name(name), registry=registry, parents=parents, **options)
        opened = await self._stack.enter_async_context(manager)
        for other in self._registries:
            await other.refresh()
        return opened

    @asynccontextmanager
    async def leaving(self, name: str, *parents: DynamoEntityID) -> AsyncIterator[DynamoNetworkManager]:
        """A manager that leaves at the end of the block."""
        entity = DynamoEntityID.from_name(name)
        async with DynamoNetworkManager(entity, registry=self.registry, log=self.log, parents=parents) as manager:
            yield manager
        for registry in self._registries:
            await registry.refresh()


class RegistryBackend(ABC):
    """A registry and a log under test."""

    @abstractmethod
    def opened(self, tmp_path: Path) -> AbstractAsyncContextManager[World]:
        """A new one, seen from two places."""

    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncIterator[World]:
        async with self.opened(tmp_path) as world:
            yield world


@asynccontextmanager
async def without_log() -> AsyncIterator[World]:
    """One registry in this process, and no log."""
    async with AsyncExitStack() as stack:
        world = World(stack, None)
        world.see(LocalRegistry())
        yield world


@asynccontextmanager
async def on_log(url: str) -> AsyncIterator[World]:
    """A bucket that is followed twice, as by two processes."""
    async with open_log(url) as log, open_kv(log, compaction=None) as kv, open_kv(log, compaction=None) as other_kv:
        await kv.create("network")
        bucket, other = await kv.bucket("network"), await other_kv.bucket("network")
        async with open_registry(bucket) as registry, open_registry(other) as elsewhere, AsyncExitStack() as stack:
            world = World(stack, log)
            world.see(registry, elsewhere)
            yield world
