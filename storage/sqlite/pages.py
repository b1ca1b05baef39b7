"""SQLite's b-trees read page by page (https://www.sqlite.org/fileformat2.html), around the pages that are gone.

SQLite itself gives up at the first page that it cannot follow, and a file that was cut off ends every search with one.
This walks from a root to every leaf that can still be reached.  Only what hangs on the root is read: a page that was
freed keeps its old rows, whose checksums hold, and they must not come back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from struct import error as StructError
from struct import unpack_from
from typing import Any, Self

TABLE_LEAF, TABLE_INTERIOR, INDEX_LEAF, INDEX_INTERIOR = 13, 5, 10, 2
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_DAMAGED = (IndexError, StructError, ValueError)


class Pages:
    """The pages of a database file that nobody has open in SQLite (closing it here would drop SQLite's locks)."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        header = os.pread(self._fd, 100, 0).ljust(100, b"\0")
        size: int = unpack_from(">H", header, 16)[0]
        self._page_size = 65536 if size == 1 else max(size, 512)
        self._usable = self._page_size - header[20]
        self._bytes = os.fstat(self._fd).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def records(self, root: int) -> Iterator[list[Any]]:
        """The rows of a table (with or without rowids) that can be reached, less what a lost page had of them."""
        seen: set[int] = set()
        ahead = [root]
        while ahead:
            number = ahead.pop()
            if number in seen:
                continue
            seen.add(number)
            page = self._page(number)
            kind = page[0] if len(page) == self._page_size else 0
            if kind not in (TABLE_LEAF, TABLE_INTERIOR, INDEX_LEAF, INDEX_INTERIOR):
                continue
            interior = kind in (TABLE_INTERIOR, INDEX_INTERIOR)
            children = [unpack_from(">I", page, 8)[0]] if interior else []
            for index in range(unpack_from(">H", page, 3)[0]):
                try:
                    at = unpack_from(">H", page, (12 if interior else 8) + 2 * index)[0]
                    if interior:
                        children.append(unpack_from(">I", page, at)[0])
                    if kind != TABLE_INTERIOR:
                        yield _record(self._payload(page, kind, at + 4 * interior))
                except _DAMAGED:
                    continue
            ahead += children

    def _page(self, number: int) -> bytes:
        return os.pread(self._fd, self._page_size, (number - 1) * self._page_size) if number > 0 else b""

    def _payload(self, page: bytes, kind: int, at: int) -> bytes:
        """A cell's payload, or as much of it as the pages that it flowed over to still have."""
        size, at = _varint(page, at)
        if kind == TABLE_LEAF:
            _, at = _varint(page, at)
        if size > self._bytes:
            raise ValueError("no row is larger than the file")
        least = (self._usable - 12) * 32 // 255 - 23
        most = self._usable - 35 if kind == TABLE_LEAF else (self._usable - 12) * 64 // 255 - 23
        if size <= most:
            return page[at : at + size]
        local = least + (size - least) % (self._usable - 4)
        if local > most:
            local = least
        parts, left = [page[at : at + local]], size - local
        following = unpack_from(">I", page, at + local)[0]
        while left > 0:
            flow = self._page(following)[: self._usable]
            if len(flow) < self._usable:
                break
            parts.append(flow[4 : 4 + left])
            left -= len(parts[-1])
            following = unpack_from(">I", flow)[0]
        return b"".join(parts)


def _record(payload: bytes) -> list[Any]:
    end, at = _varint(payload, 0)
    body = end
    values: list[Any] = []
    while at < end:
        kind, at = _varint(payload, at)
        size = _INTEGER_BYTES.get(kind, 0) if kind < 12 else (kind - 12) // 2
        content = payload[body : body + size]
        body += size
        if kind >= 12:
            values.append(content if kind % 2 == 0 else content.decode())
        elif len(content) < size:
            raise ValueError("a number is cut off")
        else:
            values.append(int.from_bytes(content, "big", signed=True) if size else {8: 0, 9: 1}.get(kind))
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9
