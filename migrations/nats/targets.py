"""What things of NATS are called in a log, and which of them would be mistaken for each other there.

A name that a log takes stays as it is.  Several that differ only in characters which somebody takes for the same
(Dynamo's slugs make `a_b` and `a-b` one name, Kafka's metrics `a.b` and `a_b`) get one target, so that a plan refuses
them by name until all but one are left out: whoever derives a name later would meet the other's records.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import xxhash

from dynlog.migrations.nats.contract import Refusal

MOST_NAMED = 1_000
_ILLEGAL = re.compile(r"[^A-Za-z0-9._:-]")
_ALIKE = re.compile(r"[^A-Za-z0-9-]")


def target_name(name: str, most: int) -> str:
    """The name as a log takes it, at most ``most`` characters."""
    legal = _ILLEGAL.sub("-", name)
    if not legal[:1].isalnum():
        legal = f"nats{legal}"
    if len(legal) > most:
        digest = xxhash.xxh3_64_hexdigest(name.encode("utf-8", "surrogateescape"))
        legal = f"{legal[: most - len(digest) - 1]}-{digest}"
    return legal


def targets_of(names: Iterable[str], most: int) -> dict[str, str]:
    """The target of each name; those that would be mistaken for each other have the same."""
    same: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        same[_ALIKE.sub("-", target_name(name, most))].append(name)
    return {
        name: target_name(name, most) if len(group) == 1 else shared for shared, group in same.items() for name in group
    }


def mistaken(targets: Mapping[str, str]) -> dict[str, list[str]]:
    """The names that have a target together with others, each with those."""
    by_target: defaultdict[str, list[str]] = defaultdict(list)
    for name, target in targets.items():
        by_target[target].append(name)
    return {
        name: [other for other in group if other != name]
        for group in by_target.values()
        if len(group) > 1
        for name in group
    }


class Refusals:
    """Collects what is refused by name: the first thousand with their names, the rest counted."""

    def __init__(self) -> None:
        self._named: dict[str, Refusal] = {}
        self._more = 0

    def __len__(self) -> int:
        return len(self._named) + self._more

    def add(self, name: str, why: str) -> bool:
        """Whether it is among those that are named and was not before."""
        if name in self._named:
            return False
        if len(self._named) >= MOST_NAMED:
            self._more += 1
            return False
        self._named[name] = Refusal(name=name, why=why)
        return True

    def all(self) -> tuple[Refusal, ...]:
        """All of them."""
        more = [Refusal(name=f"{self._more} more", why="only the first thousand are named")] if self._more else []
        return (*self._named.values(), *more)
