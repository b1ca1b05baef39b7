"""A member of a consumer group: it says that it is there, folds what all say, and notices who no longer does.

* **Silence counts only at the end of the group's topic**, by the observer's own monotonic clock: whoever was paused
  itself, or could not read, first catches up and accuses nobody of what it did not hear.
* **A commit goes out under the newest generation that the fold knows, and only for partitions that the fold of that
  moment gives to this member**; when it is fenced, the member folds on and tries again if it is still the owner.  So
  members that keep their partitions commit across a change of generation, and one that was expired never does.
* **A member hands out nothing new unless it heard its own heartbeat of a moment ago**: one that was paused for long
  may well be able to speak before it has heard that it was expired.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from dynlog.batch import Position
from dynlog.errors import (
    CommitFenced,
    DeadlineExceeded,
    DynlogError,
    LogDiverged,
    LogUnavailable,
    OffsetTruncated,
    OutcomeUnknown,
)
from dynlog.group import GroupFold
from dynlog.group_records import Beat, Expire, Generation, Join, Leave, Release, to_record
from dynlog.group_topic import KEPT_RECORDS, load, make_group_topic, say, take_picture
from dynlog.holding import HOLDER_BEAT_S, Changes, Epoch, first_offsets
from dynlog.log import Log, Where
from dynlog.timing import Deadline
from dynlog.topics import Topic

logger = logging.getLogger(__name__)
PASSING = (LogUnavailable, DeadlineExceeded, OutcomeUnknown)
"""What may pass by itself."""
FENCED_PATIENCE_S = 15.0
"""How long a fenced commit waits for the group to say which generation is the newest."""


@dataclass(frozen=True, slots=True)
class GroupTiming:
    """A member says that it is there every ``heartbeat_s``, and is expired after ``expire_s`` of silence."""

    heartbeat_s: float = 0.5
    expire_s: float = 2.0


class Membership:
    """One member; a `Holding`."""

    def __init__(self, log: Log, topic: Topic, group: str, start: Where, timing: GroupTiming) -> None:
        self.changes = Changes()
        self._log, self._topic, self._group, self._start, self._timing = log, topic, group, start, timing
        self._state = GroupFold()
        self._folds = Changes()
        """Of the position, which moves on by records that change nothing, too."""
        self._position = Position(topic.name, "", 0, 0)
        self._since_picture = 0
        self._rejoined = 0
        self._id = ""
        self._joined_at = -1
        self._left = False
        self._heard: dict[str, tuple[int, float]] = {}
        self._acknowledged = 0.0
        self._beats: deque[tuple[int, float]] = deque(maxlen=64)

    @property
    def id(self) -> str:
        """The member's present name; it gets another one if it is expired and comes back."""
        return self._id

    @property
    def state(self) -> GroupFold:
        """The group as far as it was folded."""
        return self._state

    @property
    def epoch(self) -> Epoch:
        return self._rejoined, self._state.seeks

    @property
    def mine(self) -> frozenset[int]:
        return self._state.owned_by(self._id)

    @property
    def leaving(self) -> frozenset[int]:
        return frozenset(p for p in self.mine if self._state.targets.get(p) != self._id)

    @property
    def startable(self) -> frozenset[int]:
        # Not before the last owner is fenced, if that was expired: it may still be about to commit.
        return frozenset() if self._state.unfenced else self.mine - self.leaving

    @property
    def healthy(self) -> bool:
        return _now() - self._acknowledged < self._timing.expire_s * 0.75

    async def enter(self) -> None:
        own = await make_group_topic(self._log, self._topic, self._group)
        self._state, self._position = await load(self._log, own.name)
        await self._join()

    async def _join(self) -> None:
        self._id = f"{socket.gethostname()[:60]}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        sent = _now()
        about = f"{socket.gethostname()} process {os.getpid()}"
        self._joined_at = await self._say(Join(self._id, self._topic.partitions, about))
        self._acknowledged = sent
        self._beats.clear()

    async def _say(self, fact: Join | Leave | Release | Expire | Generation) -> int:
        return await say(self._log, self._position.topic, fact)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat(), name="dynlog-group-beat")
            tasks.create_task(self._follow(), name="dynlog-group-follow")
            tasks.create_task(self._lead(), name="dynlog-group-lead")

    async def _beat(self) -> None:
        held = _now()
        while True:
            await asyncio.sleep(self._timing.heartbeat_s)
            if self._state.leader == self._id and _now() - held > HOLDER_BEAT_S:
                held = _now()  # a group that has nothing to commit for a day still needs its records
                with suppress(*PASSING, CommitFenced):
                    await self._log.commit(self._group, self._topic.name, {}, generation=self._state.generation)
            sent, member = _now(), self._id
            with suppress(*PASSING):  # the next beat is the repetition: a backoff would outlast the others' patience
                beat = [to_record(Beat(member))]
                done = await self._log.append(self._position.topic, 0, beat, timeout=self._timing.expire_s)
                if member == self._id:
                    self._beats.append((done.offsets[0], sent))
                    self._heard_itself()

    def _heard_itself(self) -> None:
        """A beat counts once it was folded: whoever was expired before it has learned of that by then."""
        while self._beats and self._beats[0][0] < self._position.offset:
            _, sent = self._beats.popleft()
            if self._id in self._state.members:
                self._acknowledged = max(self._acknowledged, sent)

    async def _follow(self) -> None:
        while True:
            try:
                at_end = await self._fold_on(self._timing.heartbeat_s / 2)
            except OffsetTruncated:
                await self._reload()
                continue
            except PASSING:
                self._heard.clear()  # what could not be heard is nobody's silence
                await asyncio.sleep(self._timing.heartbeat_s)
                continue
            gone = self._position.offset > self._joined_at and self._id not in self._state.members
            if gone and not self._left:
                logger.warning("group %s on %s: %s was expired and joins anew", self._group, self._topic.name, self._id)
                self._rejoined += 1
                self.changes.notify()
                with suppress(*PASSING):
                    await self._join()
            if at_end:
                await self._accuse()

    async def _fold_on(self, wait: float) -> bool:
        """Folds what has come; True at the end."""
        batch = await self._log.read(self._position, wait=wait)
        before = self._state.version
        self._state.apply(batch)
        self._position = batch.next_position
        self._folds.notify()
        self._heard_itself()
        self._since_picture += len(batch)
        if self._state.version != before or self._since_picture > KEPT_RECORDS:
            self.changes.notify()
        return batch.next_offset >= batch.end_offset

    async def _reload(self) -> None:
        with suppress(*PASSING):
            self._state, self._position = await load(self._log, self._position.topic)
            self._heard.clear()
            self._folds.notify()
            self.changes.notify()

    async def _accuse(self) -> None:
        """Expires whom nothing was heard of for too long; one after the other, so that not all say the same at once."""
        now, members = _now(), self._state.members
        heard: dict[str, tuple[int, float]] = {}
        for member in members.values():
            beat, since = self._heard.get(member.id, (-1, now))
            heard[member.id] = (member.beat, since if beat == member.beat else now)
        self._heard = heard
        if self._id not in members:
            return
        patience = self._timing.expire_s + self._timing.heartbeat_s / 8 * min(list(members).index(self._id), 4)
        for id, (beat, since) in heard.items():
            if id != self._id and now - since > patience:
                logger.warning("group %s on %s: nothing was heard of %s", self._group, self._topic.name, id)
                with suppress(*PASSING):
                    await self._say(Expire(id, beat))

    async def _lead(self) -> None:
        """The leader's duties: a generation when one is needed, a picture now and then."""
        while True:
            seen = self.changes.count
            if self._state.leader == self._id:
                try:
                    if self._state.unfenced:
                        await self._open_generation()
                    elif self._since_picture > KEPT_RECORDS:
                        self._since_picture = 0
                        await take_picture(self._log, self._position, self._state)
                except (*PASSING, CommitFenced):
                    await asyncio.sleep(self._timing.heartbeat_s / 4)
                    continue
            await self.changes.beyond(seen)

    async def _open_generation(self) -> None:
        name, covers = self._topic.name, self._position.offset
        if (await self._log.topic(name)).incarnation != self._topic.incarnation:
            raise LogDiverged("the topic was deleted and created anew while it was consumed", topic=name)
        number = await self._log.open_generation(self._group, name)
        known = (await self._log.committed(self._group, name)).positions
        if len(known) < self._topic.partitions:
            first = await first_offsets(self._log, self._topic, self._start)
            missing = {p: offset for p, offset in first.items() if p not in known}
            await self._log.commit(self._group, name, missing, generation=number)
        said = await self._say(Generation(number, covers, False))
        await self._folded(said + 1, Deadline(FENCED_PATIENCE_S))

    async def _folded(self, offset: int, deadline: Deadline) -> bool:
        """Waits until everything below ``offset`` is folded; False if the time was over first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline.remaining):
                while self._position.offset < offset:
                    await self._folds.beyond(self._folds.count)
        return self._position.offset >= offset

    async def starts(self, partitions: frozenset[int]) -> Mapping[int, int]:
        positions = (await self._log.committed(self._group, self._topic.name)).positions
        first = await first_offsets(self._log, self._topic, self._start)
        return {p: positions.get(p, first[p]) for p in partitions}

    async def commit(self, epoch: Epoch, positions: Mapping[int, int]) -> frozenset[int]:
        deadline = Deadline(FENCED_PATIENCE_S)
        while True:
            owned = self._state.owned_by(self._id) if epoch == self.epoch else frozenset()
            kept = {p: offset for p, offset in positions.items() if p in owned}
            if not kept:
                return frozenset()
            generation, seen = self._state.generation, self.changes.count
            try:
                await self._log.commit(self._group, self._topic.name, kept, generation=generation)
            except CommitFenced:
                if deadline.passed:
                    raise
                try:
                    async with asyncio.timeout(self._timing.expire_s):
                        await self.changes.beyond(seen)
                except TimeoutError:
                    # Whoever opened the generation that fences us died before it said so, or is no member.
                    with suppress(CommitFenced):
                        await self._open_generation()
            else:
                return frozenset(kept)

    async def release(self, partition: int) -> None:
        said = await self._say(Release(self._id, partition))
        await self._folded(said + 1, Deadline(FENCED_PATIENCE_S))

    async def leave(self) -> None:
        self._left = True
        with suppress(DynlogError):
            await self._say(Leave(self._id))


def _now() -> float:
    return asyncio.get_running_loop().time()
