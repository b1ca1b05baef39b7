"""The mover of model buckets: a bucket with a model's files becomes a folder, which exists once all of it is there.

The folder is ``models/<bucket>`` in the format of `dynlog.folders`, so ``dynlog objects get`` brings it to a disk.
References to files on NATS in the folder's small files (model cards) lead to the copies.
"""

from __future__ import annotations

from dynlog.adapters.nats.objects import NatsObject
from dynlog.errors import ObjectCorrupt, ObjectNotFound
from dynlog.folders import MANIFEST, FolderFile, FolderManifest
from dynlog.migrations.nats.contract import MADE_BY, Difference, Item, Outcome, Refusal, Run
from dynlog.migrations.nats.keys import MODELS
from dynlog.migrations.nats.model_buckets import References, is_model_bucket, place_of
from dynlog.migrations.nats.object_check import compare_bucket, remove_copies
from dynlog.migrations.nats.object_copy import Change, copy_bucket
from dynlog.migrations.nats.objects import bucket_of, planned_bucket
from dynlog.migrations.nats.survey import Survey
from dynlog.objects import ObjectInfo


class ModelMover:
    """Moves buckets that hold a model's files."""

    kind = "model"

    async def plan(self, survey: Survey) -> list[Item]:
        place = place_of(survey.choices.model_root, survey.objects_url)
        items = []
        for bucket in survey.object_buckets:
            if await is_model_bucket(survey, bucket):
                item = await planned_bucket(self.kind, MODELS, survey, bucket)
                notes = (*item.notes, f"references to it will name {place}/{bucket.name}/...")
                items.append(item.model_copy(update={"notes": notes}))
        return items

    async def apply(self, item: Item, run: Run) -> Outcome:
        bucket = await bucket_of(item, run)
        outcome = await copy_bucket(item, bucket, run, MODELS, _change(item), References.of(item).place)
        if outcome.refused:
            return outcome
        key = f"{item.target}{MANIFEST}"
        body = _manifest(await _files(item, run)).model_dump_json().encode()
        try:
            there = await run.objects.head(key)
        except (ObjectNotFound, ObjectCorrupt):
            there = None
        if there is not None and there.metadata.get(MADE_BY) != run.migration:
            why = "a folder that this migration did not make lies there: move it away"
            return outcome.model_copy(update={"refused": (Refusal(name=key, why=why),)})
        if there is None or await run.objects.get_bytes(key) != body:
            await run.objects.put(key, body, metadata={MADE_BY: run.migration, "content-type": "application/json"})
        return outcome

    async def verify(self, item: Item, run: Run) -> list[Difference]:
        key = f"{item.target}{MANIFEST}"
        bucket = await bucket_of(item, run)
        found = await compare_bucket(item, bucket, run, MODELS, _change(item), frozenset({key}))
        try:
            manifest = await run.objects.get_model(key, FolderManifest)
        except (ObjectNotFound, ObjectCorrupt) as error:
            return [*found, Difference(name=MANIFEST, what=f"the folder does not exist: {error}")]
        if manifest != _manifest(await _files(item, run)):
            found.append(Difference(name=MANIFEST, what="the folder's manifest is not of the files that are there"))
        return found

    async def rollback(self, item: Item, run: Run) -> Outcome:
        return await remove_copies(item, run)


def _change(item: Item) -> Change:
    references = References.of(item)

    def change(object: NatsObject, body: bytes) -> bytes | None:
        return references.rewritten(body)

    return change


async def _files(item: Item, run: Run) -> list[ObjectInfo]:
    listed = [info.key async for info in run.objects.list(item.target)]
    return [await run.objects.head(key) for key in listed if key != f"{item.target}{MANIFEST}"]


def _manifest(files: list[ObjectInfo]) -> FolderManifest:
    """A folder of all the files, whose keys all begin alike."""
    return FolderManifest(
        files=tuple(
            FolderFile(path=info.key.split("/", 2)[2], size=info.size, sha256=info.sha256)
            for info in sorted(files, key=lambda info: info.key)
        )
    )
