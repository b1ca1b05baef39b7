"""Who is addressed: every entity of a fleet has a 128-bit id, and the same name gives the same id on every machine.

    instance:NAME          the id is made of the name            collection:NAME
    instance:0xHEX         an id without a name, 32 hex digits   collection:0xHEX
    instance:NAME=0xHEX    a name that the id was not made of
    ...#7                  the seventh life of an instance (its incarnation)

The id made of a name is the first 128 bits, big-endian, of the SHA-256 of its UTF-8 bytes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache, total_ordering
from hashlib import sha256
from typing import Any

from dynlog.errors import ConfigurationError

MAX_NAME_BYTES = 900
"""Of a name in UTF-8: Dynamo's namespace/component/endpoint/id fits with room to spare."""
_ID = re.compile(r"0x[0-9a-f]{32}")
_LIFE = re.compile(r"[0-9]{1,20}")


class EntityType(StrEnum):
    """What an entity is: one process (or endpoint of it), or a set of others."""

    INSTANCE = "instance"
    COLLECTION = "collection"


_KINDS = {kind.value: kind for kind in EntityType}


@total_ordering
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DynamoEntityID:
    """Names one entity; equal, hashed and ordered by its id alone, whatever name, children or life it is shown with.

    ``id`` is an unsigned 128-bit number.  ``children`` are the members that a collection was made with; who belongs to
    it now is the registry's to say.  ``incarnation`` tells the lives of an instance apart: a later one is higher and
    fences the earlier; 0 stands for "whichever lives".  Raises ConfigurationError for a value out of its range.
    """

    id: int
    entity_type: EntityType
    name: str | None = None
    children: tuple[DynamoEntityID, ...] = ()
    incarnation: int = 0

    def __post_init__(self) -> None:
        if type(self.id) is not int or not 0 <= self.id < 1 << 128:
            raise ConfigurationError(f"entity id {self.id!r}: a whole number from 0 below 2**128 is needed")
        if type(self.incarnation) is not int or not 0 <= self.incarnation < 1 << 64:
            raise ConfigurationError(f"incarnation {self.incarnation!r}: a whole number from 0 below 2**64 is needed")
        if self.name is not None:
            _check_name(self.name)
        if self.entity_type is EntityType.INSTANCE and self.children:
            raise ConfigurationError(f"{self} is an instance: only a collection has children")
        if self.entity_type is EntityType.COLLECTION and self.incarnation:
            raise ConfigurationError(f"{self}: only an instance has an incarnation")

    @classmethod
    def from_name(
        cls,
        name: str,
        entity_type: EntityType = EntityType.INSTANCE,
        *,
        children: tuple[DynamoEntityID, ...] = (),
        incarnation: int = 0,
    ) -> DynamoEntityID:
        """The entity of that name, the same everywhere and for ever."""
        return cls(id_of_name(name), entity_type, name, children, incarnation)

    @classmethod
    def collection(cls, name: str, *children: DynamoEntityID) -> DynamoEntityID:
        """The collection of that name."""
        return cls.from_name(name, EntityType.COLLECTION, children=children)

    @classmethod
    def random(cls, name: str | None = None) -> DynamoEntityID:
        """A new instance, like no other; the name, if any, is only for people to read."""
        return cls(secrets.randbits(128), EntityType.INSTANCE, name)

    @classmethod
    def parse(cls, text: str) -> DynamoEntityID:
        """What ``str`` gave; raises ConfigurationError for anything else."""
        refused = ConfigurationError(
            f"{str(text)[:80]!r} is no entity: instance:NAME, collection:NAME or instance:0x and 32 hex digits needed"
        )
        if not isinstance(text, str):
            raise refused
        kind, colon, rest = text.partition(":")
        rest, _, life = rest.partition("#")
        if kind not in _KINDS or not colon or (text.endswith("#") or (life and not _LIFE.fullmatch(life))):
            raise refused
        name, _, number = rest.rpartition("=")
        if not number.startswith("0x"):
            return cls.from_name(rest, _KINDS[kind], incarnation=int(life or 0))
        if not _ID.fullmatch(number) or rest.startswith("="):
            raise refused
        return cls(int(number, 16), _KINDS[kind], name or None, (), int(life or 0))

    def in_life(self, incarnation: int) -> DynamoEntityID:
        """The same instance in that life."""
        return replace(self, incarnation=incarnation)

    @property
    def key(self) -> bytes:
        """The id as 16 bytes, big-endian: the key of its records."""
        return self.id.to_bytes(16, "big")

    @property
    def is_collection(self) -> bool:
        """Whether it is a set of others."""
        return self.entity_type is EntityType.COLLECTION

    def walk(self) -> Iterator[tuple[int, DynamoEntityID]]:
        """The entity and all below it with their depths, from the top; raises ConfigurationError for a circle."""
        path: list[int] = []

        def visit(entity: DynamoEntityID) -> Iterator[tuple[int, DynamoEntityID]]:
            if entity.id in path:
                raise ConfigurationError(f"{entity} contains itself")
            yield len(path), entity
            path.append(entity.id)
            for child in entity.children:
                yield from visit(child)
            path.pop()

        return visit(self)

    def tree(self) -> str:
        """The hierarchy as text, a line each, indented by two spaces a level."""
        return "\n".join(f"{'  ' * depth}{entity}" for depth, entity in self.walk())

    def __str__(self) -> str:
        named = self.name is not None and id_of_name(self.name) == self.id
        what = self.name if named else (f"{self.name}=" if self.name else "") + f"0x{self.id:032x}"
        return f"{self.entity_type.value}:{what}" + (f"#{self.incarnation}" if self.incarnation else "")

    def __repr__(self) -> str:
        return f"<{self}>"

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, DynamoEntityID) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self.id < other.id if isinstance(other, DynamoEntityID) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """In pydantic models and JSON it is its text."""
        from pydantic_core import core_schema

        def parse(value: Any) -> DynamoEntityID:
            if isinstance(value, DynamoEntityID):
                return value
            try:
                return cls.parse(value)
            except ConfigurationError as error:
                raise ValueError(str(error)) from None

        return core_schema.no_info_plain_validator_function(
            parse, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json-unless-none")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "title": "DynamoEntityID", "examples": ["instance:worker-0", "collection:fleet"]}


@lru_cache(maxsize=4096)
def id_of_name(name: str) -> int:
    """The first 128 bits, big-endian, of the SHA-256 of the name in UTF-8."""
    _check_name(name)
    return int.from_bytes(sha256(name.encode()).digest()[:16], "big")


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.isprintable() or not name or any(c in name for c in "=# "):
        raise ConfigurationError(f"entity name {name!r}: printable text without blanks, '=' and '#' is needed")
    if name[:2].lower() == "0x":
        raise ConfigurationError(f"entity name {name!r}: a name does not begin with 0x, which introduces an id")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ConfigurationError(f"entity name {name[:40]!r}...: at most {MAX_NAME_BYTES} bytes in UTF-8 are allowed")
