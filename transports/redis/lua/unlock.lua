-- Gives back a lock that is still ours. KEYS: the lock. ARGV: our token.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('UNLINK', KEYS[1])
end
return 0
