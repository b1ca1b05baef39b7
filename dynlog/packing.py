"""Msgpack by a packer that stays.

`msgpack.packb` makes a packer and its buffer of 256 KiB for each call, which takes longer than to pack a record.
"""

from __future__ import annotations

import threading

import msgpack

KEPT_BYTES = 1 << 18
"""A buffer that grew for more than this is not kept."""


class _Own(threading.local):
    """Each thread's packer: msgpack's pure Python form must not be shared."""

    def __init__(self) -> None:
        self.packer = msgpack.Packer()


_own = _Own()


def pack(value: object) -> bytes:
    """What `msgpack.packb` returns and raises; any thread may call it."""
    packed: bytes = _own.packer.pack(value)
    if len(packed) > KEPT_BYTES:
        _own.packer = msgpack.Packer()
    return packed
