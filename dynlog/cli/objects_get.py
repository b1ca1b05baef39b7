"""``dynlog objects get``: an object or a folder comes here, verified; again, and it goes on where it was."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dynlog.blocking import BlockingPool
from dynlog.cli.objects_place import Place, PlaceUrl, described, place_of
from dynlog.cli.options import AsJson
from dynlog.cli.output import LineOutput, human_bytes, print_json, progress, say
from dynlog.cli.run import run
from dynlog.drafts import make_folders, sync_folder
from dynlog.errors import ConfigurationError, ObjectCorrupt, ObjectNotFound
from dynlog.folders import FolderManifest, get_folder
from dynlog.objects import PIECE_BYTES, ObjectInfo, ObjectStore
from dynlog.open import open_objects


def get(
    url: PlaceUrl,
    target: Annotated[str, typer.Argument(help="A file, a folder, or - for stdout.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Bring an object or a folder here, verified by SHA-256. Begun again after an interruption, it goes on.

    The files of a folder come into TARGET itself; those that are there already are verified and not brought again. A
    single object becomes the file TARGET, or lies in it if that is a folder; it appears under its name when it is
    complete and verified. On stdout a damaged object ends in exit status 1 before its last bytes.

    With `--json`: the object as `head` shows it with its `path`, or `{"folder", "files", "bytes", "path"}`.

    - `dynlog objects get s3://bucket/llama /models/llama`

    - `dynlog objects get s3://bucket/reports/report.csv - | head`
    """
    place = place_of(url)
    if target == "-" and as_json:
        raise ConfigurationError("--json and the object cannot both go to stdout: give a file as the target")
    got, path = run(_get(place, target))
    if isinstance(got, FolderManifest):
        if as_json:
            print_json({"folder": place.folder, "files": len(got.files), "bytes": got.size, "path": str(path)})
        else:
            print(f"{path}/  {len(got.files)} files  {human_bytes(got.size)}")
    elif as_json:
        print_json(described(got) | {"path": str(path)})
    elif target != "-":
        print(f"{path}  {human_bytes(got.size)}  sha256 {got.sha256}")


async def _get(place: Place, target: str) -> tuple[ObjectInfo | FolderManifest, Path]:
    async with open_objects(place.store) as store:
        info = await _object_or_none(store, place)
        if info is None:
            if target == "-":
                raise ObjectNotFound("no such object", store=store.url, key=place.key)
            path = Path(target)
            with progress(f"get {place.folder}", unit="bytes") as tell:
                manifest = await get_folder(store, place.folder, path, progress=lambda done, _: tell(done))
            return manifest, path
        if target == "-":
            output = LineOutput()
            async for piece in store.get(place.key):
                await output.write(piece)
            return info, Path(target)
        path = Path(target)
        if path.is_dir() or target.endswith("/"):
            path = path / place.key.rpartition("/")[2]
        await _get_file(store, info, path)
        return info, path


async def _object_or_none(store: ObjectStore, place: Place) -> ObjectInfo | None:
    if not place.folder:
        raise ConfigurationError(f"which object or folder of {store.url}? Write its key behind the store's URL")
    if place.key.endswith("/"):
        return None
    try:
        return await store.head(place.key)
    except ObjectNotFound:
        return None


async def _get_file(store: ObjectStore, info: ObjectInfo, path: Path) -> None:
    """Brings an object under the path, going on with what an interrupted get of the same body left beside it."""
    async with BlockingPool(1, "dynlog-get") as pool:
        part = _PartFile(path, info)
        try:
            there = await pool.run(part.open)
            if there:
                say(f"going on at {human_bytes(there)} of {human_bytes(info.size)}")
            with progress(f"get {info.key}", info.size, unit="bytes") as tell:
                tell(there)
                async for piece in store.get(
                    info.key, start=there, length=info.size - there, progress=lambda done, _: tell(there + done)
                ):
                    await pool.run(part.write, piece)
            if part.sha256 != info.sha256:
                await pool.run(part.discard)
                raise ObjectCorrupt(
                    "the bytes that came do not have its SHA-256: it was damaged, or replaced meanwhile; get it again",
                    store=store.url, key=info.key,
                )  # fmt: skip
            await pool.run(part.put_in_place)
        except OSError as error:
            raise ConfigurationError(f"cannot write {error.filename or path}: {error.strerror}") from error
        finally:
            await pool.run_to_end(part.close)


class _PartFile:
    """What has come so far of one body, beside its target; every method blocks."""

    def __init__(self, target: Path, info: ObjectInfo) -> None:
        self._target = target
        self._path = target.parent / f".{target.name[:100]}.{info.sha256[:16]}.dynlog-part"
        self._size = info.size
        self._digest = hashlib.sha256()
        self._file: Any = None

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def open(self) -> int:
        """Opens it and returns how many bytes are there; raises ConfigurationError if another get is at it."""
        make_folders(self._target.parent)
        self._file = open(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")  # noqa: PTH123, SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"another get is bringing {self._target}: wait for it, or stop it") from None
        there = 0
        while piece := self._file.read(PIECE_BYTES):
            self._digest.update(piece)
            there += len(piece)
        if there > self._size:
            self._file.seek(0)
            self._file.truncate()
            self._digest = hashlib.sha256()
            return 0
        return there

    def write(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._file.write(piece)

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)

    def put_in_place(self) -> None:
        """Makes it the target, durably."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.rename(self._target)
        sync_folder(self._target.parent)

    def close(self) -> None:
        """Keeps what has come for the next get."""
        if self._file is not None:
            self._file.close()
