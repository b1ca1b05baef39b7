"""A Lua script and its digest.  Numbers in scripts are doubles: exact up to 2^53, so marks travel as two halves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache

_ALLOWED = "#!lua flags=allow-oom\n"
FLAGS_SINCE = (7, 0)
"""The first version of Redis whose scripts may say what they need."""


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """One script; ``name`` is for messages.

    One that ``frees`` memory, or leads to it, must run on a server that is at its maxmemory: there a truncation is the
    way out.  Redis 7 lets a script say so; on 6.2 such a server needs a larger maxmemory first.
    """

    name: str
    text: str
    frees: bool = False
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


@cache
def for_version(script: Script, version: tuple[int, ...]) -> Script:
    """The form of the script for that version of Redis."""
    if not script.frees or version < FLAGS_SINCE:
        return script
    return Script(script.name, _ALLOWED + script.text.lstrip(), frees=True)
