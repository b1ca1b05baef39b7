"""The shapes of the HTTP service for its OpenAPI page, with examples that can be sent as they stand.

They describe; requests are checked and answers are written without them (`dynlog.router.http_match`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

U64 = Annotated[int, Field(ge=0, le=2**64 - 1, json_schema_extra={"format": "uint64"})]
Decimal = Annotated[str, Field(pattern="^[0-9]{1,20}$", description="an unsigned 64-bit integer in decimal")]
HASHES = [6658374154243783716, "13021894102340293712"]


class Prompt(BaseModel):
    """A prompt: its blocks' tokens hashes, or its tokens, of which the router makes the hashes as Dynamo does."""

    model_config = ConfigDict(extra="forbid")

    hashes: list[U64 | Decimal] | None = Field(
        None,
        description="tokens_hash of each complete block, the first block first; integers, or decimal strings for "
        "clients that round integers above 2^53",
        examples=[HASHES],
    )
    tokens: list[Annotated[int, Field(ge=0, le=2**32 - 1)]] | None = Field(None, examples=[[101, 2054, 2003, 102]])
    block_size: int | None = Field(
        None, ge=1, description="tokens per block, with tokens; needed where the topic does not say it", examples=[4]
    )
    lora: str | None = Field(None, max_length=512, description="name of the LoRA adapter, with tokens")


class MatchOptions(BaseModel):
    """What holds for all prompts of a body."""

    tier: Literal["device", "host_pinned", "disk", "external"] = Field("device", description="memory to look in")
    early_exit: bool = Field(False, description="leave out all but the longest matches")
    limit: int | None = Field(None, ge=1, description="at most so many matches per prompt")


class MatchOne(Prompt, MatchOptions):
    """One prompt."""


class MatchMany(MatchOptions):
    """Up to 1,024 prompts, answered in their order."""

    model_config = ConfigDict(extra="forbid")

    queries: list[Prompt] = Field(max_length=1024)


class Match(BaseModel):
    """How many blocks of the prompt, from its first on and without a gap, a worker's rank holds."""

    worker_id: U64 = Field(examples=[7587899139709793412])
    worker_id_str: str = Field(description="the same in decimal, for clients that round it", examples=["75878991397"])
    dp_rank: int = Field(examples=[0])
    blocks: int = Field(examples=[2])


class Matches(BaseModel):
    """Matches of one prompt, the longest first; a rank that holds nothing of it is not there."""

    blocks: int = Field(description="complete blocks of the prompt", examples=[2])
    matches: list[Match]


class Answer(Matches):
    """Answer to one prompt."""

    ready: bool = Field(description="false while the state is being rebuilt: it knows only a part, or nothing, yet")
    stale_since_ms: int | None = Field(description="since when (ms since the epoch) the log cannot be read, or null")


class Answers(BaseModel):
    """Answer to a batch, in the order of its prompts."""

    results: list[Matches]
    ready: bool
    stale_since_ms: int | None


class Worker(BaseModel):
    """A rank that the router knows, and the blocks that it holds over all tiers."""

    worker_id: U64
    worker_id_str: str
    dp_rank: int
    blocks: int


class Workers(BaseModel):
    """All ranks, by worker and rank."""

    workers: list[Worker]


class Health(BaseModel):
    """How the router stands; ``reason`` says why it is not ready."""

    ready: bool
    reason: str | None = Field(examples=[None, "rebuilding: 120000 of 500000 records"])
    phase: Literal["rebuilding", "following", "stale", "closed"]
    stale_seconds: float
    lag_records: int
    blocks: int
    last_error: str | None


class Problem(BaseModel):
    """Why a request was not answered, in one line."""

    error: str = Field(examples=["hashes[3]: a hash is an integer from 0 to 2^64-1 or such a decimal string, not -1"])
    field: str | None = Field(examples=["hashes[3]"])


MATCH_EXAMPLES = {
    "hashes": {"summary": "Hashes of a prompt's blocks", "value": {"hashes": HASHES, "limit": 3}},
    "tokens": {"summary": "Tokens", "value": {"tokens": [101, 2054, 2003, 102], "block_size": 4}},
    "batch": {"summary": "Several prompts", "value": {"queries": [{"hashes": HASHES}, {"hashes": HASHES[:1]}]}},
}


def request_body() -> dict[str, Any]:
    """The OpenAPI request body of ``POST /match``."""
    one, many = (
        model.model_json_schema(ref_template="#/components/schemas/{model}") for model in (MatchOne, MatchMany)
    )
    many.pop("$defs", None)
    many["properties"]["queries"]["items"] = Prompt.model_json_schema()
    content = {"application/json": {"schema": {"oneOf": [one, many]}, "examples": MATCH_EXAMPLES}}
    return {"requestBody": {"required": True, "content": content}}


def problems(**statuses: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses: ``problems(s404="no such thing")``."""
    return {int(name[1:]): {"model": Problem, "description": text} for name, text in statuses.items()}
