"""Checks of foreign values, shared by the decoders: each raises MalformedEvent naming the field and what it held."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar

from dynlog.errors import MalformedEvent
from dynlog.kvevents import U64_MAX, pack_hashes

MAX_BLOCKS = 1 << 15
"""Blocks in one event; Dynamo sends at most 8,192, and a record has to fit one append."""
U32_MAX = 2**32 - 1
Named = TypeVar("Named")
_INT = {int}


def column(hashes: Any, field: str) -> bytes:
    """Checks a list of u64 hashes and packs it; raises MalformedEvent naming the field."""
    if type(hashes) is not list:
        raise MalformedEvent(f"{field}: a list is needed, not {brief(hashes)}")
    if len(hashes) > MAX_BLOCKS:
        raise MalformedEvent(f"{field}: {len(hashes)} hashes in one event; at most {MAX_BLOCKS} are taken")
    # bool is an int to array(), so the types are looked at first; both passes run in C.
    if set(map(type, hashes)) <= _INT:
        with suppress(MalformedEvent):
            return pack_hashes(hashes)
    for index, value in enumerate(hashes):
        whole(value, f"{field}[{index}]", U64_MAX)
    raise AssertionError("one of them does not fit")


def check_chain(blocks: list[int], parent: int | None, field: str) -> None:
    """Refuses a chain in which a block is its own ancestor; raises MalformedEvent naming the block."""
    distinct = set(blocks)
    if parent in distinct:
        raise MalformedEvent(f"{field}: block {parent} is its own parent")
    if len(distinct) != len(blocks):
        seen: set[int] = set()
        twice = next(block for block in blocks if block in seen or seen.add(block))  # type: ignore[func-returns-value]
        raise MalformedEvent(f"{field}: block {twice} stands twice in one chain, so it is its own ancestor")


def keys(value: Any, field: str, needed: set[str], known: set[str]) -> None:
    """Checks that a map has the needed keys and none that is unknown."""
    if type(value) is not dict:
        raise MalformedEvent(f"{field}: an object is needed, not {brief(value)}")
    there = value.keys()
    if there in (known, needed):
        return
    if not needed <= there:
        raise MalformedEvent(f"{field}: {', '.join(sorted(needed - there))} is missing")
    if not there <= known:
        strange = sorted(map(brief, there - known))
        raise MalformedEvent(f"{field}: {', '.join(strange[:5])} is in no profile that is known here")


def whole(value: Any, field: str, most: int) -> int:
    """A whole number from 0 to ``most``; a bool is none."""
    if type(value) is int and 0 <= value <= most:
        return value
    if type(value) is not int:
        raise MalformedEvent(f"{field}: a whole number is needed, not {brief(value)}")
    if value < 0:
        raise MalformedEvent(
            f"{field}: {brief(value)} is negative; an engine's i64 has to be sent as the u64 of its bits"
        )
    raise MalformedEvent(f"{field}: {brief(value)} is over {most}")


def named(value: Any, field: str, names: Mapping[str, Named]) -> Named:
    """The value that goes by that name."""
    found = names.get(value) if type(value) is str else None
    if found is None:
        raise MalformedEvent(f"{field}: one of {', '.join(names)} is needed, not {brief(value)}")
    return found


def brief(value: Any) -> str:
    """A value for a message: short, whatever it is, and without walking through a huge one."""
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return repr(value[:40] if isinstance(value, str | bytes) else value)
