"""Hashes as Dynamo 1.6.1 computes them, so that a token prompt finds the blocks that its engines announced."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import xxhash

from dynlog.errors import MalformedEvent

SEED = 1337
_U64 = 2**64 - 1


def lora_seed(lora: str | None) -> int:
    """The seed of a model's or adapter's token hashes: 1337, plus xxh3_64 (seed 0) of the adapter's name."""
    if not lora:
        return SEED
    return (SEED + int(xxhash.xxh3_64_intdigest(lora.encode(), seed=0))) & _U64


def hash_tokens(tokens: Sequence[int], block_size: int, lora: str | None = None) -> list[int]:
    """The tokens_hash of every *complete* block of the prompt, in order; not chained.

    Each is xxh3_64 of the block's tokens as u32 little-endian; a shorter last block has none.  Raises MalformedEvent
    for a block size below 1 or a token outside 0..2^32-1.
    """
    if block_size < 1:
        raise MalformedEvent(f"a block holds at least one token, not {block_size}")
    blocks = len(tokens) // block_size
    try:
        packed = struct.pack(f"<{blocks * block_size}I", *tokens[: blocks * block_size])
    except struct.error as error:
        raise MalformedEvent(f"a token id is not an unsigned 32-bit integer: {error}") from None
    seed, width = lora_seed(lora), 4 * block_size
    return [xxhash.xxh3_64_intdigest(packed[at : at + width], seed=seed) for at in range(0, blocks * width, width)]


def next_sequence_hash(parent: int | None, tokens_hash: int) -> int:
    """Dynamo's sequence hash of a block: the tokens_hash at the root, else xxh3_64(LE(parent) + LE(tokens_hash))."""
    if parent is None:
        return tokens_hash
    return int(xxhash.xxh3_64_intdigest(struct.pack("<QQ", parent, tokens_hash), seed=SEED))


def sequence_hashes(tokens_hashes: Sequence[int]) -> list[int]:
    """Dynamo's chained hash of every block of a prompt, from its token hashes."""
    chain: list[int] = []
    for tokens_hash in tokens_hashes:
        chain.append(next_sequence_hash(chain[-1] if chain else None, tokens_hash))
    return chain
