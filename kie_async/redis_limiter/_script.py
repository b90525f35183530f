"""The one script: told what has ended and what is wanted, it books turns.

All of it happens at one instant of the server's clock, so processes need no common one.

* ``turns``: a sorted set, turn → the microsecond until which it counts.  A turn without an
  answer counts as if the answer came at the end of its lease, so that a process that died
  holds nothing up for longer.
* ``state``: until when all are paused, for how long that was meant, and when the last
  one left.
* ``served``: process → turns it was given; ``asks``: process → until when it counts as
  waiting; a minute later both forget it.  While others wait, a process may be ahead of the
  one that got least by a share of the window and no more; that is what makes it fair.
* ``calls``: process → the number of its last call.  A client or a network may bring a call
  twice: then it gets what it got.  One that comes behind a later one does nothing; who made
  it has given it up.

All keys have one hash tag, so they lie on one node of a cluster.
"""

from __future__ import annotations

__all__ = ["KEYS", "SCRIPT", "key_names"]

KEYS = ("turns", "state", "served", "asks", "calls")

SCRIPT = """
local turns, state, served, asks, calls = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local at = 0
local function take() at = at + 1; return ARGV[at] end
local function number() return tonumber(take()) end
local limit, span, lease = number(), number(), number()
local me, call, want, pause = take(), number(), number(), number()
local last = tonumber(redis.call('ZSCORE', calls, me) or 0)
if call < last then return {0, '0'} end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- a clock that was set back, or another server's, leaves times that nobody can have meant
for _, turn in ipairs(redis.call('ZRANGEBYSCORE', turns, now + span + lease, '+inf')) do
  redis.call('ZADD', turns, 'XX', now + span + lease, turn)
end

-- what has happened: answers, turns given back, all of a process that could not ask us
for _ = 1, number() do redis.call('ZADD', turns, 'XX', now + span, take()) end
for _ = 1, number() do
  if redis.call('ZREM', turns, take()) == 1 then redis.call('ZINCRBY', served, -1, me) end
end
for _ = 1, number() do
  local turn, left = take(), number()
  redis.call('ZADD', turns, now + left, turn)
end
redis.call('ZREMRANGEBYSCORE', turns, '-inf', now)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', asks, '-inf', now - 60000000)) do
  for _, key in ipairs({asks, served, calls}) do redis.call('ZREM', key, gone) end
end
local function hold(left)
  redis.call('HSET', state, 'paused', string.format('%.0f', now + left), 'pause', left)
  return now + left
end
local paused = tonumber(redis.call('HGET', state, 'paused') or 0)
local longest = tonumber(redis.call('HGET', state, 'pause') or 0)
if paused > now + longest then paused = hold(longest) end  -- as above
if pause > 0 and now + pause > paused then paused = hold(pause) end

-- the same call once more: the first answer was lost on its way
if call == last then
  local booked = 0
  for n = 1, want do
    if redis.call('ZSCORE', turns, me .. ':' .. ARGV[at + n]) then booked = booked + 1 end
  end
  if booked > 0 then return {booked, '0'} end
end
redis.call('ZADD', calls, call, me)

-- how many may go
local granted, wait = 0, 0
if want > 0 then
  local free = limit - redis.call('ZCARD', turns)
  if paused > now then
    wait = paused - now
  elseif free <= 0 then
    local first = redis.call('ZRANGE', turns, 0, 0, 'WITHSCORES')
    wait = math.min(tonumber(first[2]) - now, span)
  else
    -- no more than an eighth at once: others who want some may be on their way
    granted = math.min(want, free, math.max(1, math.ceil(limit / 8)))
    -- who refused us counts something that we do not: after a pause one goes at a time
    if now < paused + span then
      local last = math.min(tonumber(redis.call('HGET', state, 'left') or 0), now)
      local opening = last + span / limit
      if now < opening then granted, wait = 0, opening - now else granted = 1 end
    end
    local others, least = 0, nil
    local waiting = {string.format('(%.0f', now), now + math.max(span, paused - now) + 200000}
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', asks, waiting[1], waiting[2])) do
      if other ~= me then
        others = others + 1
        local got = tonumber(redis.call('ZSCORE', served, other) or 0)
        if not least or got < least then least = got end
      end
    end
    if others > 0 and granted > 0 then
      local mine = tonumber(redis.call('ZSCORE', served, me) or least)
      if mine < least - limit then  -- it did not wait meanwhile, and has nothing to catch up
        mine = least
        redis.call('ZADD', served, mine, me)
      end
      local share = math.max(1, math.floor(limit / (others + 1)))
      granted = math.max(0, math.min(granted, least + share - mine))
      if granted == 0 and wait == 0 then wait = 5000 end
    end
  end
  for n = 1, granted do redis.call('ZADD', turns, now + span + lease, me .. ':' .. take()) end
  if granted > 0 then
    redis.call('ZINCRBY', served, granted, me)
    redis.call('HSET', state, 'left', string.format('%.0f', now))
  end
end
redis.call('ZADD', asks, granted < want and now + wait + 100000 or now, me)

local keep = math.ceil((span + lease) / 1000) + 60000
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, keep) end
if paused > now then redis.call('PEXPIRE', state, keep + math.ceil((paused - now) / 1000)) end
return {granted, string.format('%.0f', wait)}
"""


def key_names(name: str) -> tuple[str, ...]:
    """Return the keys of an account's book, on one node of a cluster."""
    return tuple(f"kie:{{{name}}}:{key}" for key in KEYS)
