"""The side that takes sessions: one per session id, on whatever channel it comes, and none of a fenced life."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

from dynlog.call_errors import ProtocolError
from dynlog.network.deadlines import Deadlines
from dynlog.network.link import Link
from dynlog.network.link_io import Port
from dynlog.network.services import Services
from dynlog.network.session import Session
from dynlog.network.session_events import Pushed
from dynlog.network.session_handshake import Identity, Refusal, judge, read_hello, write_refusal
from dynlog.network.session_settings import Settings
from dynlog.record import Buffer
from dynlog.wire import Channel, Receiver

REMEMBERED_LIVES = 65_536
"""Of how many entities the newest life is remembered; beyond that the one heard of longest ago is forgotten."""
MAX_GREETING = 1024
"""How many channels may be without a word at once; the next one is ended."""


class Acceptor:
    """Turns channels into links; `accept` is what a wire's listener calls."""

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        services: Services,
        deadlines: Deadlines,
        *,
        token: bytes | None = None,
        pushed: Callable[[Link, Pushed], None] | None = None,
    ) -> None:
        self.identity, self.settings, self.services, self.deadlines = identity, settings, services, deadlines
        self.links: dict[bytes, Link] = {}
        self.refused = 0
        self._ids: dict[Link, bytes] = {}
        self._token, self._pushed = token, pushed
        self._own_id = int.from_bytes(identity.entity, "big")
        self._lives: OrderedDict[bytes, int] = OrderedDict()
        self._greeters: dict[_Greeter, None] = {}
        self._draining = False

    def accept(self, channel: Channel) -> Receiver:
        """The receiver of a new channel, which waits for its HELLO."""
        greeter = _Greeter(self, channel)
        if len(self._greeters) >= MAX_GREETING:
            self.refused += 1
            channel.abort()
        return greeter

    def greet(self, channel: Channel, frame: Buffer) -> Port | None:
        """What becomes of a channel whose first frame this is; None: it was refused."""
        try:
            hello = read_hello(frame)
        except ProtocolError:
            self.refused += 1
            channel.abort()
            return None
        peer, link = hello.identity, self.links.get(hello.session_id)
        refusal = judge(
            hello, self.identity, token=self._token, newest_incarnation=self._lives.get(peer.entity, 0),
            known=link is not None,
        )  # fmt: skip
        if refusal is None and self._draining and link is None:
            refusal = Refusal("busy", "it takes no further sessions: it is about to stop")
        if refusal is not None:
            self.refused += 1
            channel.send([(write_refusal(refusal),)])
            channel.close()
            return None
        self._fence(peer)
        now = asyncio.get_running_loop().time()
        if link is None:
            session = Session.acceptor(self.identity, self.settings, hello, now)
            link = Link(session, self.services, self.deadlines, self, self._own_id, self._pushed)
            self.links[hello.session_id] = link
            self._ids[link] = hello.session_id
        port = link.port(channel)
        answer, events = link.session.accept(port.generation, hello, channel.max_frame_bytes, now)
        channel.send([(answer,)])
        link.dispatch(events)
        link.wake()
        return port

    def _fence(self, peer: Identity) -> None:
        """Remembers the life of the peer and ends what earlier ones of it left."""
        newest = self._lives.pop(peer.entity, 0)
        self._lives[peer.entity] = max(newest, peer.incarnation)
        if len(self._lives) > REMEMBERED_LIVES:
            self._lives.popitem(last=False)
        if peer.incarnation > newest > 0:
            for link in list(self.links.values()):
                said = link.session.peer
                if said is not None and said.entity == peer.entity and said.incarnation < peer.incarnation:
                    link.close("a later life of this entity is here")

    # What links say.

    def attached(self, link: Link, generation: int) -> None:
        """Nothing to do: the dialler chooses the channel."""

    def detached(self, link: Link, generation: int, error: Exception | None) -> None:
        """Nothing to do: the dialler comes back, or the session ends by itself."""

    def going_away(self, link: Link) -> None:
        """Nothing to do: the dialler makes another session."""

    def over(self, link: Link, error: Exception | None) -> None:
        """Forgets the session."""
        self.links.pop(self._ids.pop(link, b""), None)

    # The end.

    async def drain(self, timeout: float) -> bool:
        """Takes no further session and no further call, and finishes those that run."""
        self._draining = True
        links = list(self.links.values())
        done = await asyncio.gather(*(link.drain("it is about to stop", timeout) for link in links))
        return all(done)

    def close(self) -> None:
        """Ends every session at once."""
        self._draining = True
        for greeter in list(self._greeters):
            greeter.channel.abort()
        for link in list(self.links.values()):
            link.close("it stops")


class _Greeter:
    """Waits for the first frame of a channel, at most as long as a handshake may take; then its port takes over."""

    __slots__ = ("_acceptor", "_port", "_timer", "channel")

    def __init__(self, acceptor: Acceptor, channel: Channel) -> None:
        self._acceptor, self.channel = acceptor, channel
        self._port: Port | None = None
        acceptor._greeters[self] = None
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            acceptor.settings.handshake_within, channel.abort
        )

    def _known(self) -> None:
        self._acceptor._greeters.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def frames_received(self, frames: Sequence[Buffer]) -> None:
        if self._port is None and self._timer is not None:
            self._known()
            self._port = self._acceptor.greet(self.channel, frames[0])
            frames = frames[1:]
        if self._port is not None and frames:
            self._port.frames_received(frames)

    def writable(self) -> None:
        if self._port is not None:
            self._port.writable()

    def channel_lost(self, error: Exception | None) -> None:
        self._known()
        if self._port is not None:
            self._port.channel_lost(error)
