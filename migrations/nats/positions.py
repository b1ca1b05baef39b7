"""Where a stream's consumers stood becomes where groups go on: behind the last message below which all is acknowledged.

* **Nothing that was not acknowledged is skipped.**  What was acknowledged out of turn comes again, as it would from
  NATS if the stream's floor were all it knew.
* **A group never goes back**: one that went on in the log already stays where it is.
* Only durable consumers become groups; one that filters subjects becomes a group that sees all of the stream's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dynlog.adapters.nats.access import NatsServer
from dynlog.adapters.nats.streams import ConsumerInfo, StreamInfo, list_consumers
from dynlog.batch import Position
from dynlog.errors import GroupBusy
from dynlog.group_admin import seek
from dynlog.log import Log
from dynlog.migrations.mirror.path import stream_place
from dynlog.migrations.nats.contract import Difference, Item, Refusal, Run
from dynlog.migrations.nats.origin import offset_behind
from dynlog.migrations.nats.readers import GROUP
from dynlog.migrations.nats.readers import standing as standing_at
from dynlog.migrations.nats.targets import mistaken, targets_of

MOST_NAME = 200


class Standing(NamedTuple):
    """A durable consumer, and the group that it becomes."""

    consumer: ConsumerInfo
    group: str


class Consumers(NamedTuple):
    """A stream's consumers as they are now."""

    standings: list[Standing]
    notes: list[str]
    refused: list[Refusal]


async def look_at_consumers(server: NatsServer, info: StreamInfo) -> Consumers:
    """Who becomes which group, and what is to be known of it."""
    found = await list_consumers(server, info.name)
    servers_own = [consumer for consumer in found if consumer.config.get("sourcing")]
    durable = [consumer for consumer in found if consumer.durable and consumer not in servers_own]
    notes = [f"consumer {c.name} is ephemeral and becomes no group" for c in found if not c.durable]
    notes += [
        f"consumer {c.name} is the server's own, by which another stream is filled from this one, and becomes no group"
        for c in servers_own
    ]
    groups = targets_of((consumer.name for consumer in durable), MOST_NAME)
    clashing = mistaken(groups)
    refused = [
        Refusal(
            name=f"{info.name} consumer {name}",
            why=f"its group would be mistaken for that of {', '.join(others)}: give it a name of its own with "
            "'dynlog group seek', behind the message up to which it has acknowledged all",
        )
        for name, others in sorted(clashing.items())
    ]
    standings = [Standing(c, groups[c.name]) for c in durable if c.name not in clashing]
    for standing in standings:
        notes += _notes(standing, info)
    return Consumers(standings, notes, refused)


def _notes(standing: Standing, info: StreamInfo) -> list[str]:
    consumer, group = standing
    notes = [
        f"consumer {consumer.name} -> group {group}, behind sequence {consumer.ack_floor}, {consumer.pending} waiting"
    ]
    if consumer.ack_pending:
        notes.append(
            f"group {group}: {consumer.ack_pending} messages up to {consumer.delivered} are delivered and not "
            "acknowledged; those, and what was acknowledged between them, come again"
        )
    if filters := _filters(consumer.config, info):
        notes.append(
            f"group {group} sees every subject of the stream: its workers must skip all but {', '.join(filters)}"
        )
    return notes


def _filters(config: Mapping[str, object], info: StreamInfo) -> list[str]:
    said = config.get("filter_subjects") or config.get("filter_subject") or []
    filters = [said] if isinstance(said, str) else [str(one) for one in said] if isinstance(said, list) else []
    return [] if ">" in filters or set(info.subjects) <= set(filters) else filters


async def move_groups(item: Item, run: Run, topic: str, info: StreamInfo) -> list[Refusal]:
    """Lets every group go on where its consumer stands now; says in the journal where that is.

    A group with live members that would have to go forward is refused by name.
    """
    log = run.log
    consumers = await look_at_consumers(run.server, info)
    refused = list(consumers.refused)
    for standing in consumers.standings:
        wanted = await _positions(log, topic, info, standing)
        known = (await log.committed(standing.group, topic)).positions
        forward = {p: offset for p, offset in wanted.items() if offset > known.get(p, -1)}
        if not forward:
            continue
        if not known or standing_at(standing.group, known) in run.journal.made(item.id, GROUP):
            # Else somebody went on with it, and whatever is set now is not the migration's to take back.
            await run.making(item, GROUP, standing_at(standing.group, {**known, **forward}))
        try:
            await seek(log, topic, standing.group, forward)
        except GroupBusy as error:
            refused.append(Refusal(name=f"{info.name} consumer {standing.consumer.name}", why=str(error)))
    return refused


async def check_groups(server: NatsServer, log: Log, topic: str, info: StreamInfo) -> list[Difference]:
    """Which groups would do again, or do not know, what their consumers have done."""
    differences = []
    for standing in (await look_at_consumers(server, info)).standings:
        wanted = await _positions(log, topic, info, standing)
        known = (await log.committed(standing.group, topic)).positions
        for partition, offset in wanted.items():
            if known.get(partition, -1) < offset:
                has = f"is at {known[partition]}" if partition in known else "has no position"
                what = (
                    f"group {standing.group} {has} in partition {partition}, its consumer is at {offset}: apply again"
                )
                differences.append(Difference(name=f"{info.name} consumer {standing.consumer.name}", what=what))
    return differences


async def _positions(log: Log, topic: str, info: StreamInfo, standing: Standing) -> dict[int, int]:
    found = await log.topic(topic)
    place, floor = stream_place(info), standing.consumer.ack_floor
    return {
        state.partition: await offset_behind(
            log, Position(topic, found.incarnation, state.partition, state.earliest), place, floor
        )
        for state in await log.partitions(topic)
    }
