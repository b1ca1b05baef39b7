"""vLLM's KV event batches: MessagePack to KV events; a batch is read to its last byte or refused, an event likewise.

The batch is ``[ts, events, data_parallel_rank]``.  vLLM 0.33 writes each event as a map with ``type``, older releases
(and SGLang, TensorRT-LLM) as an array with the tag first; both are taken, in one batch even.  A block hash is a u64, an
i64 (its bits) or bytes (the low 64 bits of the big-endian number); the same block in two forms is the same block.

``tokens_hash`` is computed here from the token ids as Dynamo does, so what the ids alone do not determine is refused by
name: multimodal or salted blocks (``extra_keys`` other than the LoRA name), a LoRA without its name, and groups of a
hybrid model whose blocks are no prefix (sliding window, Mamba).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from dynlog.adapters.event_checks import U32_MAX, brief, check_chain, named, whole
from dynlog.errors import MalformedEvent
from dynlog.hashing import hash_tokens
from dynlog.kvevents import Kind, KvEvent, Tier, pack_hashes

MAX_PAYLOAD_BYTES = 64 << 20
MAX_EVENTS = 1 << 16
MAX_TOKENS = 1 << 22
"""Token ids in one event (and so blocks); four times the longest context of today's models."""
U64_MASK = 2**64 - 1

MEDIUMS: Final[Mapping[str, Tier]] = {
    "GPU": Tier.DEVICE, "DEVICE": Tier.DEVICE,
    "CPU": Tier.HOST_PINNED, "CPU_PINNED": Tier.HOST_PINNED, "CPU_TIER1": Tier.HOST_PINNED,
    "CPU_TIER2": Tier.DISK, "DISK": Tier.DISK, "NVME": Tier.DISK, "STORAGE": Tier.DISK,
    "EXTERNAL": Tier.EXTERNAL, "NETWORK": Tier.EXTERNAL, "REMOTE": Tier.EXTERNAL, "SHARED": Tier.EXTERNAL,
}  # fmt: skip
"""``medium`` to tier, as Dynamo reads it; an unknown one is refused, not guessed."""
PREFIX_KINDS: Final = {None, "full_attention", "mla_attention", "sink_full_attention"}

_STORED: Final = (
    "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys",
    "group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window", "locality", "ownership",
)  # fmt: skip
_REMOVED: Final = ("block_hashes", "medium", "group_idx", "locality", "ownership")
_PROFILES: Final[Mapping[str, tuple[Sequence[str], Sequence[str]]]] = {
    # tag: all fields in the order of the array form, and those that must be there
    "BlockStored": (_STORED, ("block_hashes", "token_ids", "block_size")),
    "BlockRemoved": (_REMOVED, ("block_hashes",)),
    "AllBlocksCleared": ((), ()),
}


class EventBatch(NamedTuple):
    """A decoded batch: the events that fit, and why the others do not; ``block_size`` is None if nothing was stored."""

    timestamp: float
    dp_rank: int | None
    events: list[KvEvent]
    refused: list[str]
    block_size: int | None


def decode_batch(
    payload: bytes, worker_id: int, dp_rank: int = 0, block_size: int | None = None, first_event_id: int = 0
) -> EventBatch:
    """The events of one batch, numbered from ``first_event_id``.

    ``block_size`` is the one that the topic has; without it the first stored event decides.  Raises MalformedEvent if
    the batch as a whole cannot be read, or is another rank's; an event that does not fit only lands in ``refused``.
    """
    timestamp, raw_events, rank = _frame(payload)
    if rank is not None and rank != dp_rank:
        raise MalformedEvent(
            f"data_parallel_rank: a batch of rank {rank} came from a source of rank {dp_rank}; give it dp_rank={rank}"
        )
    events: list[KvEvent] = []
    refused: list[str] = []
    for index, raw in enumerate(raw_events):
        try:
            tag, fields = _fields(raw)
            if tag == "BlockStored":
                event, block_size = _stored(fields, worker_id, dp_rank, first_event_id + len(events), block_size)
            elif tag == "BlockRemoved":
                hashes = pack_hashes(_hashes(fields["block_hashes"], "block_hashes"))
                event = KvEvent(
                    worker_id, Kind.REMOVED, hashes, b"", None, dp_rank, first_event_id + len(events), _tier(fields)
                )
            else:
                event = KvEvent(
                    worker_id, Kind.CLEARED, dp_rank=dp_rank, event_id=first_event_id + len(events)
                )  # fmt: skip
            events.append(event)
        except MalformedEvent as error:
            refused.append(f"event {index}: {error}")
    return EventBatch(timestamp, rank, events, refused, block_size)


def _frame(payload: bytes) -> tuple[float, list[Any], int | None]:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MalformedEvent(f"a batch of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read")
    try:
        value = msgpack.unpackb(
            payload, raw=False, strict_map_key=True,
            max_array_len=MAX_TOKENS, max_map_len=64, max_str_len=1 << 16, max_bin_len=1 << 16, max_ext_len=0,
        )  # fmt: skip
    except (ValueError, TypeError, RecursionError, OverflowError, msgpack.UnpackException) as error:
        raise MalformedEvent(f"the batch is not MessagePack: {type(error).__name__} {error}") from None
    if type(value) is not list or not 2 <= len(value) <= 3:
        raise MalformedEvent(f"the batch: [ts, events, data_parallel_rank] is needed, not {brief(value)}")
    timestamp, events = value[0], value[1]
    if type(timestamp) not in (float, int) or not math.isfinite(timestamp):
        raise MalformedEvent(f"ts: seconds are needed, not {brief(timestamp)}")
    if type(events) is not list or len(events) > MAX_EVENTS:
        raise MalformedEvent(f"events: a list of at most {MAX_EVENTS} is needed, not {brief(events)}")
    rank = value[2] if len(value) == 3 else None
    return float(timestamp), events, None if rank is None else whole(rank, "data_parallel_rank", U32_MAX)


