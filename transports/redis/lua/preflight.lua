-- Tries every command that the other scripts need, on a key of its own.
-- Nothing is rolled back: a script that is refused its second write has done the first, and a message
-- would be nowhere. KEYS: a key that nobody uses. ARGV: our database. Returns the commands that were refused.
local key = KEYS[1]
local rounds = {
  {{'LPUSH', key, 'x'}, {'RPUSH', key, 'x'}, {'LLEN', key}, {'LINDEX', key, -1}, {'RPOP', key, 1}},
  {{'HSET', key, 'x', 'x'}, {'HGET', key, 'x'}, {'HEXISTS', key, 'x'}, {'HLEN', key}, {'HKEYS', key},
    {'HDEL', key, 'x'}},
  {{'SADD', key, 'x'}, {'SCARD', key}, {'SREM', key, 'x'}},
  {{'ZADD', key, 1, 'x'}, {'ZSCORE', key, 'x'}, {'ZCARD', key}, {'ZCOUNT', key, 0, 1}, {'ZRANGE', key, 0, 0},
    {'ZRANGEBYSCORE', key, 0, 1}, {'ZREM', key, 'x'}},
  {{'XADD', key, '*', 'x', 'x'}, {'XRANGE', key, '-', '+'}, {'XDEL', key, '0-1'}},
  {{'SET', key, 'x', 'PX', 1000}, {'GET', key}, {'EXISTS', key}, {'TYPE', key}, {'TIME'}, {'SELECT', ARGV[1]}},
}
local refused = {}

local function attempt(command)
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err then
    refused[#refused + 1] = command[1]
  end
end

-- What frees goes first: a server that is out of memory refuses a script's first write only.
for _, round in ipairs(rounds) do
  attempt({'UNLINK', key})
  for _, command in ipairs(round) do
    attempt(command)
  end
end
attempt({'UNLINK', key})
return refused
