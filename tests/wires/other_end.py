"""Another process that dials, says a frame, and stays until it is killed: `python -m tests.wires.other_end ADDRESS`."""

from __future__ import annotations

import asyncio
import sys

from dynlog.wire import Channel, make_wire, scheme_of
from tests.wires.wire_backend import Box


async def main(address: str) -> None:
    def receiver(channel: Channel) -> Box:
        channel.send([(b"here",)])
        return Box()

    await make_wire(scheme_of(address)).connect(address, receiver, timeout=10)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
