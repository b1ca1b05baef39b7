"""What a rebuilt database lacks: documents that are gone with their pages, so that no checksum can miss them.

The documents above them count them.  What nothing counts any more (a topic, where a partition ended) is lost for good,
and whoever repairs the log has to accept that.
"""

from __future__ import annotations

from typing import NamedTuple

from dynlog.errors import LogCorrupt
from dynlog.storage.sqlite import rows
from dynlog.storage.sqlite.transaction import Transaction
from dynlog.storage.sqlite.verify import count_family, family_damage, mark_damage
from dynlog.topics import Damage

_OF_TOPICS = ("census/", "part/", "hole/", "mark/", "holder/", "group/", "event/")


class Vanished(NamedTuple):
    """What is missing; by topic why its offsets could come again; and what of the whole log is gone."""

    damages: list[Damage]
    ends: dict[str, str]
    of_log: list[str]


def vanished(tx: Transaction, producers: int, *, accept_loss: bool, now_ms: int) -> Vanished:
    """Counts what is left and sets aside what belongs to no topic; ``producers`` is how many were registered.

    Raises LogCorrupt where nothing is left, and where only a person can decide to go on.
    """
    of_log, lost = [], []
    there = count_family(tx.db, "topic/")
    if there < tx.head.topics:
        if not there:
            raise LogCorrupt("the documents of all topics are gone, and nothing can be salvaged; restore a backup")
        lost.append(f"{tx.head.topics - there} of {tx.head.topics} topics are gone with all their records")
        of_log += lost
        tx.head = tx.head._replace(topics=there, topics_version=tx.head.topics_version + 1)
    registered = count_family(tx.db, rows.producer_key())
    if registered != producers:
        of_log.append(f"{registered} registered producers are known, {producers} were stored")
    damages = [Damage(None, None, -1, -1, reason) for reason in of_log]
    ends: dict[str, str] = {}
    for name, topic in tx.topics().items():
        damages += family_damage(tx.db, topic)
        for partition in range(topic.topic.partitions):
            values = rows.find(tx.db, rows.part_key(topic.id, partition))
            if values is not None:
                damages += mark_damage(tx.db, topic, partition, rows.Part(*values).marks)
                continue
            ends[name] = f"nothing says any more where partition {partition} ended"
            damages.append(Damage(name, partition, -1, -1, ends[name]))
            lost.append(f"{ends[name]} (topic {name!r})")
    if lost and not accept_loss:
        raise LogCorrupt(
            f"{lost[0]}, so acknowledged offsets may be given out again; restore a backup, or accept the loss "
            "explicitly (accept_loss)"
        )
    _set_strays_aside(tx, now_ms)
    return Vanished(damages, ends, of_log)


def _set_strays_aside(tx: Transaction, now_ms: int) -> None:
    """Moves documents and rows of topics that are gone; those of topics that are being deleted stay."""
    known = {topic.id for topic in tx.topics().values()}
    known |= {int(key, 16) for key, _ in rows.family(tx.db, rows.doomed_key())}
    for prefix in _OF_TOPICS:
        keys = tx.db.execute("SELECT key FROM docs WHERE key >= ? AND key < ?", (prefix, rows.after(prefix))).fetchall()
        for (key,) in keys:
            if int(key.split("/")[1], 16) not in known:
                tx.db.execute(
                    "INSERT INTO quarantine (time_ms, reason, key, frame) SELECT ?, ?, key, frame FROM docs"
                    " WHERE key = ?",
                    (now_ms, "its topic is gone", key),
                )
                tx.delete(key)
    for (topic,) in tx.db.execute("SELECT DISTINCT topic FROM batches").fetchall():
        if topic not in known:
            tx.db.execute(
                "INSERT INTO quarantine SELECT ?, ?, NULL, * FROM batches WHERE topic = ?",
                (now_ms, "its topic is gone", topic),
            )
            tx.db.execute("DELETE FROM batches WHERE topic = ?", (topic,))
            tx.changes += 1
