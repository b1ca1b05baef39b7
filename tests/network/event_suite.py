"""Events: they reach whoever subscribes at or below their target, in order, once, and never go upward."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from dynlog.entity import DynamoEntityID
from dynlog.errors import CommitFenced, ConfigurationError, DynlogError, OffsetTruncated
from dynlog.network import event_hub
from dynlog.network.event_hub import EventHub
from dynlog.network.events import Event, Reach
from dynlog.network.hierarchy import Interest, Member
from dynlog.network.locating import this_host, this_process
from dynlog.network.manager import DynamoNetworkManager
from tests.network.call_backend import PATIENCE_S
from tests.network.registry_backend import BACKEND, FLEET, FRONTEND, RegistryBackend, World


@dataclass
class Ear:
    """A handler that keeps what it hears."""

    heard: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, event: Event) -> None:
        self.heard.append(bytes(event.body).decode())
        self.events.append(event)
        self.changed.set()

    async def hears(self, *bodies: str, in_order: bool = True) -> None:
        """Waits until it heard so many, and compares."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.heard) < len(bodies):
                self.changed.clear()
                await self.changed.wait()
        assert (self.heard if in_order else sorted(self.heard)) == list(bodies)


async def listening(manager: DynamoNetworkManager, entity: DynamoEntityID, topic: str = "news") -> Ear:
    """A subscription."""
    ear = Ear()
    await manager.subscribe(entity, topic, ear)
    return ear


