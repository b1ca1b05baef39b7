"""What groups commit, shown to whoever watches lag with Kafka's own tools: a copy in Kafka's group offsets.

The truth is in the log's own topic; nothing of dynlog ever reads the copy.  The group is `names.kafka_group`, an empty
group to Kafka (no member, generation -1): ``kafka-consumer-groups.sh --describe``, Burrow and lag exporters show it.
The URL's user needs READ on that group; what is refused is logged once per group, and tried again a minute later.

The copy follows behind the commits: the newest position per partition, one request under way, a pause after each
round.  It may be behind for as long as its group's coordinator is away, Kafka drops it where a group has not committed
for ``offsets.retention.minutes``, and a group that was removed stays there until then, or until
``kafka-consumer-groups.sh --delete``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from dynlog.errors import Closed, ConfigurationError, DynlogError, LogUnavailable
from dynlog.storage.kafka.cluster import Cluster
from dynlog.storage.kafka.failures import GONE, TRANSIENT, name_of, refused
from dynlog.storage.kafka.names import kafka_group
from dynlog.storage.kafka.topics import Found
from dynlog.storage.kafka.wires import ANSWER_S, Purpose
from dynlog.timing import SYSTEM_CLOCK, Backoff, Deadline
from dynlog.topics import GroupState

logger = logging.getLogger(__name__)

PACE_S = 0.2
CLOSE_S = 1.0
"""How long `Mirror.close` waits for the last positions to be shown."""
REFUSED_S = 60.0
GIVE_UP_S = 60.0
"""A copy that failed for so long waits for its group's next commit."""
MOST_KEPT = 1_000
_BACKOFF = Backoff(first=0.2, most=5.0)
_GROUP = 0
_NO_MEMBER = ""


@dataclass(slots=True, eq=False)
class _Copy:
    """One group on one topic: (generation, offset) per partition as last committed, and what Kafka was not told yet."""

    group: str
    topic: str
    newest: dict[int, tuple[int, int]] = field(default_factory=dict)
    untold: set[int] = field(default_factory=set)


