"""Which partition a key belongs to: the same on every engine and for ever."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import xxhash


def partition_of(key: bytes, partitions: int) -> int:
    """xxh3_64(key), seed 0, modulo the topic's fixed number of partitions."""
    return int(xxhash.xxh3_64_intdigest(key)) % partitions


def keyless_partitions(partitions: int) -> Iterator[int]:
    """Partitions for records without a key: one after the other."""
    return itertools.cycle(range(partitions))
