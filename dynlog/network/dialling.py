"""The side that makes channels: one session with a peer, kept over whatever wires reach it.

A channel that breaks is made anew, on the same address or the next, while the session lives; what was open goes on.
`move_to` makes the new channel first and lets the old one go when the peer has agreed: nothing notices.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from typing import Protocol

from dynlog.call_errors import HandshakeRefused, NetworkError, NotSent, WireUnavailable
from dynlog.entity import DynamoEntityID
from dynlog.errors import Closed, DeadlineExceeded, DynlogError
from dynlog.network.calls import Call
from dynlog.network.deadlines import Deadlines
from dynlog.network.link import Link
from dynlog.network.link_io import Port
from dynlog.network.outgoing import OutgoingStream
from dynlog.network.services import Services
from dynlog.network.session import Session
from dynlog.network.session_events import Pushed
from dynlog.network.session_handshake import Identity
from dynlog.network.session_settings import Settings
from dynlog.record import Buffer
from dynlog.tasks import end_task
from dynlog.timing import Backoff, Deadline
from dynlog.wire import Channel, Wire, scheme_of

CONNECT_S = 5.0
"""How long one address may take; and how long a call waits for a peer that cannot be reached, if its time allows."""


class Wires(Protocol):
    """Where a wire is had by its scheme."""

    def wire(self, scheme: str) -> Wire:
        """The wire; raises UnknownScheme, MissingDependency."""


class Dialler:
    """A peer that is reached at some of these addresses, the first that works; one session at a time."""

    def __init__(
        self,
        wires: Wires,
        identity: Identity,
        settings: Settings,
        services: Services,
        deadlines: Deadlines,
        addresses: Sequence[str],
        *,
        wanted: DynamoEntityID | None = None,
        token: bytes | None = None,
        pushed: Callable[[Link, Pushed], None] | None = None,
    ) -> None:
        self.addresses = list(addresses)
        self.link: Link | None = None
        self.switches = self.reconnects = 0
        self._wires, self._identity, self._settings = wires, identity, settings
        self._services, self._deadlines, self._pushed = services, deadlines, pushed
        self._wanted, self._token = wanted, token
        self._own_id = int.from_bytes(identity.entity, "big")
        self._attaching: dict[int, asyncio.Future[None]] = {}
        self._attached = asyncio.Event()
        self._making = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._last: Exception | None = None
        self._closed = False
        self._leaving: set[Link] = set()
        self.address = ""
        """What carries the session now, or did last."""

    # Calls.

    async def request(self, call: Call, body: Buffer) -> Buffer:
        """As `CallPath.request`; a call that never left is made again while the peer drains or is away."""
        pauses: Iterator[float] | None = None
        while True:
            link = self.link
            if link is None or not link.carried:
                link = await self.ready(call)
            try:
                return await link.request(call, body)
            except NotSent as error:
                if type(error) is not NotSent and not link.session.over and self.link is link:
                    raise
                pauses = pauses or iter(Backoff())
                pause = next(pauses)
                if call.deadline.remaining <= pause:
                    raise
            await asyncio.sleep(pause)

    async def stream(self, call: Call, messages: Buffer | AsyncIterable[Buffer]) -> OutgoingStream:
        """The stream of replies on the session as it is now."""
        return (await self.ready(call)).stream(call, messages)

    async def ready(self, call: Call) -> Link:
        """A session that a channel carries, or did a moment ago; raises `NotSent` if there is none in time."""
        link = self.link
        if link is not None and not link.session.over and (link.channel is not None or self._last is None):
            return link
        return await self.connect(min(call.deadline.remaining, CONNECT_S), call)

    async def connect(self, timeout: float, call: Call | None = None) -> Link:
        """The session with the peer, on a channel; raises HandshakeRefused, or `NotSent` if time is over."""
        deadline = Deadline(timeout)
        while True:
            if self._closed:
                raise Closed("the way to the peer was closed")
            link = self.link
            if link is not None and not link.session.over and link.channel is not None:
                return link
            if link is None or link.session.over:
                self._begin()
            try:
                async with asyncio.timeout(deadline.remaining):
                    await self._attached.wait()
            except TimeoutError:
                why = f": {self._last}" if self._last is not None else ""
                raise NotSent(
                    f"{self._wanted or 'the peer'} cannot be reached at {', '.join(self.addresses)}{why}",
                    topic=call.topic if call else None, correlation_id=call.correlation_id if call else None,
                ) from self._last  # fmt: skip
            if isinstance(self._last, HandshakeRefused) and (self.link is None or self.link.session.over):
                raise self._last

    def _begin(self) -> None:
        """A new session, and the task that keeps a channel under it."""
        session = Session.dialler(
            self._identity, self._settings, secrets.token_bytes(16), asyncio.get_running_loop().time(),
            wanted=None if self._wanted is None else self._wanted.key, token=self._token,
        )  # fmt: skip
        self.link = Link(session, self._services, self._deadlines, self, self._own_id, self._pushed)
        self._last = None
        self._attached.clear()
        self._keep(self.link)

    def _keep(self, link: Link) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._reconnect(link), name=f"dynlog-dialler {self._wanted}")

    async def _reconnect(self, link: Link) -> None:
        """Until a channel carries the session, or it is over."""
        for pause in Backoff():
            for address in list(self.addresses):
                if link.session.over or link.channel is not None or self._closed:
                    return
                try:
                    await self._attach(link, address, CONNECT_S)
                    return
                except DynlogError as error:
                    self._last = error
            await asyncio.sleep(pause)

    async def _attach(self, link: Link, address: str, timeout: float) -> None:
        """Makes a channel and gives it to the session; returns once it carries it.

        One at a time: of two that are being made the session would let go of the one that was begun first.
        """
        deadline = Deadline(timeout)
        async with self._making:
            await self._make(link, address, deadline)
        self.address = address

    async def _make(self, link: Link, address: str, deadline: Deadline) -> None:
        timeout = deadline.remaining
        ports: list[Port] = []

        def receiver(channel: Channel) -> Port:
            ports.append(link.port(channel))
            return ports[0]

        channel = await self._wires.wire(scheme_of(address)).connect(address, receiver, timeout=timeout)
        if link.session.over:
            channel.abort()
            raise Closed("the session ended while a channel was made for it")
        generation = ports[0].generation
        done = self._attaching[generation] = asyncio.get_running_loop().create_future()
        try:
            hello = link.session.attach(generation, channel.max_frame_bytes, asyncio.get_running_loop().time())
            channel.send([(hello,)])
            link.wake()
            async with asyncio.timeout(deadline.remaining):
                await done
        except TimeoutError:
            raise DeadlineExceeded(f"{address} was reached but did not welcome this in {timeout:g} s") from None
        finally:
            del self._attaching[generation]
            if not done.done() or done.cancelled() or done.exception() is not None:
                channel.abort()
                if link is self.link and link.channel is None and not link.session.over and not self._closed:
                    self._keep(link)  # what carried it was lost meanwhile

    async def move_to(self, address: str, timeout: float = CONNECT_S) -> None:
        """From now on the session goes by that address; what is open goes on, in order, nothing lost and nothing twice.

        Raises what `Wire.connect` raises, HandshakeRefused and NotSent; then all stays as it was.
        """
        scheme_of(address)
        deadline = Deadline(timeout)
        link = await self.connect(timeout)
        await self._attach(link, address, deadline.remaining)
        self.switches += 1
        if address in self.addresses:
            self.addresses.remove(address)
        self.addresses.insert(0, address)

    # What the link says.

    def attached(self, link: Link, generation: int) -> None:
        """A channel carries the session."""
        if (done := self._attaching.get(generation)) is not None and not done.done():
            done.set_result(None)
        if link is self.link:
            self._last = None
            self._attached.set()

    def detached(self, link: Link, generation: int, error: Exception | None) -> None:
        """A channel is gone; if it carried the session, another is made."""
        done = self._attaching.get(generation)
        if done is not None and not done.done():
            reason = error or WireUnavailable("the channel was closed during the handshake")
            done.set_exception(reason if isinstance(reason, DynlogError) else WireUnavailable(str(reason)))
        if link is self.link and link.channel is None and not link.session.over and not self._closed:
            self._last = error or NetworkError("the channel was closed")
            self._attached.clear()
            if done is None:
                self.reconnects += 1
            if not self._attaching:  # else another channel is about to carry it
                self._keep(link)

    def going_away(self, link: Link) -> None:
        """What runs on the session goes on; the next call makes another one."""
        if link is self.link:
            self.link = None
            self._leaving.add(link)

    def over(self, link: Link, error: Exception | None) -> None:
        """The session has ended."""
        self._leaving.discard(link)
        for done in self._attaching.values():
            if not done.done():
                done.set_exception(error if isinstance(error, DynlogError) else Closed("the session ended"))
        if link is self.link:
            if error is not None:
                self._last = error
            self._attached.set()  # whoever waits looks again

    # The end.

    async def drain(self, timeout: float) -> bool:
        """Makes no further call on the session and finishes those that run."""
        return True if self.link is None else await self.link.drain("it is about to stop", timeout)

    async def close(self) -> None:
        """Ends the session and whatever makes channels for it."""
        self._closed = True
        try:
            if self._keeper is not None:
                await end_task(self._keeper)
        finally:
            for link in [*self._leaving, *([self.link] if self.link is not None else [])]:
                link.close("it stops")
            self._attached.set()
