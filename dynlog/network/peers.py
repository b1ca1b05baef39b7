"""The ways to peers: one session each, dialled when it is first needed, kept and used by all calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from dynlog.call_errors import NotSent
from dynlog.entity import DynamoEntityID
from dynlog.errors import Closed, ConfigurationError
from dynlog.network.accepting import Acceptor
from dynlog.network.deadlines import Deadlines
from dynlog.network.dialling import Dialler
from dynlog.network.link import Link
from dynlog.network.locating import WirePolicy, distance, in_order, this_host, this_process
from dynlog.network.registry import Registry
from dynlog.network.services import Services
from dynlog.network.session_events import Pushed
from dynlog.network.session_handshake import Identity
from dynlog.network.session_settings import Settings
from dynlog.wire import Listener, Wire, make_wire, scheme_of

MAX_PEERS = 4096
"""How many sessions are kept that were dialled here; one that is idle makes room."""


class Peers:
    """Wires, listeners and sessions of one manager."""

    def __init__(
        self,
        identity: Identity,
        registry: Registry,
        services: Services,
        *,
        settings: Settings,
        policy: WirePolicy,
        token: bytes | None,
        pushed: Callable[[Link, Pushed], None],
    ) -> None:
        self.deadlines = Deadlines(asyncio.get_running_loop())
        self.services, self.policy = services, policy
        self.acceptor = Acceptor(identity, settings, services, self.deadlines, token=token, pushed=pushed)
        self.diallers: dict[DynamoEntityID, Dialler] = {}
        self._identity, self._registry, self._settings, self._token = identity, registry, settings, token
        self._pushed = pushed
        self._wires: dict[str, Wire] = {}
        self._listeners: list[Listener] = []
        self._forgetting: set[asyncio.Task[None]] = set()
        self._closed = False

    def wire(self, scheme: str) -> Wire:
        """The wire of that scheme; raises UnknownScheme, MissingDependency."""
        wire = self._wires.get(scheme)
        if wire is None:
            wire = self._wires[scheme] = make_wire(scheme)
        return wire

    async def listen(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """Takes sessions at these addresses; returns them with the ports that were taken."""
        for address in addresses:
            self._listeners.append(await self.wire(scheme_of(address)).listen(address, self.acceptor.accept))
        return tuple(listener.address for listener in self._listeners)

    def dialler(self, peer: DynamoEntityID) -> Dialler:
        """The way to a peer; raises `NotSent` if the registry does not know it, or none of its wires reaches here."""
        if self._closed:
            raise Closed("the network manager was closed")
        dialler = self.diallers.get(peer)
        if dialler is None:
            if peer.is_collection:
                raise ConfigurationError(f"{peer} is a collection: broadcast to it, or call one of its instances")
            dialler = Dialler(
                self, self._identity, self._settings, self.services, self.deadlines, self._addresses(peer),
                wanted=peer, token=self._token, pushed=self._pushed,
            )  # fmt: skip
            self._make_room()
            self.diallers[peer] = dialler
        elif dialler.link is None or dialler.link.session.over:
            dialler.addresses[:] = self._addresses(peer)  # it may have come back elsewhere
        return dialler

    def forget(self, peer: DynamoEntityID) -> None:
        """Ends the way to a peer, if there is one."""
        if (dialler := self.diallers.pop(peer, None)) is not None:
            task = asyncio.create_task(dialler.close(), name=f"dynlog-forget {peer}")
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    def links(self) -> list[Link]:
        """Every session that is open."""
        dialled = [dialler.link for dialler in self.diallers.values() if dialler.link is not None]
        return [link for link in (*dialled, *self.acceptor.links.values()) if not link.session.over]

    def address_on(self, peer: DynamoEntityID, wire: str) -> str:
        """Where the peer listens on that wire; raises ConfigurationError if it does not."""
        member = self._registry.view.get(peer)
        known = () if member is None else member.addresses
        for address in known:
            if scheme_of(address) == wire:
                return address
        raise ConfigurationError(f"{peer} does not listen on {wire}://; it does at {', '.join(known) or 'none'}")

    def _addresses(self, peer: DynamoEntityID) -> list[str]:
        member = self._registry.view.get(peer)
        if member is None:
            raise NotSent(
                f"{peer} is not in the registry (offset {self._registry.view.offset}): it is not there, or not yet"
            )
        found = in_order(member.addresses, distance(member, this_host(), this_process()), self.policy)
        if not found:
            raise NotSent(
                f"{peer} listens at {', '.join(member.addresses) or 'no address'}: none of those wires reaches it"
            )
        return found

    def _make_room(self) -> None:
        if len(self.diallers) < MAX_PEERS:
            return
        for peer, dialler in self.diallers.items():
            link = dialler.link
            if link is None or link.session.over or not link.session.stats().streams:
                self.forget(peer)
                return
        raise NotSent(f"{MAX_PEERS} peers are being called at once: no room for another session")

    async def drain(self, timeout: float) -> bool:
        """Takes no further call, makes no further one on these sessions, and finishes those that run."""
        done = await asyncio.gather(
            self.acceptor.drain(timeout), *(dialler.drain(timeout) for dialler in self.diallers.values())
        )
        return all(done)

    async def close(self) -> None:
        """Ends everything; what still runs is told."""
        self._closed = True
        for listener in self._listeners:
            await listener.close()
        for dialler in list(self.diallers.values()):
            await dialler.close()
        await asyncio.gather(*self._forgetting)
        self.acceptor.close()
        for wire in self._wires.values():
            await wire.close()
        self.deadlines.close()
