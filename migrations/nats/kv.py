"""The mover of JetStream's key-value buckets: each becomes a bucket of the log, with the history that was kept.

Values, deletions and what is left of times to live are moved; keys of live instances are listed and not moved.  Which
revision became which is in the journal: see `revision_of`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing

from pydantic import JsonValue

from dynlog.adapters.nats.kv import KvBucketInfo, kv_buckets
from dynlog.adapters.nats.messages import time_ns
from dynlog.adapters.nats.streams import read_stream, subjects_of
from dynlog.errors import (
    ConfigurationError,
    MalformedRecord,
    SourceChanged,
    SourceNotFound,
    TopicNotFound,
)
from dynlog.kv.records import encode_key
from dynlog.kv.settings import labels_of, settings_of, topic_of, value_limit
from dynlog.kv.store import open_kv
from dynlog.migrations.mirror.path import stream_place
from dynlog.migrations.nats.contract import MADE_BY, Difference, Item, Outcome, Refusal, Run
from dynlog.migrations.nats.journal import Journal
from dynlog.migrations.nats.kv_check import compare_bucket
from dynlog.migrations.nats.kv_copy import KvCopy, look_at_bucket, read_revision
from dynlog.migrations.nats.kv_entries import (
    EntryRules,
    is_of_an_instance,
    key_prefix,
    producers_of,
    settings_for,
)
from dynlog.migrations.nats.model_buckets import NO_REFERENCES, References
from dynlog.migrations.nats.origin import SOURCE_LABEL
from dynlog.migrations.nats.readers import readers_of
from dynlog.migrations.nats.streams import is_worth_reading
from dynlog.migrations.nats.survey import Survey, planned_or_named
from dynlog.migrations.nats.targets import MOST_NAMED, Refusals, targets_of
from dynlog.topics import Topic

MOST_NAME = 200
SKEW_S = 2.0


class KvMover:
    """Moves every key-value bucket."""

    kind = "kv"

    async def plan(self, survey: Survey) -> list[Item]:
        targets = targets_of((bucket.name for bucket in survey.kv_buckets), MOST_NAME)
        topics = {topic.name: topic for topic in await survey.log.topics()}
        items = []
        for bucket in survey.kv_buckets:
            target = targets[bucket.name]
            why = _in_the_way(bucket, topics.get(topic_of(target)), survey.log.capabilities.max_batch_bytes)
            if why is not None:
                items.append(_item(self.kind, bucket, "", 0, [], [why], {}))
            else:
                planning = _planned(self.kind, survey, bucket, target)
                items.append(await planned_or_named(self.kind, bucket.name, bucket.info.created, planning))
        return items

    async def apply(self, item: Item, run: Run) -> Outcome:
        bucket = await _bucket(item, run)
        copy = KvCopy(
            item, run, await _make_topic(item, bucket, run), _rules(bucket, run.log.capabilities.max_batch_bytes, item)
        )
        await copy.run()
        done = copy.done
        return Outcome(item=item.id, moved=done.moved, already=done.already, bytes=done.bytes, refused=copy.refused)

    async def verify(self, item: Item, run: Run) -> list[Difference]:
        bucket = await _bucket(item, run)
        try:
            topic = await run.log.topic(topic_of(item.target))
        except TopicNotFound:
            return [Difference(name=bucket.name, what=f"there is no bucket {item.target}: apply it")]
        foreign = _foreign(bucket, await subjects_of(run.server, bucket.info.name))
        found = await compare_bucket(run, _rules(bucket, run.log.capabilities.max_batch_bytes, item), topic)
        return [*(Difference(name=refusal.name, what=refusal.why) for refusal in foreign), *found]

    async def rollback(self, item: Item, run: Run) -> Outcome:
        removed, size, refused = 0, 0, []
        for name in run.journal.made(item.id, "bucket"):
            try:
                topic = await run.log.topic(topic_of(name))
            except TopicNotFound:
                continue
            if why := await _not_ours(topic, run):
                refused.append(Refusal(name=name, why=why))
                continue
            if readers := await readers_of(run.log, topic, name):
                refused += readers
                continue
            (state,) = await run.log.partitions(topic.name)
            async with open_kv(run.log, run.objects, compaction=None) as kv:
                await kv.delete(name)
            removed, size = removed + state.end - state.earliest, size + state.bytes
        return Outcome(item=item.id, moved=removed, bytes=size, refused=tuple(refused))


def revision_of(journal: Journal, item: str, source: int) -> int | None:
    """The bucket's revision that a revision of the source became; None if the journal does not know it."""
    for line in journal.lines(item).values():
        found = read_revision(str(line.detail.get("revisions", "")), source)
        if found is not None:
            return found
    return None


