-- Lets an owner hold messages of one more queue.
-- KEYS: owners, names of queues. ARGV: owner, what it is from now on, the queue.
-- Returns 0 when nobody knows the owner, or it is being recovered.
--- include records
for i, wanted in ipairs({'hash', 'set'}) do
  if not usable(KEYS[i], wanted) then
    return wrong_type(KEYS[i])
  end
end
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value or string.byte(value) == 33 then
  return 0
end
-- What frees goes first: a server that is out of memory refuses a script's first write only.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[3])
return 1
