"""What one write transaction sees and changes; nothing of it is visible, cached or counted unless it commits.

The writer thread keeps what it knows between transactions and forgets all of it (but the topics, if none changed) when
another process has written in the meantime, or when a transaction is rolled back.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from dynlog.errors import LogCorrupt, TopicNotFound
from dynlog.marks import MarkState
from dynlog.storage.ledger import check_incarnation
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.rows import Census, Head, Part, TopicRow

REMEMBERED_STATES = 4096


class Transaction:
    """The writer's view of the log; `begin`, then changes, then `flush` and COMMIT, or `forget` after a ROLLBACK."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.head = Head(0, 0, 0, 0, 0)
        self._head_frame: object = None  # as the last commit left it
        self.changes = 0
        """Counts up with each change, so that the writer sees whether a job changed anything before it failed."""
        self.advanced: dict[tuple[int, int], int] = {}
        """The ends of the partitions that this transaction appended to: their readers are to be woken."""
        self._topics: dict[str, TopicRow] | None = None
        self._parts: dict[tuple[int, int], Part] = {}
        self._dirty: set[tuple[int, int]] = set()
        self._marks: OrderedDict[tuple[int, int, str], MarkState | None] = OrderedDict()
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._counted: set[str] = set()

    def begin(self) -> None:
        """Takes up what the last commit left; the caller holds the write lock."""
        frame = rows.frame_of(self.db, "head")
        if frame != self._head_frame:  # another process has written, or nothing is known
            head = Head(*rows.unsealed("head", frame))
            # Topics change seldom and may be many; a head of zeros stands for nothing known.
            same = bool(self.head.commit) and head.topics_version == self.head.topics_version
            topics = self._topics if same else None
            self.forget()
            self._topics, self.head, self._head_frame = topics, head, frame
        self.changes = 0
        self.advanced = {}

    def flush(self) -> int:
        """Writes what is still only in memory and gives the number of this commit."""
        documents: list[tuple[str, bytes]] = []
        for place in self._dirty:
            key = rows.part_key(*place)
            documents.append((key, rows.sealed(key, self._parts[place])))
        self._dirty.clear()
        head = self.head
        self.head = Head(head.commit + 1, *head[1:])
        self._head_frame = frame = rows.sealed("head", self.head)
        documents.append(("head", frame))
        self.db.executemany("REPLACE INTO docs VALUES (?, ?)", documents)
        for known in (self._marks, self._epochs):
            while len(known) > REMEMBERED_STATES:
                known.popitem(last=False)
        return self.head.commit

    def forget(self) -> None:
        """Drops everything that is known."""
        self.head, self._head_frame = Head(0, 0, 0, 0, 0), None
        self._topics = None
        for known in (self._parts, self._dirty, self._marks, self._epochs, self._counted):
            known.clear()

    # Documents

    def put(self, key: str, values: Any) -> None:
        """Stores a document, in place of the one under that key."""
        self.changes += 1
        self.db.execute("REPLACE INTO docs VALUES (?, ?)", (key, rows.sealed(key, values)))

    def delete(self, key: str) -> int:
        """Deletes a document; how many there were."""
        self.changes += 1
        return self.db.execute("DELETE FROM docs WHERE key = ?", (key,)).rowcount

    def delete_family(self, prefix: str) -> None:
        """Deletes the documents whose keys begin so."""
        self.changes += 1
        self.db.execute("DELETE FROM docs WHERE key >= ? AND key < ?", (prefix, rows.after(prefix)))

    # Topics and partitions

    def topics(self) -> dict[str, TopicRow]:
        """All topics by name."""
        if self._topics is None:
            self._topics = rows.all_topics(self.db, self.head)
        return self._topics

    def topic(self, name: str, incarnation: str | None = None) -> TopicRow:
        """A topic, of that incarnation if one is named; raises TopicNotFound."""
        row = self.topics().get(name)
        if row is None:
            raise TopicNotFound("there is no such topic; create it first", topic=name)
        check_incarnation(row.topic, incarnation)
        return row

    def set_topic(self, row: TopicRow) -> None:
        """Stores a topic, new or changed."""
        self._topics = {**self.topics(), row.topic.name: row}
        self.put(rows.topic_key(row.id), rows.topic_values(row))
        self.head = self.head._replace(topics_version=self.head.topics_version + 1, topics=len(self._topics))

    def drop_topic(self, row: TopicRow) -> None:
        """Forgets a topic; its other documents are the caller's."""
        self._topics = {name: other for name, other in self.topics().items() if name != row.topic.name}
        self.delete(rows.topic_key(row.id))
        self.head = self.head._replace(topics_version=self.head.topics_version + 1, topics=len(self._topics))

    def drop_part(self, topic: TopicRow, partition: int) -> None:
        """Deletes a partition's document."""
        self._parts.pop((topic.id, partition), None)
        self._dirty.discard((topic.id, partition))
        self.delete(rows.part_key(topic.id, partition))

    def part(self, topic: TopicRow, partition: int) -> Part:
        """A partition as this transaction sees it."""
        part = self._parts.get((topic.id, partition))
        if part is None:
            part = self._parts[topic.id, partition] = Part(*rows.get(self.db, rows.part_key(topic.id, partition)))
        return part

    def set_part(self, topic: TopicRow, partition: int, part: Part) -> None:
        """Changes a partition; written once, at the end of the transaction."""
        self.changes += 1
        self._parts[topic.id, partition] = part
        self._dirty.add((topic.id, partition))

    def census(self, topic: TopicRow) -> Census:
        """The counts of a topic."""
        return Census(*rows.get(self.db, rows.census_key(topic.id)))

    def set_census(self, topic: TopicRow, census: Census) -> None:
        """Changes the counts of a topic."""
        self.put(rows.census_key(topic.id), list(census))

    def event(self, topic: TopicRow, time_ms: int, kind: str, detail: str, *, kept: int) -> None:
        """Records an event; only the newest ``kept`` stay."""
        census = self.census(topic)
        self.put(rows.event_key(topic.id, census.next_event), [time_ms, kind, detail])
        first = max(census.first_event, census.next_event + 1 - kept)
        for number in range(census.first_event, first):
            self.delete(rows.event_key(topic.id, number))
        self.set_census(topic, census._replace(first_event=first, next_event=census.next_event + 1))

    # Producers

    def states(self, topic: TopicRow, partition: int, producers: Sequence[str]) -> dict[str, MarkState]:
        """What is known of the producers in the partition; the states are not to be changed."""
        known: dict[str, MarkState] = {}
        for producer in producers:
            key = (topic.id, partition, producer)
            if key not in self._marks:
                self._count(rows.mark_key(topic.id, partition), self.part(topic, partition).marks)
                values = rows.find(self.db, rows.mark_key(topic.id, partition, producer))
                self._marks[key] = None if values is None else rows.mark_state(values)
            self._marks.move_to_end(key)
            state = self._marks[key]
            if state is not None:
                known[producer] = state
        return known

    def set_state(self, topic: TopicRow, partition: int, producer: str, state: MarkState) -> None:
        """Stores what is known of a producer; it was looked up in this transaction."""
        key = (topic.id, partition, producer)
        if self._marks.get(key) is None:
            part = self.part(topic, partition)
            self.set_part(topic, partition, part._replace(marks=part.marks + 1))
        self._marks[key] = state
        self.put(rows.mark_key(topic.id, partition, producer), rows.mark_values(state))

    def drop_state(self, topic: TopicRow, partition: int, producer: str) -> None:
        """Forgets a producer in a partition."""
        self._marks.pop((topic.id, partition, producer), None)
        part = self.part(topic, partition)
        self.set_part(topic, partition, part._replace(marks=part.marks - 1))
        self.delete(rows.mark_key(topic.id, partition, producer))

    def epochs(self, producers: Sequence[str]) -> dict[str, int]:
        """The newest registered epochs; 0 stands for a producer that never registered."""
        for producer in producers:
            if producer not in self._epochs:
                self._count(rows.producer_key(), self.head.producers)
                values = rows.find(self.db, rows.producer_key(producer))
                self._epochs[producer] = 0 if values is None else values[0]
            self._epochs.move_to_end(producer)
        return {producer: self._epochs[producer] for producer in producers}

    def set_epoch(self, producer: str, epoch: int) -> None:
        """Registers an epoch; it was looked up in this transaction."""
        if not self._epochs[producer]:
            self.head = self.head._replace(producers=self.head.producers + 1)
        self._epochs[producer] = epoch
        self.put(rows.producer_key(producer), [epoch])

    def _count(self, prefix: str, expected: int) -> None:
        """A producer whose row vanished would look like a new one, so the family is counted when first needed."""
        if prefix in self._counted:
            return
        found = self.db.execute(
            "SELECT count(*) FROM docs WHERE key >= ? AND key < ?", (prefix, rows.after(prefix))
        ).fetchone()[0]
        if found != expected:
            raise LogCorrupt(f"{found} rows lie under {prefix!r}, {expected} were stored; {rows.ADVICE}")
        self._counted.add(prefix)
