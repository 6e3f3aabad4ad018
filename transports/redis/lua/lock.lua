-- Takes a lock. KEYS: the lock. ARGV: our value, milliseconds, 1 to take it from whoever has it.
-- Returns false when it is ours now, else the value of its holder; by force, the value that it had.
--- include records
local key, value = KEYS[1], ARGV[1]
if not usable(key, 'string') then
  return wrong_type(key)
end
local held = redis.call('GET', key)
if held and held ~= value and ARGV[3] ~= '1' then
  return held
end
-- What frees goes first: a server that is out of memory refuses a script's first write only.
redis.call('UNLINK', key)
redis.call('SET', key, value, 'PX', ARGV[2])
return ARGV[3] == '1' and held or false
