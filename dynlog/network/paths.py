"""Which way a call goes: over the session with its peer or as a record on the log, chosen per call, peer or need.

A call goes by the log if it is told to, if the operator switched its peer to the log, or if it could not be sent: what
was never begun may be made again on another path, and only that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError
from dynlog.log import Log
from dynlog.network.log_caller import LogCaller
from dynlog.network.log_server import LogServer
from dynlog.network.services import Services

CALLS = "dynlog.calls"
"""Under which name the requests and replies of a fleet are in its log."""
LOG = "log"
"""What `DynamoNetworkManager.switch` takes beside wires."""


class Path(Enum):
    """How one call goes."""

    AUTO = "auto"
    """Over a wire; by the log if it could not be sent, or the peer was switched to it."""
    WIRE = "wire"
    LOG = "log"
    """Durable: neither end has to live while the other does, and a repeated delivery runs the handler once."""


class DurableCalls:
    """The log side of one manager's calls."""

    def __init__(self, caller: LogCaller) -> None:
        self.caller = caller
        self.peers: set[DynamoEntityID] = set()
        """Who was switched to the log."""


@asynccontextmanager
async def durable_calls(
    log: Log, entity: DynamoEntityID, services: Services, name: str = CALLS
) -> AsyncIterator[DurableCalls]:
    """Serves the entity's calls from the log, and makes its own there, until the end of the block."""
    async with LogCaller.open(log, name, entity) as caller, LogServer.open(log, name, services, [entity]):
        yield DurableCalls(caller)


def chosen(durable: DurableCalls | None, target: DynamoEntityID, path: Path) -> DurableCalls | None:
    """The log side if the call goes by the log; raises ConfigurationError if it is to and the manager has none."""
    if path is Path.LOG and durable is None:
        raise ConfigurationError("calls go by the log where the manager has one and was opened with durable=True")
    if path is Path.LOG or (path is Path.AUTO and durable is not None and target in durable.peers):
        return durable
    return None