class Mirror:
    """The copies of one log handle's commits; owns the task that writes them."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._copies: dict[tuple[str, bytes], _Copy] = {}
        self._coordinators: dict[str, int] = {}
        self._refused: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._failure = ""  # of the last round
        self._warned = False
        self._closing = asyncio.Event()

    def note(self, found: Found, state: GroupState, partitions: Mapping[int, int]) -> None:
        """Has the committed positions of these partitions copied soon; returns at once and never raises."""
        group = kafka_group(self._prefix, state.group)
        copy = self._copies.setdefault((group, found.id), _Copy(group, found.kafka))
        for number in partitions:
            newest = state.generation, state.positions[number]
            if newest > copy.newest.get(number, (0, -1)):  # of two commits the later may return first
                copy.newest[number] = newest
                copy.untold.add(number)
        if len(self._copies) > MOST_KEPT:
            self._copies.pop(next((key for key, kept in self._copies.items() if not kept.untold), (group, found.id)))
        if copy.untold and self._task is None and not self._closing.is_set():
            self._task = asyncio.create_task(self._run(), name="dynlog-kafka-mirror")

    async def _run(self) -> None:
        """Copies until nothing is left to copy, or for as long as it may fail."""
        backoff, give_up = iter(_BACKOFF), Deadline(GIVE_UP_S)
        try:
            while waiting := self._waiting():
                self._failure = ""
                for group, copies in waiting.items():
                    await self._copy(group, copies)
                if not self._failure:
                    backoff, give_up = iter(_BACKOFF), Deadline(GIVE_UP_S)
                elif self._closing.is_set():
                    return
                elif give_up.passed:
                    self._warn_of_failure()
                    return
                with suppress(TimeoutError):  # `close` does not wait for pauses
                    async with asyncio.timeout(next(backoff) if self._failure else PACE_S):
                        await self._closing.wait()
        finally:
            self._task = None

    def _waiting(self) -> dict[str, list[_Copy]]:
        waiting: dict[str, list[_Copy]] = {}
        now = SYSTEM_CLOCK.monotonic()
        for copy in self._copies.values():
            if copy.untold and now >= self._refused.get(copy.group, now):
                waiting.setdefault(copy.group, []).append(copy)
        return waiting

    async def _copy(self, group: str, copies: list[_Copy]) -> None:
        """One request with all that Kafka was not told of the group."""
        sent = [(copy, {number: copy.newest[number] for number in copy.untold}) for copy in copies]
        topics = [(copy.topic, [(n, offset, "") for n, (_, offset) in told.items()]) for copy, told in sent]
        try:
            answer = await self._ask_coordinator(group, topics)
        except (LogUnavailable, Closed) as error:
            self._failure = str(error)
            self._coordinators.pop(group, None)
            return
        except DynlogError as error:
            self._give_up(group, copies, str(error))
            return
        codes = {(topic, number): code for topic, listed in answer.topics for number, code in listed}
        for copy, told in sent:
            for number, newest in told.items():
                self._judge(copy, number, newest, codes.get((copy.topic, number), 0))

    def _judge(self, copy: _Copy, number: int, newest: tuple[int, int], code: int) -> None:
        if code == 0 or code in GONE:  # whoever deleted the topic needs no copy
            if copy.newest[number] == newest:
                copy.untold.discard(number)
        elif code in TRANSIENT:
            self._failure = f"the group's coordinator answers {name_of(code)}"
            self._coordinators.pop(copy.group, None)
        else:
            self._give_up(copy.group, [copy], str(refused(code, "a commit")))

    async def _ask_coordinator(self, group: str, topics: list[Any]) -> Any:
        deadline = Deadline(ANSWER_S)
        node = self._coordinators.get(group)
        if node is None:
            found = await self._cluster.ask_any(FindCoordinatorRequest(group, _GROUP), deadline)
            if found.error_code in TRANSIENT:
                raise LogUnavailable(f"the group has no coordinator now: {name_of(found.error_code)}")
            if found.error_code:
                raise ConfigurationError(str(refused(found.error_code, "to name the group's coordinator")))
            if len(self._coordinators) > MOST_KEPT:
                self._coordinators.clear()
            node = self._coordinators[group] = int(found.coordinator_id)
        if node not in self._cluster.brokers:
            await self._cluster.describe([topics[0][0]], deadline)
        request = OffsetCommitRequest(group, OffsetCommitRequest.DEFAULT_GENERATION_ID, _NO_MEMBER,
                                      OffsetCommitRequest.DEFAULT_RETENTION_TIME, topics)  # fmt: skip
        return await self._cluster.ask_node(node, Purpose.MIRROR, request, deadline)

    def _give_up(self, group: str, copies: list[_Copy], why: str) -> None:
        """Refused: nothing is told until the first commit after a minute, when it may be allowed."""
        if len(self._refused) > MOST_KEPT:
            self._refused.clear()
        if group not in self._refused:
            logger.warning(
                "group %s: its commits are safe, but Kafka's own tools do not show them; allow READ on that group, and "
                "see that no other consumer uses its name: %s", group, why,
            )  # fmt: skip
        self._refused[group] = SYSTEM_CLOCK.monotonic() + REFUSED_S
        for copy in copies:
            copy.untold.clear()

    def _warn_of_failure(self) -> None:
        if not self._warned:
            logger.warning(
                "commits are safe, but for %g s Kafka's own tools could not be shown them, and wait for the next ones: "
                "%s; see that the brokers have a topic __consumer_offsets", GIVE_UP_S, self._failure,
            )  # fmt: skip
        self._warned = True

    async def close(self) -> None:
        """Shows the last positions, if that takes no more than a second, and ends the task."""
        self._closing.set()
        task = self._task
        if task is None:
            return
        if not self._failure:
            await asyncio.wait([task], timeout=CLOSE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
