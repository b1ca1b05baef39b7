"""Every key of a log, each family in a hash slot of its own, so that no script ever touches two slots.

{prefix}:log          hash     identity, format, created_ms
{prefix}:topics       hash     name -> msgpack [incarnation, partitions, max_age_s, max_bytes, created_ms]
{prefix}:labels       hash     incarnation -> msgpack {label: value}
{prefix}:producers    hash     producer -> newest epoch, decimal
{prefix}:doomed       hash     incarnation -> msgpack [name, partitions, since_ms]: being made or being deleted

{prefix:topic}:<incarnation>:state     hash   version, enforced_ms; exists as long as the topic
{prefix:topic}:<incarnation>:holders   hash   name -> msgpack [kind, expires_after_s, max_lag, seen_ms, p, offset, ...]
{prefix:topic}:<incarnation>:groups    hash   name -> msgpack [generation, p, offset, ...]
{prefix:topic}:<incarnation>:floors    hash   partition -> start that truncation has decided on
{prefix:topic}:<incarnation>:events    list   msgpack [time_ms, kind, detail]

{prefix:topic:p}:<incarnation>:meta    hash   earliest, end, time, written, below, run, weak, gaps
{prefix:topic:p}:<incarnation>:stream  stream <next>-<log time>: f = sealed records, w = bytes written before it
{prefix:topic:p}:<incarnation>:marks   hash   producer -> msgpack [epoch's halves, last sequence's, seen_ms, stretches]
{prefix:topic:p}:<incarnation>:bell    channel on which each append says the new end, a deletion says "gone"
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

DEFAULT_PREFIX = "dynlog"
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,98}")


def check_prefix(prefix: str) -> str:
    """A legal prefix; braces would change the hash slot."""
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("1 to 99 characters of A-Z a-z 0-9 . _ : / - are allowed, the first a letter or digit")
    return prefix


class LogKeys(NamedTuple):
    """The keys of the log itself."""

    log: str
    topics: str
    labels: str
    producers: str
    doomed: str


class TopicKeys(NamedTuple):
    """The keys of a topic that are not a partition's."""

    state: str
    holders: str
    groups: str
    floors: str
    events: str


class PartitionKeys(NamedTuple):
    """The keys of a partition, and its channel."""

    meta: str
    stream: str
    marks: str
    bell: str


def log_keys(prefix: str) -> LogKeys:
    """The keys of the log under that prefix."""
    return LogKeys(*(f"{{{prefix}}}:{field}" for field in LogKeys._fields))


@lru_cache(4096)
def topic_keys(prefix: str, topic: str, incarnation: str) -> TopicKeys:
    """The keys of one incarnation of a topic."""
    return TopicKeys(*(f"{{{prefix}:{topic}}}:{incarnation}:{field}" for field in TopicKeys._fields))


@lru_cache(8192)
def partition_keys(prefix: str, topic: str, incarnation: str, partition: int) -> PartitionKeys:
    """The keys of one partition of one incarnation of a topic."""
    return PartitionKeys(
        *(f"{{{prefix}:{topic}:{partition}}}:{incarnation}:{field}" for field in PartitionKeys._fields)
    )
