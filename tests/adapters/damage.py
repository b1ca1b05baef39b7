"""Truncations and flipped bits of an encoded message, at every byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dynlog.errors import MalformedEvent


def damaged(whole: bytes) -> Iterator[bytes]:
    """Every truncation and every single flipped bit."""
    for at in range(len(whole)):
        yield whole[:at]
        for bit in range(8):
            yield whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]


def refusals(whole: bytes, decode: Callable[[bytes], object]) -> int:
    """Decodes every damaged form; anything but a value or MalformedEvent escapes.  Returns how many were refused."""
    count = 0
    for message in damaged(whole):
        try:
            decode(message)
        except MalformedEvent:
            count += 1
    return count
