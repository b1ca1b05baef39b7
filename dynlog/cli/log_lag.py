"""``dynlog log lag``: how far behind the groups of a topic are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dynlog.cli.log_open import open_existing
from dynlog.cli.options import AsJson, LogUrl
from dynlog.cli.output import print_json, print_table
from dynlog.cli.run import run
from dynlog.group_admin import GroupPicture, Lag, describe_groups


def lag(
    log: LogUrl,
    topic: Annotated[str | None, typer.Argument(help="One topic; else all.")] = None,
    group: Annotated[str | None, typer.Option(help="Only this group.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how far every group is behind, per partition: in records, and in seconds of log time.

    LAG SECONDS is the time between the record that the group handles next and the last one, by the log's clock.
    With `--json`: a list of `{"topic", "group", "partition", "position", "end", "records", "seconds"}`.

    - `dynlog log lag orders --log sqlite:///tmp/events.db`

    - `dynlog log lag --json --log $URL | jq 'map(.records) | max'`
    """

    async def work() -> list[GroupPicture]:
        async with open_existing(log) as opened:
            if topic is not None:
                await opened.topic(topic)
            return await describe_groups(opened, topic, group)

    pictures = run(work())
    if as_json:
        print_json([{"topic": p.topic, "group": p.group} | lag_json(one) for p in pictures for one in p.lags])
        return
    rows = [(p.topic, p.group, *lag_row(one)) for p in pictures for one in p.lags]
    headings = ("TOPIC", "GROUP", "PARTITION", "POSITION", "END", "LAG", "LAG SECONDS")
    print_table(headings, rows, empty="no groups")


def lag_row(lag: Lag) -> tuple[object, ...]:
    """The lag of a partition as cells."""
    return lag.partition, lag.position, lag.end, lag.records, round(lag.seconds, 3)


def lag_json(lag: Lag) -> dict[str, Any]:
    """The lag of a partition as JSON."""
    return {
        "partition": lag.partition,
        "position": lag.position,
        "end": lag.end,
        "records": lag.records,
        "seconds": lag.seconds,
    }
