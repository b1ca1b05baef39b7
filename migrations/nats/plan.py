"""The plan: every thing that the source keeps in JetStream, what it becomes, what does not fit, and why.

Making it changes nothing, neither there nor here.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict

from dynlog.errors import ConfigurationError
from dynlog.migrations.nats.contract import Item, Mover, Refusal
from dynlog.migrations.nats.model_buckets import with_references
from dynlog.migrations.nats.movers import MOVERS
from dynlog.migrations.nats.survey import Survey


class Plan(BaseModel):
    """What an apply would do, in its order; ``release`` is the Dynamo release that the source looks like."""

    model_config = ConfigDict(frozen=True)

    migration: str
    source: str
    log: str
    objects: str
    release: str
    advice: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()

    @property
    def moving(self) -> list[Item]:
        """The items that are moved; the others are only listed."""
        return [item for item in self.items if item.target]

    @property
    def refused(self) -> int:
        """How many names are not moved."""
        return sum(len(item.refused) for item in self.items)


async def make_plan(
    survey: Survey, *, only: Sequence[str] = (), exclude: Sequence[str] = (), movers: Sequence[Mover] = MOVERS
) -> Plan:
    """Looks at everything; ``only`` and ``exclude`` are names or patterns (``*``) of sources or items.

    Raises ConfigurationError for a name without a ``*`` that nothing has or if nothing is left, and what reading the
    source raises.
    """
    found = [item for mover in movers for item in await mover.plan(survey)]
    for name in (*only, *exclude):
        if "*" not in name and not any(is_named(item, name) for item in found):
            near = get_close_matches(name, {item.source for item in found}, n=1)
            meant = f"did you mean {near[0]!r}?" if near else "the plan without it names what is there"
            raise ConfigurationError(f"nothing in the source is called {name!r}; {meant}")
    left = [item for item in found if not any(is_named(item, name) for name in exclude)]
    # Also of models that are moved at another time: what refers to them is to lead to where they come to lie.
    left = with_references(survey, left, [item.source for item in left if item.kind == "model"])
    chosen = [item for item in left if not only or any(is_named(item, name) for name in only)]
    if found and not chosen:
        raise ConfigurationError(
            f"--only and --exclude leave nothing of the {len(found)} buckets and streams that are in the source; the "
            "plan without them names what is there"
        )
    release, advice = recognise(survey, found)
    return Plan(
        migration=survey.migration, source=survey.server.shown, log=survey.log_url, objects=survey.objects_url,
        release=release, advice=advice, items=tuple(without_collisions(chosen)),
    )  # fmt: skip


def recognise(survey: Survey, items: Sequence[Item]) -> tuple[str, tuple[str, ...]]:
    """The Dynamo release that the source looks like, and what follows from that for whoever migrates."""
    routers = [item for item in items if item.kind == "router"]
    if routers:
        forms = sorted({note.partition(" as ")[2].removesuffix(" writes it") for item in routers for note in item.notes
                        if note.startswith("snapshot of ")})  # fmt: skip
        said = f"; its snapshots have the form of {', '.join(forms)}" if forms else ""
        return f"Dynamo 0.7 to 0.9: router state in JetStream{said}", ()
    command = (
        f"dynlog router ingest --format dynamo-nats {survey.server.shown}/NAMESPACE/COMPONENT --log {survey.log_url} "
        "--topic kv-events"
    )
    why = (
        "Dynamo releases since 1.x keep router state out of JetStream: workers publish their events, and a router "
        f"begins empty. Take them from now on with: {command}"
    )
    if survey.is_empty:
        return "nothing is in JetStream: Dynamo 1.x, or no Dynamo", (why,)
    return "no router state is in JetStream: Dynamo 1.x, or no Dynamo", (why,)


def is_named(item: Item, name: str) -> bool:
    """Whether the name or pattern means the item."""
    return fnmatchcase(item.source, name) or fnmatchcase(item.id, name)


def without_collisions(items: Sequence[Item]) -> list[Item]:
    """The items; of several with one target none is moved, and each names the others."""
    by_target: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        by_target.setdefault((item.kind, item.target), []).append(item)
    kept = []
    for item in items:
        others = [other.source for other in by_target[item.kind, item.target] if other is not item]
        if item.target and others:
            why = (
                f"{item.target!r} would be the target of {', '.join(others)} as well: leave out all but one (--exclude)"
            )
            refused = (*item.refused, Refusal(name=item.source, why=why))
            item = item.model_copy(update={"target": "", "refused": refused})
        kept.append(item)
    return kept
