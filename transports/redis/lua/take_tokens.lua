-- Takes tokens from a bucket, which keeps how many there were and when, in microseconds of this server.
-- KEYS: the bucket. ARGV: tokens a second, most tokens, how many are wanted.
-- Returns {how many, seconds until the next one}. Same rule as Level in transports/coordination.py.
--- include records
local key, rate, burst, want = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if not usable(key, 'string') then
  return wrong_type(key)
end
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local tokens, at_us = string.match(redis.call('GET', key) or '', '^(%S+) (%d+)$')
-- A clock that was set back gives nothing for the time that comes twice.
local elapsed_s = math.max(0, now_us - (tonumber(at_us) or now_us)) / 1000000
local there = math.min(burst, (tonumber(tokens) or burst) + elapsed_s * rate)
local granted = math.min(want, math.floor(there + 1e-9))
local left = math.max(0, there - granted)
-- What frees goes first: a server that is out of memory refuses a script's first write only.
redis.call('UNLINK', key)
if left < burst then
  local full_after_ms = math.min(1e14, math.ceil((burst - left) / rate * 1000))
  redis.call('SET', key, string.format('%.17g %.0f', left, now_us), 'PX', string.format('%.0f', full_after_ms))
end
local retry_after_s = granted < want and math.max(0, 1 - left) / rate or 0
return {granted, string.format('%.17g', retry_after_s)}
