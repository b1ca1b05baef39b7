"""Dynamo's RouterEvent as JSON, one event a line: what no profile fits is refused, naming the field.

Profiles are the shapes of ai-dynamo 0.7.1 (bare) to 1.6.1 (``storage_tier``, ``residency_domain``, ``start_position``,
``mm_extra_info``).  The content of ``mm_extra_info`` is not kept: the tokens hashes already contain it.  Beside
Dynamo's ``"cleared"`` there is dynlog's own ``"worker_removed"``.

`kv_event` takes the decoded object, so that MessagePack with named maps (`dynamo_envelope`) meets the same checks.
Numbers stay plain integers and hashes are checked a column at a time: pydantic here costs more than the JSON itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from dynlog.adapters.event_checks import U32_MAX, brief, check_chain, column, keys, named, whole
from dynlog.errors import MalformedEvent
from dynlog.kvevents import U64_MAX, Domain, Kind, KvEvent, Tier, unpack_hashes

MAX_LINE_BYTES = 4 << 20
TIERS: Final[Mapping[str, Tier]] = {tier.name.lower(): tier for tier in Tier}
DOMAINS: Final[Mapping[str, Domain]] = {domain.name.lower(): domain for domain in Domain}
_BARE = {"worker_id", "event"}
_ROUTER = _BARE | {"storage_tier", "residency_domain"}
_EVENT_BARE = {"event_id", "data"}
_EVENT = _EVENT_BARE | {"dp_rank"}
_STORED_BARE = {"parent_hash", "blocks"}
_STORED = _STORED_BARE | {"start_position"}
_BLOCK_BARE = {"block_hash", "tokens_hash"}
_BLOCK = _BLOCK_BARE | {"mm_extra_info"}
_REMOVED = {"block_hashes"}
_TWO = {2}


def decode_line(line: bytes) -> KvEvent:
    """The event of one line; raises MalformedEvent naming the field that does not fit."""
    if len(line) > MAX_LINE_BYTES:
        raise MalformedEvent(f"a line of more than {MAX_LINE_BYTES} bytes")
    try:
        value = _DECODER.decode(line.decode())
    except MalformedEvent:
        raise
    except RecursionError:
        raise MalformedEvent("JSON that is nested too deeply") from None
    except ValueError as error:
        raise MalformedEvent(f"not JSON: {error}") from None
    return kv_event(value)


def encode_line(event: KvEvent) -> bytes:
    """The event as Dynamo 1.6.1 writes it, without a line end."""
    return json.dumps(router_event(event), separators=(",", ":")).encode()


def kv_event(value: Any) -> KvEvent:
    """The event of a decoded RouterEvent; raises MalformedEvent naming the field that does not fit."""
    keys(value, "the event", _BARE, _ROUTER)
    worker_id = whole(value["worker_id"], "worker_id", U64_MAX)
    tier = named(value["storage_tier"], "storage_tier", TIERS) if "storage_tier" in value else Tier.DEVICE
    domain = (
        named(value["residency_domain"], "residency_domain", DOMAINS) if "residency_domain" in value else Domain.WORKER
    )
    event = value["event"]
    keys(event, "event", _EVENT_BARE, _EVENT)
    event_id = whole(event["event_id"], "event.event_id", U64_MAX)
    dp_rank = whole(event.get("dp_rank", 0), "event.dp_rank", U32_MAX)
    data = event["data"]
    if type(data) is dict and len(data) == 1:
        if "stored" in data:
            blocks, tokens, parent, start = _stored(data["stored"])
            return KvEvent(
                worker_id, Kind.STORED, blocks, tokens, parent, dp_rank, event_id, tier, domain, start
            )  # fmt: skip
        if "removed" in data:
            removed = data["removed"]
            keys(removed, "removed", _REMOVED, _REMOVED)
            hashes = column(removed["block_hashes"], "removed.block_hashes")
            return KvEvent(worker_id, Kind.REMOVED, hashes, b"", None, dp_rank, event_id, tier, domain)
    elif data == "cleared":
        return KvEvent(worker_id, Kind.CLEARED, b"", b"", None, dp_rank, event_id, tier, domain)
    elif data == "worker_removed":
        return KvEvent(worker_id, Kind.WORKER_REMOVED, b"", b"", None, dp_rank, event_id, tier, domain)
    raise MalformedEvent(f"event.data: stored, removed or cleared is needed, not {brief(data)}")


def router_event(event: KvEvent) -> dict[str, Any]:
    """The event as the object that Dynamo 1.6.1 writes."""
    data: Any
    if event.kind is Kind.STORED:
        data = {
            "stored": {
                "parent_hash": event.parent_hash,
                "start_position": event.start_position,
                "blocks": [
                    {"block_hash": block, "tokens_hash": tokens, "mm_extra_info": None}
                    for block, tokens in zip(
                        unpack_hashes(event.block_hashes), unpack_hashes(event.tokens_hashes), strict=True
                    )
                ],
            }
        }
    elif event.kind is Kind.REMOVED:
        data = {"removed": {"block_hashes": list(unpack_hashes(event.block_hashes))}}
    else:
        data = event.kind.name.lower()
    return {
        "worker_id": event.worker_id,
        "storage_tier": event.tier.name.lower(),
        "residency_domain": event.domain.name.lower(),
        "event": {"event_id": event.event_id, "data": data, "dp_rank": event.dp_rank},
    }


def _stored(stored: Any) -> tuple[bytes, bytes, int | None, int | None]:
    keys(stored, "stored", _STORED_BARE, _STORED)
    parent, start, blocks = stored["parent_hash"], stored.get("start_position"), stored["blocks"]
    if parent is not None:
        whole(parent, "stored.parent_hash", U64_MAX)
    if start is not None:
        whole(start, "stored.start_position", U32_MAX)
    if type(blocks) is not list:
        raise MalformedEvent(f"stored.blocks: a list is needed, not {brief(blocks)}")
    try:
        # Two keys that are there in a map of two are the right keys: no block is looked at in Python.
        hashes = [block["block_hash"] for block in blocks]
        tokens_hashes = [block["tokens_hash"] for block in blocks]
        plain = set(map(len, blocks)) <= _TWO
    except (KeyError, TypeError):
        plain = False
    if not plain:
        _check_blocks(blocks)
    packed = column(hashes, "stored.blocks.block_hash")
    tokens = column(tokens_hashes, "stored.blocks.tokens_hash")
    check_chain(hashes, parent, "stored.blocks")
    return packed, tokens, parent, start


def _check_blocks(blocks: list[Any]) -> None:
    for index, block in enumerate(blocks):
        field = f"stored.blocks[{index}]"
        keys(block, field, _BLOCK_BARE, _BLOCK)
        extra = block.get("mm_extra_info")
        if extra is not None and type(extra) is not dict:
            raise MalformedEvent(f"{field}.mm_extra_info: an object or null is needed, not {brief(extra)}")


def _constant(name: str) -> NoReturn:
    raise MalformedEvent(f"not JSON: {name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_constant)
