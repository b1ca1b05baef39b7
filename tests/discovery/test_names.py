"""Names, keys and models go there and back, whatever Dynamo may write; everything else is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlog.discovery.models import Entity, ModelCard, parse_card, parse_entity
from dynlog.discovery.names import InstanceName, ModelName, parse_key, prefix_of
from dynlog.errors import ConfigurationError, MalformedRecord

PARTS = st.text(min_size=1, max_size=40).filter(lambda text: "/" not in text and text.isprintable())
IDS = st.integers(0, 2**64 - 1)
NAMES = st.builds(InstanceName, PARTS, PARTS, PARTS, IDS)
MODEL_NAMES = st.builds(ModelName, NAMES, st.one_of(st.just(""), PARTS))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)
NAME = InstanceName("dynamo", "backend", "generate", 0x4D2)
# As KVStoreDiscovery of Dynamo 1.x writes it into etcd.
DYNAMO_INSTANCE = {
    "type": "Endpoint", "component": "backend", "endpoint": "generate", "namespace": "dynamo", "instance_id": 1234,
    "transport": {"tcp": "10.0.0.7:5555/generate"}, "device_type": "cuda",
}  # fmt: skip
DYNAMO_MODEL = {
    "type": "Model", "namespace": "dynamo", "component": "backend", "endpoint": "generate", "instance_id": 1234,
    "card_json": {"display_name": "Qwen/Qwen3-0.6B", "slug": "qwen_qwen3-0_6b", "context_length": 40960},
}  # fmt: skip


def test_ids_are_hexadecimal_in_keys_and_decimal_in_json() -> None:
    assert NAME.key == "v1/instances/dynamo/backend/generate/4d2"
    assert json.loads(Entity.of(NAME).to_bytes())["instance_id"] == 1234
    assert ModelName(NAME, "lora-a").key == "v1/mdc/dynamo/backend/generate/4d2/lora-a"


@given(st.one_of(NAMES, MODEL_NAMES))
def test_a_name_comes_back_from_its_key(name: InstanceName | ModelName) -> None:
    assert parse_key(name.key) == name


@given(st.one_of(st.text(), st.builds("".join, st.lists(st.sampled_from(["v1/instances/", "v1/mdc/", "a", "/", "0"])))))
def test_any_text_is_a_name_or_refused_as_malformed(text: str) -> None:
    try:
        name = parse_key(text)
    except MalformedRecord:
        return
    assert name.key == text


@pytest.mark.parametrize("id", ["04d2", "4D2", "00", "0x4d2", "+4d2", "", " 4d2", "4_d2", "١"])
@pytest.mark.parametrize("key", ["v1/instances/n/c/e/{}", "v1/mdc/n/c/e/{}", "v1/mdc/n/c/e/{}/lora"])
def test_a_name_has_one_key_and_another_spelling_of_its_id_is_refused(key: str, id: str) -> None:
    with pytest.raises(MalformedRecord, match="lower case and without leading zeros"):
        parse_key(key.format(id))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (("", "c", "e", 1), "namespace ''"),
        (("n", "a/b", "e", 1), "component 'a/b'"),
        (("n", "c", "e\n", 1), "endpoint"),
        (("n", "c", "ä" * 101, 1), "at most 200 bytes"),
        (("n", "c", "e", -1), "instance id -1"),
        (("n", "c", "e", 2**64), "2\\*\\*64"),
        (("n", "c", "e", "4d2"), "instance id '4d2'"),
    ],
)
def test_what_is_no_name_is_refused_by_what_is_wrong(parts: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        InstanceName(*parts)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("v1/instances/n/c/1", "4 parts"),
        ("v1/instances/n/c/e/1/more", "4 parts"),
        ("v1/instances/n/c/e/xyz", "no instance id"),
        ("v1/instances/n/c/e/12345678901234567", "no instance id"),
        ("v1/instances/n//e/1", "component ''"),
        ("v1/mdc/n/c/e/1/", "suffix ''"),
        ("v2/instances/n/c/e/1", "neither an instance's"),
    ],
)
def test_a_key_of_another_shape_is_refused_by_what_is_wrong(key: str, says: str) -> None:
    with pytest.raises(MalformedRecord, match=says):
        parse_key(key)


def test_a_prefix_goes_down_from_the_namespace() -> None:
    assert [prefix_of(), prefix_of("n"), prefix_of("n", "c"), prefix_of("n", "c", "e")] == ["", "n/", "n/c/", "n/c/e/"]
    with pytest.raises(ConfigurationError, match="within its namespace"):
        prefix_of(None, "c")
    with pytest.raises(ConfigurationError, match="namespace 'a/b'"):
        prefix_of("a/b")


@given(NAMES, st.dictionaries(PARTS, st.text(), max_size=4), st.dictionaries(st.text(), JSON, max_size=3), IDS)
def test_an_entity_comes_back_as_it_was(
    name: InstanceName, addresses: dict[str, str], metadata: dict[str, Any], incarnation: int
) -> None:
    entity = Entity.of(name, addresses, {**metadata, "none": None}).model_copy(update={"incarnation": incarnation})
    assert parse_entity(name, entity.to_bytes()) == entity
    assert not entity.foreign


def test_what_dynamo_wrote_is_read_and_fields_that_we_do_not_know_are_kept() -> None:
    entity = parse_entity(NAME, json.dumps(DYNAMO_INSTANCE).encode())
    assert entity.foreign
    assert entity.reached_at == {"tcp": "10.0.0.7:5555/generate"}
    assert json.loads(entity.to_bytes())["device_type"] == "cuda"
    untagged = {key: value for key, value in DYNAMO_INSTANCE.items() if key != "type"}  # before Dynamo 0.8
    assert parse_entity(NAME, json.dumps(untagged).encode()).name == NAME


def test_what_we_write_has_every_field_that_dynamo_wants() -> None:
    written = json.loads(Entity.of(NAME, {"tcp": "10.0.0.7:5555", "zmq": "tcp://10.0.0.7:6666"}).to_bytes())
    for ours in ("addresses", "metadata"):
        del written[ours]
    assert written == {
        "type": "Endpoint", "namespace": "dynamo", "component": "backend", "endpoint": "generate", "instance_id": 1234,
        "transport": {"tcp": "10.0.0.7:5555"},
    }  # fmt: skip


def test_a_model_card_is_read_and_its_model_named() -> None:
    card = parse_card(ModelName(NAME), json.dumps(DYNAMO_MODEL).encode())
    assert (card.model, card.model_name) == ("Qwen/Qwen3-0.6B", ModelName(NAME))
    assert ModelCard.from_bytes(card.to_bytes()) == card


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"instance_id": "1234"}, "instance_id"),
        ({"instance_id": 2**64}, "instance_id"),
        ({"instance_id": -1}, "instance_id"),
        ({"namespace": None}, "namespace"),
        ({"transport": {}}, "exactly one way"),
        ({"transport": {"tcp": "a", "http": "b"}}, "exactly one way"),
        ({"transport": "tcp"}, "transport"),
        ({"type": "Model"}, "type"),
        ({"component": "other"}, "it says that it is dynamo/other/generate/4d2"),
        ({"addresses": {str(n): "x" for n in range(33)}}, "addresses"),
    ],
)
def test_an_entity_that_does_not_fit_is_refused_by_field(change: dict[str, Any], says: str) -> None:
    with pytest.raises(MalformedRecord, match=says):
        parse_entity(NAME, json.dumps({**DYNAMO_INSTANCE, **change}).encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_an_entity_or_refused_as_malformed(value: bytes) -> None:
    with pytest.raises(MalformedRecord, match="no entity"):
        parse_entity(NAME, value)
