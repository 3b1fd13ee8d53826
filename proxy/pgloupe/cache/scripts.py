"""What Redis does for `shared`, in Lua: one script and one round trip for each operation, so each is atomic.

One hash for each table holds its token and its marks, so an eviction by Redis takes both and leaves nothing that could be
wrong: a token that is gone is made anew and never comes again. Leases and ages are measured by the clock of Redis alone.

Fields of the hash of a table: `v` its token, `m…` a mark and when it ends in ms. The hash of the epoch has also `s`, the
schema token, `r`, the server that it was made under, and `p…`, a proxy and until when it is surely in touch.
A token is 14 bytes that a process never repeats and 2 bytes for the place of the table.

All keys carry one hash tag, so they live in one slot of a cluster. Nobody needs to clean up: the hash of a table that is
only written vanishes with its last mark, that of a table that is read is dropped after a day without use.
"""

from __future__ import annotations

from typing import Final

TOKEN_BYTES: Final = 16

_NOW: Final = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

_DAY_MS: Final = "86400000"

LOOKUP: Final = (
    _NOW
    + """
local n = #KEYS - 2
local dirty, away = false, false
local out = {}
for i = 1, n do
  local all = redis.call('HGETALL', KEYS[i])
  local v, s, gone = nil, nil, false
  for j = 1, #all, 2 do
    local f, x = all[j], all[j + 1]
    local kind = string.sub(f, 1, 1)
    if kind == 'v' then v = x
    elseif kind == 's' then s = x
    elseif kind == 'm' then
      if tonumber(x) <= now then
        redis.call('HDEL', KEYS[i], f)
        gone = true
      else dirty = true end
    elseif kind == 'p' and tonumber(x) <= now then
      if tonumber(x) + ARGV[4] <= now then
        redis.call('HDEL', KEYS[i], f)
        gone = true
      else away = true end
    end
  end
  if gone then v = nil s = nil end
  local place = string.char(math.floor(i / 256), i % 256)
  if i == 1 and not s then
    s = ARGV[1] .. string.char(255, 255)
    redis.call('HSET', KEYS[i], 's', s)
  end
  if not v then
    v = ARGV[1] .. place
    redis.call('HSET', KEYS[i], 'v', v)
    if i > 1 then redis.call('PEXPIRE', KEYS[i], """
    + _DAY_MS
    + """) end
  end
  if i == 1 then out[1] = s out[2] = v else out[i + 1] = v end
end
local vs = table.concat(out)
if dirty then return {0, vs} end
if away then return {4, vs} end
if ARGV[2] == vs then return {1, vs} end
local raw = redis.call('GET', KEYS[n + 1])
if raw and #raw > 16 + #vs and #raw <= ARGV[5] + 64 + #vs and string.sub(raw, 17, 16 + #vs) == vs then
  local age = now - tonumber(string.sub(raw, 1, 16))
  if age < tonumber(ARGV[3]) then return {3, vs, age, string.sub(raw, 17 + #vs)} end
end
if ARGV[6] ~= '0' then
  if redis.call('GET', KEYS[n + 2]) == vs then return {5, vs} end
  redis.call('SET', KEYS[n + 2], vs, 'PX', ARGV[6])
end
return {2, vs}
"""
)
"""KEYS: epoch, tables …, entry, flight. ARGV: new token, versions of the entry in memory or "", ttl in ms, ms after which a
proxy that is out of touch is given up, most bytes of an entry, ms for which others are to wait for the answer to a miss (0: nobody
is, and this one has not waited). Returns {0, versions} while dirty, {4, versions} while a proxy is out of touch, {1, versions}
if the entry in memory is valid, {2, versions} for a miss, {3, versions, age in ms, entry} for a hit, {5, versions} for a miss that
somebody has asked the server for. Versions are the schema token, the epoch and the token of each table."""

FILL: Final = (
    _NOW
    + """
local n = #KEYS - 2
local out = {}
for i = 1, n do
  if i == 1 then out[1] = redis.call('HGET', KEYS[1], 's') or '' end
  out[i + 1] = redis.call('HGET', KEYS[i], 'v') or ''
end
if redis.call('GET', KEYS[n + 2]) == ARGV[1] then redis.call('DEL', KEYS[n + 2]) end
if table.concat(out) ~= ARGV[1] then return 0 end
local begun = math.min(now, tonumber(ARGV[4]))
local left = ARGV[3] - (now - begun)
if left < 1 then return 2 end
redis.call('SET', KEYS[n + 1], string.format('%016d', begun) .. ARGV[1] .. ARGV[2], 'PX', left)
return 1
"""
)
"""KEYS: epoch, tables …, entry, flight. ARGV: versions, entry, ttl in ms, when its read was handed over (ms of the clock of Redis).
1 if stored, 0 if a write came in between, 2 if it is too old by now."""

