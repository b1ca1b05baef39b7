"""What an operator asks of a running manager over the network itself: how it is, and to change a wire.

dynlog.ping      answers with what it was sent
dynlog.stats     what it serves and whom it talks to, as JSON
dynlog.switch    {"peer": ENTITY, "wire": SCHEME or ADDRESS}: its session with that peer goes by that wire now
"""

from __future__ import annotations

import json

from dynlog.entity import DynamoEntityID
from dynlog.network.calls import Request
from dynlog.network.manager import DynamoNetworkManager
from dynlog.record import Buffer

PING, STATS, SWITCH = "dynlog.ping", "dynlog.stats", "dynlog.switch"


def serve_admin(manager: DynamoNetworkManager) -> None:
    """Serves the three; raises ConfigurationError if they are served already."""

    async def ping(request: Request) -> Buffer:
        return request.body

    async def stats(request: Request) -> Buffer:
        return json.dumps(manager.stats()).encode()

    async def switch(request: Request) -> Buffer:
        asked = json.loads(bytes(request.body))
        return (await manager.switch(DynamoEntityID.parse(asked["peer"]), str(asked["wire"]))).encode()

    for topic, handler in ((PING, ping), (STATS, stats), (SWITCH, switch)):
        manager.serve(topic, handler)
