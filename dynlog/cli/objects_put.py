"""``dynlog objects put``: a file, a folder or stdin becomes an object or a folder of objects; again, and it goes on."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

import typer

from dynlog.blocking import BlockingPool
from dynlog.cli.objects_large import LARGE, LargeFile, take_up
from dynlog.cli.objects_place import Place, PlaceUrl, described, place_of
from dynlog.cli.options import AsJson, parse_duration, parse_pairs
from dynlog.cli.output import human_bytes, print_json, progress
from dynlog.cli.run import run
from dynlog.errors import ConfigurationError
from dynlog.folder_files import LocalFile, plan_of
from dynlog.folders import put_folder
from dynlog.objects import PIECE_BYTES, ObjectInfo
from dynlog.open import open_objects
from dynlog.url import parse_url


def put(
    source: Annotated[str, typer.Argument(help="A file, a folder, or - for stdin.", show_default=False)],
    url: PlaceUrl,
    metadata: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be repeated.")] = None,
    expires_after: Annotated[
        float | None, typer.Option(parser=parse_duration, metavar="DURATION", help="As in 1h or 7d; else never.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Store a file, a folder or stdin. Begun again after an interruption, it goes on where it was.

    A folder exists once all of its files are stored; files that are there already are not sent again. A large file goes
    in parts, and the parts that arrived are not sent again (their number is kept below `$XDG_STATE_HOME/dynlog`).

    With `--json`: the object as `head` shows it, or `{"folder", "files", "bytes"}`.

    - `dynlog objects put /models/llama s3://bucket/llama`

    - `dynlog objects put --expires-after 7d report.csv s3://bucket/reports/`

    - `pg_dump db | dynlog objects put - s3://bucket/backups/db.sql`
    """
    place = place_of(url)
    pairs = parse_pairs("metadata", metadata or [])
    path = Path(source)
    if source != "-" and path.is_dir():
        if pairs or expires_after is not None:
            raise ConfigurationError(f"{source} is a folder: metadata and expiry are for single objects")
        _put_folder(path, place, as_json)
        return
    if source == "-" and not place.below("").key.strip("/"):
        raise ConfigurationError(f"{parse_url(url)}: stdin needs a key, as in s3://bucket/name")
    place = place if source == "-" else place.below(path.name)
    info = run(_put_object(None if source == "-" else path, place, pairs, expires_after))
    if as_json:
        print_json(described(info))
    else:
        print(f"{info.key}  {human_bytes(info.size)}  sha256 {info.sha256}")


def _put_folder(path: Path, place: Place, as_json: bool) -> None:
    folder = place.below(path.resolve().name).folder

    async def work() -> tuple[int, int]:
        async with open_objects(place.store) as store:
            total = sum(plan_of(path).sizes.values())
            with progress(f"put {path}", total, unit="bytes") as tell:
                manifest = await put_folder(store, folder, path, progress=lambda done, _: tell(done))
        return len(manifest.files), manifest.size

    files, size = run(work())
    if as_json:
        print_json({"folder": folder, "files": files, "bytes": size})
    else:
        print(f"{folder}/  {files} files  {human_bytes(size)}")


async def _put_object(
    path: Path | None, place: Place, metadata: dict[str, str], expires_after_s: float | None
) -> ObjectInfo:
    async with open_objects(place.store) as store, BlockingPool(1, "dynlog-put") as pool:
        if path is None:
            with progress("put stdin", unit="bytes") as tell:
                return await store.put(
                    place.key, stdin_pieces(), metadata=metadata, expires_after_s=expires_after_s,
                    progress=lambda done, _: tell(done), timeout=3600.0,
                )  # fmt: skip
        file = await pool.run(LargeFile.of, path)
        with progress(f"put {path}", file.size, unit="bytes") as tell:
            if file.size < LARGE:
                return await store.put(
                    place.key, LocalFile(pool, path).pieces(), metadata=metadata, expires_after_s=expires_after_s,
                    progress=lambda done, _: tell(done),
                )  # fmt: skip
            upload = await take_up(store, pool, place, file, metadata, expires_after_s)
            return await upload.finish(tell)


async def stdin_pieces() -> AsyncGenerator[bytes, None]:
    """Stdin, without blocking the event loop while a pipe gives nothing."""
    fd = sys.stdin.fileno()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    loop = asyncio.get_running_loop()
    while True:
        if not poll.poll(0):  # what is always ready (a file, /dev/null) the event loop refuses to watch
            ready = asyncio.Event()
            loop.add_reader(fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(fd)
        piece = os.read(fd, PIECE_BYTES)
        if not piece:
            return
        yield piece
        await asyncio.sleep(0)
