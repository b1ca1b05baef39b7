"""What else happens inside one partition: reads, bounds, truncation, times, sizes.  None of these gives out offsets."""

from __future__ import annotations

from dynlog.marks import EXPIRY_MS
from dynlog.storage.redis.script import Script

TRIM_OFFSETS = 20_000
"""How many offsets one step of a truncation frees, so that no step holds the server up for long."""

MAKE = Script(
    "make",
    """
local run, strong = string.match(ARGV[1], '^(%x+) (%d)$')
redis.call('HSET', KEYS[1], 'earliest', 0, 'end', 0, 'time', 0, 'written', 0, 'below', 0, 'run', run,
  'weak', strong == '1' and '0' or '1', 'gaps', '')
return 1
""",
)

READ = Script(
    "read",
    """
local m = redis.call('HMGET', KEYS[1], 'earliest', 'end', 'gaps')
if not m[1] then return {'GONE'} end
local offset, max_bytes, max_records = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local first, final = tonumber(m[1]), tonumber(m[2])
if offset < first then return {'LOW', first} end
if offset > final then return {'HIGH', final} end
local ids, frames, n, size, step, done, id = {}, {}, 0, 0, 8, offset == final, nil
local from = string.format('%.0f', offset + 1)
while not done do
  local rows = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', step)
  for i = 1, #rows do
    local frame = rows[i][2][2]
    if n > 0 and size + #frame > max_bytes then done = true break end
    n, id = n + 1, rows[i][1]
    ids[n], frames[n], size = id .. '-' .. #frame, frame, size + #frame
    if max_records > 0 then
      local next = tonumber(string.match(id, '^%d+'))
      if next - offset >= max_records then done = true break end
    end
  end
  if #rows < step then done = true end
  if not done then
    from = '(' .. id
    step = math.min(math.max(math.ceil((max_bytes - size) * n / size) + 1, 1), 1024)
  end
end
return {'OK', final, m[3] or '', table.concat(ids, ' '), table.concat(frames)}
""",
)
"""-> OK end gaps "next-time-size ..." frames | GONE | LOW earliest | HIGH end."""

STATE = Script(
    "state",
    """
local m = redis.call('HMGET', KEYS[1], 'earliest', 'end', 'time', 'written', 'below', 'gaps')
if not m[1] then return false end
return table.concat({m[1], m[2], string.format('%.0f', tonumber(m[4]) - tonumber(m[5])),
  redis.call('XLEN', KEYS[2]), m[3], m[6] or ''}, ',')
""",
)
"""-> "earliest,end,bytes,batches,time,gaps" or nil."""

TRIM = Script(
    "trim",
    """
local m = redis.call('HMGET', KEYS[1], 'earliest', 'end', 'written', 'gaps')
if not m[1] then return {'GONE'} end
local function text(n) return string.format('%.0f', n) end
local target, first = tonumber(ARGV[1]), tonumber(m[1])
if target > tonumber(m[2]) then return {'HIGH', tonumber(m[2])} end
local kept = ''
for from, to, kind in string.gmatch(m[4] or '', '(%d+):(%d+):(%a+) ') do
  -- Nobody can read from inside a gap, so no start may lie there.
  if target > tonumber(from) and target < tonumber(to) then target = tonumber(to) end
  if tonumber(to) > target then kept = kept .. from .. ':' .. to .. ':' .. kind .. ' ' end
end
if target > first then redis.call('HSET', KEYS[1], 'earliest', text(target), 'gaps', kept) else target = first end
local head = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local more = 0
if head then
  local upto = math.min(target, tonumber(string.match(head[1], '^%d+')) + STEP)
  redis.call('XTRIM', KEYS[2], 'MINID', '=', text(upto + 1))
  head = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  if upto < target then more = 1 end
end
redis.call('HSET', KEYS[1], 'below', head and head[2][4] or m[3])
return {'OK', target, more}
""".replace("STEP", str(TRIM_OFFSETS)),
    frees=True,
)
"""-> OK earliest more | GONE | HIGH end; called again while there is more."""

OFFSET_AT = Script(
    "offset_at",
    """
local m = redis.call('HMGET', KEYS[1], 'earliest', 'end')
if not m[1] then return false end
local time, low, high = tonumber(ARGV[1]), tonumber(m[1]), tonumber(m[2])
while low < high do
  local middle = math.floor((low + high) / 2)
  local row = redis.call('XRANGE', KEYS[2], string.format('%.0f', middle + 1), '+', 'COUNT', 1)[1]
  local next, taken
  if row then next, taken = string.match(row[1], '^(%d+)-(%d+)$') end
  if not row or tonumber(taken) >= time then high = middle else low = tonumber(next) end
end
return low
""",
)

SEGMENTS = Script(
    "segments",
    """
local rows = redis.call('XRANGE', KEYS[1], string.format('%.0f', tonumber(ARGV[1]) + 1), '+', 'COUNT', ARGV[2])
local found = {}
for i = 1, #rows do found[i] = rows[i][1] .. '-' .. #rows[i][2][2] end
return table.concat(found, ' ')
""",
)
"""-> "next-time-size ..." of the entries from an offset on."""

BYTES_FROM = Script(
    "bytes_from",
    """
local written = redis.call('HGET', KEYS[1], 'written')
if not written then return 0 end
local row = redis.call('XRANGE', KEYS[2], string.format('%.0f', tonumber(ARGV[1]) + 1), '+', 'COUNT', 1)[1]
return row and tonumber(written) - tonumber(row[2][4]) or 0
""",
)

PURGE_MARKS = Script(
    "purge_marks",
    """
local time = tonumber(redis.call('HGET', KEYS[1], 'time') or '0')
local found = redis.call('HSCAN', KEYS[2], ARGV[1], 'COUNT', 200)
for i = 1, #found[2], 2 do
  if time - cmsgpack.unpack(found[2][i + 1])[5] > EXPIRY then redis.call('HDEL', KEYS[2], found[2][i]) end
end
return tonumber(found[1])
""".replace("EXPIRY", str(EXPIRY_MS)),
    frees=True,
)
"""Forgets producers whose marks expired among the next few; -> cursor to go on with, 0 at the end."""

DROP = Script(
    "drop",
    """
redis.call('DEL', KEYS[1])
redis.call('UNLINK', KEYS[2], KEYS[3])
redis.call('PUBLISH', ARGV[1], 'gone')
return 1
""",
    frees=True,
)

SET_ASIDE = Script(
    "set_aside",
    """
local gaps = redis.call('HGET', KEYS[1], 'gaps')
if not gaps then return 0 end
for id in string.gmatch(ARGV[1], '%S+') do redis.call('XDEL', KEYS[2], id) end
redis.call('HSET', KEYS[1], 'gaps', gaps .. ARGV[2])
return 1
""",
    frees=True,
)
"""Deletes damaged entries and notes the hole that they leave."""
