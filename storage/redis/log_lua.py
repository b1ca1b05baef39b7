"""What belongs to the log as a whole: its identity, which topics there are, their labels, producers' epochs."""

from __future__ import annotations

from dynlog.storage.redis.script import Script

ENSURE = Script(
    "ensure",
    """
if redis.call('HSETNX', KEYS[1], 'identity', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'format', ARGV[2], 'created_ms', ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'identity', 'format')
""",
)
"""-> identity and format of the log, made now if there was none."""

DOOMED = Script("doomed", "return redis.call('HGETALL', KEYS[1])")

CREATE = Script(
    "create",
    """
local there = redis.call('HGET', KEYS[1], ARGV[1])
if there then return {there, redis.call('HGET', KEYS[2], cmsgpack.unpack(there)[1])} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('HDEL', KEYS[3], ARGV[3])
return false
""",
)
"""-> nil if the topic is the caller's now, else what is there."""

DESCRIBE = Script(
    "describe",
    """
local there = redis.call('HGET', KEYS[1], ARGV[1])
if not there then return false end
return {there, redis.call('HGET', KEYS[2], cmsgpack.unpack(there)[1])}
""",
)

LIST = Script("list", "return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}")

DELETE = Script(
    "delete",
    """
local there = redis.call('HGET', KEYS[1], ARGV[1])
if not there then return false end
local topic = cmsgpack.unpack(there)
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], topic[1])
redis.call('HSET', KEYS[3], topic[1], cmsgpack.pack({ARGV[1], topic[2], tonumber(ARGV[2])}))
return there
""",
    frees=True,
)

LABEL = Script(
    "label",
    """
local there = redis.call('HGET', KEYS[1], ARGV[1])
if not there then return false end
local incarnation = cmsgpack.unpack(there)[1]
local raw = redis.call('HGET', KEYS[2], incarnation)
local labels = raw and cmsgpack.unpack(raw) or {}
if labels[ARGV[2]] == nil then
  labels[ARGV[2]] = ARGV[3]
  redis.call('HSET', KEYS[2], incarnation, cmsgpack.pack(labels))
end
return labels[ARGV[2]]
""",
)

SWAP = Script(
    "swap",
    """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
""",
)
"""Compare and set of one field; -> 1 if it was as expected."""

NEWEST = Script("newest", "return redis.call('HGET', KEYS[1], ARGV[1])")
