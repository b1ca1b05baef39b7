"""Removing from the middle of a run: how much of what an event names lies there in one stretch, either way."""

from __future__ import annotations

from dynlog.router.runs import Run, common, common_end


def end_stretch(run: Run, lane: int, offset: int, blocks: bytes, backward: bytes, index: int) -> tuple[int, int]:
    """Ends what the blocks from ``index`` on name of the run, from ``offset`` either way: its start and length."""
    held = run.held(lane)
    start, length = _stretch(run, offset, blocks, backward, index)
    gone = (1 << length) - 1 << start
    if gone & held != gone:  # a block that is not held breaks the stretch
        start, length, gone = offset, 1, 1 << offset
    run.hold(lane, held & ~gone)
    return start, length


def _stretch(run: Run, offset: int, blocks: bytes, backward: bytes, index: int) -> tuple[int, int]:
    """First block and length of what the blocks from ``index`` on name of the run, from ``offset`` either way."""
    count = len(blocks) >> 3
    if index + 1 == count:
        return offset, 1
    follows = blocks[8 * index + 8 : 8 * index + 16]
    if offset and run.hashes.startswith(follows, 8 * offset - 8):
        most = min(offset + 1, count - index)
        here = run.hashes[8 * (offset + 1 - most) : 8 * (offset + 1)]
        length = common_end(here, backward[8 * (count - index - most) : 8 * (count - index)])
        return offset + 1 - length, length
    if run.hashes.startswith(follows, 8 * offset + 8):
        most = min(len(run) - offset, count - index)
        return offset, common(run.hashes[8 * offset : 8 * (offset + most)], blocks[8 * index : 8 * (index + most)])
    return offset, 1
