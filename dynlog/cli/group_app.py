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
from dynlog.group_admin import GroupPicture, describe_group, describe_groups, remove_group

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
    With `--json`: a list of what `describe --json` gives.

    - `dynlog group list --log sqlite:///tmp/events.db`
    """

    async def work() -> list[GroupPicture]:
        async with open_existing(log) as opened:
            if topic is not None:
                await opened.topic(topic)
            return await describe_groups(opened, topic)

    pictures = run(work())
    if as_json:
        print_json([picture_json(picture) for picture in pictures])
        return
    rows = []
    for p in pictures:
        behind = sum(lag.records for lag in p.lags)
        seconds = max((lag.seconds for lag in p.lags), default=0.0)
        rows.append((p.topic, p.group, len(p.members), behind, round(seconds, 3)))
    print_table(("TOPIC", "GROUP", "MEMBERS", "LAG", "LAG SECONDS"), rows, empty="no groups")


@app.command()
def describe(
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    group: Annotated[str, typer.Argument(help="The group.", show_default=False)],
    log: LogUrl,
    as_json: AsJson = False,
) -> None:
    """Show a group's members, their partitions, and its position and lag in each.

    With `--json`: `{"topic", "group", "generation", "members", "partitions": [{"partition", "position", "end",
    "records", "seconds", "member"}]}`.

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
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    group: Annotated[str, typer.Argument(help="The group.", show_default=False)],
    log: LogUrl,
    force: Annotated[
        bool, typer.Option("--force", help="Also while members are alive: they end with an error.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Forget a group: its positions, and its hold on records, which may be truncated then.

    - `dynlog group remove orders billing --log sqlite:///tmp/events.db`
    """

    async def work() -> None:
        async with open_existing(log) as opened:
            await remove_group(opened, topic, group, force=force)

    run(work())
    if as_json:
        print_json({"removed": group, "topic": topic})
    else:
        print(f"group {group} on {topic} removed")


def picture_json(picture: GroupPicture) -> dict[str, Any]:
    """A group as JSON."""
    return {
        "topic": picture.topic,
        "group": picture.group,
        "generation": picture.generation,
        "members": [{"id": id, "about": about} for id, about in picture.members.items()],
        "partitions": [lag_json(lag) | {"member": lag.member} for lag in picture.lags],
    }
