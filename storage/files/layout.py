"""Where what lies: keys map to paths reversibly, in the order of the keys, whatever the file system thinks of names.

    <root>/<key>                        the body, as a plain file that any tool reads, wherever that name is free
    <root>/.dynlog/entries/<encoded>    the sidecar; it alone makes the object exist
    <root>/.dynlog/bodies/<generation>  a body that is being written, or whose own name was not free
    <root>/.dynlog/uploads/<id>/        an upload in parts
    <root>/.dynlog/locks/<n>            held while an object is put in place or removed

In ``entries`` a segment keeps a-z 0-9 . _ - and everything else becomes %hh, so neither case nor dots nor Unicode
forms can make two keys one.  ``.o`` ends an object's name, ``.d`` a folder's (so ``a`` and ``a/b`` are two names), and
``.c`` a folder that holds what goes on after the first 200 characters of a long segment.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xxhash

HIDDEN = ".dynlog"
LOCKS = 16
FULL = 200
"""Encoded characters after which a segment goes on in a folder below (file names end at 255 bytes)."""
PAGE = 1000
"""Names of a folder that a listing holds at once."""
MAX_NAME_BYTES = 255

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")
_ENCODED = re.compile(rb"(?:[a-z0-9._-]|%[0-9a-f]{2})*")
_ESCAPE = re.compile(rb"%(..)")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a store whose folder is ``root``."""

    root: Path

    @property
    def hidden(self) -> Path:
        """Everything that is not a body under its own name."""
        return self.root / HIDDEN

    @property
    def entries(self) -> Path:
        """The sidecars."""
        return self.hidden / "entries"

    @property
    def bodies(self) -> Path:
        """Bodies that do not lie under their own names."""
        return self.hidden / "bodies"

    @property
    def uploads(self) -> Path:
        """Uploads in parts."""
        return self.hidden / "uploads"

    @property
    def locks(self) -> Path:
        """Lock files."""
        return self.hidden / "locks"

    def lock_number(self, key: str) -> int:
        """Which lock guards the key."""
        return int(xxhash.xxh3_64_intdigest(key.encode())) % LOCKS

    def entry(self, key: str) -> Path:
        """The object's sidecar."""
        *folders, last = key.encode().split(b"/")
        names = [name for folder in folders for name in _names(folder, ".d")]
        return self.entries.joinpath(*names, *_names(last, ".o"))

    def natural(self, key: str) -> Path | None:
        """The body under its own name, or None where no file can have that name."""
        segments = key.split("/")
        if segments[0].lower() == HIDDEN or any(len(segment.encode()) > MAX_NAME_BYTES for segment in segments):
            return None
        return self.root.joinpath(*segments)

    def walk(self, prefix: bytes) -> Iterator[tuple[str, Path]]:
        """Keys that begin with the prefix, in order, and their sidecars; memory is bounded by a page per level."""
        return _walk(self.entries, b"", prefix)


class _Named(NamedTuple):
    """A name in ``entries`` by what it adds to the key; sorts as the keys below it do."""

    added: bytes
    name: str


def _names(segment: bytes, suffix: str) -> list[str]:
    names, encoded = [], ""
    for byte in segment:
        encoded += chr(byte) if byte in _SAFE else f"%{byte:02x}"
        if len(encoded) >= FULL:
            names.append(encoded + ".c")
            encoded = ""
    return [*names, encoded + suffix]


def _parse(name: str) -> _Named | None:
    """None for a name that is not ours."""
    encoded, suffix = os.fsencode(name[:-2]), name[-2:]
    if suffix not in (".o", ".d", ".c") or not _ENCODED.fullmatch(encoded):
        return None
    segment = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), encoded)
    return _Named(segment + b"/" if suffix == ".d" else segment, name)


def _walk(folder: Path, base: bytes, prefix: bytes) -> Iterator[tuple[str, Path]]:
    after: _Named | None = None
    while True:
        page = _page(folder, after)
        for named in page:
            key = base + named.added
            if named.name.endswith(".o"):
                with suppress(UnicodeDecodeError):  # a name that no key has: not ours
                    if key.startswith(prefix):
                        yield key.decode(), folder / named.name
            elif key.startswith(prefix) or prefix.startswith(key):
                yield from _walk(folder / named.name, key, prefix)
        if len(page) < PAGE:
            return
        after = page[-1]


def _page(folder: Path, after: _Named | None) -> list[_Named]:
    """The first names behind ``after``."""
    try:
        with os.scandir(folder) as found:
            parsed = (_parse(item.name) for item in found)
            return heapq.nsmallest(PAGE, (named for named in parsed if named and (after is None or named > after)))
    except FileNotFoundError:
        return []  # its last object was deleted meanwhile
