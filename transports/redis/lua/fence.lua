-- Keeps an owner from reserving any more, and lists what it holds.
-- KEYS: owners, held, workers. ARGV: owner; the worker whose lease must have run out, or ''.
-- Returns false when there is no such owner (or the lease goes on); else {what it is, fields}.
--- include records
if ARGV[2] ~= '' then
  local ends = redis.call('ZSCORE', KEYS[3], ARGV[2])
  if not ends or tonumber(ends) > tonumber(now()) then
    return false
  end
end
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value then
  return false
end
if not usable(KEYS[2], 'hash') then
  return wrong_type(KEYS[2])
end
if string.byte(value) ~= 33 then
  -- What frees goes first: a server that is out of memory refuses a script's first write only.
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[1], ARGV[1], '!' .. value)
else
  value = string.sub(value, 2)
end
return {value, redis.call('HKEYS', KEYS[2])}
