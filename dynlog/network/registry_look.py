"""One look at the registry in a bucket, for whoever only wants to see: no lease, no watch, no place in it."""

from __future__ import annotations

from typing import NamedTuple

from dynlog.errors import MalformedRecord
from dynlog.kv.bucket import Bucket
from dynlog.network.hierarchy import Hierarchy
from dynlog.network.registry_records import PREFIX, read_member


class Look(NamedTuple):
    """Who is there as of one offset, and what lies under members' keys and is none, with the reason."""

    view: Hierarchy
    unreadable: dict[str, str]


async def look_at(bucket: Bucket) -> Look:
    """The registry in that bucket as this process knows the bucket."""
    view, unreadable = Hierarchy(), {}
    revision = bucket.revision
    for entry in sorted(await bucket.entries(PREFIX), key=lambda entry: entry.revision):
        try:
            member, since = read_member(entry)
        except MalformedRecord as error:
            unreadable[entry.key] = str(error)
        else:
            view.put(member, entry.revision, since=since, joined=entry.created)
    view.offset = revision
    return Look(view, unreadable)
