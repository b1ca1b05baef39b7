"""The contract of a wire: an ordered duplex of frames that loses nothing in silence; whatever breaks, ends the channel.

A wire knows no session, entity or call.  It carries *frames* (opaque bytes, at most ``max_frame_bytes``) between two
ends of a *channel*; sessions number and acknowledge what they put into frames, and survive their channels.  All
callbacks run in the event loop of whoever listens or dials; a wire belongs to one loop.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dynlog.errors import ConfigurationError, MissingDependency, UnknownScheme
from dynlog.record import Buffer

Frame = Sequence[Buffer]
"""One frame as the pieces that make it up when joined; pieces of a received frame are one buffer."""

HIGH_WATER_BYTES = 1 << 20
"""What a channel holds of frames that its peer has not taken before `Channel.send` says False."""


class Receiver(Protocol):
    """Whoever stands behind one end of a channel; none of its methods blocks or raises."""

    def frames_received(self, frames: Sequence[Buffer]) -> None:
        """Whole frames, in the order in which they were sent, none twice and none left out.

        All that one read of the wire brought are given in one call.  A buffer stays valid for ever.
        """

    def writable(self) -> None:
        """The channel takes frames again after `Channel.send` said False."""

    def channel_lost(self, error: Exception | None) -> None:
        """The last call: the channel is over; None if either end closed it on purpose, else why it broke.

        Frames that were sent may or may not have arrived.
        """


class Channel(Protocol):
    """One end of an ordered duplex of frames."""

    @property
    def scheme(self) -> str:
        """Of its wire."""

    @property
    def peer(self) -> str:
        """Where the other end is, for people; never a secret."""

    @property
    def max_frame_bytes(self) -> int:
        """The longest frame that it carries, in either direction."""

    def send(self, frames: Sequence[Frame]) -> bool:
        """Hands the frames over in one write where the wire can; False: wait for `Receiver.writable` before the next.

        Never blocks and never drops: frames that are handed over after a False are kept as well, but whoever goes on
        regardless has no bound.  After the end of the channel it does nothing.  Raises ConfigurationError for a frame
        over ``max_frame_bytes``, of which nothing is sent.
        """

    def pause(self) -> None:
        """No `frames_received` from now on until `resume`: the peer is made to wait, as far as the wire can."""

    def resume(self) -> None:
        """Frames are taken again; those that came meanwhile come first."""

    def close(self) -> None:
        """Ends the channel once what was handed over has left; `Receiver.channel_lost` follows, soon.

        Nothing more is received.  A peer that reads nothing is waited for at most some seconds.
        """

    def abort(self) -> None:
        """Ends the channel at once; what was handed over may be lost; `Receiver.channel_lost` follows."""


Accept = Callable[[Channel], Receiver]
"""Called with each new channel of a listener; returns who receives."""


class Listener(Protocol):
    """A place where peers dial in."""

    @property
    def address(self) -> str:
        """The URL that peers dial, with the port that was really taken."""

    async def close(self) -> None:
        """Takes no further channel; those that are there go on.  Returns once the place is free.

        Where channels go by the listener's own port (zmq, sse) it is free once the last of them is over.
        """


class Wire(Protocol):
    """How frames move; found by the scheme of an address, as in ``tcp://127.0.0.1:7000``.

    Raises from both methods: ConfigurationError for an address that cannot work, `WireUnavailable` if the place cannot
    be reached or taken now, DeadlineExceeded.  A cancelled call leaves neither socket nor task.
    """

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Takes channels at the address until the listener is closed; port 0 stands for any that is free."""

    async def connect(self, address: str, receiver: Callable[[Channel], Receiver], *, timeout: float) -> Channel:
        """A channel to whoever listens at the address; ``receiver`` is called once, before the first frame arrives."""

    async def close(self) -> None:
        """Ends every listener and channel that is left, and returns once nothing of the wire is."""


@dataclass(frozen=True, slots=True)
class WireTraits:
    """What is known of a wire before it is opened."""

    module: str
    extra: str | None
    """The optional dependencies that it needs, as in ``pip install 'dynlog[zmq]'``."""
    reach: int
    """How far it goes: 0 within this process, 1 on this host, 2 anywhere."""
    order: int
    """Which is dialled first where several would do: lower is faster."""


PROCESS, HOST, ANYWHERE = 0, 1, 2

WIRES: Mapping[str, WireTraits] = {
    "inproc": WireTraits("dynlog.adapters.wires.inproc", None, PROCESS, 0),
    "uds": WireTraits("dynlog.adapters.wires.uds", None, HOST, 1),
    "tcp": WireTraits("dynlog.adapters.wires.tcp", None, ANYWHERE, 2),
    "zmq": WireTraits("dynlog.adapters.wires.zmq", "zmq", ANYWHERE, 3),
    "nats": WireTraits("dynlog.adapters.wires.nats", "nats", ANYWHERE, 4),
    "sse": WireTraits("dynlog.adapters.wires.sse", "http", ANYWHERE, 5),
}
"""By scheme.  Each module has a function ``make_wire() -> Wire``."""


def make_wire(scheme: str) -> Wire:
    """A wire of that scheme; raises UnknownScheme, and MissingDependency naming the extra to install."""
    traits = WIRES.get(scheme)
    if traits is None:
        raise UnknownScheme(f"no wire goes by {scheme}://; known are {', '.join(f'{name}://' for name in WIRES)}")
    try:
        wire: Wire = importlib.import_module(traits.module).make_wire()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("dynlog"):
            raise
        raise MissingDependency(
            f"{scheme}:// needs the package {error.name!r}: pip install 'dynlog[{traits.extra}]'"
        ) from None
    return wire


def scheme_of(address: str) -> str:
    """The scheme of an address; raises ConfigurationError if it has none."""
    scheme, found, rest = address.partition("://")
    if not found or not scheme or not rest:
        raise ConfigurationError(f"{address!r} is no address of a wire: one as in tcp://host:port is needed")
    return scheme
