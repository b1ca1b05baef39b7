"""What threads post is taken on the event loop: all of it, in order, whatever becomes of one item."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterable
from typing import TypeVar

import pytest

from dynlog.storage.sqlite.postbox import Postbox
from tests.conformance.backend import PATIENCE_S
from tests.conformance.possessions import descriptors

T = TypeVar("T")


def no_eventfd(*_: object) -> int:
    raise OSError(errno.EMFILE, "too many open files")


@pytest.fixture(params=["eventfd", "no descriptor", "no Linux"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the thread wakes the loop."""
    if request.param == "no descriptor":
        monkeypatch.setattr(os, "eventfd", no_eventfd)
    elif request.param == "no Linux":
        monkeypatch.delattr(os, "eventfd")
    return str(request.param)


def post(box: Postbox[T], items: Iterable[T]) -> None:
    """Posts in a thread, and returns once all of it is posted."""

    def in_turn() -> None:
        for item in items:
            box.post(item)

    posting = threading.Thread(target=in_turn)
    posting.start()
    posting.join()


@pytest.mark.usefixtures("way")
async def test_what_several_threads_post_is_taken_on_the_loop_each_ones_in_its_order() -> None:
    taken: list[tuple[int, int]] = []
    everything, loops_thread = asyncio.Event(), threading.get_ident()

    def take(item: tuple[int, int]) -> None:
        assert threading.get_ident() == loops_thread
        taken.append(item)
        if len(taken) == 4000:
            everything.set()

    box = Postbox(take)
    posting = [asyncio.to_thread(post, box, [(number, n) for n in range(1000)]) for number in range(4)]
    await asyncio.gather(*posting)
    async with asyncio.timeout(PATIENCE_S):
        await everything.wait()
    for number in range(4):
        assert [n for who, n in taken if who == number] == list(range(1000))
    box.close()


@pytest.mark.usefixtures("way")
async def test_an_item_that_is_taken_with_an_error_does_not_hold_up_those_behind_it() -> None:
    taken: list[str] = []
    reported: list[str] = []
    last = asyncio.Event()

    def take(item: str) -> None:
        if item == "bad":
            raise ValueError("bad")
        taken.append(item)
        if item == "last":
            last.set()

    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(str(context.get("exception"))))
    box = Postbox(take)
    post(box, ["first", "bad", "last"])  # all of them are there when the loop looks
    async with asyncio.timeout(PATIENCE_S):
        await last.wait()
    box.close()
    assert (taken, reported) == (["first", "last"], ["bad"])


@pytest.mark.usefixtures("way")
async def test_closing_takes_what_was_posted_and_leaves_no_descriptor() -> None:
    taken: list[int] = []
    before = descriptors()
    box = Postbox(taken.append)
    post(box, [1])
    box.close()
    assert taken == [1]
    box.close()
    await asyncio.sleep(0)
    assert taken == [1]
    assert descriptors() == before


async def test_a_loop_that_takes_no_reader_is_woken_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no more watches")

    before, taken = descriptors(), asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_reader", refuse, raising=False)
    box: Postbox[int] = Postbox(lambda _: taken.set())
    post(box, [1])
    async with asyncio.timeout(PATIENCE_S):
        await taken.wait()
    box.close()
    assert descriptors() == before


async def test_posting_to_a_loop_that_is_gone_harms_nobody() -> None:
    def on_a_loop_of_its_own() -> None:
        boxes: list[Postbox[int]] = []

        async def make() -> None:
            boxes.append(Postbox(lambda _: None))

        asyncio.run(make())
        boxes[0].post(1)
        boxes[0].close()

    await asyncio.to_thread(on_a_loop_of_its_own)
