-- Takes one of a number of slots, or keeps the one that is held already.
-- KEYS: holders of the slots (holder -> worker), workers, names of slots.
-- ARGV: how many slots, worker, holder, name of the slots. Returns whether it is held now.
--- include records
local holders, workers, names = KEYS[1], KEYS[2], KEYS[3]
for key, wanted in pairs({[holders] = 'hash', [workers] = 'zset', [names] = 'set'}) do
  if not usable(key, wanted) then
    return wrong_type(key)
  end
end
local limit, worker, holder = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local mine = redis.call('HEXISTS', holders, holder) == 1
if not mine and redis.call('HLEN', holders) >= limit then
  local time = tonumber(now())
  for _, other in ipairs(redis.call('HKEYS', holders)) do
    local ends = redis.call('ZSCORE', workers, redis.call('HGET', holders, other))
    if not ends or tonumber(ends) <= time then
      redis.call('HDEL', holders, other)
    end
  end
  if redis.call('HLEN', holders) >= limit then
    return 0
  end
end
-- What frees goes first: a server that is out of memory refuses a script's first write only.
redis.call('HDEL', holders, holder)
redis.call('HSET', holders, holder, worker)
redis.call('SADD', names, ARGV[4])
return 1
