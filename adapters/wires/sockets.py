"""Listeners and connections of the two stream wires: each owns what it opened, and its `close` leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dynlog.adapters.wires.stream import LINGER_S, StreamChannel
from dynlog.call_errors import WireBroken, WireUnavailable
from dynlog.errors import Closed, DeadlineExceeded

Dial = Callable[[Callable[[], StreamChannel]], Awaitable[tuple[asyncio.BaseTransport, StreamChannel]]]
"""What asks the loop for a connection whose protocol is what the given function makes."""


class OpenChannels:
    """The channels of one wire that are not over yet."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self._connected: set[StreamChannel] = set()
        self._closed = False

    def add(self, channel: StreamChannel) -> None:
        """Remembers the channel until it is over."""
        self._connected.add(channel)
        if self._closed:
            channel.abort()  # asyncio had accepted it before the listener was closed

    def discard(self, channel: StreamChannel) -> None:
        """Forgets the channel."""
        self._connected.discard(channel)

    def check(self) -> None:
        """Raises Closed once `close` was called."""
        if self._closed:
            raise Closed(f"the wire {self.scheme}:// was closed")

    async def dial(self, address: str, make: Callable[[], StreamChannel], dial: Dial, timeout: float) -> StreamChannel:
        """A connected channel whose peer has said that it is a dynlog; see `Wire.connect`."""
        self.check()
        made: list[StreamChannel] = []  # a dial that is cancelled may have connected it and returns nothing

        def make_known() -> StreamChannel:
            made.append(make())
            return made[-1]

        greeted = False
        try:
            async with asyncio.timeout(timeout):
                _, channel = await dial(make_known)
                await channel.ready
                self.check()
                greeted = True
                return channel
        except TimeoutError:
            raise DeadlineExceeded(f"{timeout:g} s were not enough to reach {address}: is it a dynlog?") from None
        except WireBroken as error:
            raise WireUnavailable(f"{address} was reached, but {error}") from None
        except OSError as error:
            raise WireUnavailable(
                f"{address} cannot be reached ({error.strerror or error}); is somebody listening there?"
            ) from None
        finally:
            if not greeted:
                for one in made:
                    one.give_up()

    async def close(self) -> None:
        """Closes every channel and returns once all are over; those that do not end by themselves do after a while."""
        self._closed = True
        if not self._connected:
            return
        overs = [channel.over for channel in self._connected]
        for channel in list(self._connected):
            channel.close()
        await asyncio.wait(overs, timeout=LINGER_S + 1)
        for channel in list(self._connected):
            channel.abort()
        await asyncio.wait(overs)


class StreamListener:
    """A bound socket; ``tidy`` removes what it left in the file system."""

    def __init__(self, address: str, server: asyncio.Server, tidy: Callable[[], None] | None = None) -> None:
        self.address = address
        self._server, self._tidy = server, tidy

    async def close(self) -> None:
        # Not wait_closed: from Python 3.12 on it waits for the channels, which go on.
        self._server.close()
        if self._tidy is not None:
            self._tidy()
            self._tidy = None
        await asyncio.sleep(0)
