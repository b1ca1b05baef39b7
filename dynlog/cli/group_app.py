"""``dynlog group``: who consumes what, how far behind, and where they go on from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dynlog.cli.group_seek import seek
from dynlog.cli.log_lag import lag_json, lag_row
from dynlog.cli.log_open import open_existing
from dynlog.cli.options import AsJson, LogUrl
from dynlog.cli.output import print_facts, print_json, print_table
from dynlog.cli.run import run
from dynlog.errors import ConfigurationError
from dynlog.group_admin import (
    GroupPicture,
    describe_group,
    describe_groups,
    orphaned_groups,
    remove_group,
    remove_orphans,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def group() -> None:
    """Consumer groups: their members share a topic's partitions, and the group remembers how far it is.

    - `dynlog group list --log $URL`

    - `dynlog group describe orders billing --log $URL`

    - `dynlog group seek orders billing --to 15m --log $URL` (the last fifteen minutes once more)

    To throw a backlog away: `dynlog group seek orders billing --to end`, then `dynlog log truncate`.
    """


@app.command("list")
def list_(
    log: LogUrl,
    topic: Annotated[str | None, typer.Option(help="Only groups on this topic.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the groups, how many members each has, and how far each is behind.

    MEMBERS are those that nobody has expired yet; one that died a moment ago is still among them.
    A group is `orphaned` if its topic was deleted, or created anew: `dynlog group remove --orphaned` tidies up.
    With `--json`: a list of what `describe --json` gives.

    - `dynlog group list --log sqlite:///tmp/events.db`
    """

    async def work() -> list[GroupPicture]:
        async with open_existing(log) as opened:
            orphans = await orphaned_groups(opened, topic)
            if topic is not None and not orphans:
                await opened.topic(topic)
            return [*await describe_groups(opened, topic), *orphans]

    pictures = run(work())
    if as_json:
        print_json([picture_json(picture) for picture in pictures])
        return
    rows: list[tuple[object, ...]] = []
    for p in pictures:
        if p.orphaned:
            rows.append((p.topic, p.group, "-", "-", "-", "orphaned"))
            continue
        behind = sum(lag.records for lag in p.lags)
        seconds = max((lag.seconds for lag in p.lags), default=0.0)
        rows.append((p.topic, p.group, len(p.members), behind, round(seconds, 3), ""))
    print_table(("TOPIC", "GROUP", "MEMBERS", "LAG", "LAG SECONDS", "STATE"), rows, empty="no groups")


@app.command()
def describe(
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    group: Annotated[str, typer.Argument(help="The group.", show_default=False)],
    log: LogUrl,
    as_json: AsJson = False,
) -> None:
    """Show a group's members, their partitions, and its position and lag in each.

    With `--json`: `{"topic", "group", "generation", "members", "partitions": [{"partition", "position", "end",
    "records", "seconds", "member"}], "orphaned"}`.

    - `dynlog group describe orders billing --log sqlite:///tmp/events.db`
    """

    async def work() -> GroupPicture:
        async with open_existing(log) as opened:
            return await describe_group(opened, topic, group)

    picture = run(work())
    if as_json:
        print_json(picture_json(picture))
        return
    print_facts({"topic": picture.topic, "group": picture.group, "generation": picture.generation})
    print()
    print_table(("MEMBER", "ABOUT"), list(picture.members.items()), empty="no members")
    print()
    headings = ("PARTITION", "POSITION", "END", "LAG", "LAG SECONDS", "MEMBER")
    print_table(headings, [(*lag_row(lag), lag.member or "-") for lag in picture.lags])


app.command()(seek)


@app.command()
def remove(
    log: LogUrl,
    topic: Annotated[str | None, typer.Argument(help="The topic.", show_default=False)] = None,
    group: Annotated[str | None, typer.Argument(help="The group.", show_default=False)] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also while members are alive: they end with an error.")
    ] = False,
    orphaned: Annotated[
        bool, typer.Option("--orphaned", help="Instead: all groups (on TOPIC) that `list` shows as orphaned.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a group: its positions, and its hold on records, which may be truncated then.

    With `--orphaned`, what is left of groups whose topic was deleted. With `--json`: `{"removed", "topic"}`, of
    `--orphaned` a list of them.

    - `dynlog group remove orders billing --log sqlite:///tmp/events.db`

    - `dynlog group remove --orphaned --log $URL`
    """
    if orphaned:
        if group is not None or force:
            raise ConfigurationError(
                "--orphaned is for whole topics whose groups have no members: no group, no --force"
            )
        _remove_orphans(log, topic, as_json)
        return
    if topic is None or group is None:
        raise ConfigurationError("name the topic and the group, or --orphaned for all whose topic was deleted")
    name, one = topic, group

    async def work() -> None:
        async with open_existing(log) as opened:
            await remove_group(opened, name, one, force=force)

    run(work())
    if as_json:
        print_json({"removed": group, "topic": topic})
    else:
        print(f"group {group} on {topic} removed")


def _remove_orphans(log: str, topic: str | None, as_json: bool) -> None:
    async def work() -> list[GroupPicture]:
        async with open_existing(log) as opened:
            return await remove_orphans(opened, topic)

    removed = run(work())
    if as_json:
        print_json([{"removed": one.group, "topic": one.topic} for one in removed])
        return
    for one in removed:
        print(f"group {one.group} on {one.topic} removed")
    if not removed:
        print("no orphaned groups")


def picture_json(picture: GroupPicture) -> dict[str, Any]:
    """A group as JSON."""
    return {
        "topic": picture.topic,
        "group": picture.group,
        "generation": picture.generation,
        "members": [{"id": id, "about": about} for id, about in picture.members.items()],
        "partitions": [lag_json(lag) | {"member": lag.member} for lag in picture.lags],
        "orphaned": picture.orphaned,
    }
