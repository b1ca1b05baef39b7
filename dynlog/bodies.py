"""A body, whatever its form, as pieces of one size: so that memory stays bounded and progress is told evenly."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from dynlog.errors import ConfigurationError
from dynlog.waits import Waits

DONE = object()


async def pieces_of(
    body: bytes | AsyncIterable[bytes], waits: Waits, *, piece_bytes: int, timeout: float, doing: str
) -> AsyncGenerator[memoryview, None]:
    """The body in pieces of ``piece_bytes`` (the last may be shorter); small ones are joined, large ones cut.

    Each wait for the source is limited by ``timeout``.  A source that is an async generator is closed at the end, also
    when the caller gives up.  Raises ConfigurationError for what is not bytes.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        whole = memoryview(body).cast("B")
        for at in range(0, len(whole), piece_bytes):
            yield whole[at : at + piece_bytes]
        return
    if not hasattr(body, "__aiter__"):
        raise ConfigurationError(f"a body is bytes or an async iterable of bytes, not {type(body).__name__}")
    source = aiter(body)
    pending = bytearray()
    try:
        while True:
            async with waits.limit(timeout, f"the source of the body, {doing}"):
                piece: Any = await anext(source, DONE)
            if piece is DONE:
                break
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise ConfigurationError(f"a body yields bytes, not {type(piece).__name__}")
            rest = memoryview(piece).cast("B")
            while len(pending) + len(rest) >= piece_bytes:
                cut = piece_bytes - len(pending)
                yield memoryview(bytes(pending) + rest[:cut]) if pending else rest[:cut]
                pending.clear()
                rest = rest[cut:]
            pending += rest
        if pending:
            yield memoryview(bytes(pending))
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
