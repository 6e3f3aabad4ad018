-- Gives one message of a dead kombu consumer back to its queues, as the next in line.
-- KEYS: unacked, its index, then the lists.
-- ARGV: tag, newest score that is old enough, SHA-1 of the entry that was read, a document per list.
-- Returns 1 restored, 0 not there any more or not old enough any more.
local tag = ARGV[1]
for i, wanted in ipairs({'hash', 'zset'}) do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply('PREFORK WRONGTYPE ' .. KEYS[i])
  end
end
for i = 3, #KEYS do
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= 'none' and found ~= 'list' then
    return redis.error_reply('PREFORK WRONGTYPE ' .. KEYS[i])
  end
end
local score = redis.call('ZSCORE', KEYS[2], tag)
if not score or tonumber(score) > tonumber(ARGV[2]) then
  return 0
end
local entry = redis.call('HGET', KEYS[1], tag)
if redis.sha1hex(entry or '') ~= ARGV[3] then
  return 0
end
-- What frees goes first: a server that is out of memory refuses a script's first write only.
redis.call('ZREM', KEYS[2], tag)
redis.call('HDEL', KEYS[1], tag)
for i = 3, #KEYS do
  redis.call('RPUSH', KEYS[i], ARGV[i + 1])
end
return 1
