-- Extends the lease of a worker. KEYS: workers. ARGV: worker, seconds.
--- include records
if not usable(KEYS[1], 'zset') then
  return wrong_type(KEYS[1])
end
-- What frees goes first: a server that is out of memory refuses a script's first write only.
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('ZADD', KEYS[1], string.format('%.6f', now() + ARGV[2]), ARGV[1])
