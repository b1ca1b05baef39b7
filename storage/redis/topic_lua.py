"""What belongs to a topic as a whole: holders, the starts that truncation decided on, groups, events.

**Truncation is decided here and carried out in the partitions**: under a version that every holder changes, the start
is first moved in ``floors``; a holder that comes later and lies below it is refused, one that came before is seen.
"""

from __future__ import annotations

from dynlog.storage.ledger import GROUP_PREFIX, KEPT_EVENTS
from dynlog.storage.redis.script import Script

LOOK = Script(
    "look",
    """
local version = redis.call('HGET', KEYS[1], 'version')
if not version then return false end
return {version, redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3])}
""",
)
"""-> version, holders, floors; nil when the topic is gone."""

HOLD = Script(
    "hold",
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return {'GONE'} end
for i = 3, #ARGV, 2 do
  local floor = redis.call('HGET', KEYS[3], ARGV[i])
  if floor and tonumber(ARGV[i + 1]) < tonumber(floor) then return {'LOW', tonumber(ARGV[i]), tonumber(floor)} end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[1], 'version', 1)
return {'OK'}
""",
    frees=True,
)

RELEASE = Script(
    "release",
    """
if redis.call('HDEL', KEYS[2], ARGV[1]) == 1 then redis.call('HINCRBY', KEYS[1], 'version', 1) end
return 1
""",
    frees=True,
)

APPLY = Script(
    "apply",
    """
local version = redis.call('HGET', KEYS[1], 'version')
if not version then return 'GONE' end
if version ~= ARGV[1] then return 'AGAIN' end
local at, names, events = 4, tonumber(ARGV[2]), tonumber(ARGV[3])
for i = at, at + names - 1 do redis.call('HDEL', KEYS[2], ARGV[i]) end
at = at + names
for i = at, at + events - 1 do redis.call('RPUSH', KEYS[4], ARGV[i]) end
if events > 0 then redis.call('LTRIM', KEYS[4], -KEPT, -1) end
for i = at + events, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
redis.call('HINCRBY', KEYS[1], 'version', 1)
return 'OK'
""".replace("KEPT", str(KEPT_EVENTS)),
    frees=True,
)
"""Drops holders, notes events, moves floors, if nobody changed a holder since; -> OK | AGAIN | GONE."""

NOTE = Script(
    "note",
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 1, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
redis.call('LTRIM', KEYS[2], -KEPT, -1)
return 1
""".replace("KEPT", str(KEPT_EVENTS)),
    frees=True,
)

CLAIM = Script(
    "claim",
    """
local before = redis.call('HGET', KEYS[1], 'enforced')
if not before then return 0 end
if math.abs(tonumber(ARGV[1]) - tonumber(before)) < tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'enforced', ARGV[1])
return 1
""",
    frees=True,
)
"""Whether the caller is the one that enforces retention now: one of all handles, every few seconds."""

_GROUP = """
local state, groups, holders = KEYS[1], KEYS[2], KEYS[3]
local name, now = ARGV[1], tonumber(ARGV[2])
if redis.call('EXISTS', state) == 0 then return {'GONE'} end
local raw = redis.call('HGET', groups, name)
local group = raw and cmsgpack.unpack(raw) or {0}
local function keep()
  redis.call('HSET', groups, name, cmsgpack.pack(group))
  local holder = {'named', 0, 0, now}
  for i = 2, #group do holder[i + 3] = group[i] end
  redis.call('HSET', holders, 'PREFIX' .. name, cmsgpack.pack(holder))
  redis.call('HINCRBY', state, 'version', 1)
end
""".replace("PREFIX", GROUP_PREFIX)

OPEN_GENERATION = Script(
    "open_generation",
    _GROUP
    + """
local generation = group[1] + 1
if ARGV[3] == 'seek' then
  group = {generation}
  for i = 4, #ARGV do group[i - 2] = tonumber(ARGV[i]) end
else
  group[1] = generation
end
keep()
return {'OK', generation}
""",
    frees=True,
)

COMMIT = Script(
    "commit",
    _GROUP
    + """
local generation = tonumber(ARGV[3])
if generation ~= group[1] or generation == 0 then return {'FENCED', group[1]} end
for i = 4, #ARGV, 2 do
  local partition, offset, found = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), false
  for k = 2, #group, 2 do
    if group[k] == partition then
      group[k + 1] = math.max(group[k + 1], offset)
      found = true
    end
  end
  if not found then
    group[#group + 1] = partition
    group[#group + 1] = offset
  end
end
keep()
return {'OK', cmsgpack.pack(group)}
""",
    frees=True,
)

COMMITTED = Script(
    "committed",
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return {'GONE'} end
return {'OK', redis.call('HGET', KEYS[2], ARGV[1])}
""",
)

EVENTS = Script("events", "return redis.call('LRANGE', KEYS[1], 0, -1)")
