"""The events of one manager: what it publishes, who subscribes in it, and the pushes that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError, DynlogError
from dynlog.intake import ConsumerSettings
from dynlog.log import Log
from dynlog.network.events import Event, Reach, from_push
from dynlog.network.hierarchy import Interest, Member
from dynlog.network.link import Link
from dynlog.network.named import NamedSubscription
from dynlog.network.peers import Peers
from dynlog.network.publishing import Published, Publisher
from dynlog.network.registry import Place, Registry
from dynlog.network.session_events import Pushed
from dynlog.network.subscribing import EventHandler, Subscription
from dynlog.record import Buffer

REACH_S = 5.0
"""How long a way to a subscriber may take to be made."""
AGAIN_S = 1.0
"""For so long nobody waits again for a way that could not be made."""
_MISSING = object()


class EventHub:
    """Publishes and subscribes for one manager; its `Pusher` for the publisher."""

    def __init__(self, registry: Registry, log: Log | None) -> None:
        self.subscriptions: dict[Subscription | NamedSubscription, None] = {}
        self._registry, self._log = registry, log
        self._by_topic: dict[str, list[Subscription]] = {}
        self._ways: dict[DynamoEntityID, asyncio.Task[None]] = {}
        self._saying = asyncio.Lock()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._place: Place | None = None
        self._peers: Peers | None = None
        self._publisher: Publisher | None = None
        self._unwatch: Callable[[], object] = lambda: None

    def open(self, place: Place, peers: Peers) -> None:
        """The manager has joined: from now on everything below may be called."""
        self._place, self._peers = place, peers
        self._publisher = Publisher(self._log, self._registry, place.member.entity, self)
        self._unwatch = self._registry.on_change(self._changed)

    async def close(self) -> None:
        """Ends every subscription, and returns once what was published is in the log, or was given up."""
        self._unwatch()
        for subscription in list(self.subscriptions):
            await subscription.close()
        tasks = [*self._tasks, *self._ways.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._publisher is not None:
            await self._publisher.close()

    async def publish(
        self, target: DynamoEntityID, topic: str, body: Buffer, headers: Mapping[str, str], reach: Reach | None
    ) -> Published:
        """See `DynamoNetworkManager.publish`."""
        assert self._publisher is not None
        return await self._publisher.publish(target, topic, body, headers, reach)

    async def flush(self) -> None:
        """See `Publisher.flush`."""
        assert self._publisher is not None
        await self._publisher.flush()

    async def subscribe(
        self,
        entity: DynamoEntityID,
        topic: str,
        handler: EventHandler,
        name: str | None,
        group: str | None,
        settings: ConsumerSettings | None,
    ) -> Subscription | NamedSubscription:
        """See `DynamoNetworkManager.subscribe`."""
        subscription: Subscription | NamedSubscription
        if name is None and group is None:
            subscription = Subscription(entity, topic, handler, self._registry, self._log)
        elif self._log is None:
            raise ConfigurationError("a subscription under a name keeps its place in a log: open the manager with one")
        else:
            subscription = NamedSubscription(
                entity, topic, handler, self._registry, self._log, name=name, group=group,
                settings=settings or ConsumerSettings(start="end"),
            )  # fmt: skip
        try:
            await subscription.start()
            self.subscriptions[subscription] = None
            if isinstance(subscription, Subscription):
                self._by_topic.setdefault(topic, []).append(subscription)
            await self._say_interests()
        except BaseException:
            self._forget(subscription)
            await subscription.close()
            raise
        return subscription

    async def unsubscribe(self, subscription: Subscription | NamedSubscription) -> None:
        """Ends the subscription."""
        self._forget(subscription)
        await subscription.close()
        await self._say_interests()

    def _forget(self, subscription: Subscription | NamedSubscription) -> None:
        if self.subscriptions.pop(subscription, _MISSING) is None and isinstance(subscription, Subscription):
            on_topic = self._by_topic[subscription.topic]
            on_topic.remove(subscription)
            if not on_topic:
                del self._by_topic[subscription.topic]

    # What goes out.

    def push(self, member: Member, topic: str, encoded: bytes, event: Event) -> bool:
        """See `Pusher`; a session that is not there is made meanwhile, for the next event."""
        assert self._place is not None
        assert self._peers is not None
        if member.entity == self._place.member.entity:
            return self._push_here(event)
        try:
            dialler = self._peers.dialler(member.entity)
        except DynlogError:
            return False
        link = dialler.link
        if link is None or link.session.over or link.channel is None:
            self._way(member.entity)
            return False
        return link.push(event.target.key, topic, encoded)

    async def reach(self, member: Member) -> None:
        """See `Pusher`."""
        await asyncio.shield(self._way(member.entity))

    def _way(self, peer: DynamoEntityID) -> asyncio.Task[None]:
        """The one attempt at a time to make a way to the peer; one that failed stands for a second."""
        way = self._ways.get(peer)
        if way is None:
            way = self._ways[peer] = asyncio.create_task(self._connect(peer), name=f"dynlog-way {peer}")
            way.add_done_callback(lambda way: self._tried(peer, way))
        return way

    async def _connect(self, peer: DynamoEntityID) -> None:
        assert self._peers is not None
        await self._peers.dialler(peer).connect(REACH_S)

    def _tried(self, peer: DynamoEntityID, way: asyncio.Task[None]) -> None:
        if way.cancelled() or way.exception() is None:
            self._ways.pop(peer, None)
        else:
            asyncio.get_running_loop().call_later(AGAIN_S, self._ways.pop, peer, None)

    def _push_here(self, event: Event) -> bool:
        """To one's own subscriptions: no session bounds what waits, so their queues do."""
        here = [s for s in self._by_topic.get(event.topic, ()) if s.wants(event)]
        if event.place is None and any(subscription.full for subscription in here):
            return False
        for subscription in here:
            subscription.pushed(event, None)
        return True

    # What comes in.

    def pushed(self, link: Link, pushed: Pushed) -> None:
        """A peer pushed an event; its room is given back once every subscription is done with it."""
        size = len(pushed.body)
        try:
            event = from_push(pushed.topic, pushed.body)
        except DynlogError:
            link.pushed_consumed(size)
            return
        left = 1

        def done() -> None:
            nonlocal left
            left -= 1
            if not left:
                link.pushed_consumed(size)

        for subscription in self._by_topic.get(event.topic, ()):
            left += subscription.pushed(event, done)
        done()

    # What the registry knows of it, and it of the registry.

    async def _say_interests(self) -> None:
        assert self._place is not None
        async with self._saying:  # of many that wait the first says it for all
            interests = frozenset(
                Interest(subscription.entity, subscription.topic)
                for subscription in self.subscriptions
                if isinstance(subscription, Subscription)
            )
            if interests != self._place.member.interests:
                await self._place.update(replace(self._place.member, interests=interests))

    def _changed(self, entity: DynamoEntityID) -> None:
        """Somebody came, went or moved: there may be more for subscriptions to follow."""
        if self._log is not None:
            for subscription in self.subscriptions:
                above = list(self._registry.view.above(subscription.entity))
                if not subscription.follows(above):
                    self._spawn(subscription.follow(above))

    def _spawn(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(_followed(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _followed(work: Awaitable[object]) -> None:
    """Whether it worked shows by itself: the next change tries again."""
    with suppress(DynlogError):
        await work
