"""`DynamoNetworkManager`: an application addresses its peers by id; which wire carries what is not its business.

Requests and streams go over one session per peer, which outlives its wires; events go into the log, if there is one,
and over the sessions to whoever subscribes.  Without a log everything works at most once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from dynlog.entity import DynamoEntityID
from dynlog.errors import Closed, ConfigurationError, DeadlineExceeded, DynlogError
from dynlog.intake import ConsumerSettings
from dynlog.log import Log
from dynlog.network.broadcast import Gathered, broadcast
from dynlog.network.calls import Handler, ReplyStream
from dynlog.network.event_hub import EventHub
from dynlog.network.events import Reach
from dynlog.network.hierarchy import Member
from dynlog.network.link import Link
from dynlog.network.locating import WirePolicy, this_host, this_process
from dynlog.network.log_resuming import OpenCall
from dynlog.network.messages import M, Message, read_reply, to_bytes
from dynlog.network.named import NamedSubscription
from dynlog.network.paths import DurableCalls, Path, durable_calls
from dynlog.network.peers import Peers
from dynlog.network.publishing import Published
from dynlog.network.registry import Place, Registry
from dynlog.network.reporting import service_stats, session_stats, subscription_stats
from dynlog.network.requesting import Requests, inherited
from dynlog.network.services import Service, Services, ServiceSettings
from dynlog.network.session_handshake import Identity
from dynlog.network.session_settings import Settings
from dynlog.network.subscribing import EventHandler, Subscription
from dynlog.record import Buffer
from dynlog.timing import Deadline

DEFAULT_DEADLINE_S = 30.0
DRAIN_S = 10.0


class DynamoNetworkManager:
    """The network of one entity in this process; an async context manager.

    Inside it has joined the registry (``manager.entity`` carries its incarnation) and listens at ``listen``; ``over``
    is set once it must stop because a later life of the entity is there or its lease was lost.

    ``serve`` before it opens: peers call once it listens, and with ``durable`` what waits in the log is answered then.
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
        durable: bool = False,
    ) -> None:
        if durable and log is None:
            raise ConfigurationError("durable calls are records on a log: open the manager with one")
        if entity.is_collection:
            raise ConfigurationError(f"{entity} is a collection: a manager stands for an instance")
        self.entity = entity
        self.services = Services()
        self._registry, self._log, self._listen = registry, log, tuple(listen)
        self._parents, self._policy, self._token = tuple(parents), policy or WirePolicy(), token
        self._settings = settings or Settings()
        self._events = EventHub(registry, log)
        self._requests: Requests | None = None
        self._place: Place | None = None
        self._unwatch: Callable[[], object] = lambda: None
        self._wants_durable = durable
        self._stack = AsyncExitStack()

    # Life.

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            # The life is known only once it has joined, and peers must be told of it: it joins before it listens.
            member = Member(self.entity, self._parents, (), this_host(), this_process())
            self._place = await self._registry.join(member)
            undo.push_async_callback(self._place.leave)
            self.entity = self._place.member.entity
            identity = Identity(self.entity.key, self.entity.incarnation, self.entity.name)
            peers = Peers(
                identity, self._registry, self.services, settings=self._settings, policy=self._policy,
                token=self._token, pushed=self._events.pushed,
            )  # fmt: skip
            undo.push_async_callback(peers.close)
            addresses = await peers.listen(self._listen)
            if addresses:
                await self._place.update(replace(self._place.member, addresses=addresses))
            durable: DurableCalls | None = None
            if self._wants_durable:
                assert self._log is not None
                undo.push_async_callback(self._stack.aclose)
                durable = await self._stack.enter_async_context(durable_calls(self._log, self.entity, self.services))
            self._events.open(self._place, peers)
            self._unwatch = self._registry.on_change(self._changed)
            self._requests = Requests(self.entity, peers, durable)
            undo.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def drain(self, timeout: float = DRAIN_S) -> bool:
        """Takes no further call, finishes those that run, and tells the peers; whether all were over in time."""
        return await self._open.peers.drain(timeout)

    async def close(self) -> None:
        """Leaves the registry and ends everything; calls that are open are told.  `drain` first to finish them."""
        if self._requests is None or self._place is None:
            return
        peers, self._requests = self._requests.peers, None
        running = [call.task for link in peers.links() for call in link.calls if call.task is not None]
        self._unwatch()
        await self._events.close()
        await self._stack.aclose()
        with suppress(DynlogError):
            await self._place.leave()
        await peers.close()
        if running:  # cancelled with their sessions; one that swallows that is left behind in the end
            await asyncio.wait(running, timeout=DRAIN_S)

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
        bytes.  `dynlog.network.messages.of_model` makes one of a function over pydantic models.
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
        path: Path = Path.AUTO,
    ) -> Buffer:
        """The reply; every request resolves exactly once, as `dynlog.network.calls` says, within ``deadline`` seconds.

        A request that never left is made again by itself.  One whose outcome is unknown is made again, under the same
        correlation id and with the next attempt number, only if it is ``idempotent``.  Called from a handler, it
        inherits the headers of the call that is handled and at most what is left of its time.  In a manager that was
        opened with ``durable=True`` one that could not be sent goes by the log, as does one whose ``path`` says so.
        """
        requests = self._requests or self._open
        body = message if type(message) is bytes else to_bytes(message)
        call = requests.call(target, topic, deadline, headers, correlation_id)
        return await requests.request(call, body, idempotent, path)

    async def ask(
        self,
        target: DynamoEntityID,
        topic: str,
        message: Message,
        reply: type[M],
        *,
        deadline: float = DEFAULT_DEADLINE_S,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        path: Path = Path.AUTO,
    ) -> M:
        """As `request`, with the reply as that model; a reply that does not fit raises HandlerFailed."""
        body = await self.request(
            target, topic, message, deadline=deadline, headers=headers, idempotent=idempotent, path=path
        )
        return read_reply(reply, body, topic)

    @asynccontextmanager
    async def stream(
        self,
        target: DynamoEntityID,
        topic: str,
        messages: Message | AsyncIterable[Buffer] = b"",
        *,
        deadline: float = DEFAULT_DEADLINE_S,
        headers: Mapping[str, str] | None = None,
        path: Path = Path.AUTO,
    ) -> AsyncIterator[ReplyStream]:
        """The replies in order, as in ``async with manager.stream(...) as replies: async for reply in replies``.

        Whoever leaves early cancels the handler; whoever reads slowly makes it wait.
        """
        body = messages if isinstance(messages, AsyncIterable) else to_bytes(messages)
        call = self._open.call(target, topic, deadline, headers, None)
        async with self._open.stream(call, body, path) as replies:
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

        async def ask(member: Member, left: float) -> Buffer:
            call = self._open.call(member.entity, topic, left, headers, None)
            return await self._open.request(call, body, False, Path.WIRE)

        return await broadcast(self._registry, collection, Deadline(deadline), ask)

    async def unanswered(self) -> list[OpenCall]:
        """The durable calls that an earlier life of this entity made and whose answers it did not take."""
        return await self._open.unanswered()

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
        self._open  # noqa: B018 - raises Closed
        return await self._events.publish(target, topic, to_bytes(message), inherited(headers), reach)

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
        self._open  # noqa: B018 - raises Closed
        return await self._events.subscribe(entity, topic, handler, name, group, settings)

    async def unsubscribe(self, subscription: Subscription | NamedSubscription) -> None:
        """Ends the subscription."""
        await self._events.unsubscribe(subscription)

    async def flush(self, timeout: float = DRAIN_S) -> None:
        """Returns once all that was said so far is in the log or has been handed to a wire; raises DeadlineExceeded.

        Nothing needs it to leave: what is ready leaves by itself when the loop comes round.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._events.flush()
                await asyncio.gather(*(link.flushed() for link in self.links()))
        except TimeoutError:
            raise DeadlineExceeded(f"{timeout:g} s were not enough to hand over what is to be sent") from None

    # The operator's.

    async def switch(self, peer: DynamoEntityID, wire: str) -> str:
        """From now on the session with the peer goes by that wire (a scheme, or an address); what is open goes on.

        ``log`` makes further calls to it records on the log, until it is switched to a wire again.

        Returns the address.  Raises ConfigurationError if the peer does not listen on such a wire, and what the wire
        raises; then all stays as it was.
        """
        return await self._open.switch(peer, wire)

    def links(self) -> list[Link]:
        """The sessions that are open."""
        return self._open.peers.links()

    def stats(self) -> dict[str, Any]:
        """What it serves and whom it talks to, as data (`dynlog.network.reporting`)."""
        peers = self._open.peers
        return {
            "entity": str(self.entity),
            "addresses": list(self.addresses),
            "registry_offset": self._registry.view.offset,
            "services": [service_stats(service) for service in self.services],
            "sessions": [session_stats(link) for link in peers.links()],
            "refused_handshakes": peers.acceptor.refused,
            "subscriptions": subscription_stats(self._events.subscriptions),
        }

    # Within.

    @property
    def _open(self) -> Requests:
        if self._requests is None:
            raise Closed("the network manager is not open")
        return self._requests

    @property
    def _joined(self) -> Place:
        if self._place is None:
            raise Closed("the network manager is not open")
        return self._place

    def _changed(self, entity: DynamoEntityID) -> None:
        """Somebody is gone: the way to it is of no further use."""
        if self._requests is not None and self._registry.view.get(entity) is None:
            self._requests.peers.forget(entity)
