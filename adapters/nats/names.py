"""Dynamo's names on NATS: subjects of a component, and the slugs that streams and buckets are made of.

A slug forgets what it replaced, so the way back is a guess where a name holds a ``-`` of its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dynlog.errors import ConfigurationError

EVENTS = "kv-events"
RADIX_SUFFIX = "-radix-bucket"
RADIX_OBJECT = "radix-state"
_OTHER = re.compile(r"[^a-z0-9-]")
_TOKEN = re.compile(r"[^\x00-\x20\x7f.*>]+")
_SLUG = re.compile(r"namespace-(.+?)-component-(.+)-kv-events")


class Component(NamedTuple):
    """A component of a namespace."""

    namespace: str
    component: str


def slug(name: str) -> str:
    """The name as streams and buckets have it: lower case, and ``-`` for all that is not a letter, digit or ``-``."""
    return _OTHER.sub("-", name.lower())


def component_subject(component: Component) -> str:
    """``namespace.<ns>.component.<c>``; raises ConfigurationError for a name that no subject can hold."""
    for name in component:
        if not _TOKEN.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} cannot be part of a NATS subject: no dot, blank, * or > may stand in the name of a "
                "namespace or component"
            )
    return f"namespace.{component.namespace}.component.{component.component}"


def events_subject(component: Component) -> str:
    """The core subject of the component's KV events."""
    return f"{component_subject(component)}.{EVENTS}"


def events_stream(component: Component) -> str:
    """The stream that Dynamo 0.7 to 0.9 keeps the component's KV events in."""
    return slug(events_subject(component))


def radix_bucket(component: Component) -> str:
    """The object bucket in which routers of Dynamo 0.7 to 0.9 keep their snapshot of that stream."""
    return events_stream(component).removesuffix(f"-{EVENTS}") + RADIX_SUFFIX


def component_of(stream_or_bucket: str) -> Component | None:
    """Whose events stream or radix bucket that is; None for any other name.

    The names come as the slug has them, and the first ``-component-`` is taken for the border.
    """
    name = stream_or_bucket
    if name.endswith(RADIX_SUFFIX):
        name = f"{name.removesuffix(RADIX_SUFFIX)}-{EVENTS}"
    found = _SLUG.fullmatch(name)
    return Component(found[1], found[2]) if found else None
