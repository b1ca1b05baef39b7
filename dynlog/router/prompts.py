"""A prompt as a person or a frontend gives it, hashes or tokens: checked a column at a time, the bad element named."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from dynlog.errors import MalformedEvent
from dynlog.hashing import hash_tokens
from dynlog.kvevents import U64_MAX, Tier, pack_hashes

U32_MAX = 2**32 - 1
MAX_NAME = 512
"""Characters of a LoRA name."""
TIERS: Final[Mapping[str, Tier]] = {tier.name.lower(): tier for tier in Tier}
_INT = {int}


class BadField(MalformedEvent):
    """A field that does not fit; ``field`` names it, down to the element."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field


def rank_matches(found: Mapping[tuple[int, int], int], limit: int | None = None) -> list[dict[str, Any]]:
    """Matches as JSON objects, the longest first, then by worker and rank.

    ``worker_id_str`` repeats the worker's id, because JavaScript rounds integers above 2^53.
    """
    best = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [
        {"worker_id": worker, "worker_id_str": str(worker), "dp_rank": dp_rank, "blocks": blocks}
        for (worker, dp_rank), blocks in best[:limit]
    ]


def pack_field(value: Any, field: str) -> bytes:
    """A list of u64 hashes, as integers or decimal strings, packed; raises BadField naming the element."""
    if type(value) is not list:
        refuse(field, f"a list of hashes is needed, not {brief(value)}")
    kinds = set(map(type, value))
    numbers = value
    if str in kinds and kinds <= {str, int}:
        numbers = [_decimal(item) if type(item) is str else item for item in value]
    if set(map(type, numbers)) <= _INT:
        try:
            return pack_hashes(numbers)
        except MalformedEvent:
            pass  # one of them is out of range: the loop below finds it
    for index, number in enumerate(numbers):
        if type(number) is not int or not 0 <= number <= U64_MAX:
            refuse(
                f"{field}[{index}]", f"a hash is an integer from 0 to 2^64-1 or such a decimal string, not "
                f"{brief(value[index])}",
            )  # fmt: skip
    raise AssertionError("one of them does not fit")


def tokens_field(tokens: Any, block_size: int, lora: str | None, field: str) -> bytes:
    """The tokens hashes of a prompt's complete blocks, packed; raises BadField naming the element."""
    if type(tokens) is not list:
        refuse(field, f"a list of token ids is needed, not {brief(tokens)}")
    if set(map(type, tokens)) <= _INT:
        try:
            array("I", tokens)  # also those behind the last complete block, which are not hashed
            return pack_hashes(hash_tokens(tokens, block_size, lora))
        except (OverflowError, MalformedEvent):
            pass  # one of them is out of range: the loop below finds it
    for index, token in enumerate(tokens):
        if type(token) is not int or not 0 <= token <= U32_MAX:
            refuse(f"{field}[{index}]", f"a token id is an integer from 0 to 2^32-1, not {brief(token)}")
    raise AssertionError("one of them does not fit")


def lora_field(lora: Any, field: str) -> str | None:
    """The adapter's name, or None; raises BadField."""
    if lora is None:
        return None
    if type(lora) is not str or len(lora) > MAX_NAME or not _encodes(lora):
        refuse(field, f"a name of at most {MAX_NAME} characters is needed, not {brief(lora)}")
    return lora


def block_size_field(given: Any, topic: int | None, field: str) -> int:
    """The block size to hash with; raises BadField if there is none, or it is not the topic's."""
    if given is None:
        if topic is None:
            refuse(field, "missing; tokens are hashed in blocks, and the topic does not say of how many tokens")
        return topic
    if type(given) is not int or not 1 <= given <= U32_MAX:
        refuse(field, f"a whole number of tokens above zero is needed, not {brief(given)}")
    if topic is not None and given != topic:
        refuse(field, f"the topic's blocks have {topic} tokens, not {given}: nothing would match")
    return int(given)


def brief(value: Any) -> str:
    """A value for a message: one short line of ASCII, whatever it is."""
    match value:
        case dict():
            return f"an object of {len(value)}"
        case list():
            return f"a list of {len(value)}"
        case None | bool():
            return {True: "true", False: "false", None: "null"}[value]
        case int() if value.bit_length() > 128:
            return f"a number of {value.bit_length()} bits"
        case str() if len(value) > 40:
            return ascii(value[:40]) + "..."
    return ascii(value)


def refuse(field: str, why: str) -> NoReturn:
    """Raises BadField."""
    raise BadField(field, why)


def _decimal(text: str) -> int:
    """The number, or -1 for what is not plain decimal digits of a u64."""
    return int(text) if len(text) <= 20 and text.isascii() and text.isdigit() else -1


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
