"""The body of ``POST /match``, checked field by field in plain Python: thousands of hashes cost one pass in C each.

Pydantic describes this body in the OpenAPI page (`dynlog.router.http_models`) and is not asked here: it would cost more
than the match itself.  A body that does not fit is refused whole, naming the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from dynlog.kvevents import Tier
from dynlog.router.http_errors import HttpProblem
from dynlog.router.prompts import TIERS, block_size_field, brief, lora_field, pack_field, refuse, tokens_field

MAX_QUERIES = 1024

_OPTIONS = {"tier", "early_exit", "limit"}
_PROMPT = {"hashes", "tokens", "block_size", "lora"}


class Options(NamedTuple):
    """What holds for all prompts of a body; ``limit`` cuts each list of matches, None does not."""

    tier: Tier = Tier.DEVICE
    early_exit: bool = False
    limit: int | None = None


class MatchRequest(NamedTuple):
    """Prompts as packed u64 tokens hashes, and whether the body was a batch (and wants a list of answers)."""

    prompts: Sequence[bytes]
    options: Options
    batch: bool


def parse_match(body: bytes, block_size: int | None = None) -> MatchRequest:
    """The request in the body; ``block_size`` is the topic's, used where the body names none.

    Raises HttpProblem: 400 for what is not JSON, 422 for what is no object.  Raises BadField for the rest.
    """
    fields = _decode(body)
    if type(fields) is not dict:
        raise HttpProblem(422, f"the body: a JSON object is needed, not {brief(fields)}")
    batch = "queries" in fields
    _known(fields, (_OPTIONS | {"queries"}) if batch else (_OPTIONS | _PROMPT), "")
    options = _options(fields)
    if not batch:
        return MatchRequest([_prompt(fields, "", block_size)], options, False)
    queries = fields["queries"]
    if type(queries) is not list:
        refuse("queries", f"a list is needed, not {brief(queries)}")
    if len(queries) > MAX_QUERIES:
        refuse("queries", f"{len(queries)} prompts in one body; at most {MAX_QUERIES} are taken")
    prompts = []
    for index, query in enumerate(queries):
        field = f"queries[{index}]"
        if type(query) is not dict:
            refuse(field, f"an object with 'hashes' or 'tokens' is needed, not {brief(query)}")
        _known(query, _PROMPT, field + ".")
        prompts.append(_prompt(query, field + ".", block_size))
    return MatchRequest(prompts, options, True)


def _decode(body: bytes) -> Any:
    if not body.strip():
        raise HttpProblem(400, 'the body is empty; a JSON object as {"hashes": [1, 2]} is needed')
    try:
        return _DECODER.decode(body.decode())
    except RecursionError:
        raise HttpProblem(400, "the body: JSON that is nested too deeply") from None
    except ValueError as error:  # also what is not UTF-8, and a number of more digits than Python reads
        raise HttpProblem(400, f"the body: not JSON: {_one_line(str(error))}") from None


def _one_line(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode().replace("\n", " ")[:200]


def _known(fields: Mapping[str, Any], known: set[str], field: str) -> None:
    if not fields.keys() <= known:
        strange = min(fields.keys() - known)
        refuse(f"{field}{brief(strange)[1:-1]}", f"unknown; known here are {', '.join(sorted(known))}")


def _options(fields: Mapping[str, Any]) -> Options:
    tier, early_exit, limit = fields.get("tier", "device"), fields.get("early_exit", False), fields.get("limit")
    if type(tier) is not str or tier not in TIERS:
        refuse("tier", f"one of {', '.join(TIERS)} is needed, not {brief(tier)}")
    if type(early_exit) is not bool:
        refuse("early_exit", f"true or false is needed, not {brief(early_exit)}")
    if limit is not None and (type(limit) is not int or limit < 1):
        refuse("limit", f"a whole number above zero is needed, not {brief(limit)}")
    return Options(TIERS[tier], early_exit, limit)


def _prompt(fields: Mapping[str, Any], prefix: str, topic_block_size: int | None) -> bytes:
    if ("hashes" in fields) == ("tokens" in fields):
        both = "hashes" in fields
        refuse(f"{prefix}hashes", "either hashes or tokens, not both" if both else "missing; give hashes, or tokens")
    if "hashes" in fields:
        for name in ("block_size", "lora"):
            if fields.get(name) is not None:
                refuse(prefix + name, "it goes with tokens; hashes are matched as they are")
        return pack_field(fields["hashes"], prefix + "hashes")
    lora = lora_field(fields.get("lora"), prefix + "lora")
    size = block_size_field(fields.get("block_size"), topic_block_size, prefix + "block_size")
    return tokens_field(fields["tokens"], size, lora, prefix + "tokens")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_constant)
