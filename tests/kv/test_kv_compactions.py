"""Compactions that meet each other, writers, and whoever opens the bucket meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from dynlog.kv import Bucket, open_kv
from dynlog.kv.pictures import FIRST, Place, behind, next_pictures
from dynlog.kv.records import Barrier, Put
from dynlog.log import Log
from dynlog.open import open_log
from tests.kv.backend import NAME, elsewhere
from tests.kv.facts import ListLog, seen


@pytest.fixture
def log_url() -> str:
    return f"memory://{uuid4().hex}"


@pytest.fixture
async def log(log_url: str) -> AsyncIterator[Log]:
    async with open_log(log_url) as opened:
        yield opened


@pytest.fixture
async def bucket(log: Log) -> AsyncIterator[Bucket]:
    async with open_kv(log, compaction=None) as kv:
        yield await kv.create(NAME)


def test_a_picture_in_several_records_is_not_mixed_up_with_that_of_another_compaction() -> None:
    log = ListLog(1)
    log.append(Put("a", b"1"))
    first, second = log.end, log.end + 1
    log.append(Barrier())
    log.append(Barrier())
    log.append(next_pictures(log.fold, first, FIRST, 100, [b"theirs 1", b"theirs 2"])[0])
    place: Place | None = FIRST
    while place is not None:
        pictures = next_pictures(log.fold, second, place, 100, [b"ours 1", b"ours 2"])
        for picture in pictures:
            log.append(picture)
        if place == FIRST:
            assert log.folded_from(second).marks == [b"ours 1", b"ours 2"]
        place = behind(pictures[-1])
    fresh = log.folded_from(second)
    assert fresh.complete
    assert not fresh.malformed
    assert seen(fresh) == seen(log.fold)


async def test_no_two_compactions_begin_at_the_same_place(bucket: Bucket, log_url: str) -> None:
    await bucket.put("k", b"1")
    async with elsewhere(log_url) as other:
        done = await asyncio.gather(*(each.compact() for each in (bucket, bucket, other, other)))
    assert len({each.start for each in done}) == 4
