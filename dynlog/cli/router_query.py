"""``dynlog router match``: a line of hashes or tokens in, a line of matches out."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from dynlog.cli.log_lines import LineInput
from dynlog.cli.output import LineOutput
from dynlog.cli.router_state import rebuilt_router
from dynlog.errors import ConfigurationError, MalformedEvent
from dynlog.kvevents import Tier
from dynlog.router.index import KvIndex
from dynlog.router.prompts import BadField, block_size_field, brief, pack_field, rank_matches, tokens_field

MAX_LINE_BYTES = 64 << 20

Parse = Callable[[bytes], bytes]
"""From a line to packed hashes; raises MalformedEvent."""


async def match_lines(
    log_url: str,
    topic: str,
    objects_url: str | None,
    *,
    source: str,
    tokens: bool,
    block_size: int | None,
    lora: str | None,
    tier: Tier,
    early_exit: bool,
    limit: int | None,
) -> None:
    """Answers each line as soon as it was read; raises MalformedEvent naming the first line that does not fit."""
    async with rebuilt_router(log_url, topic, objects_url) as opened:
        if tokens:
            label = (await opened.log.topic(topic)).labels.get("block_size", "")
            try:
                block_size = block_size_field(block_size, int(label) if label.isdecimal() else None, "--block-size")
            except BadField as error:
                raise ConfigurationError(str(error)) from None
        index = opened.rebuilt.state.index
    # The state is a picture of the log's end; from here on nothing is open, however long the input goes on.
    place = "stdin" if source == "-" else source
    with _descriptor(source) as fd:
        await _answer(index, fd, place, _parser(block_size if tokens else None, lora), tier, early_exit, limit)


async def _answer(
    index: KvIndex, fd: int, place: str, parse: Parse, tier: Tier, early_exit: bool, limit: int | None
) -> None:
    output = LineOutput()
    number = 0
    async for line in _lines(fd):
        number += 1
        try:
            prompt = parse(line)
        except MalformedEvent as error:
            raise MalformedEvent(f"{place}:{number}: {error}") from None
        found = index.find_matches(prompt, tier=tier, early_exit=early_exit)
        answer = {"blocks": len(prompt) // 8, "matches": rank_matches(found, limit)}
        await output.write(json.dumps(answer).encode() + b"\n")


def _parser(block_size: int | None, lora: str | None) -> Parse:
    def parse(line: bytes) -> bytes:
        try:
            value = json.loads(line.decode())
        except RecursionError:
            raise MalformedEvent("JSON that is nested too deeply") from None
        except ValueError as error:
            raise MalformedEvent(f"not JSON: {error}; a line is a JSON array as [1, 2, 3]") from None
        if not isinstance(value, list):
            raise MalformedEvent(f"a JSON array is needed, not {brief(value)}")
        if block_size is None:
            return pack_field(value, "hashes")
        return tokens_field(value, block_size, lora, "tokens")

    return parse


async def _lines(fd: int) -> AsyncIterator[bytes]:
    async for chunk in LineInput(fd, MAX_LINE_BYTES).chunks(asyncio.Event()):
        for line in chunk:
            yield line


@contextmanager
def _descriptor(source: str) -> Iterator[int]:
    if source == "-":
        yield sys.stdin.fileno()
        return
    fd = os.open(source, os.O_RDONLY)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), source)
        yield fd
    finally:
        os.close(fd)
