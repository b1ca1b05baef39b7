"""Dead letters: a record that could not be handled is parked once, with its story, and can be sent back once.

They lie in ``<topic>.dead``, as the record that they were plus the headers below.  A letter's mark is made of the
group and of where the record lay, so parking it again after a crash stores nothing.  What became of a letter (replayed,
dropped) is a record of its own behind it.  A replayed record is passed over by every other group: they had it already.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import xxhash

from dynlog.batch import StoredRecord
from dynlog.delivery import DeliveryPolicy, deliver
from dynlog.errors import ConfigurationError, MalformedRecord, TopicNotFound
from dynlog.log import Log
from dynlog.record import Control, Mark, Record
from dynlog.topics import Topic

logger = logging.getLogger(__name__)
SUFFIX = ".dead"
LETTER = "dynlog-dead"
"""A letter's story, as JSON."""
OUTCOME = "dynlog-dead-outcome"
"""Of the record that says what became of a letter, as JSON."""
FOR_GROUP = "dynlog-for-group"
"""Of a replayed record: only this group handles it."""
MAX_ERROR = 1_000
PARKING = DeliveryPolicy()


@dataclass(frozen=True, slots=True)
class Story:
    """Where a dead letter comes from and why it is dead; times are milliseconds since the epoch."""

    group: str
    topic: str
    incarnation: str
    partition: int
    offset: int
    attempts: int
    error: str
    first_ms: int
    last_ms: int

    @property
    def id(self) -> str:
        """The same for the same record of the same group, however often it is parked."""
        place = (self.group, self.topic, self.incarnation, str(self.partition), str(self.offset))
        return xxhash.xxh3_128_hexdigest("\0".join(place).encode())


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A letter as it lies in the dead-letter topic; ``outcome`` is None, ``replayed`` or ``dropped``."""

    partition: int
    offset: int
    story: Story
    record: Record
    outcome: str | None = None


def dead_topic(topic: str) -> str:
    """The name of the topic's dead-letter topic."""
    return topic + SUFFIX


def error_text(error: BaseException | None) -> str:
    """What a letter says of the error, whatever the error says of itself."""
    if error is None:
        return "rejected"
    try:
        said = str(error)
    except Exception:
        said = "an error that cannot say what it is"
    return f"{type(error).__name__}: {said}"[:MAX_ERROR]


async def park(log: Log, source: Topic, record: Record, story: Story) -> None:
    """Stores the letter, once; raises what `deliver` raises."""
    name = dead_topic(source.name)
    try:
        dead = await log.topic(name)
    except TopicNotFound:
        dead = await log.create_topic(name, partitions=source.partitions, exist_ok=True)
    told = json.dumps({field: getattr(story, field) for field in Story.__slots__}).encode()
    letter = replace(record, headers={**record.headers, LETTER: told}, mark=Mark(f"dead:{story.id}", 0, 0))
    await deliver(log, name, story.partition % dead.partitions, [letter], PARKING)


class DeadLetters:
    """The dead letters of one topic; holds nothing open."""

    def __init__(self, log: Log, topic: str) -> None:
        self._log, self._topic = log, topic

    async def all(self, group: str | None = None) -> list[DeadLetter]:
        """Every letter that is left (of one group), oldest first; none if nothing was ever parked."""
        try:
            dead = await self._log.topic(dead_topic(self._topic))
        except TopicNotFound:
            return []
        found: dict[str, DeadLetter] = {}
        for partition in range(dead.partitions):
            position = await self._log.position(dead.name, partition)
            while True:
                batch = await self._log.read(position)
                for stored in batch:
                    _fold(found, stored)
                position = batch.next_position
                if batch.next_offset >= batch.end_offset:
                    break
        letters = [letter for letter in found.values() if group is None or letter.story.group == group]
        return sorted(letters, key=lambda letter: (letter.story.last_ms, letter.partition, letter.offset))

    async def replay(self, letter: DeadLetter) -> bool:
        """Appends the record to where it came from and marks the letter; False if that was done before.

        Harmless to repeat, also after a crash between the two.
        """
        if letter.outcome is not None:
            return False
        source = await self._log.topic(self._topic)
        story = letter.story
        if story.partition >= source.partitions:
            raise ConfigurationError(
                f"letter {letter.partition}/{letter.offset} comes from partition {story.partition} of {self._topic!r}, "
                f"which has {source.partitions} now: read it and append it yourself"
            )
        headers = {name: value for name, value in letter.record.headers.items() if name != LETTER}
        if story.group:  # a consumer without a name has no group that could be meant
            headers[FOR_GROUP] = story.group.encode()
        again = replace(letter.record, headers=headers, mark=Mark(f"replay:{story.id}", 0, 0))
        await deliver(self._log, self._topic, story.partition, [again], PARKING)
        await self._conclude(letter, "replayed")
        return True

    async def drop(self, letter: DeadLetter) -> bool:
        """Marks the letter as not wanted; False if something became of it before."""
        if letter.outcome is not None:
            return False
        await self._conclude(letter, "dropped")
        return True

    async def _conclude(self, letter: DeadLetter, outcome: str) -> None:
        told = json.dumps({"id": letter.story.id, "outcome": outcome}).encode()
        record = Record(
            key=letter.record.key, headers={OUTCOME: told}, control=Control.TOMBSTONE,
            mark=Mark(f"outcome:{letter.story.id}", 0, 0),
        )  # fmt: skip
        await deliver(self._log, dead_topic(self._topic), letter.partition, [record], PARKING)


def _fold(found: dict[str, DeadLetter], stored: StoredRecord) -> None:
    """Takes in a letter or what became of one; the first of each counts, and what is neither is passed over."""
    headers = stored.record.headers
    try:
        if OUTCOME in headers:
            told = json.loads(headers[OUTCOME])
            letter = found.get(told["id"])
            if letter is not None and letter.outcome is None:
                found[letter.story.id] = replace(letter, outcome=str(told["outcome"]))
        elif LETTER in headers:
            story = read_story(headers)
            found.setdefault(story.id, DeadLetter(stored.partition, stored.offset, story, stored.record))
    except (MalformedRecord, ValueError, TypeError, KeyError):
        logger.warning("partition %d offset %d holds no dead letter", stored.partition, stored.offset)


def read_story(headers: Mapping[str, bytes]) -> Story:
    """The story in a letter's headers; raises MalformedRecord."""
    try:
        return Story(**json.loads(headers[LETTER]))
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedRecord(f"not a dead letter: header {LETTER!r}: {error}") from None
