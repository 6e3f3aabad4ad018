-- Frees the slots of an owner, or those of all workers without a lease.
-- KEYS: names of slots, workers; then the holders of each. ARGV: owner, or '' for the workers; the names.
-- Returns how many. Holders of the wrong type are passed over: they keep nobody else's slot.
--- include records
local names, workers = KEYS[1], KEYS[2]
if not usable(names, 'set') then
  return wrong_type(names)
elseif not usable(workers, 'zset') then
  return wrong_type(workers)
end
local owner, time, freed = ARGV[1], tonumber(now()), 0

local function is_free(holders, holder)
  if owner ~= '' then
    return holder == owner or string.sub(holder, 1, #owner + 1) == owner .. '/'
  end
  local ends = redis.call('ZSCORE', workers, redis.call('HGET', holders, holder))
  return not ends or tonumber(ends) <= time
end

for i = 3, #KEYS do
  local holders = KEYS[i]
  if usable(holders, 'hash') then
    for _, holder in ipairs(redis.call('HKEYS', holders)) do
      if is_free(holders, holder) then
        freed = freed + redis.call('HDEL', holders, holder)
      end
    end
    if redis.call('HLEN', holders) == 0 then
      redis.call('SREM', names, ARGV[i - 1])
    end
  end
end
return freed
