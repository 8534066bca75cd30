"""The Lua scripts of features/live/redis.py: each is atomic.

All keys that a script touches have the prefix, which is their hash tag in a cluster, so that they are in one slot. They
are passed as KEYS, so that the server refuses a script while the slot is being moved, instead of stopping midway. Keys
of users who are read from rows are not passed: an interrupted PRUNE can be repeated, since rows leave the log last.
"""

import hashlib
from functools import cache

from features.live.clock import LOST_US

KEEP = (
    "local p = ARGV[1] "
    "local function row(seq) local found = redis.call('XRANGE', p .. 'log', seq, seq)[1] "
    "return found and {user = found[2][2], id = found[2][4], member = found[2][6], history = found[2][8] == '1'} end "
)
"""Keys: log, a stream of (user, id, member, history) by seq; ids, a hash of <revision>:<event_id> -> seq;
events:<user>, a set of seqs; history:<user>, a sorted set of members by time; forgotten, a set; marks, a hash;
secret and belongs, strings."""
APPEND = (
    KEEP
    + """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local seq = math.max(tonumber(redis.call('HGET', p .. 'marks', 'newest') or '0'), tonumber(ARGV[2]))
redis.call('HSETNX', p .. 'marks', 'origin', string.format('%.0f', now))
local fates = {}
for at = 3, #ARGV, 7 do
  local user, name, event, revision, history, counts_from, member = unpack(ARGV, at, at + 6)
  local id = revision .. ':' .. event
  local fate = 0
  if redis.call('SISMEMBER', p .. 'forgotten', name) == 1 then
    fate = 2
  elseif redis.call('HEXISTS', p .. 'ids', id) == 1 then
    fate = 1
  else
    seq = math.max(seq + 1, now)
    local text = string.format('%.0f', seq)
    local twin = redis.call('HGET', p .. 'ids', (revision == '0' and '1:' or '0:') .. event)
    local other = twin and row(twin)
    redis.call('XADD', p .. 'log', text .. '-0', 'user', user, 'id', id, 'member', member, 'history', history)
    redis.call('HSET', p .. 'ids', id, text)
    redis.call('SADD', p .. 'events:' .. user, text)
    local held = other and redis.call('ZSCORE', p .. 'history:' .. other.user, other.member)
    if history == '1' and held and revision == '1' and tonumber(held) >= tonumber(counts_from) then
      redis.call('ZREM', p .. 'history:' .. other.user, other.member)
    end
    if history == '1' and not (held and revision == '0' and tonumber(held) <= tonumber(counts_from)) then
      redis.call('ZADD', p .. 'history:' .. user, counts_from, member)
    end
  end
  fates[#fates + 1] = fate
end
redis.call('HSET', p .. 'marks', 'newest', string.format('%.0f', seq))
return fates
"""
)
PRUNE = """
local p, upto, limit = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local function mark(name) return tonumber(redis.call('HGET', p .. 'marks', name) or '0') end
upto = math.min(upto, mark('newest'))
local last = string.format('%.0f', upto)
if upto > mark('pruned') then redis.call('HSET', p .. 'marks', 'pruned', last) end
local rows = redis.call('XRANGE', p .. 'log', '-', last, 'COUNT', limit)
for _, found in ipairs(rows) do
  local user, id, member = found[2][2], found[2][4], found[2][6]
  redis.call('HDEL', p .. 'ids', id)
  redis.call('SREM', p .. 'events:' .. user, (string.gsub(found[1], '-0$', '')))
  redis.call('ZREM', p .. 'history:' .. user, member)
  redis.call('XDEL', p .. 'log', found[1])
end
return #rows
"""
BEHIND = f"""
local function mark(name) return tonumber(redis.call('HGET', KEYS[1], name) or nil) end
local us, last, loaded = mark('behind'), mark('behind_end'), mark('behind_loaded') or 0
local told, its_end, its_load = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if us and its_load < loaded then return string.format('%.0f', us) end
if not us or (not last and us < 0 and told >= 0) then
  us, last = told, its_end
elseif last and its_end < last - {LOST_US} and its_load > loaded then
  us, last = us + last - its_end, its_end
end
if told < us then us, last = told, its_end end
local kept = {{'behind', string.format('%.0f', us), 'behind_loaded', ARGV[4]}}
if last then kept[5], kept[6] = 'behind_end', string.format('%.0f', last) end
redis.call('HSET', KEYS[1], unpack(kept))
return kept[2]
"""
"""features.live.clock.agreed."""
FORGET = (
    KEEP
    + """
for at = 2, #ARGV, 2 do
  local user, name = ARGV[at], ARGV[at + 1]
  redis.call('SADD', p .. 'forgotten', name)
  for _, seq in ipairs(redis.call('SMEMBERS', p .. 'events:' .. user)) do
    redis.call('HDEL', p .. 'ids', row(seq).id)
    redis.call('XDEL', p .. 'log', seq)
  end
  redis.call('DEL', p .. 'events:' .. user, p .. 'history:' .. user)
end
"""
)


@cache
def sha(script: str) -> str:
    """The SHA-1 by which a server identifies a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
