-- Drops the ready and the delayed messages of a queue.
-- KEYS: schedule, queues with a schedule, marked lists; then for each step the list and its marked list.
-- ARGV: queue. Returns how many; keys that hold something else are left alone.
--- include records
local dropped = 0
for i = 4, #KEYS do
  if redis.call('TYPE', KEYS[i]).ok == 'list' then
    dropped = dropped + redis.call('LLEN', KEYS[i])
    redis.call('UNLINK', KEYS[i])
  end
end
if redis.call('TYPE', KEYS[1]).ok == 'zset' then
  dropped = dropped + redis.call('ZCARD', KEYS[1])
  redis.call('UNLINK', KEYS[1])
end
if usable(KEYS[2], 'set') then
  redis.call('SREM', KEYS[2], ARGV[1])
end
if usable(KEYS[3], 'set') then
  for i = 4, #KEYS, 2 do
    redis.call('SREM', KEYS[3], KEYS[i])
  end
end
return dropped
