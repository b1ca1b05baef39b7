"""Whether the old side still publishes into a stream: nobody is asked, the stream is watched.

What this mirror's own way out puts there is not the old side's.  Who publishes a server tells only to whom it lets see
its connections (every account its own, where the system account is on); then those are named whose count of messages
rose while the stream was watched.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import nats.errors

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.streams import StreamInfo, read_stream, stream_info
from dynlog.migrations.mirror.inbound import path_of
from dynlog.migrations.mirror.path import has_been, stream_place
from dynlog.timing import Deadline

LOOK_S = 0.25
CONNECTIONS = "$SYS.REQ.ACCOUNT.PING.CONNZ"
ASK_S = 1.0
MOST_CONNECTIONS = 1024
OURS = "dynlog"
"""The name of this connection and of those of mirrors that run, which ask a lot and are not the old side."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """The old side is at it: how many messages on which subjects, and who may have sent them (empty: nobody told)."""

    subjects: Mapping[str, int]
    publishers: tuple[str, ...]

    def __str__(self) -> str:
        subjects = ", ".join(f"{subject} ({count})" for subject, count in list(self.subjects.items())[:10])
        who = "; it came from one of: " + ", ".join(self.publishers[:10]) if self.publishers else (
            "; the server does not tell who published it"
        )  # fmt: skip
        count = sum(self.subjects.values())
        return f"{count} message{'' if count == 1 else 's'} came on {subjects}{who}"


async def watch_stream(
    server: NatsServer, info: StreamInfo, here: str, subject: str | None, seconds: float
) -> tuple[StreamInfo, Publishing | None]:
    """Watches for so long; returns how the stream stands then, and what came meanwhile from others than ``here``.

    Ends as soon as something came and it is known from whom.  Raises what reading the stream raises.
    """
    before = await _connections(server)
    deadline, first = Deadline(seconds), info.last_seq + 1
    while True:
        now = await stream_info(server, info.name)
        if stream_place(now) != stream_place(info):
            return now, None
        found = await foreign_messages(server, now, first, here, subject)
        if found:
            publishers = await _publishers(server, before, deadline)
            now = await stream_info(server, info.name)
            found = await foreign_messages(server, now, first, here, subject)
            return now, Publishing(dict(found.most_common()), publishers)
        first = now.last_seq + 1
        if deadline.passed:
            return now, None
        await asyncio.sleep(min(LOOK_S, deadline.remaining))


async def foreign_messages(
    server: NatsServer, info: StreamInfo, first: int, here: str, subject: str | None
) -> Counter[str]:
    """By subject, the messages from ``first`` on that did not come through ``here``."""
    found: Counter[str] = Counter()
    if first <= info.last_seq:
        async with aclosing(read_stream(server, info, first=first, last=info.last_seq, subject=subject)) as messages:
            async for message in messages:
                if not has_been(path_of(message), (here,)):
                    found[message.subject] += 1
    return found


async def _publishers(
    server: NatsServer, before: Mapping[int, Mapping[str, Any]], deadline: Deadline
) -> tuple[str, ...]:
    """Who sent something; what came may have come before the connections were looked at, then by the next of it."""
    while before:
        await asyncio.sleep(min(LOOK_S, deadline.remaining))
        named = _busy(before, await _connections(server))
        if named or deadline.passed:
            return named
    return ()


async def _connections(server: NatsServer) -> dict[int, dict[str, Any]]:
    """The account's connections by number, without ours; none if the server does not tell."""
    try:
        answer = await server.client.request(
            CONNECTIONS, json.dumps({"limit": MOST_CONNECTIONS}).encode(), timeout=ASK_S
        )
        said = json.loads(answer.data)["data"]["connections"]
        return {int(one["cid"]): one for one in said if one.get("name") != OURS}
    except (nats.errors.Error, OSError, ValueError, KeyError, TypeError):
        return {}


def _busy(before: Mapping[int, Mapping[str, Any]], after: Mapping[int, Mapping[str, Any]]) -> tuple[str, ...]:
    """Those that sent something between the two, who sent most first."""
    names: list[tuple[int, str]] = []
    for number, now in after.items():
        sent = int(now.get("in_msgs") or 0) - int(before.get(number, {}).get("in_msgs") or 0)
        if sent > 0:
            name = now.get("name") or f"a client in {now.get('lang') or 'an unknown language'}"
            place = f"{now.get('ip')}:{now.get('port')}"
            names.append((-sent, f"{name} at {place} (connection {number}, sent {sent})"))
    return tuple(text for _, text in sorted(names))
