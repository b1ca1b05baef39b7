"""A member as it lies in the bucket: JSON under its id, with the revisions at which edges to its parents began.

    entities/HEX      {"entity", "parents": [TEXT], "since": [[revision, time_ms] | null], "addresses": [URL],
                       "host", "process", "interests": [[ENTITY, TOPIC]]}

``since`` stands beside ``parents``; null is the record's own revision.  So whoever comes later folds the same edges as
whoever saw all the records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError, MalformedRecord
from dynlog.kv.rows import Entry
from dynlog.network.hierarchy import Interest, Member
from dynlog.network.registry_edges import Since

PREFIX = "entities/"


class StoredMember(NamedTuple):
    """A member, and since when it belongs to each parent."""

    member: Member
    since: Mapping[DynamoEntityID, Since]


def key_of(entity: DynamoEntityID) -> str:
    """Where a member lies in the bucket."""
    return f"{PREFIX}{entity.id:032x}"


def write_member(member: Member, before: StoredMember | None = None) -> bytes:
    """A member as it is stored in the place of ``before``."""
    since = {} if before is None else before.since
    said = {
        "entity": str(member.entity),
        "parents": [str(parent) for parent in member.parents],
        "since": [since.get(parent) for parent in member.parents],
        "addresses": list(member.addresses),
        "host": member.host,
        "process": member.process,
        "interests": sorted([str(interest.entity), interest.topic] for interest in member.interests),
    }
    return json.dumps(said, separators=(",", ":")).encode()


def read_member(entry: Entry) -> StoredMember:
    """What was stored; raises MalformedRecord, also for one that lies under another's key."""
    try:
        said: dict[str, Any] = json.loads(entry.value)
        member = Member(
            DynamoEntityID.parse(said["entity"]),
            tuple(DynamoEntityID.parse(parent) for parent in said.get("parents", ())),
            tuple(str(address) for address in said.get("addresses", ())),
            str(said.get("host", "")),
            str(said.get("process", "")),
            frozenset(Interest(DynamoEntityID.parse(e), str(topic)) for e, topic in said.get("interests", ())),
        )
        here = Since(entry.revision, entry.time_ms)
        began = said.get("since") or [None] * len(member.parents)
        since = {
            parent: here if at is None else Since(int(at[0]), int(at[1]))
            for parent, at in zip(member.parents, began, strict=True)
        }
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, ConfigurationError) as error:
        raise MalformedRecord(f"no member: {type(error).__name__}: {error}") from None
    if key_of(member.entity) != entry.key:
        raise MalformedRecord(f"it says that it is {member.entity}")
    return StoredMember(member, since)
