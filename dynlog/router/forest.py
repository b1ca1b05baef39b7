"""All runs under one root: where a path lies, how it grows, and what is cut off once nobody needs it."""

from __future__ import annotations

from typing import Protocol
from weakref import ReferenceType

from dynlog.router.runs import Run, common

MAX_RUN = 256  # bounds every cost that is linear in a run: searching it, its masks, appending to it

# (run, start, size, first): ``size`` blocks of the run from ``start``, which are the blocks from ``first`` of a store.
Piece = tuple[Run, int, int, int]


class Image(Protocol):
    """Runs as they were when a snapshot began: whoever is about to change a run shows it first."""

    def keep(self, run: Run) -> None:
        """Takes the run's state if the snapshot still needs it."""


class Watchers:
    """The images that are being written; one that nobody writes any more is forgotten."""

    def __init__(self) -> None:
        self.images: list[ReferenceType[Image]] = []

    def keep(self, run: Run) -> None:
        """Shows the run to every image."""
        for reference in self.images:
            if (image := reference()) is not None:
                image.keep(run)


class Forest:
    """All runs, by number, under one root run that holds no block."""

    def __init__(self) -> None:
        self.root = Run(0, None, 0, b"", b"")
        self.runs: dict[int, Run] = {}
        self.next_number = 1
        self.image: Watchers | None = None  # None, nearly always: every change of a run looks here first

    def watch(self, image: Image) -> None:
        """From now on the image sees every run before it changes, as long as somebody holds the image."""
        watchers = self.image = self.image or Watchers()

        def gone(reference: ReferenceType[Image]) -> None:
            watchers.images.remove(reference)
            if not watchers.images and self.image is watchers:
                self.image = None

        watchers.images.append(ReferenceType(image, gone))

    def place(self, run: Run, at: int, tokens: bytes, hashes: bytes) -> list[Piece]:
        """Where a path that goes on behind ``at`` blocks of ``run`` lies; what no run has yet is appended.

        Appended blocks are held by nobody: the caller makes some lane hold them, or calls `prune`.
        """
        count = len(hashes) >> 3
        branches = run.children.get(at) if run.children is not None else None
        size = len(run.hashes)
        if (branches is None or tokens[:8] not in branches) and (
            at << 3 == size or not run.hashes.startswith(hashes[:8], at << 3)
        ):
            # Nearly always: nobody had this path, and it goes into one run.
            if at << 3 == size and 0 < at <= MAX_RUN - count:
                if self.image is not None:
                    self.image.keep(run)
                run.tokens += tokens
                run.hashes += hashes
                return [(run, at, count, 0)]
            if count <= MAX_RUN:
                return [(self.branch(run, at, tokens, hashes), 0, count, 0)]
        pieces: list[Piece] = []
        index = 0
        while index < count:
            if at << 3 < len(run.hashes) and (same := self._same(run, at, tokens, hashes, index)):
                pieces.append((run, at, same, index))
                index += same
                at += same
                continue
            if run.children is None or at not in run.children:
                break
            below = run.child(at, tokens[8 * index : 8 * index + 8], hashes[8 * index : 8 * index + 8])
            if below is None:
                break
            run, at = below, 0
        while index < count:
            room = MAX_RUN - at
            if room > 0 and at << 3 == len(run.hashes) and run is not self.root:
                taken = min(room, count - index)
                if self.image is not None:
                    self.image.keep(run)
                if run.children is not None and tokens[8 * index : 8 * index + 8] in run.children.get(at, ()):
                    run.forks = True
                run.tokens += tokens[8 * index : 8 * (index + taken)]
                run.hashes += hashes[8 * index : 8 * (index + taken)]
            else:
                taken = min(MAX_RUN, count - index)
                end = 8 * (index + taken)
                run = self.branch(run, at, tokens[8 * index : end], hashes[8 * index : end])
                at = 0
            if pieces and pieces[-1][0] is run:  # what matched and what was appended to it are one piece
                _, start, size, first = pieces.pop()
                pieces.append((run, start, size + taken, first))
            else:
                pieces.append((run, at, taken, index))
            index += taken
            at += taken
        return pieces

    @staticmethod
    def _same(run: Run, at: int, tokens: bytes, hashes: bytes, index: int) -> int:
        """How many pairs of the run from ``at`` equal those of the path from ``index``."""
        if not run.hashes.startswith(hashes[8 * index : 8 * index + 8], 8 * at):
            return 0
        count = min((len(run.hashes) >> 3) - at, (len(hashes) >> 3) - index)
        here, there = run.hashes[8 * at : 8 * (at + count)], hashes[8 * index : 8 * (index + count)]
        if here != there:
            count = common(here, there)
        here, there = run.tokens[8 * at : 8 * (at + count)], tokens[8 * index : 8 * (index + count)]
        return count if here == there else common(here, there)

    def branch(self, parent: Run, at: int, tokens: bytes, hashes: bytes) -> Run:
        run = Run(self.next_number, parent, at, tokens, hashes)
        self.next_number += 1
        self.link(run)
        return run

    def link(self, run: Run) -> None:
        """Hangs a run under its parent and gives it its place among all."""
        parent, token, at = run.parent, run.tokens[:8], run.at
        assert parent is not None
        self.runs[run.number] = run
        if 8 * at < len(parent.tokens) and parent.tokens.startswith(token, 8 * at):
            parent.forks = True
        if parent.children is None:
            parent.children = {at: {token: run}}
            return
        branches = parent.children.get(at)
        if branches is None:
            parent.children[at] = {token: run}
            return
        other = branches.get(token)
        if other is None:
            branches[token] = run
        elif isinstance(other, dict):
            other[run.hashes[:8]] = run
        else:
            branches[token] = {other.hashes[:8]: other, run.hashes[:8]: run}

    def prune(self, run: Run) -> None:
        """Cuts off what no lane holds and no other path needs, up to the root."""
        while run is not self.root:
            size = len(run.hashes)
            if run.holders or run.children is not None:
                need = self._needed(run)
                if need << 3 < size:
                    if self.image is not None:
                        self.image.keep(run)
                    run.tokens, run.hashes = run.tokens[: 8 * need], run.hashes[: 8 * need]
                return
            if self.image is not None:
                self.image.keep(run)
            del self.runs[run.number]
            at, run = run.at, self._unlink(run)
            if at << 3 != len(run.hashes):
                return  # something else needs the parent's last block, so this end was not what kept it

    @staticmethod
    def _needed(run: Run) -> int:
        """How many blocks of the run somebody holds or some other path stands on."""
        size, holders = len(run.hashes) >> 3, run.holders
        if len(holders) == 1:
            (need,) = holders.values()
        elif size in holders.values():
            return size
        else:
            need = max(holders.values(), default=0)
        if run.gaps is not None:
            need = max(need, max(run.gaps.values()).bit_length())
        return need if run.children is None else max(need, max(run.children))

    @staticmethod
    def _unlink(run: Run) -> Run:
        parent = run.parent
        assert parent is not None
        assert parent.children is not None
        token = run.tokens[:8]
        branches = parent.children[run.at]
        branch = branches[token]
        if isinstance(branch, dict):
            del branch[run.hashes[:8]]
            if len(branch) == 1:
                (branches[token],) = branch.values()
        elif len(branches) > 1:
            del branches[token]
        elif len(parent.children) > 1:
            del parent.children[run.at]
        else:
            parent.children = None
        return parent
