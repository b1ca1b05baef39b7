"""Dynamo's names and the keys made of them: whatever Dynamo writes is read, and what is written Dynamo reads.

    v1/instances/NAMESPACE/COMPONENT/ENDPOINT/ID          an instance of an endpoint
    v1/mdc/NAMESPACE/COMPONENT/ENDPOINT/ID[/SUFFIX]       a model card of it; the suffix is a LoRA adapter's

The id is an unsigned 64-bit number: decimal in JSON, and in a key lower-case hexadecimal without padding.  No other
spelling is read, so that one name never has two keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dynlog.errors import ConfigurationError, MalformedRecord

INSTANCES = "v1/instances/"
MODELS = "v1/mdc/"
MAX_PART_BYTES = 200
"""Of a namespace, component, endpoint or suffix: four of them fit into a key with room to spare."""
_ID = re.compile(r"0|[1-9a-f][0-9a-f]{0,15}")


@dataclass(frozen=True, slots=True, order=True)
class InstanceName:
    """One instance of an endpoint; orders by namespace, component, endpoint and id."""

    namespace: str
    component: str
    endpoint: str
    instance_id: int

    def __post_init__(self) -> None:
        for what in ("namespace", "component", "endpoint"):
            check_part(what, getattr(self, what))
        if type(self.instance_id) is not int or not 0 <= self.instance_id < 1 << 64:
            raise ConfigurationError(f"instance id {self.instance_id!r}: a whole number from 0 below 2**64 is needed")

    @property
    def key(self) -> str:
        """Where its entity lies in a bucket, as in Dynamo's etcd."""
        return f"{INSTANCES}{self}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.component}/{self.endpoint}/{self.instance_id:x}"


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """One model card of an instance; without a suffix it is the base model's."""

    instance: InstanceName
    suffix: str = ""

    def __post_init__(self) -> None:
        if self.suffix:
            check_part("suffix", self.suffix)

    @property
    def key(self) -> str:
        """Where its card lies in a bucket, as in Dynamo's etcd."""
        return f"{MODELS}{self}"

    def __str__(self) -> str:
        return f"{self.instance}/{self.suffix}" if self.suffix else str(self.instance)


def check_part(what: str, text: str) -> None:
    """Raises ConfigurationError unless the text can be one part of a name."""
    if not isinstance(text, str) or not text or "/" in text or not text.isprintable():
        raise ConfigurationError(f"{what} {text!r}: printable text without a slash is needed")
    if len(text.encode()) > MAX_PART_BYTES:
        raise ConfigurationError(f"{what} {text[:40]!r}...: at most {MAX_PART_BYTES} bytes in UTF-8 are allowed")


def parse_key(key: str) -> InstanceName | ModelName:
    """The name of which a key is made; raises MalformedRecord for any other key."""
    for root, least, most in ((INSTANCES, 4, 4), (MODELS, 4, 5)):
        if key.startswith(root):
            parts = key.removeprefix(root).split("/")
            if not least <= len(parts) <= most:
                raise MalformedRecord(f"key {key!r}: {root} is followed by namespace/component/endpoint/id, 4 parts")
            if not _ID.fullmatch(parts[3]):
                raise MalformedRecord(
                    f"key {key!r}: {parts[3]!r} is no instance id, which is up to 16 hex digits, in lower case and "
                    "without leading zeros"
                )
            try:
                instance = InstanceName(parts[0], parts[1], parts[2], int(parts[3], 16))
                if root == INSTANCES:
                    return instance
                if len(parts) == 5:
                    check_part("suffix", parts[4])
                return ModelName(instance, *parts[4:])
            except ConfigurationError as error:
                raise MalformedRecord(f"key {key!r}: {error}") from None
    raise MalformedRecord(f"key {key!r} is neither an instance's ({INSTANCES}...) nor a model card's ({MODELS}...)")


def prefix_of(namespace: str | None = None, component: str | None = None, endpoint: str | None = None) -> str:
    """What the keys of all instances in that namespace, component or endpoint begin with; raises ConfigurationError."""
    parts: list[str] = []
    for what, part in (("namespace", namespace), ("component", component), ("endpoint", endpoint)):
        if part is None:
            break
        check_part(what, part)
        parts.append(f"{part}/")
    given = sum(part is not None for part in (namespace, component, endpoint))
    if given != len(parts):
        raise ConfigurationError("a component is looked for within its namespace, an endpoint within its component")
    return "".join(parts)
