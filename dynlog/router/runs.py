"""The tree of all paths that any lane holds, cut into runs: a path exists once, whoever holds it.

A path is a sequence of (tokens_hash, block_hash) pairs from the root.  A *run* is a stretch of one path, at most
`forest.MAX_RUN` blocks, kept as two packed columns, so that a whole stretch is compared, appended and cut by C code;
other paths branch off behind any of its blocks.  For every lane a run keeps the length of the prefix that it holds
and, only while there is a gap, a bitmask of what it holds beyond.
"""

from __future__ import annotations


class Run:
    """A stretch of one path.  ``number`` names it for ever; ``at`` blocks of ``parent`` precede it.

    ``tokens`` and ``hashes`` are packed u64.  ``holders`` maps a lane's number to its prefix length, and to 0 if it
    only holds blocks behind a gap; ``gaps`` maps a lane's number to the bitmask of blocks that it holds beyond its
    prefix.  Both hold plain integers only, so the garbage collector does not walk them.
    """

    __slots__ = ("at", "children", "forks", "gaps", "hashes", "holders", "number", "parent", "tokens")

    def __init__(self, number: int, parent: Run | None, at: int, tokens: bytes, hashes: bytes) -> None:
        self.number = number
        self.parent = parent
        self.at = at
        self.tokens = tokens
        self.hashes = hashes
        self.holders: dict[int, int] = {}
        self.gaps: dict[int, int] | None = None
        self.children: dict[int, dict[bytes, Branch]] | None = None
        self.forks = False  # some path leaves the run by the very tokens with which the run itself goes on

    def __len__(self) -> int:
        return len(self.hashes) >> 3

    def held(self, lane: int) -> int:
        """The bitmask of all blocks of this run that the lane holds."""
        bits = (1 << self.holders.get(lane, 0)) - 1
        return bits | self.gaps.get(lane, 0) if self.gaps else bits

    def hold(self, lane: int, bits: int) -> None:
        """Makes ``bits`` what the lane holds of this run."""
        prefix = (~bits & (bits + 1)).bit_length() - 1
        beyond = bits >> prefix << prefix
        if beyond:
            if self.gaps is None:
                self.gaps = {}
            self.gaps[lane] = beyond
        elif self.gaps and self.gaps.pop(lane, None) is not None and not self.gaps:
            self.gaps = None
        if bits:
            self.holders[lane] = prefix
        else:
            self.holders.pop(lane, None)

    def drop(self, lane: int, offset: int) -> bool:
        """The lane no longer holds one block that it holds; whether it holds nothing of this run any more."""
        prefix = self.holders[lane]
        beyond = self.gaps.get(lane, 0) if self.gaps is not None else 0
        if offset >= prefix:
            beyond ^= 1 << offset
        else:
            beyond |= ((1 << prefix - offset - 1) - 1) << offset + 1
            prefix = offset
        if beyond:
            if self.gaps is None:
                self.gaps = {}
            self.gaps[lane] = beyond
        elif self.gaps is not None and self.gaps.pop(lane, 0) and not self.gaps:
            self.gaps = None
        if prefix or beyond:
            self.holders[lane] = prefix
            return False
        del self.holders[lane]
        return True

    def find(self, block: bytes, lane: int) -> int:
        """The offset of a block that the lane holds in this run, or -1; its prefix's last block is found at once."""
        prefix = self.holders.get(lane)
        if prefix is None:
            return -1
        if prefix and self.hashes[8 * prefix - 8 : 8 * prefix] == block:
            return prefix - 1
        at = self.hashes.find(block)
        while at >= 0:
            if not at & 7 and (at >> 3 < prefix or self.held(lane) >> (at >> 3) & 1):
                return at >> 3
            at = self.hashes.find(block, at + 1)
        return -1

    def child(self, at: int, token: bytes, block: bytes) -> Run | None:
        """The run that goes on behind ``at`` blocks with exactly this pair."""
        if self.children is None or (branches := self.children.get(at)) is None:
            return None
        branch = branches.get(token)
        if isinstance(branch, dict):
            return branch.get(block)
        return branch if branch is not None and branch.hashes.startswith(block) else None


# What goes on behind a block with some tokens: one run or, where block hashes differ, one for each first block hash.
Branch = Run | dict[bytes, Run]


def common(here: bytes, there: bytes) -> int:
    """How many whole u64 two columns of the same length have in common from their start."""
    differing = int.from_bytes(here, "little") ^ int.from_bytes(there, "little")
    return (differing & -differing).bit_length() - 1 >> 6 if differing else len(here) >> 3


def common_end(here: bytes, there: bytes) -> int:
    """How many whole u64 two columns of the same length have in common at their end."""
    differing = int.from_bytes(here, "little") ^ int.from_bytes(there, "little")
    return (len(here) >> 3) - (differing.bit_length() + 63 >> 6)
