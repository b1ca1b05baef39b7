"""``dynlog group seek``: where a group goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from dynlog.cli.log_open import open_existing
from dynlog.cli.log_read import Start, StartTime, parse_start
from dynlog.cli.options import AsJson, LogUrl
from dynlog.cli.output import print_json, print_table
from dynlog.cli.run import run
from dynlog.errors import ConfigurationError, PartitionNotFound
from dynlog.group_admin import offsets_at
from dynlog.group_admin import seek as seek_group
from dynlog.log import Log


def seek(
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    group: Annotated[str, typer.Argument(help="The group; it is made if there is none.", show_default=False)],
    log: LogUrl,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="WHERE",
            help="`earliest`, `end`, an offset (with `--partition`), a time (2025-07-01T12:00:00Z), or an age (15m).",
            show_default=False,
        ),
    ],
    partition: Annotated[int | None, typer.Option(help="Only this partition.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also while members are alive: they drop what they have and start over.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the offsets.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let a group go on from another place. While its members are alive this is refused without `--force`.

    A time is log time: the group goes on at the first record that the log took then or later. Effects that an
    exactly-once consumer had are not repeated; give it another group name for that.

    With `--json`: `{"topic", "group", "positions": {"<partition>": offset}}`.

    - `dynlog group seek orders billing --to earliest --log sqlite:///tmp/events.db`

    - `dynlog group seek orders billing --to 1500 --partition 2 --log $URL`

    - `dynlog group seek orders billing --to 2025-07-01T12:00:00Z --dry-run --log $URL`
    """
    try:
        where = parse_start(to)
    except ConfigurationError as error:  # it knows the option of 'log read'
        raise ConfigurationError(str(error).replace("--from", "--to", 1)) from None
    if isinstance(where, int) and partition is None:
        raise ConfigurationError("an offset belongs to one partition: say which with --partition")

    async def work() -> Mapping[int, int]:
        async with open_existing(log) as opened:
            positions = await _positions(opened, topic, where, partition)
            if not dry_run:
                await seek_group(opened, topic, group, positions, force=force)
            return positions

    positions = run(work())
    if as_json:
        print_json({"topic": topic, "group": group, "positions": positions})
    else:
        print_table(("PARTITION", "POSITION"), list(positions.items()))


async def _positions(log: Log, topic: str, where: Start, partition: int | None) -> dict[int, int]:
    count = (await log.topic(topic)).partitions
    if partition is not None and not 0 <= partition < count:
        raise PartitionNotFound(f"the topic has partitions 0 to {count - 1}", topic=topic, partition=partition)
    if isinstance(where, int):
        return {partition or 0: where}
    if isinstance(where, StartTime):
        positions = await offsets_at(log, topic, where.time_ms, by_time=True)
    else:
        positions = await offsets_at(log, topic, where)
    return positions if partition is None else {partition: positions[partition]}
