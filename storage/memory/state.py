"""The memory log's whole state behind one lock."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dynlog.codec import encode_records, mark_runs
from dynlog.errors import ConfigurationError, LogFull, TopicExists, TopicNotFound
from dynlog.record import Record
from dynlog.storage.ledger import check_incarnation, check_newest, check_partition_count, judge_append, next_epoch
from dynlog.storage.memory.partition import Partition
from dynlog.storage.memory.topic import TopicData
from dynlog.topics import Appended, Retention, Topic, check_name


@dataclass(frozen=True, slots=True)
class Settings:
    """What a memory log was opened with."""

    checks_marks: bool
    max_batch_bytes: int
    max_bytes: int


def check_settings(name: str, found: Settings, asked: Mapping[str, Any]) -> None:
    """Raises ConfigurationError if what was asked for differs from how others have the log open."""
    for option, value in asked.items():
        if (present := getattr(found, option)) != value:
            raise ConfigurationError(
                f"memory://{name} is open with {option}={present}, not {value}: leave the option out, or take "
                "another name"
            )


class MemoryState:
    """Everything that a memory log knows.  ``lock`` guards all of it and is never held over anything that blocks."""

    def __init__(self, settings: Settings) -> None:
        self.lock = threading.Lock()
        self.identity = uuid.uuid4().hex
        self.settings = settings
        self.topics: dict[str, TopicData] = {}
        self._epochs: dict[str, int] = {}
        self._taken_at_most = 0  # truncation does not lower it: counted anew once it seems too much

    def topic(self, name: str, incarnation: str | None = None) -> TopicData:
        """A topic, of that incarnation if one is named; raises TopicNotFound."""
        found = self.topics.get(name)
        if found is None:
            raise TopicNotFound("no such topic; create it first", topic=name)
        check_incarnation(found.info, incarnation)
        return found

    def create_topic(
        self,
        name: str,
        partitions: int,
        retention: Retention | None,
        labels: Mapping[str, str] | None,
        exist_ok: bool,
        now_ms: int,
    ) -> Topic:
        """Creates the topic, or returns the one that is there."""
        check_name("topic", name)
        check_partition_count(partitions)
        found = self.topics.get(name)
        if found is None:
            kept = MappingProxyType(dict(labels or {}))
            info = Topic(name, uuid.uuid4().hex, partitions, retention or Retention(), now_ms, kept)
            found = self.topics[name] = TopicData(info)
        elif not exist_ok:
            raise TopicExists("the topic exists already", topic=name)
        elif found.info.partitions != partitions:
            raise TopicExists(f"the topic exists with {found.info.partitions} partitions, not {partitions}", topic=name)
        return found.info

    def delete_topic(self, name: str) -> None:
        """Deletes the topic and wakes whoever waits in it, to be told."""
        for partition in self.topic(name).partitions:
            partition.wake()
        del self.topics[name]

    def append(
        self,
        name: str,
        number: int,
        records: Sequence[Record],
        now_ms: int,
        expect: int | None = None,
        incarnation: str | None = None,
    ) -> Appended:
        """Judges and stores the append, all of it or nothing."""
        topic = self.topic(name, incarnation)
        partition = topic.partition(number)
        payload = encode_records(records, max_bytes=self.settings.max_batch_bytes)
        log_time = max(now_ms, partition.last_log_time_ms)
        runs = mark_runs([record.mark for record in records])
        judgement = judge_append(
            len(records),
            runs if self.settings.checks_marks else (),
            partition.marks,
            self._epochs,
            base=partition.end,
            log_time_ms=log_time,
            topic=name,
            partition=number,
            expect=expect,
        )
        kept = judgement.kept
        if 0 < len(kept) < len(records):
            payload = encode_records([records[i] for i in kept], max_bytes=self.settings.max_batch_bytes)
        if kept:
            self._make_room(len(payload), name, number, now_ms)
            partition.store(payload, len(kept), log_time)
        partition.marks.update(judgement.states)
        if not self.settings.checks_marks:
            for run in runs:
                self._epochs[run.producer_id] = max(run.epoch, self._epochs.get(run.producer_id, 0))
        if topic.retention_is_due(now_ms):
            topic.enforce_retention(now_ms)
        return Appended(number, judgement.offsets, partition.end, log_time, len(records) - len(kept))

    def _make_room(self, needed: int, name: str, number: int, now_ms: int) -> None:
        """Raises LogFull unless ``needed`` bytes fit, if need be after what retention gives back."""
        if self._taken_at_most + needed > self.settings.max_bytes:
            for topic in self.topics.values():
                topic.enforce_retention(now_ms)
            self._taken_at_most = sum(topic.bytes for topic in self.topics.values())
        if self._taken_at_most + needed > self.settings.max_bytes:
            raise LogFull(
                f"{self._taken_at_most} of {self.settings.max_bytes} bytes taken, {needed} more do not fit: truncate, "
                "set a retention, or open it with a larger max_bytes",
                topic=name,
                partition=number,
            )
        self._taken_at_most += needed

    def register_producer(self, producer_id: str, after: int | None) -> int:
        """Gives out the next epoch, if ``after`` is the newest one."""
        check_name("producer", producer_id)
        states = (partition.marks.get(producer_id) for partition in self._partitions())
        epoch = next_epoch(self._epochs.get(producer_id), [state.epoch for state in states if state is not None])
        check_newest(producer_id, epoch, after)
        self._epochs[producer_id] = epoch
        return epoch

    def _partitions(self) -> Iterable[Partition]:
        return (partition for topic in self.topics.values() for partition in topic.partitions)