async def _planned(kind: str, survey: Survey, bucket: KvBucketInfo, target: str) -> Item:
    prefix = key_prefix(bucket)
    subjects = await subjects_of(survey.server, bucket.info.name)
    keys = [subject.removeprefix(prefix) for subject in subjects if subject.startswith(prefix)]
    bound = [key for key in keys if is_of_an_instance(bucket.name, key)]
    settings: dict[str, JsonValue] = {"keys_of_instances": list(bound[:MOST_NAMED])}
    notes = _notes(bucket)
    if bound:
        more = ", ..." if len(bound) > 3 else ""
        notes.append(
            f"{len(bound)} keys of live instances are not copied, the instances write them anew: "
            + ", ".join(bound[:3]) + more
        )  # fmt: skip
    foreign = _foreign(bucket, subjects)
    if bound and len(bound) == len(subjects):
        return _item(kind, bucket, "", len(keys), notes, [], settings)
    notes += await _skew_note(survey, bucket)
    refused = _illegal(bucket, keys) or await _unfit(survey, bucket)
    return _item(kind, bucket, target, len(keys) - len(bound), notes, [*foreign, *refused], settings)


def _foreign(bucket: KvBucketInfo, subjects: Mapping[str, int]) -> list[Refusal]:
    """What lies in the bucket's stream and is no key of it, as where it was filled from another bucket as it was."""
    prefix, refused = key_prefix(bucket), Refusals()
    for subject, count in subjects.items():
        if not subject.startswith(prefix):
            why = (
                f"what lies there ({count} message{'' if count == 1 else 's'}) is no key of the bucket, whose keys lie "
                f"at {prefix}>, so no client of the bucket sees it: not moved"
            )
            refused.add(f"{bucket.name} subject {subject}", why)
    return list(refused.all())


def _item(
    kind: str, bucket: KvBucketInfo, target: str, keys: int, notes: list[str], refused: Sequence[Refusal],
    settings: dict[str, JsonValue],
) -> Item:  # fmt: skip
    info = bucket.info
    return Item(
        kind=kind, source=bucket.name, target=target, count=keys, bytes=info.bytes, first_seq=info.first_seq,
        last_seq=info.last_seq, created=info.created, notes=tuple(notes), refused=tuple(refused), settings=settings,
    )  # fmt: skip


def _notes(bucket: KvBucketInfo) -> list[str]:
    notes = [f"history of {bucket.history}"] if bucket.history > 1 else []
    if bucket.ttl_s:
        notes.append(f"values live {bucket.ttl_s:g} s, those that are copied for what they have left")
    if bucket.max_bytes > 0:
        notes.append(f"its bound of {bucket.max_bytes} bytes has no equal in the log")
    if bucket.mirror_of:
        notes.append(f"a mirror of bucket {bucket.mirror_of}: it can be written to here")
    return notes


async def _skew_note(survey: Survey, bucket: KvBucketInfo) -> list[str]:
    answer = await survey.server.api(f"STREAM.INFO.{bucket.info.name}")
    try:
        ahead_s = time_ns(answer["ts"]) / 1e9 - time.time()
    except (KeyError, TypeError, ValueError):
        return []
    if abs(ahead_s) < SKEW_S:
        return []
    which = "ahead of" if ahead_s > 0 else "behind"
    return [f"the NATS server's clock is {abs(ahead_s):.0f} s {which} this machine's: times to live go by the server's"]


