"""Who reads which partition: balanced to within one, and no partition moves that need not.

A pure function, so that every member comes to the same answer from the same fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def assign(members: Sequence[str], owners: Mapping[int, str], partitions: int) -> dict[int, str]:
    """The member of every partition, given the members in the order in which they joined and who owns what now.

    Every member gets ``partitions // len(members)`` or one more; an owner keeps what it may.  Empty without members.
    """
    if not members:
        return {}
    held: dict[str, list[int]] = {member: [] for member in members}
    for partition in range(partitions):
        if (owner := owners.get(partition)) in held:
            held[str(owner)].append(partition)
    least, more = divmod(partitions, len(members))
    # One more goes to those who hold the most, so that the fewest partitions move; the sort keeps the order of joining.
    quota = dict.fromkeys(members, least)
    for member in sorted(members, key=lambda member: -len(held[member]))[:more]:
        quota[member] += 1
    targets = {partition: member for member in members for partition in held[member][: quota[member]]}
    room = [member for member in members for _ in range(quota[member] - min(len(held[member]), quota[member]))]
    free = (partition for partition in range(partitions) if partition not in targets)
    return dict(sorted((targets | dict(zip(free, room, strict=True))).items()))
