"""What a Dynamo router of releases 0.7 to 0.9 keeps in JetStream: a snapshot in a bucket, and a stream behind it.

The snapshot carries no sequence, and the stream is purged before a new one is uploaded: so the stream's messages count
from its first one on, and whoever reads has to look whether it was purged past the place where he stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.names import EVENTS, RADIX_OBJECT, RADIX_SUFFIX, component_of
from dynlog.adapters.nats.objects import NatsObject, find_object, read_object
from dynlog.adapters.nats.streams import StreamInfo, stream_info
from dynlog.errors import SourceChanged, SourceNotFound
from dynlog.kvevents import KvEvent
from dynlog.migrations.nats.contract import Item
from dynlog.migrations.nats.survey import Survey
from dynlog.migrations.radix_snapshot import PROFILES, decode_radix_snapshot, fitting_profiles

TRIES = 5
"""So often a snapshot that is replaced while it is read is read anew."""


@dataclass(frozen=True, slots=True)
class RouterSource:
    """The names of one component's stream and bucket; either may not be there."""

    stream: str
    bucket: str

    @classmethod
    def of(cls, item: Item) -> RouterSource:
        """The item's."""
        return cls(item.source, item.source.removesuffix(f"-{EVENTS}") + RADIX_SUFFIX)

    async def info(self, server: NatsServer) -> StreamInfo | None:
        """The stream as it is now; None if there is none."""
        try:
            return await stream_info(server, self.stream)
        except SourceNotFound:
            return None

    async def snapshot(self, server: NatsServer) -> NatsObject | None:
        """The snapshot as it is now; None if there is none."""
        try:
            found = await find_object(server, self.bucket, RADIX_OBJECT)
        except SourceNotFound:
            return None
        return None if found.deleted else found


@dataclass(frozen=True, slots=True)
class Loaded:
    """A snapshot that was read whole; ``profiles`` are the releases whose form it has."""

    object: NatsObject
    body: bytes
    profiles: tuple[str, ...]

    def events(self) -> Sequence[KvEvent]:
        """Its events, parents before children; raises MalformedEvent if two releases' forms fit and differ."""
        return decode_radix_snapshot(self.body, [p for p in PROFILES if p.name in self.profiles] or PROFILES)


async def load(source: RouterSource, server: NatsServer) -> Loaded | None:
    """The newest snapshot, whole; None if there is none.

    Raises MalformedEvent for bytes of no known release, SourceDamaged, and SourceChanged if it keeps being replaced.
    """
    for _ in range(TRIES):
        found = await source.snapshot(server)
        if found is None:
            return None
        pieces = read_object(server, found)
        try:
            async with aclosing(pieces):
                body = b"".join([piece async for piece in pieces])
        except SourceChanged:
            continue
        return Loaded(found, body, fitting_profiles(body))
    raise SourceChanged(f"snapshot {source.bucket}/{RADIX_OBJECT} was replaced {TRIES} times while it was being read")


def router_sources(survey: Survey) -> list[RouterSource]:
    """One per component that keeps router state in JetStream, by name."""
    slugs = {info.name.removesuffix(f"-{EVENTS}") for info in survey.event_streams}
    slugs |= {
        bucket.name.removesuffix(RADIX_SUFFIX)
        for bucket in survey.object_buckets
        if bucket.name.endswith(RADIX_SUFFIX) and component_of(bucket.name) is not None
    }
    return [RouterSource(f"{slug}-{EVENTS}", f"{slug}{RADIX_SUFFIX}") for slug in sorted(slugs)]
