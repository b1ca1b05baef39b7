"""The handle's way to the server: scripts with a deadline, over lanes, with what was learnt of the server's run.

A call that certainly did nothing, or may be done twice, is tried again until its deadline; an append that had left is
not: it is OutcomeUnknown, and whoever sent it repeats it under its marks.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, ResponseError

from dynlog.errors import (
    Closed,
    DeadlineExceeded,
    DynlogError,
    LogUnavailable,
    OutcomeUnknown,
    UnsupportedLogVersion,
)
from dynlog.limits import Limits
from dynlog.storage.redis import log_lua
from dynlog.storage.redis.failures import passes, refused
from dynlog.storage.redis.keys import LogKeys, log_keys
from dynlog.storage.redis.lane import Lane
from dynlog.storage.redis.link import Facts, Link, ask, connect, server_name
from dynlog.storage.redis.options import Settings
from dynlog.storage.redis.script import Script, for_version
from dynlog.storage.redis.wire import Argument, Broken, Call, Command, Head
from dynlog.timing import SYSTEM_CLOCK, Backoff, Clock, Deadline

FORMAT = 1


class Job(NamedTuple):
    """One run of a script."""

    keys: Sequence[str]
    arguments: Sequence[Argument] = ()


class Client:
    """Two lanes: appends in one, everything else in the other, so that a long read holds no append up."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.keys: LogKeys = log_keys(settings.prefix)
        self.name = server_name(settings)
        self.facts: Facts | None = None
        self.identity = ""
        """Of the log that is there now: another one if the server came back, or was flushed, without the first."""
        self._clock = clock
        self.appends = Lane(self.link)
        self.others = Lane(self.link)
        self._loop = asyncio.get_running_loop()
        self._limits = Limits()

    @property
    def now_ms(self) -> int:
        """The engine's time: the server's clock, or the one that a test turns."""
        ahead = self.facts.ahead_ms if self.facts is not None and self._clock is SYSTEM_CLOCK else 0
        return self._clock.time_ms() + ahead

    @property
    def script_now(self) -> int:
        """The time that an append is told: 0 lets it ask the server's own clock."""
        return 0 if self._clock is SYSTEM_CLOCK else self._clock.time_ms()

    @property
    def run(self) -> str:
        """The run of the server that was met last."""
        return self.facts.run if self.facts is not None else ""

    async def link(self) -> Link:
        """A new connection to the log, which is made if there is none.  Raises as `connect` does."""
        link = await connect(self.settings, SYSTEM_CLOCK.time_ms())
        try:
            fresh = uuid.uuid4().hex
            keys = (self.keys.log,)
            (found,) = await ask(
                link.connection,
                [("EVAL", log_lua.ENSURE.text, len(keys), *keys, fresh, FORMAT, SYSTEM_CLOCK.time_ms())],
            )
        except BaseException as error:
            await link.drop()
            if passes(error):
                raise LogUnavailable(f"{self.name} is still loading its data") from error
            if isinstance(error, Exception):
                raise LogUnavailable(f"{self.name}: the connection broke: {error}") from error
            raise
        if isinstance(found, BaseException):
            await link.drop()
            if passes(found):
                raise LogUnavailable(f"{self.name} is busy: {found}")
            raise refused(found, self.name)
        identity, form = found[0].decode(), int(found[1])
        if form != FORMAT:
            await link.drop()
            raise UnsupportedLogVersion(
                f"{self.name}: the log under {self.settings.prefix!r} has format {form}; this dynlog reads {FORMAT}"
            )
        self.identity = identity
        self.facts = link.facts
        return link

    async def open(self, deadline: Deadline) -> None:
        """Makes the first connection; waits for a server that is loading its data."""
        for wait in Backoff(first=0.05, most=0.5):
            try:
                link = await self.link()
            except LogUnavailable as error:
                if "loading" not in str(error) or deadline.remaining < wait:
                    raise
                await asyncio.sleep(wait)
            else:
                self.others.adopt(link)
                return

    async def refresh(self) -> None:
        """Asks the server what it promises now; connections made under other settings are made anew."""
        before = self.facts
        link = await self.link()
        await link.drop()
        after = link.facts
        if before is not None and (before.durability, before.strong) != (after.durability, after.strong):
            self.appends.renew()
            self.others.renew()

    async def run_script(
        self, script: Script, job: Job, deadline: Deadline, *, lane: Lane | None = None, size: int = 0,
        again: bool = True, writes: bool = False,
    ) -> Any:  # fmt: skip
        """The script's reply.

        Raises LogUnavailable if it could not be sent or the server refuses, OutcomeUnknown unless ``again`` when the
        connection broke, DeadlineExceeded, Closed, ConfigurationError, LogFull.  Of one that ``writes`` these say
        that it did nothing: if an earlier sending of it may have been done, it is OutcomeUnknown as well.
        """
        lane = lane or self.others
        script = self._suited(script)
        digest = True
        left: Broken | None = None
        waits: Iterator[float] | None = None
        while True:
            try:
                call = lane.submit(command_of(script, job, digest=digest), size)
                return await self.reply(lane, call, deadline)
            except NoScriptError:
                digest = False
                continue
            except Broken as error:
                if not again:
                    raise self._unknown(error) from None
                left = error
            except ResponseError as error:
                if not passes(error):
                    if left is not None and writes:
                        raise self._unknown(left) from error
                    raise refused(error, self.name) from error
            except (LogUnavailable, Closed) as error:
                if left is not None and writes:
                    raise self._unknown(left) from error
                raise
            waits = waits or iter(Backoff())
            await asyncio.sleep(min(next(waits), deadline.remaining))

    def _unknown(self, broken: Broken) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"{self.name}: the connection broke after an append had left ({broken}): it may be stored; repeat it under "
            "the same marks"
        )

    def _suited(self, script: Script) -> Script:
        return for_version(script, self.facts.version) if self.facts is not None else script

    async def reply(self, lane: Lane, call: Call, deadline: Deadline) -> Any:
        """The reply to a call in its time; raises what the reply raises, LogUnavailable, DeadlineExceeded."""
        self._limits.begin(call.reply, self._loop.time() + deadline.remaining, lambda: self._late(lane, call))
        try:
            return await call.reply
        finally:
            self._limits.end(call.reply)

    def _late(self, lane: Lane, call: Call) -> DynlogError:
        if call.sent:
            return DeadlineExceeded(f"{self.name} did not answer in time; it may have done what it was told")
        trouble = lane.trouble
        error = LogUnavailable(
            str(trouble) if trouble is not None else f"{self.name} does not answer; nothing was sent"
        )
        error.__cause__ = trouble
        return error

    async def run_scripts(self, script: Script, jobs: Sequence[Job], deadline: Deadline) -> list[Any]:
        """The replies to many runs of one script that may be done twice, sent together."""
        # The first goes alone, so that the server knows the script when the others come.
        replies: list[Any] = [await self.run_script(script, job, deadline) for job in jobs[:1]]
        suited = self._suited(script)
        calls = [self.others.submit(command_of(suited, job, digest=True)) for job in jobs[1:]]
        try:
            for call, job in zip(calls, jobs[1:], strict=True):
                try:
                    replies.append(await self.reply(self.others, call, deadline))
                except (NoScriptError, Broken):
                    replies.append(await self.run_script(script, job, deadline))
                except ResponseError as error:
                    raise refused(error, self.name) from error
        finally:
            for call in calls:
                call.reply.cancel()
        return replies

    async def run_commands(self, commands: Sequence[Command], deadline: Deadline) -> None:
        """Plain commands that may be done twice, sent together."""
        for wait in Backoff():
            calls = [self.others.submit(command) for command in commands]
            try:
                for call in calls:
                    await self.reply(self.others, call, deadline)
                return
            except Broken:
                await asyncio.sleep(min(wait, deadline.remaining))
            except ResponseError as error:
                raise refused(error, self.name) from error
            finally:
                for call in calls:
                    call.reply.cancel()

    async def close(self) -> None:
        """Lets what is under way finish, within a grace."""
        try:
            await asyncio.gather(self.appends.close(), self.others.close())
        finally:
            for lane in (self.appends, self.others):
                await lane.close(0)  # one that was cancelled may not even have begun
            self._limits.close()


def command_of(script: Script, job: Job, *, digest: bool) -> Command:
    """The command that runs a script, by its digest or with its text."""
    if digest:
        return (_head(script.sha, tuple(job.keys)), *job.arguments)
    return ("EVAL", script.text, len(job.keys), *job.keys, *job.arguments)


@lru_cache(maxsize=4096)
def _head(sha: str, keys: tuple[str, ...]) -> Head:
    return Head(("EVALSHA", sha, len(keys), *keys))
