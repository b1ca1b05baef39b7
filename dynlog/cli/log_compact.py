"""``dynlog log compact``: what newer records have replaced is taken out of a topic."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from dynlog.cli.app import PartialSuccess
from dynlog.cli.log_open import open_existing
from dynlog.cli.options import AsJson, LogUrl, parse_timeout
from dynlog.cli.output import human_bytes, human_seconds, print_json, print_table, progress, say
from dynlog.cli.run import run
from dynlog.compaction import MIN_DIRTY, REPEATS_S, Compaction, compact
from dynlog.errors import ConfigurationError
from dynlog.log import Log
from dynlog.topics import Topic

OWN_COMMANDS = {"dynlog.kv": ("dynlog.kv.", "dynlog kv compact")}
"""By the label of topics that are compacted by a keeper of their own: what their names begin with, and who does it."""


def compact_topic(
    topic: Annotated[str, typer.Argument(help="The topic; every record of it has a key.", show_default=False)],
    log: LogUrl,
    partition: Annotated[
        int | None, typer.Option(min=0, help="Only this partition; else all, one after the other.", show_default=False)
    ] = None,
    min_dirty: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Do nothing to a partition of which less would go.")
    ] = MIN_DIRTY,
    force: Annotated[bool, typer.Option("--force", help="Compact if a single record would go.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="For each partition, as in 90s or 10m.")] = "10m",
    as_json: AsJson = False,
) -> None:
    """Keep the newest record of every key, and nothing of a key whose newest record has no body (a tombstone).

    What is still needed is appended anew (its header `dynlog-moved` says where it was), then everything below is
    truncated, as far as holders let it: a reader that is behind sees every record, or is told. Others may write and
    read meanwhile. Broken off, it leaves some records twice and no harm; run it again.

    With `--json`: a list of `{"topic", "partition", "done", "records", "records_after", "removable", "moved", "dirty",
    "bytes", "bytes_after", "start", "earliest", "blocked_by", "repeats", "conflicts"}`. Exit status 3 if holders came
    in between, so that records were moved and nothing could be truncated.

    - `dynlog log compact prices --dry-run --log sqlite:///tmp/events.db`

    - `dynlog log compact prices --min-dirty 0.3 --log sqlite:///tmp/events.db`
    """

    seconds = parse_timeout(timeout)

    async def work() -> list[Compaction]:
        async with open_existing(log) as opened:
            info = await opened.topic(topic)
            _check_own(info)
            numbers = range(info.partitions) if partition is None else [partition]
            return [await one(opened, number) for number in numbers]

    async def one(opened: Log, number: int) -> Compaction:
        with progress(f"compacting {topic} partition {number}") as told:
            return await compact(
                opened, topic, number, min_dirty=min_dirty, force=force, dry_run=dry_run, timeout=seconds,
                progress=lambda done, _: told(done),
            )  # fmt: skip

    found = run(work())
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        print_table(_HEADINGS, [_row(each, dry_run) for each in found])
    stopped = [each for each in found if _began(each)]
    for each in found:
        if (why := _blocked(each)) and each not in stopped[:1]:
            say(f"partition {each.partition}: {why}")
    if stopped:
        raise PartialSuccess(
            f"partition {stopped[0].partition} was not truncated after its records had been moved: "
            f"{_blocked(stopped[0])}; compact it again later"
        )


_HEADINGS = ("PARTITION", "RECORDS", "AFTER", "MOVED", "DIRTY", "BYTES", "AFTER", "STARTS AT", "OUTCOME")


def _row(each: Compaction, dry_run: bool) -> tuple[Any, ...]:
    moved = each.moved if each.done or dry_run or _began(each) else "-"
    after = (each.records_after if each.done else "-", moved)
    sizes = (human_bytes(each.bytes), human_bytes(each.bytes_after) if each.done else "-")
    if each.done:
        outcome = "compacted"
    elif _began(each):
        outcome = "moved, not truncated"
    elif each.removable <= each.moved:
        outcome = "nothing would go"
    else:
        outcome = f"{each.removable - each.moved} would go" if dry_run else "too little would go"
    return (each.partition, each.records, *after, f"{each.dirty:.1%}", *sizes, each.earliest, outcome)


def _began(each: Compaction) -> bool:
    """Whether records were moved although nothing was truncated in the end."""
    return not each.done and each.records_after > each.records


def _blocked(each: Compaction) -> str:
    """Who keeps what from going."""
    reasons = [f"{', '.join(each.blocked_by)} (see 'dynlog log holders')"] if each.blocked_by else []
    reasons += (
        [f"records whose repeats may still come ({human_seconds(REPEATS_S)} from their append)"] if each.repeats else []
    )
    return f"what lies from offset {each.start} on is kept by {' and '.join(reasons)}" if reasons else ""


def _check_own(topic: Topic) -> None:
    """Raises ConfigurationError for a topic that another command compacts, naming that."""
    for label, (prefix, command) in OWN_COMMANDS.items():
        if label in topic.labels:
            raise ConfigurationError(
                f"topic {topic.name!r} has its own keeper: use '{command} {topic.name.removeprefix(prefix)}'"
            )
