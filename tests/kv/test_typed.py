"""Typed buckets: models go in and come out, and what is none is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pydantic import BaseModel

from dynlog.errors import ConfigurationError, KeyExists, MalformedRecord, RevisionConflict
from dynlog.kv import Changed, TypedBucket, open_kv
from dynlog.open import open_log
from tests.kv.backend import take, until_ready


class Card(BaseModel):
    name: str
    context_length: int = 4096


@pytest.fixture
async def cards() -> AsyncIterator[TypedBucket[Card]]:
    async with open_log(f"memory://{uuid4().hex}") as log, open_kv(log) as kv:
        yield TypedBucket(await kv.create("cards"), Card)


async def test_a_model_that_was_put_comes_back(cards: TypedBucket[Card]) -> None:
    first = await cards.create("llama", Card(name="llama"))
    second = await cards.update("llama", Card(name="llama", context_length=8192), first)
    got = await cards.get("llama", linearizable=True)
    assert got is not None
    assert (got.key, got.value, got.revision) == ("llama", Card(name="llama", context_length=8192), second)
    assert [entry.value.name for entry in await cards.entries("l")] == ["llama"]
    with pytest.raises(KeyExists):
        await cards.create("llama", Card(name="other"))
    with pytest.raises(RevisionConflict):
        await cards.delete("llama", first)
    assert await cards.delete("llama") is not None
    assert await cards.get("llama") is None


async def test_a_value_that_is_no_model_is_named_with_its_place(cards: TypedBucket[Card]) -> None:
    revision = await cards.bucket.put("bad", b'{"name": 7}')
    for call in (cards.get("bad"), cards.entries()):
        with pytest.raises(MalformedRecord, match=rf"'cards'.*'bad'.*{revision}.*Card: name"):
            await call


async def test_what_is_no_model_of_the_bucket_does_not_get_in(cards: TypedBucket[Card]) -> None:
    class Other(BaseModel):
        size: int = 1

    for wrong in (Other(), {"name": "llama"}, None):
        for write in (cards.put, cards.create):
            with pytest.raises(ConfigurationError, match="Card"):
                await write("k", wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="Card"):
            await cards.update("k", wrong, 0)  # type: ignore[arg-type]
    assert await cards.entries() == []


async def test_a_watch_is_read_with_the_model(cards: TypedBucket[Card]) -> None:
    async with cards.bucket.watch() as watch:
        await until_ready(watch)
        await cards.put("llama", Card(name="llama"), ttl_s=60.0)
        (event,) = await take(watch, 1)
        assert isinstance(event, Changed)
        assert cards.read(event.entry).value == Card(name="llama")
