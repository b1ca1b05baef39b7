"""Which name in the bucket a key has: its own wherever that can be, and always one that every S3 server keeps apart.

* **A key whose last segment has an extension is its own name** (``model/config.json``), so other tools can read it; one
  without gets a ``!`` (``model/LICENSE!``).  Else MinIO, which keeps names as folders, would hide ``a/b`` behind ``a``.
* **Names sort as their keys do** (code points), so a listing needs no memory.
* **No segment of a name is longer than 250 bytes**, MinIO's bound being 255.

``!`` marks the end of a last segment that has no extension; a blank is ``!0`` and a ``!`` is ``!1``.  A folder that
looks like a file (``x.json/``) has U+10FFFF behind it.  After `CUT` bytes of one segment a ``/`` is put in, followed by
0, 1 or 2 for what came next: something before ``/``, ``/`` itself, something after.  The first segment ``.dynlog`` is
cut, too, and what else begins with ``.dynlog/`` is the store's own.
"""

from __future__ import annotations

import re

from dynlog.errors import ConfigurationError
from dynlog.objects import check_key

MAX_NAME_BYTES = 1024
CUT = 190
OWN = ".dynlog"

_WITH_EXTENSION = re.compile(r"[^.].*\.[A-Za-z][A-Za-z0-9_]{0,31}")
_LAST = "\U0010ffff"
_FOLDER_MARK = f".{_LAST}"
_ESCAPES = {" ": "!0", "!": "!1"}


class Names:
    """Names below a prefix, which is empty or ends with a slash."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def of(self, key: str) -> str:
        """The name of a legal key; raises ConfigurationError if it is longer than S3 allows."""
        if _LAST in check_key(key):
            raise ConfigurationError(
                f"object key {key[:80]!r}: U+10FFFF, which is no character, cannot be in a key on S3"
            )
        name = self.prefix + encode(key)
        if (size := len(name.encode())) > MAX_NAME_BYTES:
            raise ConfigurationError(
                f"object key {key[:80]!r} makes a name of {size} bytes below {self.prefix!r}: S3 allows "
                f"{MAX_NAME_BYTES}"
            )
        return name

    def beginning(self, prefix: str) -> str:
        """What the names of all keys with that prefix begin with."""
        return self.prefix + encode(prefix, whole=False)

    def key(self, name: str) -> str | None:
        """The key of a name; None if it is no key's: the store's own, or something else's."""
        return decode(name.removeprefix(self.prefix))

    def own(self, *parts: str) -> str:
        """A name of the store's own."""
        return self.prefix + "/".join((OWN, *parts))


def encode(key: str, *, whole: bool = True) -> str:
    """The name of the key; without ``whole`` what all names of keys that begin with it have in common."""
    name: list[str] = []
    segment = ""  # of the key, so far
    size = 0  # of the name's own segment, so far
    first, long = True, False
    for character in key:
        if size >= CUT or (first and segment == OWN):
            name.append("/0" if character < "/" else "/1" if character == "/" else "/2")
            size, first = 1, False
            long = character != "/"
            if not long:
                segment = ""
                continue
        elif character == "/":
            name.append("/" if long or not _WITH_EXTENSION.fullmatch(segment) else f"{_FOLDER_MARK}/")
            segment, size, first, long = "", 0, False, False
            continue
        name.append(_ESCAPES.get(character, character))
        segment += character
        size += len(name[-1].encode())
    if whole and (long or size >= CUT or not _WITH_EXTENSION.fullmatch(segment)):
        name.append("!")
    return "".join(name)


def decode(name: str) -> str | None:
    """The key whose name it is; None if there is none."""
    key: list[str] = []
    size = 0
    at = 0
    while at < len(name):
        character = name[at]
        if character == "/":
            at += 1
            if key[-2:] == list(_FOLDER_MARK):
                key[-2:] = "/"
                size = 0
            elif size >= CUT or "".join(key) == OWN:
                if name[at : at + 1] not in ("0", "1", "2"):
                    return None
                key.append("/" if name[at] == "1" else "")
                at += 1
                size = 1
            else:
                key.append("/")
                size = 0
            continue
        if character == "!":
            escaped = {"0": " ", "1": "!"}.get(name[at + 1 : at + 2])
            if escaped is None:
                break
            character = escaped
            at += 1
            size += 1
        key.append(character)
        size += len(character.encode())
        at += 1
    found = "".join(key)
    try:
        check_key(found)
    except ConfigurationError:
        return None
    return found if _LAST not in found and encode(found) == name else None
