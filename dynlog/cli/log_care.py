"""``dynlog log truncate``, ``verify``, ``repair`` and ``backup``: what is done to a log on purpose, and recorded."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from dynlog.cli.app import PartialSuccess
from dynlog.cli.log_open import open_damaged, open_existing
from dynlog.cli.options import AsJson, LogUrl
from dynlog.cli.output import human_bytes, print_json, say
from dynlog.cli.run import run
from dynlog.errors import ConfigurationError, DynlogError, LogCorrupt
from dynlog.topics import Damage, Truncation


def truncate(
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    log: LogUrl,
    partition: Annotated[int, typer.Option(help="The partition.", show_default=False)],
    before: Annotated[int, typer.Option(metavar="OFFSET", min=0, help="The first offset to keep.", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Go past holders; they will get OffsetTruncated, and an event is left.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the records below an offset, but none that a holder still needs.

    When a holder blocks it, it goes as far as it may, names who blocks the rest, and exits 3.

    - `dynlog log truncate orders --partition 0 --before 1000 --log sqlite:///tmp/events.db`
    """

    async def work() -> Truncation:
        async with open_existing(log) as opened:
            return await opened.truncate(topic, partition, before, force=force)

    done = run(work())
    if as_json:
        print_json(
            {
                "topic": topic,
                "partition": done.partition,
                "earliest": done.earliest,
                "requested": before,
                "blocked_by": list(done.blocked_by),
            }
        )
    else:
        print(f"topic {topic} partition {partition} starts at {done.earliest}")
    if done.blocked_by:
        raise PartialSuccess(
            f"truncated to {done.earliest} and not to {before}: {', '.join(done.blocked_by)} still need the rest; let "
            "them catch up, release them ('dynlog log holders'), or use --force"
        )


def verify(
    topic: Annotated[str | None, typer.Argument(help="Only this topic.")] = None,
    *,
    log: LogUrl,
    as_json: AsJson = False,
) -> None:
    """Read everything and name every damage; exit status 1 if there is any. It changes nothing.

    With `--json`: a list of `{"topic", "partition", "start", "end", "reason"}`; offsets `start` to `end` (exclusive)
    cannot be read, -1 where that is unknown.

    - `dynlog log verify --log sqlite:///tmp/events.db`
    """
    damages = run(_verify(log, topic))
    _print_damages(damages, as_json)
    if damages:
        raise LogCorrupt(f"{_count(damages)}; see 'dynlog log repair --help'", topic=topic)
    if not as_json:
        print("sound: everything was read and nothing is damaged")


def repair(
    log: LogUrl,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Set aside what cannot be read.")] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Also accept that acknowledged records at the end are gone; every topic gets a new incarnation.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go on after damage. Without `--quarantine` it changes nothing and says what it would do.

    What cannot be read is set aside and becomes a hole: readers pass over it, and an event records it (see `describe`).
    A lost tail is only accepted with `--accept-loss`: offsets will be used again, so every topic gets a new
    incarnation and every old position raises LogDiverged. Make a copy of the file first.

    - `dynlog log repair --log sqlite:///tmp/events.db` (what is damaged?)

    - `dynlog log repair --quarantine --log sqlite:///tmp/events.db`
    """
    if accept_loss and not quarantine:
        raise ConfigurationError("--accept-loss goes with --quarantine")
    if not quarantine:
        damages = run(_verify(log, None))
        _print_damages(damages, as_json)
        if damages:
            raise LogCorrupt(f"{_count(damages)}; nothing was changed: --quarantine sets the above aside for ever")
        say("sound: there is nothing to repair")
        return

    async def work() -> list[Damage]:
        async with open_damaged(log) as opened:
            return await opened.quarantine(accept_loss=accept_loss)

    aside = run(work())
    _print_damages(aside, as_json)
    say(f"{_count(aside)} set aside and recorded" if aside else "sound: there was nothing to repair")


def backup(
    path: Annotated[Path, typer.Argument(help="A file that does not exist yet.", show_default=False)],
    log: LogUrl,
    as_json: AsJson = False,
) -> None:
    """Write a consistent copy, which opens as a log of its own, while others go on appending.

    - `dynlog log backup /backup/events-$(date +%F).db --log sqlite:///tmp/events.db`
    """
    if path.exists():
        raise DynlogError(f"{path} exists already: nothing was written; name another file")

    async def work() -> None:
        async with open_existing(log) as opened:
            await opened.backup(path.absolute())

    run(work())
    size = path.stat().st_size
    if as_json:
        print_json({"path": str(path.absolute()), "bytes": size})
    else:
        print(f"{path.absolute()}, {human_bytes(size)}")


async def _verify(url: str, topic: str | None) -> list[Damage]:
    async with open_damaged(url) as log:
        if topic is not None:
            with suppress(LogCorrupt):  # verifying says so in its own words
                await log.topic(topic)
        return [damage async for damage in log.verify(topic)]


def _print_damages(damages: list[Damage], as_json: bool) -> None:
    if as_json:
        print_json([_damage_json(damage) for damage in damages])
        return
    for damage in damages:
        place = "log" if damage.topic is None else f"topic {damage.topic}"
        place += "" if damage.partition is None else f" partition {damage.partition}"
        if damage.start >= 0 or damage.end >= 0:
            known = [str(offset) if offset >= 0 else "?" for offset in (damage.start, damage.end)]
            place += f" offsets {known[0]} to {known[1]}"
        print(f"{place}: {damage.reason}")


def _damage_json(damage: Damage) -> dict[str, Any]:
    return {
        "topic": damage.topic,
        "partition": damage.partition,
        "start": damage.start,
        "end": damage.end,
        "reason": damage.reason,
    }


def _count(damages: list[Damage]) -> str:
    return "1 damage" if len(damages) == 1 else f"{len(damages)} damages"
