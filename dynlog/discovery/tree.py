"""The fleet as people look at it: namespaces, components, endpoints, instances, and the models that they serve."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from dynlog.discovery.directory import Found, FoundModel, Listing


def tree_lines(listing: Listing) -> Iterator[str]:
    """One line each, indented; an instance's id stands in hexadecimal, as in keys, and in decimal, as in JSON."""
    models: dict[str, list[FoundModel]] = {}
    for model in listing.models:
        models.setdefault(str(model.name.instance), []).append(model)
    for namespace, in_namespace in groupby(listing.entities, lambda found: found.name.namespace):
        yield namespace
        for component, in_component in groupby(in_namespace, lambda found: found.name.component):
            yield f"  {component}"
            for endpoint, instances in groupby(in_component, lambda found: found.name.endpoint):
                yield f"    {endpoint}"
                for found in instances:
                    yield f"      {_instance(found)}"
                    for model in models.pop(str(found.name), []):
                        yield f"        model {_model(model)}"
    for orphans in models.values():
        for model in orphans:
            yield f"model {_model(model)} of {model.name.instance}, which is not there"
    for key, reason in listing.unreadable.items():
        yield f"unreadable {key}: {reason}"


def _model(found: FoundModel) -> str:
    return found.card.model + (f" ({found.name.suffix})" if found.name.suffix else "")


def _instance(found: Found) -> str:
    entity = found.entity
    said = [f"{found.name.instance_id:x} ({found.name.instance_id})"]
    said += [f"{scheme}={address}" for scheme, address in entity.reached_at.items()]
    if not entity.foreign:
        said.append(f"incarnation {entity.incarnation}")
    if found.lease and not entity.foreign:
        said.append(f"lease {found.lease}")
    if entity.foreign:
        said.append("foreign" + _origin(found))
    return "  ".join(said)


def _origin(found: Found) -> str:
    mark = found.foreign
    if mark is None:
        return ""
    lease = f", lease {mark.lease:x} there" if mark.lease else ""
    return f" (from {mark.source}{lease}{', which had ended' if mark.lease and mark.lease_left_s is None else ''})"


def listing_json(listing: Listing) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "revision": listing.revision,
        "entities": [
            {
                "key": found.name.key,
                "namespace": found.name.namespace,
                "component": found.name.component,
                "endpoint": found.name.endpoint,
                "instance_id": found.name.instance_id,
                "instance_hex": f"{found.name.instance_id:x}",
                "addresses": found.entity.reached_at,
                "metadata": found.entity.metadata,
                "incarnation": found.entity.incarnation,
                "lease": found.lease or None,
                "revision": found.revision,
                "foreign": found.entity.foreign,
                "origin": None if found.foreign is None else found.foreign.model_dump(),
            }
            for found in listing.entities
        ],
        "models": [
            {"key": found.name.key, "model": found.card.model, "suffix": found.name.suffix or None}
            for found in listing.models
        ],
        "unreadable": listing.unreadable,
    }
