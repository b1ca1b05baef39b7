"""A snapshot's body: parts of one or more projections in one stream, each bounded and counted.

    body  "DLSN" | version u8 | frames
    frame section u8 | length u32 | part                  (little-endian; section 255 ends the body, its length counts
                                                           the frames before it)

Integrity of the whole is the manifest's SHA-256; the frames only have to be exactly consumed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from dynlog.errors import SnapshotCorrupt

MAGIC = b"DLSN"
VERSION = 1
FRAME = struct.Struct("<BI")
END = 255
MAX_PART_BYTES = 64 << 20


def encode_body(sections: Mapping[int, Iterator[bytes]]) -> Iterator[bytes]:
    """The body's pieces, one step of one projection's snapshot at a time."""
    yield MAGIC + bytes([VERSION])
    count = 0
    for section, parts in sections.items():
        for part in parts:
            if len(part) > MAX_PART_BYTES:
                raise SnapshotCorrupt(
                    f"a part of {len(part)} bytes, which no reader would take: {MAX_PART_BYTES} at most"
                )
            count += 1
            yield FRAME.pack(section, len(part)) + part
    yield FRAME.pack(END, count)


def decode_body(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(section, part) for every part, in order; raises SnapshotCorrupt unless the body is consumed exactly."""
    buffer = bytearray()
    source = iter(pieces)

    def take(size: int) -> bytes:
        while len(buffer) < size:
            piece = next(source, None)
            if piece is None:
                raise SnapshotCorrupt(f"a snapshot's body ends early: {size} bytes expected, {len(buffer)} are there")
            buffer.extend(piece)
        taken = bytes(memoryview(buffer)[:size])
        del buffer[:size]
        return taken

    head = take(len(MAGIC) + 1)
    if head[:4] != MAGIC:
        raise SnapshotCorrupt(f"a snapshot's body begins with {MAGIC!r}, this with {head[:4]!r}")
    if head[4] != VERSION:
        raise SnapshotCorrupt(f"a snapshot's body of version {head[4]}: this dynlog reads {VERSION}")
    count = 0
    while True:
        section, length = FRAME.unpack(take(FRAME.size))
        if section == END:
            break
        if length > MAX_PART_BYTES:
            raise SnapshotCorrupt(f"a part of {length} bytes in a snapshot, at most {MAX_PART_BYTES} are possible")
        count += 1
        yield section, take(length)
    if length != count or buffer or next(source, b""):
        raise SnapshotCorrupt(f"a snapshot's body of {count} parts says it has {length}, or goes on behind its end")
