-- Records that a held message is about to run. KEYS: held. ARGV: tag. Returns 1, or 0 if not held.
local mark = '!' .. ARGV[1]
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
-- What frees goes first: a server that is out of memory refuses a script's first write only.
redis.call('HDEL', KEYS[1], mark)
redis.call('HSET', KEYS[1], mark, 1)
return 1