def _illegal(bucket: KvBucketInfo, keys: Sequence[str]) -> list[Refusal]:
    refused = Refusals()
    for key in keys:
        try:
            encode_key(key)
        except MalformedRecord as error:
            refused.add(f"{bucket.name} key {key}", str(error))
    return list(refused.all())


async def _unfit(survey: Survey, bucket: KvBucketInfo) -> list[Refusal]:
    """The values that are over the log's limits, as far as a plan may read for that."""
    rules = _rules(bucket, survey.log.capabilities.max_batch_bytes)
    if bucket.info.bytes <= rules.most_value or not is_worth_reading(bucket.info):
        return []
    refused, info = Refusals(), bucket.info
    async with aclosing(read_stream(survey.server, info, first=info.first_seq, last=info.last_seq)) as messages:
        async for message in messages:
            entry = rules.entry(message)
            if not is_of_an_instance(bucket.name, entry.key) and (why := rules.why_not(entry)):
                refused.add(rules.name(entry), why)
    return list(refused.all())


def _rules(bucket: KvBucketInfo, max_batch_bytes: int, item: Item | None = None) -> EntryRules:
    most = value_limit(settings_for(bucket, max_batch_bytes), max_batch_bytes)
    references = NO_REFERENCES if item is None else References.of(item)
    return EntryRules(bucket, stream_place(bucket.info), most, references)


def _in_the_way(bucket: KvBucketInfo, there: Topic | None, max_batch_bytes: int) -> Refusal | None:
    """Why the bucket cannot be moved at all."""
    why = ""
    if there is not None and there.labels.get(SOURCE_LABEL) != stream_place(bucket.info):
        of = there.labels.get(SOURCE_LABEL)
        why = f"the log has a bucket of that name {f'from {of}' if of else 'that is none of NATS'}: delete or rename it"
    elif there is not None and settings_of(there) != settings_for(bucket, max_batch_bytes):
        why = f"the log's bucket has other settings, {settings_of(there)}: roll it back, or delete it"
    return Refusal(name=bucket.name, why=why) if why else None


async def _bucket(item: Item, run: Run) -> KvBucketInfo:
    for bucket in await kv_buckets(run.server):
        if bucket.name == item.source:
            if bucket.info.created != item.created:
                raise SourceChanged(f"bucket {item.source!r} was deleted and made anew since the plan: plan again")
            return bucket
    raise SourceNotFound(f"there is no key-value bucket {item.source!r} any more: what was copied stays")


async def _make_topic(item: Item, bucket: KvBucketInfo, run: Run) -> Topic:
    most = run.log.capabilities.max_batch_bytes
    name = topic_of(item.target)
    try:
        topic = await run.log.topic(name)
    except TopicNotFound:
        await run.making(item, "bucket", item.target)
        labels = {SOURCE_LABEL: stream_place(bucket.info), MADE_BY: run.migration}
        labels |= labels_of(settings_for(bucket, most))
        topic = await run.log.create_topic(name, labels=labels, exist_ok=True)
    if (refusal := _in_the_way(bucket, topic, most)) is not None:
        raise ConfigurationError(f"{refusal.name}: {refusal.why}; nothing was written into it")
    return topic


async def _not_ours(topic: Topic, run: Run) -> str:
    """Why the bucket is not removed; empty if it may be."""
    if topic.labels.get(MADE_BY) != run.migration:
        return "this migration did not make it: it stays as it is"
    place = topic.labels.get(SOURCE_LABEL, "")
    there = await look_at_bucket(run.log, topic, producers_of(place))
    if there.compacted:
        return "it lives on in the log (it was compacted): it stays; delete it if it may go"
    if there.others:
        named = ", ".join(sorted(there.others)[:3])
        return f"others wrote {len(there.others)} keys since ({named}): it stays; delete it if they may go"
    return ""
