-- Forgets a worker without owners. KEYS: workers, owners of the worker.
-- ARGV: worker; 1 if only when its lease has run out.
--- include records
if not usable(KEYS[1], 'zset') then
  return wrong_type(KEYS[1])
end
if redis.call('SCARD', KEYS[2]) > 0 then
  return 0
end
if ARGV[2] == '1' then
  local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if not ends or tonumber(ends) > tonumber(now()) then
    return 0
  end
end
return redis.call('ZREM', KEYS[1], ARGV[1])
