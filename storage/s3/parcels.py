"""A body cut into parcels, as large as one request carries: so that memory stays bounded whatever the body is.

A parcel is 5 MiB (S3's least size of a part) and doubles every 1,000 parcels, so that 10,000 of them, which is all that
S3 takes, make 5 TiB, which is also all that it takes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from dynlog.bodies import pieces_of
from dynlog.objects import PIECE_BYTES, Body
from dynlog.waits import Waits

PARCEL_BYTES = 5 << 20
DOUBLING = 1000


def parcel_bytes(number: int) -> int:
    """The size of the parcel of that number, from 1."""
    return PARCEL_BYTES << (number - 1) // DOUBLING


async def parcels_of(body: Body, waits: Waits, *, timeout: float, doing: str) -> AsyncGenerator[memoryview, None]:
    """The body in parcels, the last of which may be smaller; at least one, which may be empty."""
    number = 1
    if isinstance(body, bytes | bytearray | memoryview):
        whole = memoryview(body).cast("B")
        yield whole[:PARCEL_BYTES]
        at = PARCEL_BYTES
        while at < len(whole):
            number += 1
            yield whole[at : at + parcel_bytes(number)]
            at += parcel_bytes(number)
        return
    parcel = bytearray()
    pieces = pieces_of(body, waits, piece_bytes=PIECE_BYTES, timeout=timeout, doing=doing)
    async with aclosing(pieces):
        async for piece in pieces:
            while piece:
                if len(parcel) == parcel_bytes(number):
                    yield memoryview(parcel)
                    number += 1
                    parcel = bytearray()
                taken = piece[: parcel_bytes(number) - len(parcel)]
                parcel += taken
                piece = piece[len(taken) :]
    yield memoryview(parcel)
