"""The network of a fleet that has a log: one bucket says who is there, and everybody who joins opens it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from dynlog.entity import DynamoEntityID
from dynlog.errors import BucketExists
from dynlog.kv import open_kv
from dynlog.log import Log
from dynlog.network.bucket_registry import BucketRegistry, open_registry
from dynlog.network.hierarchy import Member
from dynlog.network.manager import DynamoNetworkManager

BUCKET = "network"
"""Where members are, unless somebody says otherwise."""


@asynccontextmanager
async def open_network(log: Log, bucket: str = BUCKET) -> AsyncIterator[BucketRegistry]:
    """The registry in that bucket, which is made if there is none."""
    async with open_kv(log) as kv:
        try:
            opened = await kv.create(bucket)
        except BucketExists:
            opened = await kv.bucket(bucket)
        async with open_registry(opened) as registry:
            yield registry


@asynccontextmanager
async def join_network(
    log: Log,
    entity: DynamoEntityID,
    *,
    parents: Iterable[DynamoEntityID] = (),
    bucket: str = BUCKET,
    **options: Any,
) -> AsyncIterator[DynamoNetworkManager]:
    """A manager of the entity in the network that the log holds; what else a manager takes is handed on.

    Collections that are parents and are not registered yet become so: ``a/b/c`` belongs to ``a/b``, and that to ``a``.
    """
    parents = tuple(parents)
    async with open_network(log, bucket) as registry:
        for collection in parents:
            for child, parent in _line(collection):
                if registry.view.get(child) is None:
                    await registry.join(Member(child, (parent,)))
        async with DynamoNetworkManager(entity, registry=registry, log=log, parents=parents, **options) as manager:
            yield manager


def _line(collection: DynamoEntityID) -> list[tuple[DynamoEntityID, DynamoEntityID]]:
    """Each collection above by its name with the one that it belongs to, from the top."""
    parts = (collection.name or "").split("/")
    if not all(parts):
        return []
    names = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    line = [DynamoEntityID.collection(name) for name in names]
    return list(zip(line[1:], line, strict=False))
