"""What an append is told that the handle sent again by itself, since the connection under its first sending broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from redis.exceptions import ResponseError

from dynlog.errors import Closed, DynlogError, LogFull, LogUnavailable, OutcomeUnknown
from dynlog.storage.redis.append_lua import APPEND
from dynlog.storage.redis.client import Client, Job
from dynlog.storage.redis.lane import Lane
from dynlog.storage.redis.options import settings_of
from dynlog.storage.redis.wire import Broken, Call, Command
from dynlog.timing import SYSTEM_CLOCK, Deadline
from dynlog.url import parse_url

FULL = ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
READ_ONLY = ResponseError("READONLY You can't write against a read only replica.")
JOB = Job(("meta", "stream", "marks"), (b"",))


class Scripted:
    """A lane that ends each call as the test says; None is one that never leaves."""

    trouble: DynlogError | None = None

    def __init__(self, *ends: Exception | None) -> None:
        self._ends = list(ends)

    def submit(self, command: Command, size: int = 0) -> Call:
        end = self._ends.pop(0)
        if isinstance(end, Closed):
            raise end
        call = Call(command, size, asyncio.get_running_loop())
        if end is not None:
            call.sent = True
            call.reply.set_exception(end)
        return call


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    made = Client(settings_of(parse_url("redis://127.0.0.1:1")), SYSTEM_CLOCK)
    yield made
    await made.close()


async def told(client: Client, ends: Sequence[Exception | None], **how: Any) -> BaseException:
    lane = cast(Lane, Scripted(*ends))
    with pytest.raises(DynlogError) as caught:
        await client.run_script(APPEND, JOB, Deadline(0.5), lane=lane, **how)
    return caught.value


@pytest.mark.parametrize("second", [None, FULL, READ_ONLY, Closed("the log was closed")])
async def test_what_may_have_been_stored_is_never_told_as_not_stored(client: Client, second: Exception | None) -> None:
    assert type(await told(client, [Broken("cut"), second], writes=True)) is OutcomeUnknown


@pytest.mark.parametrize(("only", "kind"), [(None, LogUnavailable), (FULL, LogFull), (Closed("it was"), Closed)])
async def test_what_surely_did_nothing_is_told_as_that(
    client: Client, only: Exception | None, kind: type[DynlogError]
) -> None:
    assert type(await told(client, [only], writes=True)) is kind


async def test_a_question_that_was_asked_twice_is_refused_as_it_is(client: Client) -> None:
    assert type(await told(client, [Broken("cut"), None])) is LogUnavailable
