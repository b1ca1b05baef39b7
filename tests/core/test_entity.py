"""Entities: the same name gives the same id everywhere, and what is printed parses back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from dynlog.entity import MAX_NAME_BYTES, DynamoEntityID, EntityType, id_of_name
from dynlog.errors import ConfigurationError

names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="=#"), min_size=1, max_size=60).filter(
    lambda name: name[:2].lower() != "0x" and name.isprintable()
)
lives = st.integers(0, 2**64 - 1)
ids = st.integers(0, 2**128 - 1)


def test_the_id_of_a_name_is_the_first_half_of_its_sha256_for_ever() -> None:
    # printf worker-0 | sha256sum
    assert f"{id_of_name('worker-0'):032x}" == "fc8e34e0d6c82339890b8c17cec81a65"


@given(names, lives)
def test_an_instance_of_a_name_parses_back_whole(name: str, life: int) -> None:
    entity = DynamoEntityID.from_name(name, incarnation=life)
    parsed = DynamoEntityID.parse(str(entity))
    assert (parsed, parsed.name, parsed.incarnation, parsed.entity_type) == (entity, name, life, EntityType.INSTANCE)


@given(ids, st.none() | names, lives)
def test_an_id_that_no_name_gave_parses_back_whole(number: int, name: str | None, life: int) -> None:
    entity = DynamoEntityID(number, EntityType.INSTANCE, name, (), life)
    parsed = DynamoEntityID.parse(str(entity))
    assert (parsed.id, parsed.name, parsed.incarnation) == (number, name, life)


@given(st.text(max_size=80))
def test_any_other_text_is_refused_or_prints_as_it_was_read(text: str) -> None:
    try:
        entity = DynamoEntityID.parse(f"instance:{text}")
    except ConfigurationError:
        return
    assert DynamoEntityID.parse(str(entity)) == entity


@pytest.mark.parametrize(
    "text",
    [
        "", "worker", "instance", "instance:", "thing:a", "instance:a b", "instance:a#", "instance:a#x",
        "instance:a#-1", "instance:0x12", "instance:0X" + "0" * 32, "instance:a=0x1",
        "instance:a=b", "instance:=0x" + "0" * 32,
        "instance:a#18446744073709551616", "collection:a#3", "instance:" + "n" * (MAX_NAME_BYTES + 1),
    ],
)  # fmt: skip
def test_what_is_no_entity_is_refused_with_a_word_on_what_is(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"needed|allowed|incarnation|does not begin"):
        DynamoEntityID.parse(text)


def test_lives_and_names_do_not_make_another_entity_but_ids_do() -> None:
    first = DynamoEntityID.from_name("worker-0", incarnation=1)
    assert first == first.in_life(2)
    assert len({first, first.in_life(2), DynamoEntityID(first.id, EntityType.INSTANCE)}) == 1
    assert first != DynamoEntityID.from_name("worker-1")
    assert DynamoEntityID.random() != DynamoEntityID.random()


@given(st.lists(ids, max_size=20))
def test_entities_order_as_their_ids_and_as_their_keys(numbers: list[int]) -> None:
    entities = sorted(DynamoEntityID(number, EntityType.INSTANCE) for number in numbers)
    assert [entity.id for entity in entities] == sorted(numbers)
    assert [entity.key for entity in entities] == sorted(number.to_bytes(16, "big") for number in numbers)


def test_a_tree_prints_a_line_an_entity_and_a_circle_is_refused() -> None:
    worker = DynamoEntityID.from_name("dynamo/backend/0")
    backend = DynamoEntityID.collection("dynamo/backend", worker)
    fleet = DynamoEntityID.collection("dynamo", backend)
    assert fleet.tree() == ("collection:dynamo\n  collection:dynamo/backend\n    instance:dynamo/backend/0")
    circle = replace(backend, children=(replace(fleet, children=(backend,)),))
    with pytest.raises(ConfigurationError, match="contains itself"):
        circle.tree()


def test_an_instance_has_no_children_and_a_collection_no_life() -> None:
    worker = DynamoEntityID.from_name("worker")
    with pytest.raises(ConfigurationError, match="only a collection has children"):
        DynamoEntityID.from_name("other", children=(worker,))
    with pytest.raises(ConfigurationError, match="only an instance has an incarnation"):
        DynamoEntityID.from_name("fleet", EntityType.COLLECTION, incarnation=1)


def test_in_a_pydantic_model_and_its_json_it_is_its_text() -> None:
    class Route(BaseModel):
        to: DynamoEntityID

    route = Route.model_validate_json('{"to": "instance:worker-0#4"}')
    assert route.to.incarnation == 4
    assert route.model_dump_json() == '{"to":"instance:worker-0#4"}'
    with pytest.raises(ValidationError, match="is no entity"):
        Route.model_validate({"to": 7})
