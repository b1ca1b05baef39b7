"""The JetStream store that Dynamo 0.7.1 left, served by a real nats-server, and what Dynamo itself made of it."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nats
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from dynlog.testing.nats import NatsServer
from tests.shared_data import shared_file

FOLDER = "dynamo-0.7.1-nats"
STREAM = "namespace-demo-component-backend-kv-events"
BUCKET = "namespace-demo-component-backend-radix-bucket"
STREAMS = Path("jetstream", "$G", "streams")


class Held(NamedTuple):
    """One block that one rank of one worker holds."""

    worker_id: int
    dp_rank: int
    parent_hash: int | None
    block_hash: int
    tokens_hash: int


class Sample(NamedTuple):
    """What a router finds on NATS when it starts."""

    snapshot: bytes
    tail: list[tuple[int, bytes]]
    """(stream sequence, message) in order."""


def held_blocks(router_events: Iterable[dict[str, Any]]) -> set[Held]:
    """A dump (stored events only) as a set, so that order and synthetic event ids do not matter."""
    held = set()
    for router_event in router_events:
        event = router_event["event"]
        parent = event["data"]["stored"]["parent_hash"]
        for block in event["data"]["stored"]["blocks"]:
            held.add(
                Held(router_event["worker_id"], event["dp_rank"], parent, block["block_hash"], block["tokens_hash"])
            )
            parent = block["block_hash"]
    return held


def dynamos_own_dump() -> list[dict[str, Any]]:
    """What a Dynamo router that started on the store dumped."""
    dump: list[dict[str, Any]] = json.loads(gzip.decompress(shared_file(FOLDER, "router-dump.json.gz").read_bytes()))
    return dump


async def read_sample(folder: Path) -> Sample:
    """Unpacks the store below ``folder``, serves it, and reads the snapshot and the stream's tail."""
    async with _jetstream(await unpack_sample(folder)) as js:
        bucket = await js.object_store(BUCKET)
        snapshot = (await bucket.get("radix-state")).data
        assert snapshot is not None
        state = (await js.stream_info(STREAM)).state
        tail = []
        for sequence in range(state.first_seq, state.last_seq + 1):
            message = await js.get_msg(STREAM, sequence)
            assert message.data is not None
            tail.append((sequence, message.data))
    return Sample(snapshot, tail)


async def unpack_sample(folder: Path) -> Path:
    """The store below ``folder``, for a server to serve: Dynamo's, but for the age limit."""
    store, fresh = folder / "sample", folder / "fresh"
    fresh.mkdir()
    with tarfile.open(shared_file(FOLDER, "jetstream-store.tar.gz")) as archive:
        archive.extractall(store, filter="data")
    await _keep_for_ever(store, fresh)
    return store


async def _keep_for_ever(store: Path, scratch: Path) -> None:
    """Takes the age limit off the sample's stream.

    Dynamo's streams keep an hour, and a nats-server that starts later drops everything before its first reader comes.
    The settings are checksummed, so a server writes them: it makes the same stream without the limit elsewhere.
    """
    settings = json.loads((store / STREAMS / STREAM / "meta.inf").read_bytes())
    assert settings["max_age"] == 3_600_000_000_000, "the sample is as formats.md describes it"
    async with _jetstream(scratch) as js:
        await js.add_stream(
            StreamConfig(
                name=STREAM, subjects=settings["subjects"], retention=RetentionPolicy.LIMITS,
                storage=StorageType.FILE, max_age=0,
            )
        )  # fmt: skip
    for name in ("meta.inf", "meta.sum"):
        shutil.copyfile(scratch / STREAMS / STREAM / name, store / STREAMS / STREAM / name)


@asynccontextmanager
async def _jetstream(store: Path) -> AsyncIterator[JetStreamContext]:
    async with NatsServer(store.with_name(f"{store.name}-server"), store=store) as server:
        client = await nats.connect(server.url, connect_timeout=10, allow_reconnect=False)
        try:
            yield client.jetstream(timeout=10)
        finally:
            await client.close()
