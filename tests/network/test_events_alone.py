"""Events by themselves: how they are written, what is no event, and a registry that is behind the publisher's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlog.call_errors import ProtocolError
from dynlog.entity import DynamoEntityID
from dynlog.errors import MalformedRecord
from dynlog.network import events_tail
from dynlog.network.events import Event, Place, from_push, from_record, log_topic, to_push, to_record
from dynlog.network.events_place import group_of, positions_of
from dynlog.network.events_tail import Tail
from dynlog.network.hierarchy import Member
from dynlog.network.registry import LocalRegistry
from dynlog.network.subscribing import Subscription
from dynlog.open import open_log
from dynlog.record import Record
from dynlog.topics import check_name
from tests.network.call_backend import PATIENCE_S

A = DynamoEntityID.from_name("a", incarnation=7)
FLEET = DynamoEntityID.collection("fleet")

texts = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=20)
events = st.builds(
    Event,
    target=st.sampled_from([A, FLEET, DynamoEntityID.random(), DynamoEntityID.random("named")]),
    topic=texts,
    body=st.binary(max_size=200),
    sender=st.just(A),
    view_offset=st.integers(0, 1 << 62),
    headers=st.dictionaries(texts, texts, max_size=3),
    place=st.none() | st.builds(Place, texts, st.integers(0, 99), st.integers(0, 1 << 62)),
)


def texts_of(event: Event) -> tuple[bytes, bytes]:
    return str(event.target).encode(), str(event.sender).encode()


@given(events)
def test_an_event_comes_back_from_a_push_and_from_a_record_as_it_was(event: Event) -> None:
    assert from_push(event.topic, to_push(event, *texts_of(event))) == event
    place = event.place or Place("t", 0, 0)
    event.place = place
    back = from_record(to_record(event, *texts_of(event)), place)
    assert back == event
    assert (back.target.name, back.sender.incarnation) == (event.target.name, 7)


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=20) | st.text(max_size=20)
    | st.just(b"instance:a") | st.just("instance:a"),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)  # fmt: skip


@given(junk.map(msgpack.packb) | st.binary(max_size=60) | st.lists(junk, min_size=6, max_size=7).map(msgpack.packb))
@settings(max_examples=400)
def test_a_push_that_is_no_event_is_told_apart_and_nothing_else_is_raised(body: bytes) -> None:
    try:
        event = from_push("news", body)
    except ProtocolError:
        return
    assert isinstance(event.body, bytes)
    hash(event.place)  # subscriptions look it up


@given(st.dictionaries(st.sampled_from(["topic", "target", "sender", "view", "headers", "x"]), st.binary(max_size=12)))
@settings(max_examples=400)
def test_a_record_that_is_no_event_is_told_apart_and_nothing_else_is_raised(headers: dict[str, bytes]) -> None:
    with pytest.raises(MalformedRecord, match="no event at"):
        from_record(Record(parts=(b"x",), headers=headers), Place("t", 0, 3))


def test_a_collection_has_a_log_topic_of_its_own_and_instances_share_one() -> None:
    assert log_topic(A) == log_topic(DynamoEntityID.random())
    assert log_topic(FLEET) != log_topic(DynamoEntityID.collection("other"))
    assert log_topic(FLEET)[1] == 1  # so that its events have one order


def test_a_name_is_another_group_for_another_entity_or_topic_and_always_legal_in_the_log() -> None:
    topics = ["kv/événements stored", "kv événements/stored", "x" * 249, "x" * 248 + "y", "news"]
    groups = [group_of("mine", entity, topic) for entity in (A, FLEET) for topic in topics]
    assert len(set(groups)) == len(groups)
    for group in groups:
        assert check_name("group", group) == group


class Behind(LocalRegistry):
    """It does not know yet, when an event comes, what its publisher knew; it does when it asks."""

    def __init__(self) -> None:
        super().__init__()
        self.yet_to_come: list[Member] = []

    async def refresh(self, timeout: float = 30.0) -> int:
        while self.yet_to_come:
            await self.join(self.yet_to_come.pop())
        return await super().refresh(timeout)


@pytest.mark.parametrize("comes", [True, False])
async def test_an_event_of_a_publisher_whose_registry_is_ahead_waits_until_it_can_be_judged(comes: bool) -> None:
    registry, heard, done = Behind(), list[str](), list[str]()
    await registry.join(Member(A))
    if comes:
        registry.yet_to_come.append(Member(A, (FLEET,)))

    async def hear(event: Event) -> None:
        heard.append(str(event.target))

    subscription = Subscription(A, "news", hear, registry, None)
    await subscription.start()
    ahead = registry.view.offset + 1
    for number, target in enumerate((FLEET, A)):
        event = Event(target, "news", b"x", A, ahead)
        assert subscription.pushed(event, lambda number=number: done.append(str(number)))  # type: ignore[misc]
    async with asyncio.timeout(PATIENCE_S):
        while len(done) < 2:  # noqa: ASYNC110 - it only counts
            await asyncio.sleep(0)
    assert heard == ([str(FLEET)] if comes else []) + ["instance:a#7"]
    await subscription.close()


class Hearing:
    """A sink that is always ready, but for what a test says."""

    def __init__(self) -> None:
        self.entity, self.topic = FLEET, "news"
        self.heard: list[int] = []
        self.changed = asyncio.Event()
        self.full = False
        self.error: Exception | None = None

    async def wants_now(self, event: Event) -> bool:
        return True

    async def room(self) -> None:
        self.full = False

    def put(self, event: Event) -> None:
        assert event.place is not None
        self.heard.append(event.place.offset)
        self.changed.set()

    def end(self, error: Exception) -> None:
        self.error = error

    async def hears(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.heard) < count:
                self.changed.clear()
                await self.changed.wait()
        assert self.heard == list(range(count))


@asynccontextmanager
async def tailing(sink: Hearing) -> AsyncIterator[tuple[Tail, Callable[[], Awaitable[Event]]]]:
    """A tail at work, and what appends the next event to its topic."""
    async with open_log(f"memory://{uuid4().hex}") as log:
        positions = await positions_of(log, FLEET, None)

        async def append() -> Event:
            event = Event(FLEET, "news", b"x", A, 0)
            appended = await log.append(log_topic(FLEET)[0], 0, [to_record(event, *texts_of(event))])
            event.place = Place(log_topic(FLEET)[0], 0, appended.offsets[0])
            return event

        tail = Tail(log, positions, sink)
        running = asyncio.create_task(tail.run())
        try:
            yield tail, append
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_push_that_comes_while_the_same_event_from_the_log_waits_for_room_is_not_heard_twice() -> None:
    class Pushed(Hearing):
        async def room(self) -> None:
            self.full = False
            assert tail.is_next(Place(log_topic(FLEET)[0], 0, 0))
            tail.took(Place(log_topic(FLEET)[0], 0, 0))
            self.heard.append(0)

    sink = Pushed()
    sink.full = True
    async with tailing(sink) as (tail, append):
        await append()
        await append()
        await sink.hears(2)


async def test_while_pushes_suffice_the_log_is_not_read_and_one_that_is_missing_is_fetched_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events_tail, "QUIET_S", 3600.0)
    sink = Hearing()

    def push(tail: Tail, event: Event) -> None:
        assert event.place is not None
        if tail.is_next(event.place):
            tail.took(event.place)
            sink.put(event)
        else:
            tail.refused(event.place)

    async with tailing(sink) as (tail, append):
        for _ in range(200):
            push(tail, await append())
            await asyncio.sleep(0)
        await sink.hears(200)
        assert tail.skipped < 50
        await append()  # its push is lost
        push(tail, await append())
        await sink.hears(202)


async def test_the_last_event_is_heard_soon_if_its_push_is_lost() -> None:
    sink = Hearing()
    async with tailing(sink) as (tail, append):
        for _ in range(50):
            event = await append()
            assert event.place is not None
            if tail.is_next(event.place):
                tail.took(event.place)
                sink.put(event)
            await asyncio.sleep(0)
        await append()
        await sink.hears(51)
