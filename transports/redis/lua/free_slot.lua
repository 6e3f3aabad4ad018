-- Gives a slot back. KEYS: holders of the slots, names of slots. ARGV: holder, name of the slots.
--- include records
if not usable(KEYS[1], 'hash') then
  return wrong_type(KEYS[1])
elseif not usable(KEYS[2], 'set') then
  return wrong_type(KEYS[2])
end
local freed = redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HLEN', KEYS[1]) == 0 then
  redis.call('SREM', KEYS[2], ARGV[2])
end
return freed
