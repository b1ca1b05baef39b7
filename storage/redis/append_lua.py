"""The append in one script: the marks' verdict, offsets, log time, and the entry, all of it or nothing.

It decides exactly as `dynlog.marks` and `dynlog.storage.ledger.judge_append` do.  Three things are Redis's own:

* **A server run writes in offsets of its own.**  A server that comes back may have lost its tail; were the lost offsets
  given out again, a reader that had seen them would skip what is there now.  So the first append of another run leaves
  a gap in the offsets, unless everything before was fsynced (``weak`` unset).  A position strictly inside such a gap
  saw what is lost: LogDiverged.  The gap ends at an offset that the server's clock gives, since what the runs before
  noted may be lost as well: `PER_MS` offsets for each millisecond since 2024, which no run outpaces.
* **What an append expects is compared with the end as readers see it**: it may so be stored behind a gap, where nothing
  lies in between.
* **A repeat in the middle of an append is sent back**, since only the client can encode the rest anew; nothing is
  stored then, and the client sends what is new.
"""

from __future__ import annotations

from dynlog.marks import EXPIRY_MS, REMEMBERED_RUNS
from dynlog.storage.redis.script import Script

PER_MS = 1 << 12
LEAST_GAP = 1 << 32
"""What a gap has at least, should the clock have been set back."""
_SINCE = 1_704_067_200

APPEND = Script(
    "append",
    """
local meta, stream, marks = KEYS[1], KEYS[2], KEYS[3]
local run, strong = string.sub(ARGV[1], 1, -3), string.sub(ARGV[1], -1)
local known, now, expect, count, runs = struct.unpack('>dddI4I4', ARGV[2])
local frame, bell, blob = ARGV[3], ARGV[4], ARGV[5]
local m = redis.call('HMGET', meta, 'end', 'time', 'written', 'run', 'weak', 'gaps')
if not m[1] then return {'GONE'} end
local STRETCH = '>I4I4I4d'
local function text(n) return string.format('%.0f', n) end
local base, last, written = tonumber(m[1]), tonumber(m[2]), tonumber(m[3])
if now == 0 then
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
if now < last then now = last end

local weak, gaps = m[5], m[6] or ''
local lost = known > base or (m[4] ~= run and weak == '1')
if lost then
  local from = base
  local t = redis.call('TIME')
  local ms = (tonumber(t[1]) - SINCE) * 1000 + math.floor(tonumber(t[2]) / 1000)
  base = math.max(ms * PER_MS, math.max(base, known) + LEAST_GAP)
  gaps = gaps .. text(from) .. ':' .. text(base) .. ':lost '
  weak = '0'
end
if strong ~= '1' then weak = '1' end

local states, changed = {}, {}
local pieces, at, new, repeats = {}, 0, 0, 0
local function take(many)
  if many > 0 then
    pieces[#pieces + 1] = many
    pieces[#pieces + 1] = base + new
    new = new + many
    at = at + many
  end
end
local function apart(ahi, alo, bhi, blo) return (ahi - bhi) * 4294967296 + (alo - blo) end
local pos = 1
for r = 1, runs do
  local start, length, ehi, elo, shi, slo
  start, length, ehi, elo, shi, slo, pos = struct.unpack('>I4I4I4I4I4I4', blob, pos)
  take(start - at)
  local producer = ARGV[5 + r]
  local s = changed[producer]
  if not s then
    local raw = redis.call('HGET', marks, producer)
    s = raw and cmsgpack.unpack(raw)
    if not s or now - s[5] > EXPIRY then s = {ehi, elo, -1, 4294967295, 0, ''} end
  end
  local newer = apart(ehi, elo, s[1], s[2])
  if newer < 0 then return {'FENCED', r, s[1], s[2]} end
  local old = 0
  if newer == 0 then old = math.min(math.max(apart(s[3], s[4], shi, slo) + 1, 0), length) end
  for i = 0, old - 1 do
    local first = -1
    for k = #s[6] - 19, 1, -20 do
      local hi, lo, long, offset = struct.unpack(STRETCH, s[6], k)
      local d = apart(shi, slo, hi, lo) + i
      if d >= 0 and d < long then first = offset + d break end
    end
    pieces[#pieces + 1] = 1
    pieces[#pieces + 1] = first
    at = at + 1
    repeats = repeats + 1
  end
  if old < length then
    local offset, many = base + new, length - old
    take(many)
    local flo = slo + old
    local fhi = shi + math.floor(flo / 4294967296)
    flo = flo % 4294967296
    if newer > 0 then s[1], s[2], s[6] = ehi, elo, '' end
    local llo = flo + many - 1
    s[3], s[4] = fhi + math.floor(llo / 4294967296), llo % 4294967296
    s[5] = math.max(s[5], now)
    local stretches, hi, lo, long, first = s[6], 0, 0, 0, 0
    if #stretches > 0 then hi, lo, long, first = struct.unpack(STRETCH, stretches, #stretches - 19) end
    if long > 0 and apart(fhi, flo, hi, lo) == long and first + long == offset then
      stretches = string.sub(stretches, 1, -21) .. struct.pack(STRETCH, hi, lo, long + many, first)
    else
      stretches = stretches .. struct.pack(STRETCH, fhi, flo, many, offset)
      if #stretches > 20 * REMEMBERED then stretches = string.sub(stretches, 21) end
    end
    s[6] = stretches
    changed[producer] = s
  end
end
take(count - at)
if new == 0 then return {'REPEAT', tonumber(m[1]), now, pieces} end
if expect >= 0 and expect ~= tonumber(m[1]) then return {'CONFLICT', tonumber(m[1])} end
if repeats > 0 then return {'PART', base, now, pieces} end

-- Numbers that are text already are not written out again: each takes a good part of a microsecond.
local next, taken = text(base + count), text(now)
redis.call('XADD', stream, next .. '-' .. taken, 'f', frame, 'w', m[3])
for producer, s in pairs(changed) do redis.call('HSET', marks, producer, cmsgpack.pack(s)) end
redis.call('HSET', meta, 'end', next, 'time', taken, 'written', text(written + #frame))
if m[4] ~= run or m[5] ~= weak then redis.call('HSET', meta, 'run', run, 'weak', weak) end
if lost then redis.call('HSET', meta, 'gaps', gaps) end
redis.call('PUBLISH', bell, next)
return {ok = (lost and text(base) or m[1]) .. ' ' .. taken}
""".replace("EXPIRY", str(EXPIRY_MS))
    .replace("REMEMBERED", str(REMEMBERED_RUNS))
    .replace("SINCE", str(_SINCE))
    .replace("PER_MS", str(PER_MS))
    .replace("LEAST_GAP", str(LEAST_GAP)),
)