def _fields(raw: Any) -> tuple[str, Mapping[str, Any]]:
    """Tag and fields of either form."""
    tag: Any
    if type(raw) is dict:
        tag = raw.get("type")
    elif type(raw) is list and raw:
        tag = raw[0]
    else:
        raise MalformedEvent(f"a map with 'type', or an array with the tag first, is needed, not {brief(raw)}")
    profile = _PROFILES.get(tag) if type(tag) is str else None
    if profile is None:
        raise MalformedEvent(f"event type {brief(tag)} is unknown; known are {', '.join(_PROFILES)}")
    names, needed = profile
    if type(raw) is dict:
        strange = raw.keys() - {"type", *names}
        if strange:
            raise MalformedEvent(f"{tag}: {', '.join(sorted(map(brief, strange))[:5])} is in no profile")
        fields: Mapping[str, Any] = raw
    else:
        if len(raw) - 1 > len(names):
            raise MalformedEvent(f"{tag}: {len(raw) - 1} fields; the longest profile has {len(names)}")
        fields = dict(zip(names, raw[1:], strict=False))
    for name in needed:
        if name not in fields:
            raise MalformedEvent(f"{tag}: {name} is missing")
    return str(tag), fields


def _stored(
    fields: Mapping[str, Any], worker_id: int, dp_rank: int, event_id: int, block_size: int | None
) -> tuple[KvEvent, int]:
    size = whole(fields["block_size"], "block_size", 1 << 20)
    if size == 0 or size != (block_size or size):
        raise MalformedEvent(
            f"block_size: this engine's blocks hold {size} tokens, the topic's {block_size}; "
            "engines of another block size need a topic of their own"
        )
    hashes = _hashes(fields["block_hashes"], "block_hashes")
    parent_field = fields.get("parent_block_hash")
    parent = None if parent_field is None else _hash(parent_field, "parent_block_hash")
    check_chain(hashes, parent, "block_hashes")
    tokens = fields["token_ids"]
    if type(tokens) is not list or not set(map(type, tokens)) <= {int}:
        raise MalformedEvent("token_ids: a list of whole numbers is needed")
    if len(tokens) != size * len(hashes):
        raise MalformedEvent(
            f"token_ids: {len(tokens)} tokens for {len(hashes)} blocks of {size}: the blocks are incomplete"
        )
    kind = fields.get("kv_cache_spec_kind")
    if kind not in PREFIX_KINDS:
        raise MalformedEvent(f"kv_cache_spec_kind: blocks of {brief(kind)} are no prefix that a router could match")
    tokens_hashes = hash_tokens(tokens, size, _lora(fields))
    event = KvEvent(
        worker_id,
        Kind.STORED,
        pack_hashes(hashes),
        pack_hashes(tokens_hashes),
        parent,
        dp_rank,
        event_id,
        _tier(fields),
    )
    return event, size


def _lora(fields: Mapping[str, Any]) -> str | None:
    name, number, extra = fields.get("lora_name"), fields.get("lora_id"), fields.get("extra_keys")
    if name is not None and type(name) is not str:
        raise MalformedEvent(f"lora_name: a name or nil is needed, not {brief(name)}")
    if number is not None and not name:
        raise MalformedEvent(
            f"lora_id: {brief(number)} without lora_name: its blocks cannot be told from other models'"
        )
    if extra is not None:
        if type(extra) is not list:
            raise MalformedEvent(f"extra_keys: a list or nil is needed, not {brief(extra)}")
        for index, keys in enumerate(extra):
            if keys is not None and keys != [] and keys != [name]:
                raise MalformedEvent(
                    f"extra_keys[{index}]: {brief(keys)} other than the LoRA name: multimodal and salted blocks "
                    "cannot be hashed from their tokens alone"
                )
    return name or None


def _tier(fields: Mapping[str, Any]) -> Tier:
    medium = fields.get("medium")
    return Tier.DEVICE if medium is None else named(medium, "medium", MEDIUMS)


def _hashes(values: Any, field: str) -> list[int]:
    if type(values) is not list:
        raise MalformedEvent(f"{field}: a list is needed, not {brief(values)}")
    if set(map(type, values)) <= {int} and (not values or min(values) >= 0):
        return values
    return [_hash(value, f"{field}[{index}]") for index, value in enumerate(values)]


def _hash(value: Any, field: str) -> int:
    """A u64 from any of the three forms; MessagePack has no integer outside -2^63..2^64-1."""
    if type(value) is int:
        return value & U64_MASK
    if type(value) is bytes and value:
        return int.from_bytes(value[-8:], "big")
    raise MalformedEvent(f"{field}: an integer or bytes are needed, not {brief(value)}")
