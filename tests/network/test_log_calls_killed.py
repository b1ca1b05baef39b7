"""Real processes and SIGKILL: an effect of a call happens once, an outside effect at most again, no answer is lost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dynlog.log import Log
from dynlog.network.calls import Call
from dynlog.network.log_caller import LogCaller
from dynlog.open import open_log
from dynlog.timing import Deadline
from tests.conformance.other_process import ROOT
from tests.network.call_backend import CALLER, PATIENCE_S, SERVER
from tests.network.log_calls import NAME
from tests.network.log_worker import EFFECTS


@asynccontextmanager
async def worker(says: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A `tests.network.log_worker` that has said that; it is killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.network.log_worker", *arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        await heard(process, says)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def heard(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line = await process.stdout.readline()
    assert line.decode().strip() == word


async def effects_in(log: Log, count: int) -> list[bytes]:
    """All records of the effects' topic, once there are so many and a further barrier call's effect is behind them."""
    at = await log.position(EFFECTS, 0)
    found: list[bytes] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            batch = await log.read(at, wait=PATIENCE_S)
            found += [bytes(body[0]) for body in batch.bodies]
            at = batch.next_position
    return found


def asking(name: str) -> Call:
    return Call(SERVER, "work", Deadline(60.0), CALLER, correlation_id=name)


async def test_a_server_killed_between_effect_and_reply_answers_after_its_restart_with_one_effect_in_the_log(
    tmp_path: Path,
) -> None:
    url, notes = f"sqlite:///{tmp_path}/calls.db", tmp_path / "notes"
    async with open_log(url) as log, LogCaller.open(log, NAME, CALLER) as caller:
        await log.create_topic(EFFECTS)
        async with worker("ready", "serve", url, str(notes), "second") as server:
            assert bytes(await caller.request(asking("first"), b"")) == b"first in attempt 1"
            second = asyncio.create_task(caller.request(asking("second"), b""))
            await heard(server, "halted")
            server.kill()
            await server.wait()
        async with worker("ready", "serve", url, str(notes)):
            assert bytes(await second) == b"second in attempt 2"
            assert bytes(await caller.request(asking("third"), b"")) == b"third in attempt 1"
            found = await effects_in(log, 3)
    # The effect made through the request is there once, and is the one of the run whose reply is the answer.
    assert found == [b"first in attempt 1", b"second in attempt 2", b"third in attempt 1"]
    # The outside effect happened twice, under the same name and with the next attempt.
    assert notes.read_text().splitlines() == ["first 1", "second 1", "second 2", "third 1"]


async def test_a_caller_that_was_killed_finds_the_answers_to_its_open_calls(tmp_path: Path) -> None:
    url, notes = f"sqlite:///{tmp_path}/calls.db", tmp_path / "notes"
    async with open_log(url) as log:
        await log.create_topic(EFFECTS)
        async with worker("asked", "call", url) as caller:
            caller.kill()
            await caller.wait()
        async with worker("ready", "serve", url, str(notes)), LogCaller.open(log, NAME, CALLER) as heir:
            found = await heir.resume()
            replies = {call.call.correlation_id: bytes(await call.reply(PATIENCE_S)) for call in found}
        assert replies == {name: f"{name} in attempt 1".encode() for name in ("a", "b", "c")}
        async with LogCaller.open(log, NAME, CALLER) as later:
            assert await later.resume() == []  # what was taken is not found again
    assert sorted(notes.read_text().splitlines()) == ["a 1", "b 1", "c 1"]


async def test_a_caller_killed_after_its_answers_were_given_finds_them_too(tmp_path: Path) -> None:
    url, notes = f"sqlite:///{tmp_path}/calls.db", tmp_path / "notes"
    async with open_log(url) as log:
        await log.create_topic(EFFECTS)
        async with worker("asked", "call", url) as caller:
            caller.kill()
            await caller.wait()
        async with worker("ready", "serve", url, str(notes)):
            await effects_in(log, 3)
        async with LogCaller.open(log, NAME, CALLER) as heir:
            found = await heir.resume()
            assert {call.call.correlation_id for call in found} == {"a", "b", "c"}
            assert all(call.answered for call in found)
