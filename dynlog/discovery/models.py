"""What lies under a key: an instance as Dynamo writes it, with what we add beside it, and a model's card.

Our fields (``addresses``, ``metadata``, ``incarnation``) stand beside Dynamo's, whose readers pass over what they do
not know; fields that we do not know are kept and written back.  An entity without an incarnation was written by
somebody else: it is *foreign*.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictInt, ValidationError, model_validator

from dynlog.discovery.names import InstanceName, ModelName
from dynlog.errors import MalformedRecord

U64 = Annotated[StrictInt, Field(ge=0, lt=1 << 64)]
MAX_ADDRESSES = 32


class _Stored(BaseModel):
    """JSON in a bucket, of one instance."""

    model_config = ConfigDict(frozen=True, extra="allow")

    namespace: str
    component: str
    endpoint: str
    instance_id: U64

    @property
    def name(self) -> InstanceName:
        """Its name."""
        return InstanceName(self.namespace, self.component, self.endpoint, self.instance_id)

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        """What was stored; raises MalformedRecord naming the field that does not fit."""
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise MalformedRecord(f"no {cls.__name__.lower()}: {where}: {first['msg']}") from None


class Entity(_Stored):
    """An instance that is there, where it is reached, and which life of it this is."""

    type: Literal["Endpoint"] = "Endpoint"
    transport: dict[str, str] | None = None
    """Dynamo's one way to reach it: ``{"tcp": "host:port/..."}``, ``{"nats_tcp": subject}``, ``{"http": url}``."""
    addresses: dict[str, str] = Field(default_factory=dict, max_length=MAX_ADDRESSES)
    """All ways, by the scheme of the wire."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    incarnation: U64 | None = None
    """The fencing token of the lease under which it registered: a later life of the same name has a higher one."""

    @property
    def foreign(self) -> bool:
        """Whether somebody else than dynlog wrote it."""
        return self.incarnation is None

    @property
    def reached_at(self) -> dict[str, str]:
        """Every way to reach it, Dynamo's among them."""
        return {**(self.transport or {}), **self.addresses}

    @model_validator(mode="after")
    def _one_transport(self) -> Self:
        if self.transport is not None and len(self.transport) != 1:
            raise ValueError("transport names exactly one way, as in {'tcp': 'host:port'}")
        return self

    @classmethod
    def of(
        cls, name: InstanceName, addresses: dict[str, str] | None = None, metadata: dict[str, Any] | None = None
    ) -> Entity:
        """An entity of ours; the first address is the one that Dynamo's readers see."""
        addresses = addresses or {}
        return cls(
            namespace=name.namespace, component=name.component, endpoint=name.endpoint, instance_id=name.instance_id,
            transport=dict(list(addresses.items())[:1]) or None, addresses=addresses, metadata=metadata or {},
        )  # fmt: skip


class ModelCard(_Stored):
    """The card of a model that an instance serves, as its framework wrote it."""

    type: Literal["Model"] = "Model"
    card_json: dict[str, JsonValue]
    model_suffix: str | None = None

    @property
    def model_name(self) -> ModelName:
        """The name under which it lies."""
        return ModelName(self.name, self.model_suffix or "")

    @property
    def model(self) -> str:
        """What people call the model, or "?"."""
        for field in ("display_name", "name", "slug"):
            if isinstance(found := self.card_json.get(field), str):
                return found
        return "?"


def parse_entity(name: InstanceName, value: bytes) -> Entity:
    """The entity under the key of that name; raises MalformedRecord if it is none, or another's."""
    entity = Entity.from_bytes(value)
    if _different(entity, name):
        raise MalformedRecord(f"no entity: under the key of {name} it says that it is {_said(entity)}")
    return entity


def parse_card(name: ModelName, value: bytes) -> ModelCard:
    """The card under the key of that name; raises MalformedRecord if it is none, or another's."""
    card = ModelCard.from_bytes(value)
    if _different(card, name.instance):
        raise MalformedRecord(f"no modelcard: under the key of {name} it says that it is {_said(card)}")
    return card


def _different(stored: _Stored, name: InstanceName) -> bool:
    said = (stored.namespace, stored.component, stored.endpoint, stored.instance_id)
    return said != (name.namespace, name.component, name.endpoint, name.instance_id)


def _said(stored: _Stored) -> str:
    return f"{stored.namespace}/{stored.component}/{stored.endpoint}/{stored.instance_id:x}"[:200]
