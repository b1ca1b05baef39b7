"""The sidecar: one line of JSON and one with its CRC-32C; the object exists exactly if its sidecar does.

``generation`` names the body: it lies in ``bodies/<generation>`` or, if it is not there and ``natural`` is set, under
the object's own name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import google_crc32c

from dynlog.errors import ConfigurationError, ObjectCorrupt
from dynlog.objects import ObjectInfo

VERSION = 1
MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What is known of an object, and where its body lies."""

    info: ObjectInfo
    generation: str
    natural: bool


def encode_sidecar(sidecar: Sidecar) -> bytes:
    """The file's content."""
    info = sidecar.info
    fields = {
        "version": VERSION,
        "key": info.key,
        "size": info.size,
        "sha256": info.sha256,
        "modified_ms": info.modified_ms,
        "expires_ms": info.expires_ms,
        "metadata": dict(info.metadata),
        "generation": sidecar.generation,
        "natural": sidecar.natural,
    }
    return seal_json(fields)


def decode_sidecar(content: bytes, key: str, store: str) -> Sidecar:
    """Raises ObjectCorrupt for anything but what `encode_sidecar` made for that key, ConfigurationError for a newer
    dynlog's."""
    fields = open_json(content, key, store)
    try:
        if fields["key"] != key:
            raise ObjectCorrupt(f"the sidecar is of the object {fields['key']!r}", store=store, key=key)
        info = ObjectInfo(
            key=key,
            size=fields["size"],
            sha256=fields["sha256"],
            modified_ms=fields["modified_ms"],
            metadata=MappingProxyType(fields["metadata"]),
            expires_ms=fields["expires_ms"],
        )
        return Sidecar(info, fields["generation"], fields["natural"])
    except (KeyError, TypeError) as error:
        raise ObjectCorrupt(f"the sidecar has the wrong fields: {error}", store=store, key=key) from None


def seal_json(fields: dict[str, Any]) -> bytes:
    """A line of JSON and a line with its checksum."""
    line = json.dumps(fields).encode() + b"\n"
    return line + b"%08x\n" % google_crc32c.value(line)


def open_json(content: bytes, key: str, store: str) -> dict[str, Any]:
    """The fields; raises ObjectCorrupt unless the checksum fits, ConfigurationError for a newer version."""
    line, checksum = content[:-9], content[-9:]
    # Compared as bytes: int() would take the same number in other letters, and a flipped bit would go unseen.
    if checksum != b"%08x\n" % google_crc32c.value(line):
        raise ObjectCorrupt(
            f"the sidecar's checksum does not fit its {len(content)} bytes; delete the object and put it again",
            store=store,
            key=key,
        )
    fields: dict[str, Any] = json.loads(line)
    if fields["version"] > VERSION:
        raise ConfigurationError(
            f"object {key!r} in {store} was written by a newer dynlog (version {fields['version']}, this one reads up "
            f"to {VERSION}): upgrade"
        )
    return fields
