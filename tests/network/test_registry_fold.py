"""The hierarchy against a model that knows nothing of how it is kept: edges with their ages, and a walk."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlog.entity import DynamoEntityID
from dynlog.errors import ConfigurationError
from dynlog.network.hierarchy import MAX_PARENTS, Hierarchy, Interest, Member
from dynlog.network.registry_edges import Since

COLLECTIONS = [DynamoEntityID.collection(f"c{n}") for n in range(5)]
INSTANCES = [DynamoEntityID.from_name(f"i{n}") for n in range(3)]
ENTITIES = COLLECTIONS + INSTANCES
A, B, C, D, *_ = COLLECTIONS
ONE, TWO, THREE = INSTANCES


class Said(NamedTuple):
    """Who says which parents, or (None) leaves; ``anew``: as if it had not been there before."""

    entity: DynamoEntityID
    parents: list[DynamoEntityID] | None
    anew: bool = False


some_parents = st.lists(st.sampled_from(COLLECTIONS), max_size=3, unique=True)
puts = st.builds(Said, st.sampled_from(ENTITIES), some_parents, st.booleans())
removals = st.builds(Said, st.sampled_from(ENTITIES), st.none())
histories = st.lists(puts | puts | removals, max_size=25)
"""Circles are as likely as anything."""


@dataclass
class Model:
    """What is there, edge by edge, and all that ever was taken."""

    edges: dict[tuple[DynamoEntityID, DynamoEntityID], int] = field(default_factory=dict)
    moments: list[set[tuple[DynamoEntityID, DynamoEntityID]]] = field(default_factory=list)

    def say(self, said: Said, offset: int) -> None:
        entity, parents, anew = said
        mine = {(entity, p): offset if anew else self.edges.get((entity, p), offset) for p in parents or ()}
        self.edges = {edge: at for edge, at in self.edges.items() if edge[0] != entity}
        self.edges.update(mine)
        self.moments.append(self.taken())

    def taken(self) -> set[tuple[DynamoEntityID, DynamoEntityID]]:
        """The oldest edges first, and none that closes a circle."""
        taken: set[tuple[DynamoEntityID, DynamoEntityID]] = set()
        for (child, parent), _ in sorted(self.edges.items(), key=lambda item: (item[1], item[0])):
            if not reaches(taken, parent, child):
                taken.add((child, parent))
        return taken


def reaches(edges: set[tuple[DynamoEntityID, DynamoEntityID]], start: DynamoEntityID, end: DynamoEntityID) -> bool:
    """Whether one comes from the one up to the other."""
    reached = {start}
    while more := {parent for child, parent in edges if child in reached} - reached:
        reached |= more
    return end in reached


def folded(history: list[Said]) -> tuple[Hierarchy, Model]:
    """Both after the same history, whose offsets are 1, 2, 3 ..."""
    view, model = Hierarchy(), Model()
    model.moments.append(set())
    for offset, said in enumerate(history, start=1):
        for each in ENTITIES:
            view.above(each)  # what was asked before a change is not answered after it
        model.say(said, offset)
        if said.parents is None:
            view.remove(said.entity, offset)
        else:
            before = {} if said.anew else dict(view.since(said.entity))
            view.put(Member(said.entity, tuple(said.parents)), offset, since=before)
    return view, model


@given(histories)
@settings(max_examples=120, deadline=None)
def test_below_above_and_broken_are_those_of_the_oldest_edges_without_circles(
    history: list[Said],
) -> None:
    view, model = folded(history)
    taken = model.taken()
    for entity in ENTITIES:
        others = [other for other in ENTITIES if other != entity]
        assert set(view.above(entity)) == {other for other in others if reaches(taken, entity, other)}
        assert set(view.below(entity)) == {other for other in others if reaches(taken, other, entity)}
        assert not view.is_below(entity, entity)
    assert set(view.broken) == {child for child, parent in set(model.edges) - taken}


@given(histories)
@settings(max_examples=120, deadline=None)
def test_whoever_comes_late_and_sees_only_what_is_left_has_the_same_hierarchy(
    history: list[Said],
) -> None:
    view, _ = folded(history)
    late = Hierarchy()
    for member in reversed(view.members()):
        since = view.since(member.entity)
        late.put(member, view.offset, since=since, joined=view.joined(member.entity))
    for entity in ENTITIES:
        assert dict(late.above(entity)) == dict(view.above(entity))
        assert late.joined(entity) == view.joined(entity)
    assert late.broken == view.broken
    assert late.tree() == view.tree()


@given(histories)
@settings(max_examples=80, deadline=None)
def test_who_was_below_whom_at_an_offset_is_remembered_while_no_circle_is_closed(
    history: list[Said],
) -> None:
    # A circle that is opened lets edges in as of when they were said: what was so in between is not kept.
    model = Model()
    history = [said for offset, said in enumerate(history) if not _breaks(model, said, offset)]
    view, model = folded(history)
    for offset, moment in enumerate(model.moments):
        for entity in ENTITIES:
            for other in ENTITIES:
                assert view.was_below(entity, other, offset) == reaches(moment, entity, other)


def _breaks(model: Model, said: Said, offset: int) -> bool:
    before = dict(model.edges)
    model.say(said, offset)
    if len(model.taken()) == len(model.edges):
        return False
    model.edges = before
    return True


@given(
    histories,
    st.lists(st.tuples(st.sampled_from(INSTANCES), st.sampled_from(ENTITIES), st.sampled_from(["x", "y"])), max_size=8),
)
@settings(max_examples=80, deadline=None)
def test_those_interested_are_those_who_subscribe_at_or_below(
    history: list[Said],
    subscriptions: list[tuple[DynamoEntityID, DynamoEntityID, str]],
) -> None:
    view, model = folded(history)
    for process, entity, topic in subscriptions:
        view.interested(A, "x")  # what was asked before a change is not answered after it
        there = view.get(process) or Member(process)
        member = replace(there, interests=there.interests | {Interest(entity, topic)})
        model.say(Said(process, list(member.parents)), view.offset + 1)
        view.put(member, view.offset + 1, since=view.since(process))
    taken = model.taken()
    for target in ENTITIES:
        for topic in ("x", "y"):
            interested = {
                process for process, entity, subject in subscriptions
                if subject == topic and reaches(taken, entity, target)
            }  # fmt: skip
            assert {member.entity for member in view.interested(target, topic)} == interested


def test_a_circle_is_named_and_opens_again_when_one_of_its_edges_goes() -> None:
    view = Hierarchy()
    view.put(Member(A, (B,)), 1)
    view.put(Member(B, (C,)), 2)
    view.put(Member(C, (A,)), 3)
    assert "contain each other" in view.broken[C]
    assert view.is_below(A, C)
    view.put(Member(A), 4)
    assert view.broken == {}
    assert set(view.above(B)) == {C, A}


def test_an_update_that_keeps_its_parents_does_not_make_its_edges_younger() -> None:
    view = Hierarchy()
    view.put(Member(A, (B,)), 1)
    view.put(Member(B, (A,)), 2)
    view.put(Member(A, (B,)), 3, since={B: Since(1)})
    assert set(view.broken) == {B}


def test_an_entity_has_been_below_since_the_youngest_edge_of_the_oldest_way() -> None:
    view = Hierarchy()
    view.put(Member(ONE, (B, C)), 1)
    view.put(Member(B, (A,)), 5)
    view.put(Member(C, (A,)), 3)
    assert view.above(ONE)[A].offset == 3
    assert not view.was_below(ONE, A, 2)
    assert view.was_below(ONE, A, 3)


def test_a_hierarchy_that_is_deep_or_woven_is_drawn_in_as_many_lines_as_it_has_edges() -> None:
    view = Hierarchy()
    deep = [DynamoEntityID.collection(f"d{n}") for n in range(3000)]
    for offset, (child, parent) in enumerate(zip(deep[1:], deep, strict=False)):
        view.put(Member(child, (parent,)), offset)
    assert view.tree().count("\n") == 2999
    woven = Hierarchy()
    for level in range(40):
        sides = [DynamoEntityID.collection(f"w{level}{side}") for side in "lr"]
        above = tuple(DynamoEntityID.collection(f"w{level - 1}{side}") for side in "lr") if level else ()
        for side in sides:
            woven.put(Member(side, above), level)
    assert woven.tree().count("\n") < 200
    assert "see above" in woven.tree()


def test_what_says_too_much_is_refused() -> None:
    many = tuple(DynamoEntityID.collection(f"m{n}") for n in range(MAX_PARENTS + 1))
    with pytest.raises(ConfigurationError, match="65 parents: at most 64"):
        Member(ONE, many)
    with pytest.raises(ConfigurationError, match="only a collection has members"):
        Member(ONE, (TWO,))
