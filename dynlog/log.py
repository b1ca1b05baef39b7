"""The log contract: append-only, partitioned topics with offsets that are never reused and consumers that are known.

Every engine keeps every sentence of this module; one conformance suite (``tests/conformance/log_suite.py``) proves
them, and what an engine cannot do is declared in its `Capabilities`.

* **Append is atomic, ordered and acknowledged only when durable** at the declared level.
* **Offsets strictly increase and are never reused**; reads and truncation are record-exact; append boundaries are not
  preserved; ``next_offset`` tells a hole from the end.
* **A position of another incarnation, or beyond the end, raises LogDiverged**; below the start, OffsetTruncated: a read
  never waits for what cannot come and never skips what it should have seen.
* **Log time does not decrease** within a partition and is the engine's.
* **A repeated mark is not stored twice** and returns the first offsets; a lower epoch raises ProducerFenced.
* **An append may name the end that it expects** and is stored only there, else OffsetConflict: compare-and-append.
* **An append, a truncation and a hold may name the incarnation that they mean**, and never touch another one.
* **Truncation never passes a holder**, unless forced, and whatever was forced or expelled leaves an event.

Times out: methods take ``timeout`` in seconds and raise DeadlineExceeded.  A cancelled call leaves nothing behind; a
cancelled append may or may not be stored, and repeating it under the same mark is safe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from dynlog.batch import Batch, Position
from dynlog.errors import PartitionNotFound
from dynlog.record import Record
from dynlog.topics import (
    Appended,
    Capabilities,
    Damage,
    GroupState,
    Holder,
    HolderState,
    LogEvent,
    PartitionState,
    Retention,
    Topic,
    Truncation,
)

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_READ_BYTES = 1 << 20
Where = int | Literal["earliest", "end"]


class Log(ABC):
    """A log that is open; an async context manager whose exit closes it.  Safe for concurrent use by many tasks."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL under which it was opened, without secrets."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """The log's own incarnation: differs between any two logs that were ever created."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the engine can do, derived from its live configuration."""

    @abstractmethod
    async def close(self) -> None:
        """Completes appends under way, wakes waiting reads with Closed, and returns although a server is dead.
        Closing twice is harmless; every later call raises Closed."""

    # Topics

    @abstractmethod
    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        retention: Retention | None = None,
        labels: Mapping[str, str] | None = None,
        exist_ok: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Topic:
        """Creates a topic with a fixed number of partitions, under a new incarnation, atomically.

        Raises TopicExists, unless ``exist_ok`` and the partition count is the same (retention and labels of the
        existing topic stay); ConfigurationError for an illegal name, count or retention.
        """

    @abstractmethod
    async def topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Topic:
        """The topic as it is now; raises TopicNotFound."""

    @abstractmethod
    async def topics(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Topic]:
        """All topics, by name."""

    @abstractmethod
    async def delete_topic(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Deletes a topic with all its records, holders and commits; raises TopicNotFound.

        A later topic of the same name has another incarnation, so old positions raise LogDiverged.
        """

    @abstractmethod
    async def label_topic(self, name: str, label: str, value: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        """Sets a label if it is not set yet and returns the value that it has then: the first one wins, for ever."""

    # Records

    @abstractmethod
    async def append(
        self,
        topic: str,
        partition: int,
        records: Sequence[Record],
        *,
        expect: int | None = None,
        incarnation: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Appended:
        """Stores all records or none, next to each other, and returns once they are durable.

        With ``expect`` they are stored only if the partition ends exactly there at that moment; else OffsetConflict,
        and no reader is ever shown any of them.  A repeat of an append that was stored is none the less told its first
        offsets: marks are looked at before the end.

        With an ``incarnation`` it is done to that incarnation of the topic or not at all: TopicNotFound, and nothing
        was done, if another one has its name.

        Where the engine checks marks, repeats are left out and told their first offsets; if any record's epoch is
        fenced the append is refused whole.  Raises TopicNotFound, PartitionNotFound, BatchTooLarge, MalformedRecord,
        ProducerFenced, LogFull, LogUnavailable (nothing stored), OutcomeUnknown or DeadlineExceeded (may be stored:
        repeat it under the same marks); ConfigurationError for an ``expect`` below 0.
        """

    @abstractmethod
    async def read(
        self,
        position: Position,
        *,
        max_records: int | None = None,
        max_bytes: int = DEFAULT_READ_BYTES,
        wait: float = 0.0,
    ) -> Batch:
        """Records from the position on, in order, at least one if there is one, then up to about ``max_bytes``.

        At the end it waits up to ``wait`` seconds, wakes within milliseconds of an append by any process, and returns
        an empty batch if nothing came.  An idle wait costs next to nothing.  Raises OffsetTruncated below the start,
        LogDiverged beyond the end or for another incarnation (also while waiting, when the topic is deleted),
        LogCorrupt for damage, TopicNotFound, PartitionNotFound, Closed.
        """

    @abstractmethod
    async def partitions(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[PartitionState]:
        """Bounds and sizes of every partition, in order."""

    @abstractmethod
    async def offset_at(
        self, topic: str, partition: int, log_time_ms: int, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        """The offset of the first record whose log time is at or after ``log_time_ms``; the end if there is none."""

    @abstractmethod
    async def register_producer(
        self, producer_id: str, *, after: int | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        """The next epoch of that producer, by log order: every epoch given out before is a zombie's from now on, and
        is refused at the latest once the successor wrote to the same partition.

        With ``after`` it is given out only if that is still the newest one; else ProducerFenced, and nothing changes.
        """

    # Holders and truncation

    @abstractmethod
    async def hold(
        self, topic: str, holder: Holder, *, incarnation: str | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """Registers a holder, moves it, and counts as its heartbeat; partitions that it does not name are not held.

        A position below the start of a partition raises OffsetTruncated and holds nothing.  A holder may move back.

        With an ``incarnation`` it is done to that incarnation of the topic or not at all: TopicNotFound, and nothing
        was done, if another one has its name.
        """

    @abstractmethod
    async def release(self, topic: str, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Forgets a holder; harmless if there is none of that name."""

    @abstractmethod
    async def holders(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[HolderState]:
        """All holders by name, consumer groups among them as ``group:<name>``."""

    @abstractmethod
    async def truncate(
        self,
        topic: str,
        partition: int,
        before: int,
        *,
        force: bool = False,
        incarnation: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Truncation:
        """Removes the records below ``before``, but never one that a holder which has not expired still needs.

        Drops the holders that have expired (each leaves an event), then goes as far as it may and says who blocks the
        rest; ``force`` goes all the way and leaves an event.  The space is given back to the system.  Raises
        LogDiverged beyond the end.  Below the start it changes nothing.

        With an ``incarnation`` it is done to that incarnation of the topic or not at all: TopicNotFound, and nothing
        was done, if another one has its name.
        """

    @abstractmethod
    async def enforce_retention(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Truncation]:
        """Drops expired holders (each leaves an event) and truncates what retention no longer keeps, holders spared.

        Engines also do this by themselves while they append, at most every few seconds.
        """

    @abstractmethod
    async def events(self, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[LogEvent]:
        """Expelled holders, forced truncations and quarantines, oldest first (bounded: the newest 1,000 are kept)."""

    # Consumer groups

    @abstractmethod
    async def open_generation(
        self,
        group: str,
        topic: str,
        positions: Mapping[int, int] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> int:
        """Starts a new generation and fences all older ones; given positions replace the committed ones (a seek)."""

    @abstractmethod
    async def commit(
        self,
        group: str,
        topic: str,
        positions: Mapping[int, int],
        *,
        generation: int,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> GroupState:
        """Stores the offsets to read next, durably; within a generation an offset never goes back (the higher stays).

        Also moves the group's holder.  Raises CommitFenced unless ``generation`` is the newest, LogDiverged for an
        offset beyond the end.
        """

    @abstractmethod
    async def committed(self, group: str, topic: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> GroupState:
        """What the group committed."""

    # Care

    @abstractmethod
    def verify(self, topic: str | None = None) -> AsyncIterator[Damage]:
        """Reads everything and yields every damage; yields nothing for a sound log."""

    @abstractmethod
    async def quarantine(self, *, accept_loss: bool = False) -> list[Damage]:
        """The explicit, recorded way on after damage: what cannot be read is set aside and becomes a hole.

        Returns what was set aside; each leaves an event.  A lost tail (acknowledged records that are gone) is only
        accepted with ``accept_loss``, and gives every topic a new incarnation, since offsets would be reused otherwise.
        """

    @abstractmethod
    async def backup(self, path: Path) -> None:
        """Writes a consistent copy that opens as a log of its own, while others go on appending."""

    # Built on the above, the same for every engine

    async def position(self, topic: str, partition: int, where: Where = "earliest") -> Position:
        """A position in the topic's present incarnation: an offset as given, the earliest offset, or the end."""
        info = await self.topic(topic)
        if not 0 <= partition < info.partitions:
            raise PartitionNotFound(
                f"the topic has partitions 0 to {info.partitions - 1}", topic=topic, partition=partition
            )
        if isinstance(where, str):
            state = (await self.partitions(topic))[partition]
            where = state.earliest if where == "earliest" else state.end
        return Position(topic, info.incarnation, partition, where)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
