"""`dynlog.packing`: what one call leaves behind must not reach the next one, on whatever thread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgpack
import pytest

from dynlog.packing import KEPT_BYTES, pack

VALUE = [3, [b"key", None], [[b"a" * 200], []], None, "text", {"name": b"value"}, 2**63, -1]


def test_it_packs_as_msgpack_does_also_after_something_large() -> None:
    assert pack(VALUE) == msgpack.packb(VALUE)
    large = [b"x" * (2 * KEPT_BYTES)]
    assert pack(large) == msgpack.packb(large)
    assert pack(VALUE) == msgpack.packb(VALUE)


@pytest.fixture
def small_turns() -> Iterator[None]:
    """Threads take turns as often as the interpreter allows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("refused", [[b"begun", object()], [b"begun", 2**64], [b"begun", "\ud800"]])
def test_what_was_packed_before_a_refusal_is_not_in_the_next_one(refused: object) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        pack(refused)
    assert pack(VALUE) == msgpack.packb(VALUE)


@pytest.mark.usefixtures("small_turns")
def test_threads_do_not_find_each_others_half_packed_values() -> None:
    def work(number: int) -> bool:
        value = [number, [b"k" * number] * 50, {"name": b"v" * number}]
        wanted = msgpack.packb(value)
        return all(pack(value) == wanted for _ in range(2_000))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(1, 13)))
