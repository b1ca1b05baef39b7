"""Care: every stored batch is read and verified; what is damaged can be set aside and becomes a hole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from dynlog.errors import MalformedRecord
from dynlog.log import DEFAULT_TIMEOUT_S
from dynlog.storage.ledger import QUARANTINED
from dynlog.storage.redis.appends import place
from dynlog.storage.redis.client import Client, Job
from dynlog.storage.redis.holders import Holders
from dynlog.storage.redis.partition_lua import READ, SET_ASIDE
from dynlog.storage.redis.reads import HOLE, Page, opened, page_of, passed
from dynlog.storage.redis.topics import Topics
from dynlog.timing import Deadline
from dynlog.topics import Damage, Topic

PAGE_BYTES = 1 << 20


class Found(NamedTuple):
    """A damage and the stored entries that are it."""

    damage: Damage
    ids: tuple[str, ...] = ()


class Care:
    """Verification and quarantine of a handle's log."""

    def __init__(self, client: Client, topics: Topics, holders: Holders) -> None:
        self._client = client
        self._topics = topics
        self._holders = holders

    async def verify(self, name: str | None) -> AsyncIterator[Damage]:
        """Every damage of a topic, or of all."""
        deadline = Deadline(DEFAULT_TIMEOUT_S)
        topics = await self._topics.all(deadline) if name is None else [await self._topics.find(name, deadline)]
        for topic in topics:
            for partition in range(topic.partitions):
                async for found in self._damages(topic, partition):
                    yield found.damage

    async def quarantine(self) -> list[Damage]:
        """Sets aside what is damaged; each leaves an event."""
        gone: list[Damage] = []
        for topic in await self._topics.all(Deadline(DEFAULT_TIMEOUT_S)):
            for partition in range(topic.partitions):
                async for found in self._damages(topic, partition):
                    await self._set_aside(topic, partition, found)
                    gone.append(found.damage)
        return gone

    async def _set_aside(self, topic: Topic, partition: int, found: Found) -> None:
        deadline = Deadline(DEFAULT_TIMEOUT_S)
        damage = found.damage
        keys = self._topics.partition(topic, partition)
        hole = f"{damage.start}:{damage.end}:{HOLE} "
        await self._client.run_script(SET_ASIDE, Job(keys[:2], (" ".join(found.ids), hole)), deadline)
        detail = f"partition {partition} from {damage.start} to {damage.end}: {damage.reason}"
        await self._holders.note(topic, QUARANTINED, [detail], deadline)

    async def _damages(self, topic: Topic, partition: int) -> AsyncIterator[Found]:
        keys, context = self._topics.partition(topic, partition), place(topic, partition)
        offset = 0
        while True:
            reply = await self._client.run_script(
                READ, Job(keys[:2], (offset, PAGE_BYTES, 0)), Deadline(DEFAULT_TIMEOUT_S)
            )
            if reply[0] in (b"GONE", b"HIGH"):
                return  # deleted while it was read
            if reply[0] == b"LOW":
                offset = reply[1]
                continue
            page = page_of(reply)
            for found, reached in _judged(topic.name, partition, offset, page, context):
                offset = reached
                if found is not None:
                    yield found
            if not page.entries:
                return


def _judged(
    topic: str, partition: int, offset: int, page: Page, context: bytes
) -> list[tuple[Found | None, int]]:  # fmt: skip
    """For each entry of a page, and for its end: what is damaged there, and how far it leads."""
    judged: list[tuple[Found | None, int]] = []
    for entry in page.entries:
        try:
            base = entry.next - len(opened(entry, context).keys)
        except MalformedRecord as error:
            start = passed(offset, entry.next, page.gaps)
            judged.append((Found(Damage(topic, partition, start, entry.next, str(error)), (entry.id,)), entry.next))
        else:
            start = passed(offset, base, page.gaps)
            missing = Found(Damage(topic, partition, start, base, "records are missing")) if start < base else None
            judged.append((missing, entry.next))
        offset = entry.next
    if not page.entries:
        start = passed(offset, page.end, page.gaps)
        missing = Found(Damage(topic, partition, start, page.end, "records are missing")) if start < page.end else None
        judged.append((missing, page.end))
    return judged
