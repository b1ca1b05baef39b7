"""A folder of files (a model) in an object store: it exists once its manifest does, and comes back byte for byte.

* **The manifest is written last** and names every file with its size and SHA-256; a folder without one does not exist.
* **Both ways resume**: a file that is there already with the right checksum is not moved again.
* **Each file appears whole, under its name, or not at all**, and nothing is written or deleted outside the folder.

A file ``a/b`` of the folder is the object ``<prefix>/a/b``.  Links to files are followed (caches of models are made of
them); links to folders and anything that is neither file nor folder are refused.  Modes and times are not kept.
"""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dynlog.blocking import BlockingPool
from dynlog.drafts import Draft
from dynlog.errors import ConfigurationError, ObjectCorrupt, ObjectNotFound
from dynlog.folder_files import LocalFile, has_size, make_folders_inside, part_beside, plan_of, put_in_place
from dynlog.objects import ObjectStore, Progress, check_key

MANIFEST = "dynlog-folder.json"
"""The manifest's name below the prefix; no file of a folder may have it."""
THREADS = 2


class FolderFile(BaseModel):
    """One file; ``path`` is relative, with slashes."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class FolderManifest(BaseModel):
    """What a folder consists of; ``empty_folders`` are those that no file lies below."""

    model_config = ConfigDict(frozen=True)

    version: int = Field(default=1, ge=1, le=1)
    files: tuple[FolderFile, ...]
    empty_folders: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @model_validator(mode="after")
    def _paths_are_safe(self) -> FolderManifest:
        """No path leads out of the folder, stands twice, is the manifest's, or goes through another one's file."""
        names = [file.path for file in self.files]
        if MANIFEST in names:
            raise ValueError(f"a file is called {MANIFEST}")
        paths = [*names, *self.empty_folders]
        for path in paths:
            try:
                check_key(path)
            except ConfigurationError as error:
                raise ValueError(f"path {path!r} is not one inside the folder") from error
        if len(set(paths)) != len(paths):
            raise ValueError("a path stands twice")
        through = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        if through & set(names):
            raise ValueError(f"a file is a folder, too: {sorted(through & set(names))[0]!r}")
        return self


async def put_folder(
    store: ObjectStore, prefix: str, path: Path, *, progress: Progress | None = None
) -> FolderManifest:
    """Stores the folder under the prefix and returns its manifest; what lay there before is replaced.

    While files of it are being replaced the folder does not exist.  Raises ConfigurationError for what cannot be
    stored (before anything is), and what the store raises; the same call then goes on where it stopped.
    """
    manifest_key = check_key(f"{prefix}/{MANIFEST}")
    async with BlockingPool(THREADS, "dynlog-folders") as pool:
        plan = await pool.run(plan_of, path)
        for name in (*plan.sizes, *plan.empty_folders):
            check_key(f"{prefix}/{name}")
            if name == MANIFEST:
                raise ConfigurationError(f"{path / name}: a folder that is stored has no file of this name of its own")
        before = await _manifest_or_none(store, manifest_key)
        told = _Told(progress, sum(plan.sizes.values()))
        files, replacing = [], False
        for name in plan.sizes:
            local = LocalFile(pool, path / name)
            key = f"{prefix}/{name}"
            file = await _same_there(store, key, name, local)
            if file is None:
                if before is not None and not replacing:
                    replacing = True
                    await store.delete(manifest_key)
                body = local.pieces()
                async with aclosing(body):
                    info = await store.put(key, body, progress=told.part)
                file = FolderFile(path=name, size=info.size, sha256=info.sha256)
            told.file(plan.sizes[name])
            files.append(file)
    manifest = FolderManifest(files=tuple(files), empty_folders=plan.empty_folders)
    if replacing or manifest != before:
        await store.put_model(manifest_key, manifest)
    for old in before.files if before is not None else ():
        if old.path not in plan.sizes:
            await store.delete(f"{prefix}/{old.path}")
    return manifest


async def get_folder(
    store: ObjectStore, prefix: str, path: Path, *, progress: Progress | None = None
) -> FolderManifest:
    """Brings the folder under the prefix into ``path``, verified, and returns its manifest; other files there stay.

    Raises ObjectNotFound if there is no such folder, ObjectCorrupt if a file is not the manifest's, ConfigurationError
    if something is in the way, and what the store raises; the same call then goes on where it stopped.
    """
    manifest_key = check_key(f"{prefix}/{MANIFEST}")
    try:
        manifest = await store.get_model(manifest_key, FolderManifest)
    except ObjectNotFound:
        raise ObjectNotFound(
            f"no folder {prefix!r}: it was not stored, or not completely; put it (again)",
            store=store.url, key=manifest_key,
        ) from None  # fmt: skip
    told = _Told(progress, manifest.size)
    async with BlockingPool(THREADS, "dynlog-folders") as pool:
        for name in manifest.empty_folders:
            await pool.run(make_folders_inside, path, path / name)
        for file in manifest.files:
            target = path / file.path
            await pool.run(make_folders_inside, path, target.parent)
            same = await pool.run(has_size, target, file.size)
            if not same or await LocalFile(pool, target).sha256() != (file.size, file.sha256):
                await _fetch(store, pool, f"{prefix}/{file.path}", target, file, told)
            told.file(file.size)
    return manifest


class _Told:
    """Progress over all files, from progress within each."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def part(self, done: int, _: int | None) -> None:
        """So much of the present file."""
        if self._progress is not None:
            self._progress(min(self._done + done, self._total), self._total)

    def file(self, size: int) -> None:
        """A file is there."""
        self._done += size
        self.part(0, None)


async def _manifest_or_none(store: ObjectStore, key: str) -> FolderManifest | None:
    try:
        return await store.get_model(key, FolderManifest)
    except ObjectNotFound:
        return None
    except ObjectCorrupt:
        await store.delete(key)
        return None


async def _same_there(store: ObjectStore, key: str, name: str, local: LocalFile) -> FolderFile | None:
    """The file if the store has it already."""
    try:
        info = await store.head(key)
    except (ObjectNotFound, ObjectCorrupt):
        return None
    if (info.size, info.sha256) != await local.sha256():
        return None
    return FolderFile(path=name, size=info.size, sha256=info.sha256)


async def _fetch(store: ObjectStore, pool: BlockingPool, key: str, target: Path, file: FolderFile, told: _Told) -> None:
    """Brings one file, verified against the manifest, under its name."""
    draft = Draft(part_beside(target))
    try:
        await pool.run(draft.open)
        pieces = store.get(key, progress=told.part)
        async for piece in pieces:
            await pool.run(draft.write, piece)
        if (draft.size, draft.sha256) != (file.size, file.sha256):
            raise ObjectCorrupt(
                f"{draft.size} bytes with SHA-256 {draft.sha256}, but the folder's manifest says {file.size} with "
                f"{file.sha256}: it is being replaced, or was damaged; put the folder again",
                store=store.url, key=key,
            )  # fmt: skip
        await pool.run(put_in_place, draft, target)
    except OSError as error:
        raise ConfigurationError(f"cannot write {target}: {error.strerror}") from error
    finally:
        await pool.run_to_end(draft.discard)
