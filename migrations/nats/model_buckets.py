"""Which buckets are models, and how what refers to their files on NATS is made to refer to the copies.

Older Dynamo releases keep a model's tokenizer and configuration in a bucket of its own, and the model's card names
them as ``nats://host:port/<bucket>/config.json``.  A reference is changed only in a copy, and only if the bucket that
it names is one of the models that are moved; everything else of the text stays as it is, byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from dynlog.adapters.nats.objects import ObjectBucket, find_object
from dynlog.errors import SourceNotFound, SourceRefused
from dynlog.migrations.nats.contract import Item
from dynlog.migrations.nats.keys import MODELS, encode_name
from dynlog.migrations.nats.survey import Survey

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
"""A bucket that holds any of these is a model's."""
WITH_CARDS = ("model", "kv")
"""Kinds of items in which model cards are found."""
MAX_CARD_BYTES = 1 << 20

_REFERENCE = re.compile(rb'nats:(?://|\\/\\/)[^\s"\'/\\<>]+(?:/|\\/)([A-Za-z0-9_-]+)(?:/|\\/)([^\s"\'<>]+)')


@dataclass(frozen=True, slots=True)
class References:
    """Where references lead from now on: ``<place>/<bucket>/<file>`` for files of these buckets."""

    buckets: frozenset[str]
    place: str

    @classmethod
    def of(cls, item: Item) -> References:
        """Those that the item's plan says; none if it says nothing."""
        models, place = item.settings.get("models"), item.settings.get("place")
        if not isinstance(models, list) or not isinstance(place, str):
            return cls(frozenset(), "")
        return cls(frozenset(str(name) for name in models), place)

    def rewritten(self, text: bytes) -> bytes | None:
        """The text with its references changed; None if it has none."""
        if not self.buckets or len(text) >= MAX_CARD_BYTES or b"nats:" not in text:
            return None
        changed = _REFERENCE.sub(self._replaced, text)
        return None if changed == text else changed

    def _replaced(self, found: re.Match[bytes]) -> bytes:
        bucket = found[1].decode()
        if bucket not in self.buckets:
            return found[0]
        file = found[2].replace(b"\\/", b"/").decode("utf-8", "surrogateescape")
        # What stands in quotes is JSON: a place with a backslash has to stay one there.
        return json.dumps(f"{self.place}/{bucket}/{encode_name(file)}", ensure_ascii=False)[1:-1].encode(
            "utf-8", "surrogateescape"
        )


NO_REFERENCES = References(frozenset(), "")


def place_of(model_root: str | None, objects_url: str) -> str:
    """Where model folders are for whoever reads a card: below the root that was given, else where they are stored."""
    if model_root is not None:
        return model_root.rstrip("/") or "/"
    return f"{objects_url.partition('?')[0].rstrip('/')}/{MODELS}"


async def is_model_bucket(survey: Survey, bucket: ObjectBucket) -> bool:
    """Whether the bucket holds a model's files; looked at once in a survey, and noted there if that is refused."""
    if bucket.name not in survey.models:
        survey.models[bucket.name] = False
        for name in FILES:
            try:
                if not (await find_object(survey.server, bucket.name, name)).deleted:
                    survey.models[bucket.name] = True
                    break
            except SourceNotFound:
                continue
            except SourceRefused as error:
                survey.unread[bucket.name] = error
                break
    return survey.models[bucket.name]


def with_references(survey: Survey, items: Sequence[Item], models: Iterable[str]) -> list[Item]:
    """The items; those that may hold cards say which references to change: to these models, wherever they are now."""
    place = place_of(survey.choices.model_root, survey.objects_url)
    settings: dict[str, JsonValue] = {"models": [*sorted(models)], "place": place}
    return [
        item.model_copy(update={"settings": {**item.settings, **settings}}) if item.kind in WITH_CARDS else item
        for item in items
    ]
