"""``dynlog log describe`` and ``holders``: what a log is, what it promises, and who keeps it from being truncated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from dynlog.cli.log_open import open_existing
from dynlog.cli.log_topics import kept, print_topics, topic_json, totals
from dynlog.cli.options import AsJson, LogUrl
from dynlog.cli.output import human_bytes, human_seconds, human_time, print_facts, print_json, print_table
from dynlog.cli.run import run
from dynlog.errors import DynlogError
from dynlog.log import Log
from dynlog.topics import (
    EPHEMERAL_EXPIRY_S,
    NAMED_EXPIRY_S,
    Holder,
    HolderKind,
    HolderState,
    LogEvent,
    PartitionState,
    Topic,
)
from dynlog.url import parse_url

_SPOKEN = {True: "yes", False: "no"}


def describe(
    topic: Annotated[str | None, typer.Argument(help="One topic; else the log and all its topics.")] = None,
    *,
    log: LogUrl,
    as_json: AsJson = False,
) -> None:
    """Show what a log is and promises; of a topic its partitions, holders, what blocks truncation, and events.

    BLOCKED BY is the slowest holder of the partition: truncation goes up to FREE TO and no further.
    With `--json`: `{"url", "identity", "capabilities", "topics": [{..., "partitions_now", "holders", "events"}]}`.

    - `dynlog log describe --log sqlite:///tmp/events.db`

    - `dynlog log describe orders --json --log $URL | jq '.topics[0].partitions_now[] | .blocked_by'`
    """

    async def work() -> tuple[dict[str, Any], list[_Picture]]:
        async with open_existing(log) as opened:
            chosen = await opened.topics() if topic is None else [await opened.topic(topic)]
            return _log_facts(log, opened), [await _look(opened, one) for one in chosen]

    facts, pictures = run(work())
    if as_json:
        print_json(facts | {"topics": [picture.json() for picture in pictures]})
        return
    capabilities = {name.replace("_", " "): value for name, value in facts.pop("capabilities").items()}
    print_facts(facts | {name: _SPOKEN.get(value, value) for name, value in capabilities.items()})
    print()
    if topic is None:
        print_topics([(picture.topic, picture.partitions) for picture in pictures])
    else:
        pictures[0].print()


def holders(
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    log: LogUrl,
    release: Annotated[str | None, typer.Option(metavar="NAME", help="Forget this holder.")] = None,
    as_json: AsJson = False,
) -> None:
    """List who needs the topic and from where on; or release a holder that will not come back.

    Truncation and retention never pass a holder that has not expired. A consumer group's holder is `group:NAME`.

    - `dynlog log holders orders --log sqlite:///tmp/events.db`

    - `dynlog log holders orders --release router-7 --log $URL`
    """

    async def work() -> list[HolderState]:
        async with open_existing(log) as opened:
            found = await opened.holders(topic)
            if release is None:
                return found
            names = [state.holder.name for state in found]
            if release not in names:
                raise DynlogError(f"topic {topic!r} has no holder {release!r}; it has: {', '.join(names) or 'none'}")
            await opened.release(topic, release)
            return [state for state in found if state.holder.name != release]

    left = run(work())
    if as_json:
        print_json([_holder_json(state) for state in left])
        return
    _print_holders(left)


@dataclass(frozen=True, slots=True)
class _Picture:
    """All that is shown of one topic."""

    topic: Topic
    partitions: list[PartitionState]
    holders: list[HolderState]
    events: list[LogEvent]

    def json(self) -> dict[str, Any]:
        partitions = []
        for state in self.partitions:
            upto, names = blocking(state, self.holders)
            partitions.append(
                {
                    "partition": state.partition,
                    "earliest": state.earliest,
                    "end": state.end,
                    "bytes": state.bytes,
                    "batches": state.batches,
                    "last_log_time": human_time(state.last_log_time_ms) if state.end else None,
                    "truncates_to": upto,
                    "blocked_by": names,
                }
            )
        return {
            **topic_json(self.topic),
            **totals(self.partitions),
            "partitions_now": partitions,
            "holders": [_holder_json(state) for state in self.holders],
            "events": [
                {"time": human_time(e.time_ms), "kind": e.kind, "topic": e.topic, "detail": e.detail}
                for e in self.events
            ],
        }

    def print(self) -> None:
        labels = " ".join(f"{name}={value}" for name, value in self.topic.labels.items())
        print_facts(
            {
                "topic": self.topic.name,
                "incarnation": self.topic.incarnation,
                "created": human_time(self.topic.created_ms) if self.topic.created_ms else "unknown",
                "keeps": kept(self.topic.retention),
                "labels": labels or "none",
            }
        )
        print()
        rows = []
        for state in self.partitions:
            upto, names = blocking(state, self.holders)
            last = human_time(state.last_log_time_ms) if state.end else "-"
            size = human_bytes(state.bytes)
            who = ", ".join(names) or "nobody"
            rows.append((state.partition, state.earliest, state.end, size, state.batches, last, upto, who))
        headings = ("PARTITION", "EARLIEST", "END", "SIZE", "BATCHES", "LAST APPEND", "FREE TO", "BLOCKED BY")
        print_table(headings, rows)
        print()
        _print_holders(self.holders)
        print()
        events = [(human_time(event.time_ms), event.kind, event.detail) for event in self.events]
        print_table(("TIME", "EVENT", "DETAIL"), events, empty="no events")


def blocking(state: PartitionState, holders: Sequence[HolderState]) -> tuple[int, list[str]]:
    """How far the partition could be truncated now, and the holders that keep it there (all that stand there)."""
    needs = {
        held.holder.name: held.holder.positions[state.partition]
        for held in holders
        if not held.expired and state.partition in held.holder.positions
    }
    upto = min([state.end, *needs.values()])
    return upto, sorted(name for name, position in needs.items() if position == upto < state.end)


async def _look(log: Log, topic: Topic) -> _Picture:
    name = topic.name
    return _Picture(topic, await log.partitions(name), await log.holders(name), await log.events(name))


def _log_facts(url: str, log: Log) -> dict[str, Any]:
    can = log.capabilities
    return {
        "url": str(parse_url(url)),
        "identity": log.identity,
        "capabilities": {
            "engine": can.engine,
            "durability": str(can.durability),
            "checks_marks": can.checks_marks,
            "fences_at_registration": can.fences_at_registration,
            "compare_and_append": can.compare_and_append,
            "reads_latest": can.reads_latest,
            "many_processes": can.many_processes,
            "single_host": can.single_host,
            "server_time": can.server_time,
            "max_batch_bytes": can.max_batch_bytes,
        },
    }


def _expires_ms(state: HolderState) -> int | None:
    holder = state.holder
    if holder.kind is HolderKind.PINNED:
        return None
    return state.last_seen_ms + round(1000 * _expiry_s(holder))


def _expiry_s(holder: Holder) -> float:
    if holder.expires_after_s is not None:
        return holder.expires_after_s
    return EPHEMERAL_EXPIRY_S if holder.kind is HolderKind.EPHEMERAL else NAMED_EXPIRY_S


def _holder_json(state: HolderState) -> dict[str, Any]:
    expires = _expires_ms(state)
    return {
        "name": state.holder.name,
        "kind": state.holder.kind.value,
        "positions": {str(partition): offset for partition, offset in sorted(state.holder.positions.items())},
        "lag_records": state.lag_records,
        "last_seen": human_time(state.last_seen_ms),
        "expires": None if expires is None else human_time(expires),
        "max_lag_bytes": state.holder.max_lag_bytes,
        "expired": state.expired,
    }


def _print_holders(states: Sequence[HolderState]) -> None:
    rows = []
    for state in states:
        positions = " ".join(f"{p}:{offset}" for p, offset in sorted(state.holder.positions.items()))
        expires = _expires_ms(state)
        until = "never" if expires is None else f"{human_time(expires)} ({human_seconds(_expiry_s(state.holder))})"
        if state.expired:
            until = "expired"
        name, kind = state.holder.name, state.holder.kind.value
        rows.append((name, kind, state.lag_records, human_time(state.last_seen_ms), until, positions))
    headings = ("HOLDER", "KIND", "LAG", "LAST SEEN", "EXPIRES", "POSITIONS")
    print_table(headings, rows, empty="no holders: nothing blocks truncation")
