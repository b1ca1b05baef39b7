"""Who reads a topic that a migration made: a rollback leaves it to them, since what they need is nowhere else.

* A consumer group that stands elsewhere than the migration set it, or has live members.
* What follows the topic just now: a router, a client of a bucket, a broadcast reader.
* A mirror: of a stream into the topic by the topic itself and the mirrors' book, outwards by its position.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from uuid import uuid4

from dynlog.errors import TopicNotFound
from dynlog.group_admin import HOLDER_PREFIX, list_groups, live_members
from dynlog.log import Log
from dynlog.migrations.mirror.book import TOPIC as BOOK
from dynlog.migrations.mirror.book import Book, Page, Pages
from dynlog.migrations.mirror.choice import mirrored_places
from dynlog.migrations.mirror.inward import mirror_in_place
from dynlog.migrations.mirror.outward import group_of
from dynlog.migrations.mirror.path import stream_name, topic_place
from dynlog.migrations.nats.contract import Refusal
from dynlog.topics import HolderKind, HolderState, Topic

GROUP = "group"
"""What `Run.making` calls a group's position, as `standing` writes it."""
OWN_HOLDER = "dynlog.migration:"


def own_holder() -> str:
    """The name of a holder that a migration itself registers while it reads a topic."""
    return OWN_HOLDER + uuid4().hex


def standing(group: str, positions: Mapping[int, int]) -> str:
    """A group and where it stands, as in ``workers 0/17 1/4``."""
    return " ".join([group, *(f"{partition}/{offset}" for partition, offset in sorted(positions.items()))])


async def readers_of(log: Log, topic: Topic, name: str, own: Sequence[str] = ()) -> tuple[Refusal, ...]:
    """Why what the user knows by that name stays, for each reader: who it is, and what to do before it may go.

    ``own`` are the `standing`s that the migration gave to groups.  Members that have ended without a word are waited
    for, two seconds for each group.
    """
    pages = await _pages(log)
    outwards = _mirrors_out(topic, pages)
    names = sorted({group for _, group in await list_groups(log, topic.name)} | outwards.keys())
    groups = [await _group(log, topic, group, own, outwards.get(group)) for group in names]
    followers = [_follower(topic, state) for state in await log.holders(topic.name) if _follows(state)]
    whys = [*_mirrors_in(topic, pages), *filter(None, groups), *followers]
    return tuple(Refusal(name=name, why=why) for why in whys)


async def _pages(log: Log) -> Pages:
    try:
        return (await Book(log, await log.topic(BOOK)).read())[0]
    except TopicNotFound:
        return Pages()


def _mirrors_in(topic: Topic, pages: Pages) -> list[str]:
    said = []
    for place in mirrored_places(topic):
        mirror = mirror_in_place(place, topic)
        stream = stream_name(place) or place
        if (page := pages.cut_over.get(mirror)) is not None:
            said.append(
                f"stream {stream!r} was cut over to it{_at(page)}, so it goes on here: it stays; if nobody needs that, "
                f"delete it yourself: dynlog log delete {topic.name}"
            )
        else:
            page = pages.progress.get(mirror)
            said.append(
                f"a mirror brings stream {stream!r} into it{_at(page)}: it stays; stop the mirror, and if nobody needs "
                f"the topic, delete it yourself: dynlog log delete {topic.name}"
            )
    return said


def _at(page: Page | None) -> str:
    return f" (at {max(page.sequences.values())})" if page is not None and page.sequences else ""


def _mirrors_out(topic: Topic, pages: Pages) -> dict[str, str]:
    """By the group that a mirror's position is, its subjects."""
    start = f"out {topic_place(topic)} "
    subjects = [mirror.removeprefix(start) for mirror in pages.progress if mirror.startswith(start)]
    return {group_of(said.split(" ")): said for said in subjects}


async def _group(log: Log, topic: Topic, group: str, own: Sequence[str], mirrored: str | None) -> str:
    """What is to be said of the group; nothing if it only stands where the migration set it."""
    positions = (await log.committed(group, topic.name)).positions
    now = standing(group, positions)
    if positions and now not in own:
        where = now.partition(" ")[2]
        before = [text.partition(" ")[2] for text in own if text.partition(" ")[0] == group]
        who, stop = f"group {group}", "its workers"
        if mirrored is not None:
            who, stop = f"a mirror outwards to {mirrored}", "it"
        at = f"(at {where}, the migration set {before[-1]})" if before else f"(at {where})"
        return (
            f"{who} reads it {at}: it stays; stop {stop}, forget the position (dynlog group remove {topic.name} "
            f"{group}), and roll back again"
        )
    if alive := await live_members(log, topic.name, group):
        return f"group {group} has a live member, {alive[0]}: it stays; stop its workers, and roll back again"
    return ""


def _follows(state: HolderState) -> bool:
    return not (
        state.expired
        or state.holder.kind is HolderKind.PINNED  # a snapshot: it goes with its topic
        or state.holder.name.startswith((HOLDER_PREFIX, OWN_HOLDER))
    )


def _follower(topic: Topic, state: HolderState) -> str:
    ago = max(time.time() - state.last_seen_ms / 1000, 0.0)
    return (
        f"{state.holder.name} follows it (heard of {ago:.0f} s ago): it stays; stop that, or if it was killed forget "
        f"it (dynlog log holders {topic.name} --release {state.holder.name}), and roll back again"
    )
