"""The mover of object buckets: every object of a bucket becomes an object of the store, with all that NATS knows of it.

Names map to keys reversibly (`dynlog.migrations.nats.keys`).  A link's copy has the bytes that it leads to, and says in
its details that it is one; a link to a whole bucket becomes an empty object that says so.  Deleted markers are
honoured.
"""

from __future__ import annotations

from dynlog.adapters.nats.object_meta import stream_of
from dynlog.adapters.nats.objects import NatsObject, ObjectBucket, list_objects
from dynlog.adapters.nats.streams import stream_info
from dynlog.errors import SourceNotFound
from dynlog.migrations.nats.contract import Difference, Item, Outcome, Refusal, Run
from dynlog.migrations.nats.keys import OBJECTS, encode_name
from dynlog.migrations.nats.model_buckets import is_model_bucket
from dynlog.migrations.nats.object_check import compare_bucket, remove_copies
from dynlog.migrations.nats.object_copy import copy_bucket
from dynlog.migrations.nats.survey import Survey, planned_or_named


class ObjectMover:
    """Moves every bucket that is no model's."""

    kind = "objects"

    async def plan(self, survey: Survey) -> list[Item]:
        return [
            await planned_bucket(self.kind, OBJECTS, survey, bucket)
            for bucket in survey.object_buckets
            if not await is_model_bucket(survey, bucket)
        ]

    async def apply(self, item: Item, run: Run) -> Outcome:
        return await copy_bucket(item, await bucket_of(item, run), run, OBJECTS)

    async def verify(self, item: Item, run: Run) -> list[Difference]:
        return await compare_bucket(item, await bucket_of(item, run), run, OBJECTS)

    async def rollback(self, item: Item, run: Run) -> Outcome:
        return await remove_copies(item, run)


async def planned_bucket(kind: str, prefix: str, survey: Survey, bucket: ObjectBucket) -> Item:
    """What the bucket becomes below the prefix; one that cannot be listed is not moved, and says why."""

    async def listed() -> Item:
        if (error := survey.unread.get(bucket.name)) is not None:
            raise error
        return _bucket_item(kind, prefix, bucket, await list_objects(survey.server, bucket))

    return await planned_or_named(kind, bucket.name, bucket.info.created, listed())


def _bucket_item(kind: str, prefix: str, bucket: ObjectBucket, objects: list[NatsObject]) -> Item:
    live = [object for object in objects if not object.deleted and not object.problem]
    names = {object.name for object in live}
    notes = [note for note, holds in (("sealed", bucket.sealed), ("compressed", bucket.compressed)) if holds]
    if bucket.ttl_s:
        notes.append(f"objects live {bucket.ttl_s:g} s in the source and for ever in the copy")
    if deleted := sum(object.deleted for object in objects):
        notes.append(f"{deleted} deleted")
    if renamed := sum(encode_name(name) != name for name in names):
        notes.append(f"{renamed} names are no keys and are percent-encoded")
    if links := sum(object.link is not None for object in live):
        notes.append(f"{links} links, copied as what they lead to")
    refused = [Refusal(name=object.name, why=object.problem) for object in objects if object.problem]
    refused += [
        Refusal(name=object.name, why=f"a link to {object.link[1]!r}, which is not in this bucket")
        for object in live
        if object.link is not None and object.link[0] == bucket.name and object.link[1] not in (None, *names)
    ]
    return Item(
        kind=kind,
        source=bucket.name,
        target=f"{prefix}/{bucket.name}/",
        count=len(live),
        bytes=sum(object.size for object in live),
        first_seq=bucket.info.first_seq,
        last_seq=bucket.info.last_seq,
        created=bucket.info.created,
        notes=tuple(notes),
        refused=tuple(refused),
    )


async def bucket_of(item: Item, run: Run) -> ObjectBucket:
    """The item's bucket, of which here only name and stream count; raises SourceNotFound if it is gone or another."""
    try:
        info = await stream_info(run.server, stream_of(item.source))
    except SourceNotFound:
        raise SourceNotFound(f"there is no bucket {item.source!r} any more: what was copied stays") from None
    if info.created != item.created:
        raise SourceNotFound(f"bucket {item.source!r} was deleted and made anew since the plan: plan and apply again")
    return ObjectBucket(item.source, info, "", False, False, 0.0, -1, {})