class EventSuite(RegistryBackend):
    async def test_an_event_for_a_collection_reaches_it_and_all_below_and_nobody_above(self, world: World) -> None:
        await world.tree()
        a, b = await world.manager("a", BACKEND), await world.manager("b", FRONTEND)
        publisher = await world.manager("publisher")
        at_a, at_b = await listening(a, a.entity), await listening(b, b.entity)
        at_backend, at_fleet = await listening(b, BACKEND), await listening(a, FLEET)
        await world.registry.refresh()
        await publisher.publish(BACKEND, "news", "for backend")
        await publisher.publish(FLEET, "news", "for all")
        # Order is kept for one target, not between two.
        await at_a.hears("for all", "for backend", in_order=False)
        await at_backend.hears("for all", "for backend", in_order=False)
        await at_fleet.hears("for all")
        await at_b.hears("for all")

    async def test_an_event_for_an_instance_reaches_it_alone(self, world: World) -> None:
        await world.tree()
        a, b = await world.manager("a", BACKEND), await world.manager("b", BACKEND)
        at_a, at_b, above = await listening(a, a.entity), await listening(b, b.entity), await listening(b, BACKEND)
        await b.publish(a.entity, "news", "to a")
        await b.publish(b.entity, "news", "to b")
        await at_a.hears("to a")
        await at_b.hears("to b")
        await b.publish(BACKEND, "news", "to both")
        await above.hears("to both")

    async def test_topics_do_not_mix(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        news, other = await listening(a, a.entity), await listening(a, a.entity, "other")
        await b.publish(a.entity, "other", "1")
        await b.publish(a.entity, "news", "2")
        await news.hears("2")
        await other.hears("1")

    async def test_what_one_publishes_is_heard_in_order_and_once(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b", elsewhere=True)
        ear = await listening(a, a.entity)
        await world.elsewhere.refresh()
        for number in range(300):
            await b.publish(a.entity, "news", str(number))
        await ear.hears(*map(str, range(300)))

    async def test_a_publisher_hears_itself_if_it_subscribes(self, world: World) -> None:
        a = await world.manager("a")
        ear = await listening(a, a.entity)
        await a.publish(a.entity, "news", "to myself")
        await ear.hears("to myself")

    async def test_an_event_says_whom_it_was_for_and_who_sent_it_and_brings_its_headers(self, world: World) -> None:
        await world.tree()
        a, b = await world.manager("a", BACKEND), await world.manager("b")
        ear = await listening(a, a.entity)
        await b.publish(FLEET, "news", "x", headers={"trace": "t"})
        await ear.hears("x")
        (event,) = ear.events
        assert (event.target, event.sender, dict(event.headers)) == (FLEET, b.entity, {"trace": "t"})
        assert event.view_offset > 0

    async def test_a_handler_that_fails_does_not_end_its_subscription(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        ear = Ear()

        async def fails(event: Event) -> None:
            await ear(event)
            if event.body == b"1":
                raise ValueError("no")

        subscription = await a.subscribe(a.entity, "news", fails)
        for number in range(3):
            await b.publish(a.entity, "news", str(number))
        await ear.hears("0", "1", "2")
        assert subscription.failed == 1

    async def test_a_handler_whose_own_work_is_cancelled_does_not_end_its_subscription(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        ear = Ear()

        async def awaits_what_is_cancelled(event: Event) -> None:
            await ear(event)
            work = asyncio.ensure_future(asyncio.sleep(60))
            work.cancel()
            await work

        subscription = await a.subscribe(a.entity, "news", awaits_what_is_cancelled)
        await b.publish(a.entity, "news", "1")
        await b.publish(a.entity, "news", "2")
        await ear.hears("1", "2")
        assert subscription.failed >= 1
        assert not subscription.over.is_set()

    async def test_two_subscriptions_of_one_process_hear_the_same_event_once_each(self, world: World) -> None:
        await world.tree()
        a, b = await world.manager("a", BACKEND), await world.manager("b")
        ears = [await listening(a, entity) for entity in (a.entity, BACKEND, FLEET, a.entity)]
        await b.publish(FLEET, "news", "1")
        await b.publish(FLEET, "news", "2")
        for ear in ears:
            await ear.hears("1", "2")

    async def test_many_that_subscribe_at_once_are_all_known_elsewhere(self, world: World) -> None:
        a = await world.manager("a")
        async with asyncio.TaskGroup() as tasks:
            for number in range(20):
                tasks.create_task(a.subscribe(a.entity, f"topic-{number}", Ear()))
        await world.elsewhere.refresh()
        seen = world.elsewhere.view.get(a.entity)
        assert seen is not None
        assert {interest.topic for interest in seen.interests} == {f"topic-{number}" for number in range(20)}

    async def test_after_unsubscribing_nothing_is_heard(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        ear = Ear()
        subscription = await a.subscribe(a.entity, "news", ear)
        other = await listening(a, a.entity)
        await a.unsubscribe(subscription)
        await b.publish(a.entity, "news", "late")
        await other.hears("late")
        assert ear.heard == []

    async def test_an_event_that_is_too_large_is_refused_naming_the_object_store(self, world: World) -> None:
        a = await world.manager("a")
        with pytest.raises(ConfigurationError, match="object store"):
            await a.publish(a.entity, "news", bytes(600 << 10))


class WithoutLogSuite(RegistryBackend):
    async def test_asking_for_more_than_at_most_once_is_refused(self, world: World) -> None:
        a = await world.manager("a")
        with pytest.raises(ConfigurationError, match="at most once"):
            await a.publish(a.entity, "news", "x", reach=Reach.AT_LEAST_ONCE)

    async def test_a_subscription_under_a_name_is_refused(self, world: World) -> None:
        a = await world.manager("a")
        with pytest.raises(ConfigurationError, match="keeps its place in a log"):
            await a.subscribe(a.entity, "news", Ear(), name="mine")

    async def test_whom_it_did_not_reach_is_named(self, world: World) -> None:
        a, b = await world.manager("a", listen=()), await world.manager("b")
        await listening(a, a.entity)
        published = await b.publish(a.entity, "news", "x")
        assert (published.pushed, published.unreached) == (0, (a.entity,))

    async def test_a_subscriber_in_the_publishers_own_process_has_bounded_room_too(self, world: World) -> None:
        a = await world.manager("a")
        let_go = asyncio.Event()
        ear = Ear()

        async def slow(event: Event) -> None:
            await let_go.wait()
            await ear(event)

        await a.subscribe(a.entity, "news", slow)
        taken = []
        for number in range(5000):
            published = await a.publish(a.entity, "news", str(number))
            if published.unreached:
                break
            taken.append(str(number))
            await asyncio.sleep(0)
        else:
            pytest.fail("5,000 events were taken and none was handled")
        let_go.set()
        await ear.hears(*taken)

    async def test_a_subscriber_that_cannot_be_reached_is_waited_for_once_not_at_each_event(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(event_hub, "REACH_S", 0.2)
        b = await world.manager("b")
        gone = Member(
            DynamoEntityID.from_name("gone"), addresses=("inproc://nobody",), host=this_host(), process=this_process(),
            interests=frozenset({Interest(b.entity, "news")}),
        )  # fmt: skip
        await world.registry.join(gone)
        await world.elsewhere.refresh()
        begun = asyncio.get_running_loop().time()
        for _ in range(20):
            assert (await b.publish(b.entity, "news", "x")).unreached == (gone.entity,)
        assert asyncio.get_running_loop().time() - begun < 2.0

    async def test_a_subscriber_that_is_slow_makes_the_publisher_see_that_it_has_no_room(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        let_go = asyncio.Event()
        heard: list[bytes] = []

        async def slow(event: Event) -> None:
            await let_go.wait()
            heard.append(bytes(event.body))

        await a.subscribe(a.entity, "news", slow)
        reached = []
        for number in range(5000):
            published = await b.publish(a.entity, "news", str(number))
            if published.unreached:
                break
            reached.append(str(number).encode())
            await asyncio.sleep(0)
        else:
            pytest.fail("5,000 events were taken and none was handled")
        let_go.set()
        async with asyncio.timeout(PATIENCE_S):
            while len(heard) < len(reached):  # noqa: ASYNC110 - the handler only counts
                await asyncio.sleep(0.001)
        assert heard == reached


class WithLogSuite(RegistryBackend):
    async def test_what_was_published_is_in_the_log_and_has_a_place(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        ear = await listening(a, a.entity)
        published = await b.publish(a.entity, "news", "x")
        await ear.hears("x")
        assert published.place is not None
        assert ear.events[0].place == published.place

    async def test_a_subscriber_that_no_wire_reaches_hears_all_from_the_log(self, world: World) -> None:
        a, b = await world.manager("a", listen=()), await world.manager("b")
        ear = await listening(a, a.entity)
        for number in range(50):
            await b.publish(a.entity, "news", str(number))
        await ear.hears(*map(str, range(50)))

    async def test_pushes_that_are_lost_doubled_or_out_of_order_change_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        ear = await listening(a, a.entity)
        real = EventHub.push
        held: list[tuple[Member, str, bytes, Event]] = []

        def unreliable(hub: EventHub, *push: Any) -> bool:
            held.append(push)
            if len(held) == 4:  # the first is lost, the others go in another order, one of them twice
                for again in (held[3], held[1], held[2], held[1]):
                    real(hub, *again)
                held.clear()
            return True

        monkeypatch.setattr(EventHub, "push", unreliable)
        for number in range(60):
            await b.publish(a.entity, "news", str(number))
        await ear.hears(*map(str, range(60)))

    async def test_one_that_was_away_resumes_under_its_name_where_it_stood(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        first = Ear()
        subscription = await a.subscribe(a.entity, "news", first, name="mine")
        await b.publish(a.entity, "news", "1")
        await first.hears("1")
        await a.unsubscribe(subscription)
        await b.publish(a.entity, "news", "2")
        second = Ear()
        await a.subscribe(a.entity, "news", second, name="mine")
        await b.publish(a.entity, "news", "3")
        await second.hears("2", "3")

    async def test_one_that_was_away_hears_what_was_for_the_collections_to_which_it_comes_back(
        self, world: World
    ) -> None:
        await world.tree()
        b = await world.manager("b")
        async with world.leaving("a", BACKEND) as a:
            first = Ear()
            await a.subscribe(a.entity, "news", first, name="mine")
            await b.publish(FLEET, "news", "1")
            await first.hears("1")
        await b.publish(FLEET, "news", "2")
        await b.publish(FLEET, "news", "3")
        a = await world.manager("a", BACKEND)
        second = Ear()
        await a.subscribe(a.entity, "news", second, name="mine")
        await b.publish(FLEET, "news", "4")
        await second.hears("2", "3", "4")

    async def test_one_name_at_two_entities_or_topics_is_two_subscriptions(self, world: World) -> None:
        await world.tree()
        a, b = await world.manager("a", BACKEND), await world.manager("b", BACKEND)
        at_a, at_b, other = Ear(), Ear(), Ear()
        await a.subscribe(a.entity, "news", at_a, name="mine")
        await b.subscribe(b.entity, "news", at_b, name="mine")
        await b.subscribe(b.entity, "other", other, name="mine")
        for number in range(5):
            await b.publish(BACKEND, "news", str(number))
        await b.publish(BACKEND, "other", "x")
        await at_a.hears(*map(str, range(5)))
        await at_b.hears(*map(str, range(5)))
        await other.hears("x")

    async def test_a_topic_that_is_no_name_of_the_log_can_be_subscribed_to_under_a_name(self, world: World) -> None:
        a = await world.manager("a")
        topics, ears = ["kv/événements stored", "kv événements/stored"], [Ear(), Ear()]
        for topic, ear in zip(topics, ears, strict=True):
            await a.subscribe(a.entity, topic, ear, name="mine")
        for topic in topics:
            await a.publish(a.entity, topic, topic)
        for topic, ear in zip(topics, ears, strict=True):
            await ear.hears(topic)

    async def test_a_later_subscription_of_the_name_ends_the_earlier_which_is_told(self, world: World) -> None:
        a = await world.manager("a")
        earlier = await a.subscribe(a.entity, "news", Ear(), name="mine")
        ear = Ear()
        await a.subscribe(a.entity, "news", ear, name="mine")
        for number in range(3):
            await a.publish(a.entity, "news", str(number))
        await ear.hears("0", "1", "2")
        async with asyncio.timeout(PATIENCE_S):
            await earlier.over.wait()
        assert isinstance(earlier.error, CommitFenced)

    async def test_a_subscriber_hears_what_is_published_as_of_the_moment_in_which_its_collection_moved(
        self, world: World
    ) -> None:
        for collection in (BACKEND, FLEET):
            await world.registry.join(Member(collection))
        a = await world.manager("a", BACKEND)
        publisher = await world.manager("publisher", elsewhere=True)
        ears = [await listening(a, a.entity), Ear()]
        await a.subscribe(a.entity, "news", ears[1], name="mine")
        await publisher.publish(FLEET, "news", "before")
        await world.registry.join(Member(BACKEND, (FLEET,)))
        await world.elsewhere.refresh()
        for number in range(10):
            await publisher.publish(FLEET, "news", str(number))
        for ear in ears:
            await ear.hears(*map(str, range(10)))

    async def test_a_publisher_goes_on_after_somebody_deleted_the_topic(self, world: World) -> None:
        b = await world.manager("b")
        assert world.log is not None
        published = await b.publish(BACKEND, "news", "1")
        assert published.place is not None
        await world.log.delete_topic(published.place.topic)
        with suppress(DynlogError):  # this one may find out
            await b.publish(BACKEND, "news", "2")
        published = await b.publish(BACKEND, "news", "3")
        assert published.place is not None
        assert published.place.offset <= 1

    async def test_a_subscriber_that_the_log_left_behind_is_told(self, world: World) -> None:
        a, b = await world.manager("a", listen=()), await world.manager("b")
        let_go = asyncio.Event()

        async def slow(event: Event) -> None:
            await let_go.wait()

        subscription = await a.subscribe(a.entity, "news", slow)
        big = bytes(400 << 10)
        for _ in range(40):
            published = await b.publish(a.entity, "news", big)
        assert published.place is not None
        assert world.log is not None
        topic, partition, offset = published.place
        await world.log.truncate(topic, partition, offset)
        let_go.set()
        async with asyncio.timeout(PATIENCE_S):
            await subscription.over.wait()
        assert isinstance(subscription.error, OffsetTruncated)

    async def test_the_members_of_a_group_share_the_events(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        ears = [Ear(), Ear()]
        for ear in ears:
            await a.subscribe(BACKEND, "work", ear, group="workers")
        for number in range(20):
            await b.publish(BACKEND, "work", str(number))
        async with asyncio.timeout(PATIENCE_S):
            while sum(len(ear.heard) for ear in ears) < 20:  # noqa: ASYNC110 - two ears at once
                await asyncio.sleep(0.001)
        assert sorted(int(body) for ear in ears for body in ear.heard) == list(range(20))

    async def test_whoever_joins_a_collection_later_hears_what_is_published_from_then_on(self, world: World) -> None:
        await world.tree()
        publisher = await world.manager("publisher")
        await publisher.publish(FLEET, "news", "before")
        a = await world.manager("a", BACKEND)
        ear = await listening(a, a.entity)
        await publisher.publish(FLEET, "news", "after")
        await ear.hears("after")

    async def test_at_most_once_goes_past_the_log(self, world: World) -> None:
        a, b = await world.manager("a"), await world.manager("b")
        ear = await listening(a, a.entity)
        published = await b.publish(a.entity, "news", "x", reach=Reach.AT_MOST_ONCE)
        await ear.hears("x")
        assert published.place is None
