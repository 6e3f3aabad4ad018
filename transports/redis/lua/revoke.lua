-- Remembers revocations, and drops those that have ended and the oldest of too many.
-- KEYS: order (a counter that follows the clock), ends (Unix time). ARGV: seconds, how many to keep, keys.
--- include records
local order, ends = KEYS[1], KEYS[2]
for _, key in ipairs(KEYS) do
  if not usable(key, 'zset') then
    return wrong_type(key)
  end
end

local function drop(keys)
  for _, key in ipairs(keys) do
    redis.call('ZREM', order, key)
    redis.call('ZREM', ends, key)
  end
end

local time = now()
drop(redis.call('ZRANGEBYSCORE', ends, '-inf', time))
local newest = redis.call('ZRANGE', order, -1, -1, 'WITHSCORES')
-- A clock that was set back must not make what is new the oldest.
local number = math.max(math.floor(tonumber(time) * 1000000), tonumber(newest[2] or 0))
local until_wall_s = string.format('%.6f', time + ARGV[1])
for i = 3, #ARGV do
  number = number + 1
  -- What frees goes first: a server that is out of memory refuses a script's first write only.
  redis.call('ZREM', order, ARGV[i])
  redis.call('ZADD', order, string.format('%.0f', number), ARGV[i])
  redis.call('ZADD', ends, until_wall_s, ARGV[i])
end
local excess = redis.call('ZCARD', order) - ARGV[2]
if excess > 0 then
  drop(redis.call('ZRANGE', order, 0, excess - 1))
end
return 1