BEGIN: Final = (
    _NOW
    + """
local s = redis.call('HGET', KEYS[1], 's')
if not s then
  s = ARGV[1] .. string.char(255, 255)
  redis.call('HSET', KEYS[1], 's', s)
end
if ARGV[4] == '1' or (ARGV[5] ~= '' and ARGV[5] ~= s) then redis.call('HSET', KEYS[1], ARGV[2], now + ARGV[3]) end
for i = 2, #KEYS do
  redis.call('HSET', KEYS[i], ARGV[2], now + ARGV[3])
  redis.call('PEXPIRE', KEYS[i], """
    + _DAY_MS
    + """)
end
return s
"""
)
"""KEYS: epoch, tables …. ARGV: new token, mark, lease in ms, 1 for everything, schema token that the tables were worked out
under or "". Marks, or renews a mark, and returns the schema token; where that is another one, everything is marked."""

END: Final = (
    _NOW
    + """
if ARGV[3] == '1' then redis.call('HDEL', KEYS[1], 'v', 's')
elseif ARGV[2] == '1' or (ARGV[4] ~= '' and ARGV[4] ~= redis.call('HGET', KEYS[1], 's')) then
  redis.call('HDEL', KEYS[1], 'v')
end
local keep = tonumber(ARGV[5])
if keep == 0 then redis.call('HDEL', KEYS[1], ARGV[1])
elseif ARGV[2] == '1' then redis.call('HSET', KEYS[1], ARGV[1], now + keep) end
for i = 2, #KEYS do
  redis.call('HDEL', KEYS[i], 'v')
  if keep == 0 then redis.call('HDEL', KEYS[i], ARGV[1])
  else
    redis.call('HSET', KEYS[i], ARGV[1], now + keep)
    redis.call('PEXPIRE', KEYS[i], """
    + _DAY_MS
    + """)
  end
end
return 1
"""
)
"""KEYS: epoch, tables …. ARGV: mark, 1 for everything, 1 for the schema, schema token known or "", ms to keep the mark (0
takes it off; more where the outcome is unknown). Raises."""

ABANDON: Final = "for i = 1, #KEYS do redis.call('HDEL', KEYS[i], ARGV[1]) end return 1"
"""KEYS: epoch, tables …. ARGV: mark. Takes it off without raising anything."""

ADOPT: Final = (
    _NOW
    + """
local new = ARGV[1] == '' or redis.call('HGET', KEYS[1], 'r') ~= ARGV[1]
if not new and ARGV[2] ~= '1' then return 0 end
if new then
  local all = redis.call('HGETALL', KEYS[1])
  for j = 1, #all, 2 do
    if string.sub(all[j], 1, 1) == 'p' and tonumber(all[j + 1]) > now then redis.call('HSET', KEYS[1], all[j], now) end
  end
  for i = 3, #ARGV do
    redis.call('HSETNX', KEYS[1], ARGV[i], now)
  end
end
redis.call('HDEL', KEYS[1], 'v', 's')
redis.call('HSET', KEYS[1], 'r', ARGV[1])
return 1
"""
)
"""KEYS: epoch. ARGV: which server this is or "", 1 to raise in any case, proxies known …. Returns 1 where the epoch was raised.
On a server that the epoch was not made under no proxy is in touch until it has come here itself: marks may be lost, and
a proxy may not know yet. A server that does not tell who it is (an ACL may forbid INFO) is taken for another one each time."""

JOIN: Final = (
    "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) "
    + _NOW
    + """
local out = {now}
for _, f in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(f, 1, 1) == 'p' and f ~= ARGV[1] then out[#out + 1] = f end
end
return out
"""
)
"""KEYS: epoch. ARGV: proxy, until when it is in touch (ms of the clock of Redis). Returns the time in ms and the other
proxies."""

LEAVE: Final = "return redis.call('HDEL', KEYS[1], ARGV[1])"
"""KEYS: epoch. ARGV: proxy, which closes in good order."""

SCRIPTS: Final = (LOOKUP, FILL, BEGIN, END, ABANDON, ADOPT, JOIN, LEAVE)
