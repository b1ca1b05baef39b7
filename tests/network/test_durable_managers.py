"""Managers whose calls are records on the log: neither end has to live while the other does."""

from __future__ import annotations

import asyncio

import pytest

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError
from dynlog.log import Log
from dynlog.network.calls import Request
from dynlog.network.manager import DynamoNetworkManager
from dynlog.network.paths import Path
from dynlog.network.registry import LocalRegistry
from dynlog.open import open_log
from dynlog.record import Buffer

SERVER, CALLER = DynamoEntityID.from_name("server"), DynamoEntityID.from_name("caller")


def manager(entity: DynamoEntityID, log: Log, *, durable: bool = True) -> DynamoNetworkManager:
    return DynamoNetworkManager(entity, registry=LocalRegistry(), log=log, durable=durable)


async def shout(request: Request) -> Buffer:
    return bytes(request.body).upper()


async def test_a_caller_that_restarts_finds_the_answers_that_its_earlier_life_did_not_take() -> None:
    async with open_log("memory://") as log:
        async with manager(CALLER, log) as caller:
            calls = [
                asyncio.create_task(caller.request(SERVER, "shout", body, path=Path.LOG, correlation_id=body.decode()))
                for body in (b"one", b"two")
            ]
            while sum(s.end for s in await log.partitions("dynlog.calls.requests")) < len(calls):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.gather(*calls, return_exceptions=True)
        server = manager(SERVER, log)
        server.serve("shout", shout)  # before it opens: what waits in the log is answered then
        async with server, manager(CALLER, log) as heir:
            found = {call.call.correlation_id: call for call in await heir.unanswered()}
            assert {name: bytes(await call.reply(10)) for name, call in found.items()} == {"one": b"ONE", "two": b"TWO"}
        async with manager(CALLER, log) as later:
            assert await later.unanswered() == []


async def test_without_durable_calls_there_is_nothing_to_find_and_that_is_said() -> None:
    async with open_log("memory://") as log, manager(CALLER, log, durable=False) as caller:
        with pytest.raises(ConfigurationError, match="durable=True"):
            await caller.unanswered()
