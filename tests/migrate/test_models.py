"""A model's bucket becomes a folder, and what referred to its files on NATS refers to the copies, in the copy only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dynlog.errors import ObjectNotFound
from dynlog.folders import MANIFEST, FolderManifest, get_folder
from dynlog.kv import open_kv
from dynlog.migrations.nats.contract import Choices
from dynlog.migrations.nats.model_buckets import References
from tests.migrate.migrating import CHUNK, Migrating, body, bucket, put, said
from tests.nats_source.source import Writer, everything

CARD = {"name": "llama", "config": "nats://10.0.0.1:4222/llama/config.json", "other": "nats://h:1/unknown/x"}


async def model(writer: Writer) -> dict[str, bytes]:
    """The bucket of a model, and what lies in it."""
    files = {
        "config.json": b'{"layers": 3}',
        "tokenizer.json": body(3 * CHUNK),
        "sub/card.json": json.dumps(CARD).encode(),
    }
    source = await bucket(writer, "llama")
    for name, data in files.items():
        await put(source, name, data)
    return files


async def test_a_models_bucket_comes_to_a_disk_as_a_folder(
    migrating: Migrating, writer: Writer, tmp_path: Path
) -> None:
    files = await model(writer)
    outcomes = await migrating.apply()
    assert list(outcomes) == ["model:llama"]
    await get_folder(migrating.objects, "models/llama", tmp_path / "llama")
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "llama" / name).read_bytes() == files[name]
    assert await migrating.differences() == {}


@pytest.mark.parametrize(
    ("root", "place"), [("/models", "/models/llama/config.json"), (None, "memory:///models/llama/config.json")]
)
async def test_references_in_cards_lead_to_the_copies_and_only_in_the_copies(
    migrating: Migrating, writer: Writer, root: str | None, place: str
) -> None:
    files = await model(writer)
    before = await everything(writer)
    await replace(migrating, choices=Choices(model_root=root)).apply()
    card = json.loads(await migrating.objects.get_bytes("models/llama/sub/card.json"))
    assert card == {**CARD, "config": place.replace("memory:///", f"{migrating.objects.url.rstrip('/')}/")}
    assert await everything(writer) == before
    assert files["sub/card.json"] == json.dumps(CARD).encode()


async def test_a_card_whose_models_are_elsewhere_now_is_copied_again(migrating: Migrating, writer: Writer) -> None:
    await model(writer)
    await replace(migrating, choices=Choices(model_root="/old")).apply()
    moved = replace(migrating, choices=Choices(model_root="/new"))
    assert await moved.differences() == {"model:llama": ["sub/card.json"]}
    assert (await moved.apply())["model:llama"].moved == 1
    assert b"/new/llama/config.json" in await migrating.objects.get_bytes("models/llama/sub/card.json")
    assert await moved.differences() == {}


async def test_a_card_in_a_key_value_bucket_leads_to_the_copies_too(migrating: Migrating, writer: Writer) -> None:
    await model(writer)
    cards = await writer.js.create_key_value(bucket="mdc")
    await cards.put("llama", json.dumps(CARD).encode())
    migrating = replace(migrating, choices=Choices(model_root="/models"))
    await migrating.apply()
    async with open_kv(migrating.log) as kv:
        entry = await (await kv.bucket("mdc")).get("llama")
    assert entry is not None
    assert json.loads(entry.value) == {**CARD, "config": "/models/llama/config.json"}
    assert await migrating.differences() == {}
    assert [item.settings["models"] for item in (await migrating.plan(exclude=["llama"])).items] == [[]]


async def test_a_folder_of_which_a_file_is_torn_does_not_exist(migrating: Migrating, writer: Writer) -> None:
    await model(writer)
    info = await writer.js.stream_info("OBJ_llama")
    await writer.js.delete_msg("OBJ_llama", 4)
    assert info.state.messages > 4
    outcome = (await migrating.apply())["model:llama"]
    assert list(said(outcome.refused)) == ["tokenizer.json"]
    with pytest.raises(ObjectNotFound):
        await migrating.objects.head(f"models/llama/{MANIFEST}")


async def test_a_file_that_came_or_went_since_is_in_the_manifest_of_the_next_apply(
    migrating: Migrating, writer: Writer
) -> None:
    await model(writer)
    await migrating.apply()
    source = await writer.js.object_store("llama")
    await put(source, "new.bin", b"new")
    await source.delete("tokenizer.json")
    await migrating.apply()
    manifest = await migrating.objects.get_model(f"models/llama/{MANIFEST}", FolderManifest)
    assert [file.path for file in manifest.files] == ["config.json", "new.bin", "sub/card.json"]
    assert await migrating.differences() == {}


async def test_a_folder_is_taken_back_whole(migrating: Migrating, writer: Writer) -> None:
    await model(writer)
    await migrating.apply()
    await migrating.roll_back()
    assert await migrating.keys() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'"nats://h:4222/llama/config.json"', b'"/m/llama/config.json"'),
        (b'"nats:\\/\\/h\\/llama\\/a\\/b"', b'"/m/llama/a/b"'),
        (b"nats://h/other/config.json", None),
        (b"see nats://h/llama/a and nats://h/other/b.", b"see /m/llama/a and nats://h/other/b."),
        (b"no reference", None),
        (b"\xff\xfe nats://h/llama/\xc3\xa9", b"\xff\xfe /m/llama/\xc3\xa9"),
    ],
)
def test_a_reference_is_changed_and_nothing_else_of_the_text(text: bytes, expected: bytes | None) -> None:
    assert References(frozenset({"llama"}), "/m").rewritten(text) == expected
