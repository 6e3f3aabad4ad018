-- Gives a lock that is still ours another end. KEYS: the lock. ARGV: our value, milliseconds.
--- include records
local key, value = KEYS[1], ARGV[1]
if not usable(key, 'string') then
  return wrong_type(key)
end
if redis.call('GET', key) ~= value then
  return 0
end
-- What frees goes first: a server that is out of memory refuses a script's first write only.
redis.call('UNLINK', key)
redis.call('SET', key, value, 'PX', ARGV[2])
return 1
