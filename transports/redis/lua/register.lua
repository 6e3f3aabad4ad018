-- Registers an owner, and its worker with a first lease.
-- KEYS: owners, owners of the worker, workers, names of queues.
-- ARGV: owner, what it is, worker, seconds of the lease, the queues.
--- include records
for i, wanted in ipairs({'hash', 'set', 'zset', 'set'}) do
  if not usable(KEYS[i], wanted) then
    return wrong_type(KEYS[i])
  end
end
-- What frees goes first: a server that is out of memory refuses a script's first write only.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], 'NX', string.format('%.6f', now() + ARGV[4]), ARGV[3])
for i = 5, #ARGV do
  redis.call('SADD', KEYS[4], ARGV[i])
end
return 1
