"""Topics, their labels and producers' registrations, each in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from dynlog.errors import TopicExists
from dynlog.storage.ledger import check_newest, next_epoch
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.rows import Census, Part, TopicRow
from dynlog.storage.sqlite.transaction import Transaction
from dynlog.topics import Retention, Topic


def create_topic(
    tx: Transaction,
    name: str,
    partitions: int,
    retention: Retention,
    labels: Mapping[str, str],
    exist_ok: bool,
    now_ms: int,
) -> Topic:
    """A new topic, or the one that is there; raises TopicExists."""
    there = tx.topics().get(name)
    if there is not None:
        if exist_ok and there.topic.partitions == partitions:
            return public(there)
        raise TopicExists(
            f"it exists, with {there.topic.partitions} partitions"
            + (f", which cannot become {partitions}" if exist_ok else ""),
            topic=name,
        )
    incarnation = uuid.uuid4()
    topic = Topic(name, incarnation.hex, partitions, retention, now_ms, dict(labels))
    row = TopicRow(tx.head.next_topic, topic, incarnation.bytes)
    tx.head = tx.head._replace(next_topic=row.id + 1)
    tx.set_topic(row)
    tx.set_census(row, Census())
    for partition in range(partitions):
        tx.set_part(row, partition, Part())
    return public(row)


def label_topic(tx: Transaction, name: str, label: str, value: str) -> str:
    """The label's value, set now or before."""
    row = tx.topic(name)
    labels = dict(row.topic.labels)
    if label not in labels:
        tx.set_topic(row._replace(topic=replace(row.topic, labels={**labels, label: value})))
    return labels.get(label, value)


def drop_topic(tx: Transaction, name: str) -> None:
    """Makes the topic unknown; its small documents go at once, its batches later, in steps (`retention.drop_step`)."""
    row = tx.topic(name)
    tx.drop_topic(row)
    tx.delete(rows.census_key(row.id))
    for prefix in (rows.holder_key(row.id), rows.group_key(row.id), rows.event_key(row.id)):
        tx.delete_family(prefix)
    for partition in range(row.topic.partitions):
        tx.drop_part(row, partition)
        tx.delete_family(rows.hole_key(row.id, partition))
        tx.delete_family(rows.mark_key(row.id, partition))
    tx.put(rows.doomed_key(row.id), [])


def register_producer(tx: Transaction, producer: str, after: int | None) -> int:
    """The producer's next epoch, above all that are known of it anywhere, if ``after`` is the newest one."""
    registered = tx.epochs([producer])[producer]
    seen = []
    for row in tx.topics().values():
        for partition in range(row.topic.partitions):
            if tx.part(row, partition).marks:
                values = rows.find(tx.db, rows.mark_key(row.id, partition, producer))
                seen += [] if values is None else [rows.mark_state(values).epoch]
    epoch = next_epoch(registered or None, seen)
    check_newest(producer, epoch, after)
    tx.set_epoch(producer, epoch)
    return epoch


def public(row: TopicRow) -> Topic:
    """The topic as callers get it: what it holds cannot be changed through it."""
    return replace(row.topic, labels=MappingProxyType(dict(row.topic.labels)))
