"""`DynamoNetworkManager`: an application addresses its peers by id; which wire carries what is not its business.

Requests and streams go over one session per peer, which outlives its wires; events go into the log, if there is one,
and over the sessions to whoever subscribes.  Without a log everything works at most once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from dynlog.call_errors import CallOutcomeUnknown
from dynlog.entity import DynamoEntityID
from dynlog.errors import Closed, ConfigurationError, DynlogError
from dynlog.intake import ConsumerSettings
from dynlog.log import Log
from dynlog.network.broadcast import Gathered, broadcast
from dynlog.network.calls import NO_HEADERS, Call, Handler, ReplyStream
from dynlog.network.events import Event, Reach, from_push
from dynlog.network.hierarchy import Interest, Member
from dynlog.network.incoming import current_call
from dynlog.network.link import Link
from dynlog.network.locating import WirePolicy, this_host, this_process
from dynlog.network.messages import Message, to_bytes
from dynlog.network.named import NamedSubscription
from dynlog.network.peers import Peers
from dynlog.network.publishing import Published, Publisher
from dynlog.network.registry import Place, Registry
from dynlog.network.services import Service, Services, ServiceSettings
from dynlog.network.session_events import Pushed
from dynlog.network.session_handshake import Identity
from dynlog.network.session_settings import Settings
from dynlog.network.subscribing import EventHandler, Subscription
from dynlog.record import Buffer
from dynlog.timing import Backoff, Deadline
from dynlog.wire import scheme_of

DEFAULT_DEADLINE_S = 30.0
DRAIN_S = 10.0
REACH_S = 5.0


class DynamoNetworkManager:
    """The network of one entity in this process; an async context manager.

    Inside it has joined the registry (``manager.entity`` carries its incarnation) and listens at ``listen``; ``over``
    is set once it must stop because a later life of the entity is there or its lease was lost.
    """

    def __init__(
        self,
        entity: DynamoEntityID,
        *,
        registry: Registry,
        log: Log | None = None,
        listen: Iterable[str] = (),
        parents: Iterable[DynamoEntityID] = (),
        policy: WirePolicy | None = None,
        token: bytes | None = None,
        settings: Settings | None = None,
    ) -> None:
        if entity.is_collection:
            raise ConfigurationError(f"{entity} is a collection: a manager stands for an instance")
        self.entity = entity
        self.services = Services()
        self._registry, self._log, self._listen = registry, log, tuple(listen)
        self._parents, self._policy, self._token = tuple(parents), policy or WirePolicy(), token
        self._settings = settings or Settings()
        self._subscriptions: dict[Subscription | NamedSubscription, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: Peers | None = None
        self._place: Place | None = None
        self._publisher: Publisher | None = None
        self._unwatch: Callable[[], None] | None = None

    # Life.

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            # The life is known only once it has joined, and peers must be told of it: it joins before it listens.
            member = Member(self.entity, self._parents, (), this_host(), this_process())
            self._place = await self._registry.join(member)
            undo.push_async_callback(self._place.leave)
            self.entity = self._place.member.entity
            identity = Identity(self.entity.key, self.entity.incarnation, self.entity.name)
            self._peers = Peers(
                identity, self._registry, self.services, settings=self._settings, policy=self._policy,
                token=self._token, pushed=self._pushed,
            )  # fmt: skip
            undo.push_async_callback(self._peers.close)
            addresses = await self._peers.listen(self._listen)
            if addresses:
                await self._place.update(replace(self._place.member, addresses=addresses))
            self._publisher = Publisher(self._log, self._registry, self.entity, self)
            self._unwatch = self._registry.on_change(self._changed)
            undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def drain(self, timeout: float = DRAIN_S) -> bool:
        """Takes no further call, finishes those that run, and tells the peers; whether all were over in time."""
        return await self._open_peers.drain(timeout)

    async def close(self) -> None:
        """Leaves the registry and ends everything; calls that are open are told.  `drain` first to finish them."""
        if self._peers is None or self._place is None or self._publisher is None:
            return
        if self._unwatch is not None:
            self._unwatch()
        for subscription in list(self._subscriptions):
            await subscription.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._publisher.close()
        with suppress(DynlogError):
            await self._place.leave()
        await self._peers.close()
        running = [call.task for link in self._peers.links() for call in link.calls if call.task is not None]
        if running:
            await asyncio.wait(running, timeout=DRAIN_S)
        self._peers = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens."""
        return () if self._place is None else self._place.member.addresses

    @property
    def over(self) -> asyncio.Event:
        """Set once this life of the entity must stop; `reason` says why."""
        return self._joined.over

    @property
    def reason(self) -> DynlogError | None:
        """Why it must stop."""
        return self._joined.reason

    # Calls.

    def serve(
        self, topic: str, handler: Handler, *, of: DynamoEntityID | None = None, settings: ServiceSettings | None = None
    ) -> Service:
        """From now on the handler answers calls of that topic; raises ConfigurationError if another does.

        An async function gives one reply, an async generator a stream of them; both are given a `Request` and give
        bytes.  `dynlog.network.models.of_model` makes one of a function over pydantic models.
        """
        return self.services.add(of or self.entity, topic, handler, settings)

    async def request(
        self,
        target: DynamoEntityID,
        topic: str,
        message: Message = b"",
        *,
        deadline: float = DEFAULT_DEADLINE_S,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        correlation_id: str | None = None,
    ) -> Buffer:
        """The reply; every request resolves exactly once, as `dynlog.network.calls` says, within ``deadline`` seconds.

        A request that never left is made again by itself.  One whose outcome is unknown is made again, under the same
        correlation id and with the next attempt number, only if it is ``idempotent``.  Called from a handler, it
        inherits the headers of the call that is handled and at most what is left of its time.
        """
        body = message if type(message) is bytes else to_bytes(message)
        call = self._call(target, topic, deadline, headers, correlation_id)
        pauses: Iterator[float] | None = None
        while True:
            try:
                return await self._open_peers.dialler(target).request(call, body)
            except CallOutcomeUnknown:
                pauses = pauses or iter(Backoff())
                pause = next(pauses)
                if not idempotent or call.deadline.remaining <= pause:
                    raise
            await asyncio.sleep(pause)
            call = replace(call, attempt=call.attempt + 1)

    @asynccontextmanager
    async def stream(
        self,
        target: DynamoEntityID,
        topic: str,
        messages: Message | AsyncIterable[Buffer] = b"",
        *,
        deadline: float = DEFAULT_DEADLINE_S,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[ReplyStream]:
        """The replies in order, as in ``async with manager.stream(...) as replies: async for reply in replies``.

        Whoever leaves early cancels the handler; whoever reads slowly makes it wait.
        """
        body = messages if isinstance(messages, AsyncIterable) else to_bytes(messages)
        call = self._call(target, topic, deadline, headers, None)
        async with await self._open_peers.dialler(target).stream(call, body) as replies:
            yield replies

    async def broadcast(
        self,
        collection: DynamoEntityID,
        topic: str,
        message: Message = b"",
        *,
        deadline: float = DEFAULT_DEADLINE_S,
        headers: Mapping[str, str] | None = None,
    ) -> Gathered:
        """A reply of each instance that was in the collection at one registry offset, or why there is none."""
        body = to_bytes(message)

        async def ask(member: Member) -> Buffer:
            call = self._call(member.entity, topic, deadline, headers, None)
            return await self._open_peers.dialler(member.entity).request(call, body)

        return await broadcast(self._registry, collection, ask)

    # Events.

    async def publish(
        self,
        target: DynamoEntityID,
        topic: str,
        message: Message,
        *,
        headers: Mapping[str, str] | None = None,
        reach: Reach | None = None,
    ) -> Published:
        """The event reaches the subscribers of the target and of all below it, as of one registry offset, never upward.

        With a log it is durable when this returns (`Reach.AT_LEAST_ONCE`), unless ``reach`` says otherwise; without
        one it goes at most once, and `Published.unreached` names whom it did not reach.
        """
        if self._publisher is None:
            raise Closed("the network manager is not open")
        return await self._publisher.publish(target, topic, to_bytes(message), self._headers(headers), reach)

    async def subscribe(
        self,
        entity: DynamoEntityID,
        topic: str,
        handler: EventHandler,
        *,
        name: str | None = None,
        group: str | None = None,
        settings: ConsumerSettings | None = None,
    ) -> Subscription | NamedSubscription:
        """Gives the handler every event on the topic that is published to the entity, or to one above it, from now on.

        With a log nothing is missed and nothing comes twice while it is open; with ``name`` it also goes on where that
        name stood, with ``group`` its members share the events; ``settings`` choose the guarantee.
        """
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
        await subscription.start()
        self._subscriptions[subscription] = None
        if isinstance(subscription, Subscription):
            await self._say_interests()
        return subscription

    async def unsubscribe(self, subscription: Subscription | NamedSubscription) -> None:
        """Ends the subscription."""
        self._subscriptions.pop(subscription, None)
        await subscription.close()
        await self._say_interests()

    # The operator's.

    async def switch(self, peer: DynamoEntityID, wire: str) -> str:
        """From now on the session with the peer goes by that wire (a scheme, or an address); what is open goes on.

        Returns the address.  Raises ConfigurationError if the peer does not listen on such a wire, and what the wire
        raises; then all stays as it was.
        """
        dialler = self._open_peers.dialler(peer)
        address = wire
        if "://" not in wire:
            member = self._registry.view.get(peer)
            known = () if member is None else member.addresses
            matching = [address for address in known if scheme_of(address) == wire]
            if not matching:
                raise ConfigurationError(
                    f"{peer} does not listen on {wire}://; it does at {', '.join(known) or 'none'}"
                )
            address = matching[0]
        await dialler.move_to(address)
        return address

    def links(self) -> list[Link]:
        """The sessions that are open."""
        return self._open_peers.links()

    def stats(self) -> dict[str, Any]:
        """What it serves and whom it talks to, as data."""
        peers = self._open_peers
        return {
            "entity": str(self.entity),
            "addresses": list(self.addresses),
            "registry_offset": self._registry.view.offset,
            "services": [
                {
                    "entity": str(service.target), "topic": service.topic, "running": service.running,
                    "waiting": len(service.waiting), "served": service.served, "failed": service.failed,
                    "refused": service.refused,
                }
                for service in self.services
            ],
            "sessions": [_session(link) for link in peers.links()],
            "refused_handshakes": peers.acceptor.refused,
            "subscriptions": [
                {"entity": str(s.entity), "topic": s.topic, "seen": s.seen, "failed": s.failed}
                for s in self._subscriptions
            ],
        }  # fmt: skip

    # Within.

    @property
    def _open_peers(self) -> Peers:
        if self._peers is None:
            raise Closed("the network manager is not open")
        return self._peers

    @property
    def _joined(self) -> Place:
        if self._place is None:
            raise Closed("the network manager is not open")
        return self._place

    def _headers(self, headers: Mapping[str, str] | None) -> Mapping[str, str]:
        handled = current_call.get()
        if handled is None:
            return headers or NO_HEADERS
        return {**handled.headers, **headers} if headers else handled.headers

    def _call(
        self, target: DynamoEntityID, topic: str, deadline: float, headers: Mapping[str, str] | None, name: str | None
    ) -> Call:
        handled = current_call.get()
        if handled is not None:
            deadline = min(deadline, handled.deadline.remaining)
        call = Call(target, topic, Deadline(deadline), self.entity, self._headers(headers))
        return call if name is None else replace(call, correlation_id=name)

    async def reach(self, member: Member) -> None:
        """See `Pusher`."""
        await self._open_peers.dialler(member.entity).connect(REACH_S)

    def push(self, member: Member, topic: str, encoded: bytes, event: Event) -> bool:
        """See `Pusher`; a session that is not there is made meanwhile, for the next event."""
        if member.entity == self.entity:
            self._dispatch(event, lambda: None)
            return True
        try:
            dialler = self._open_peers.dialler(member.entity)
        except DynlogError:
            return False
        link = dialler.link
        if link is None or link.session.over or link.channel is None:
            self._spawn(_connected(dialler.connect(REACH_S)))
            return False
        return link.push(event.target.key, topic, encoded)

    def _pushed(self, link: Link, pushed: Pushed) -> None:
        size = len(pushed.body)
        left = 1

        def done() -> None:
            nonlocal left
            left -= 1
            if not left and not link.session.over:
                link.pushed_consumed(size)

        try:
            event = from_push(pushed.topic, pushed.body)
        except DynlogError:
            done()
            return
        for subscription in list(self._subscriptions):
            if isinstance(subscription, Subscription) and subscription.wants(event):
                left += 1
                subscription.pushed(event, done)
        done()

    def _dispatch(self, event: Event, done: Callable[[], None]) -> None:
        for subscription in list(self._subscriptions):
            if isinstance(subscription, Subscription) and subscription.wants(event):
                subscription.pushed(event, done)

    async def _say_interests(self) -> None:
        interests = frozenset(
            Interest(subscription.entity, subscription.topic)
            for subscription in self._subscriptions
            if isinstance(subscription, Subscription)
        )
        if interests != self._joined.member.interests:
            await self._joined.update(replace(self._joined.member, interests=interests))

    def _changed(self, entity: DynamoEntityID) -> None:
        """Somebody comes, goes or moved: subscriptions may have more to follow, and ways to peers may be of no use."""
        if self._peers is None:
            return
        member = self._registry.view.get(entity)
        dialler = self._peers.diallers.get(entity)
        if dialler is not None and member is None:
            self._peers.forget(entity)
            self._spawn(dialler.close())
        if self._log is not None:
            for subscription in self._subscriptions:
                self._spawn(_connected(subscription.follow(list(self._registry.view.above(subscription.entity)))))

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _connected(work: Awaitable[Any]) -> None:
    """Whether it worked shows by itself: the next push, or the next change, tries again."""
    with suppress(DynlogError):
        await work


def _session(link: Link) -> dict[str, Any]:
    stats = link.session.stats()
    channel = link.channel
    return {
        "peer": link.peer_name,
        "wire": None if channel is None else channel.scheme,
        "calls_here": len(link.calls),
        "streams": stats.streams,
        "records_sent": stats.records_sent,
        "records_received": stats.records_received,
        "messages_per_write": round(stats.records_sent / stats.batches_sent, 2) if stats.batches_sent else 0.0,
        "bytes_sent": stats.bytes_sent,
        "bytes_received": stats.bytes_received,
        "resent": stats.resent,
        "repeats": stats.repeats,
        "late": stats.late,
        "unacknowledged_bytes": stats.unacknowledged_bytes,
        "channels": stats.channels,
    }
