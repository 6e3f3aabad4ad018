-- Forgets an owner that holds nothing any more. KEYS: owners, held, owners of its worker. ARGV: owner.
--- include records
if not usable(KEYS[3], 'set') then
  return wrong_type(KEYS[3])
end
if redis.call('HLEN', KEYS[2]) > 0 then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
return 1
