"""``dynlog objects ls``, ``head``, ``rm`` and ``gc``."""

from __future__ import annotations

from typing import Annotated

import typer

from dynlog.cli.asking import ask, check_may_ask
from dynlog.cli.objects_place import Place, PlaceUrl, described, place_of
from dynlog.cli.options import AsJson, parse_duration
from dynlog.cli.output import human_bytes, human_time, print_facts, print_json, print_table
from dynlog.cli.run import run
from dynlog.errors import ConfigurationError, ObjectNotFound
from dynlog.folders import MANIFEST
from dynlog.objects import STALE_AFTER_S, Collected, ObjectInfo, ObjectStore
from dynlog.open import open_objects


def ls(url: PlaceUrl, as_json: AsJson = False) -> None:
    """List objects: the one at the URL and all below it.

    With `--json`: a list of `{"key", "size", "sha256", "modified", "expires", "metadata"}`.

    - `dynlog objects ls s3://bucket/model`
    """
    place = place_of(url)

    async def work() -> list[ObjectInfo]:
        async with open_objects(place.store) as store:
            return await _at_or_below(store, place)

    found = run(work())
    if as_json:
        print_json([described(info) for info in found])
        return
    print_table(
        ("SIZE", "MODIFIED", "EXPIRES", "KEY"),
        [
            (human_bytes(i.size), human_time(i.modified_ms), human_time(i.expires_ms) if i.expires_ms else "-", i.key)
            for i in found
        ],
        empty="no objects",
    )


def head(url: PlaceUrl, as_json: AsJson = False) -> None:
    """Show what is known of one object.

    With `--json`: `{"key", "size", "sha256", "modified", "expires", "metadata"}`.

    - `dynlog objects head s3://bucket/model/config.json`
    """
    place = place_of(url)

    async def work() -> ObjectInfo:
        async with open_objects(place.store) as store:
            return await store.head(place.key)

    facts = described(run(work()))
    if as_json:
        print_json(facts)
        return
    facts["expires"] = facts["expires"] or "never"
    metadata = facts.pop("metadata")
    assert isinstance(metadata, dict)
    print_facts(facts | {f"metadata {name}": value for name, value in metadata.items()})


def rm(
    url: PlaceUrl,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="All objects below the URL as well: a folder.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for --recursive.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove an object, or a folder with `--recursive`, which asks on a terminal and needs `--yes` elsewhere.

    - `dynlog objects rm s3://bucket/model/config.json`

    - `dynlog objects rm --recursive --yes s3://bucket/model`
    """
    place = place_of(url)
    if recursive and not yes:
        check_may_ask(yes, f"removing all below {place.key or 'the store'!r}")
        ask(f"Remove {place.key or 'all objects'} and all below it for ever?", "nothing was removed")
    removed = run(_remove(place, recursive))
    if as_json:
        print_json({"removed": removed})
    else:
        print(f"{removed} object{'s' if removed != 1 else ''} removed")


async def _remove(place: Place, recursive: bool) -> int:
    async with open_objects(place.store) as store:
        if not recursive:
            try:
                await store.head(place.key)
            except ObjectNotFound:
                below = await _at_or_below(store, place)
                if below:
                    raise ConfigurationError(f"{place.key!r} is a folder: remove it with --recursive") from None
                raise
            await store.delete(place.key)
            return 1
        found = await _at_or_below(store, place)
        # A folder without its manifest does not exist, so no reader finds one with files missing.
        for info in sorted(found, key=lambda info: not info.key.endswith(MANIFEST)):
            await store.delete(info.key)
        return len(found)


def gc(
    url: PlaceUrl,
    older_than: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration, metavar="DURATION", help="What was left alone for so long; without, for 24h."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Free what nobody can read: expired objects, and what crashed puts and forgotten uploads left.

    The URL is that of a store, as programs open it. With `--json`: `{"expired", "abandoned", "bytes"}`.

    - `dynlog objects gc s3://bucket/prefix --older-than 24h`
    """

    async def work() -> Collected:
        async with open_objects(url) as store:
            return await store.gc(older_than_s=STALE_AFTER_S if older_than is None else older_than)

    done = run(work())
    if as_json:
        print_json({"expired": done.expired, "abandoned": done.abandoned, "bytes": done.bytes})
    else:
        print(f"{done.expired} expired, {done.abandoned} abandoned, {human_bytes(done.bytes)} freed")


async def _at_or_below(store: ObjectStore, place: Place) -> list[ObjectInfo]:
    """The object of that key and those below it; all for an empty key."""
    below = f"{place.folder}/" if place.key else ""
    return [info async for info in store.list(place.key) if info.key == place.key or info.key.startswith(below)]
