"""Where a peer is, and so in which order its addresses are tried: the nearest wire first, then the fastest."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dynlog.errors import ConfigurationError
from dynlog.network.hierarchy import Member
from dynlog.wire import ANYWHERE, HOST, PROCESS, WIRES, scheme_of

_process = secrets.token_hex(8)


def _reborn() -> None:
    global _process
    _process = secrets.token_hex(8)


os.register_at_fork(after_in_child=_reborn)


def this_process() -> str:
    """A text that no other process has, a forked child included."""
    return _process


@lru_cache(maxsize=1)
def this_host() -> str:
    """A text that every process of this machine has until it is booted anew, and no other machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return platform.node() or "localhost"


@dataclass(frozen=True, slots=True)
class WirePolicy:
    """Which wires are used, and which first; by default all that reach the peer, the nearest and fastest first."""

    prefer: tuple[str, ...] = ()
    """Schemes that are tried before all others, in this order."""
    never: frozenset[str] = frozenset()
    """Schemes that are not used."""

    def __post_init__(self) -> None:
        for scheme in (*self.prefer, *self.never):
            if scheme not in WIRES:
                raise ConfigurationError(f"no wire goes by {scheme!r}; known are {', '.join(WIRES)}")


def distance(member: Member, host: str, process: str) -> int:
    """How far the member is: PROCESS, HOST or ANYWHERE."""
    if member.process == process and process:
        return PROCESS
    return HOST if member.host == host and host else ANYWHERE


def in_order(addresses: Iterable[str], far: int, policy: WirePolicy, usable: Sequence[str] = tuple(WIRES)) -> list[str]:
    """Those addresses that reach so far, the best first."""

    def rank(address: str) -> tuple[int, int]:
        scheme = scheme_of(address)
        preferred = policy.prefer.index(scheme) if scheme in policy.prefer else len(policy.prefer)
        return preferred, WIRES[scheme].order

    known = [
        address
        for address in addresses
        if (scheme := address.partition("://")[0]) in WIRES and scheme in usable and scheme not in policy.never
        and WIRES[scheme].reach >= far
    ]  # fmt: skip
    return sorted(known, key=rank)
