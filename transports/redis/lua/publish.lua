-- Stores messages, and declares what must be declared with them: all of it, or nothing.
-- ARGV is a row of operations: a letter, the number of its arguments, the arguments. KEYS holds the
-- keys of the operations in the same order:
--   L list                      document...                        to the back of a queue
--   Z schedule, schedules       queue, (score, member)...          delayed messages
--   B table, permanent table    member                             binding of a lasting queue
--   E table, deadlines          member, exchange, lifetime in ms   binding of an expiring queue
--   X list                      lifetime in ms                     a list of an expiring queue
--   Q names                     queue...                           queues that somebody of ours has used
--   P                           channel, document                  to the subscribers of a fanout
-- Types are checked before the first write, because nothing is rolled back. A binding table of the
-- wrong type keeps no message from being sent: its key is returned.
local taken = {L = 1, Z = 2, B = 2, E = 2, X = 1, Q = 1, P = 0}
local types = {L = {'list'}, Z = {'zset', 'set'}, B = {'set', 'set'}, E = {'set', 'zset'}, X = {'list'}, Q = {'set'}}
local may_fail = {B = true, E = true, Q = true}
local CHUNK = 1000

local function each(visit)
  local key, at = 1, 1
  while at <= #ARGV do
    local op, count = ARGV[at], tonumber(ARGV[at + 1])
    visit(op, key, at + 2, at + 1 + count)
    key = key + taken[op]
    at = at + 2 + count
  end
end

local refused, wrong = {}, nil
each(function(op, key, first)
  for i, wanted in ipairs(types[op] or {}) do
    local name = KEYS[key + i - 1]
    local found = redis.call('TYPE', name).ok
    if found ~= 'none' and found ~= wanted then
      if may_fail[op] then
        refused[first] = name
      else
        wrong = wrong or name
      end
    end
  end
end)
if wrong then
  return redis.error_reply('PREFORK WRONGTYPE ' .. wrong)
end

local now_ms
local write = {}

function write.L(key, first, last)
  for i = first, last, CHUNK do
    redis.call('LPUSH', KEYS[key], unpack(ARGV, i, math.min(i + CHUNK - 1, last)))
  end
end

function write.Z(key, first, last)
  for i = first + 1, last, CHUNK do
    redis.call('ZADD', KEYS[key], unpack(ARGV, i, math.min(i + CHUNK - 1, last)))
  end
  redis.call('SADD', KEYS[key + 1], ARGV[first])
end

function write.B(key, first)
  redis.call('SADD', KEYS[key], ARGV[first])
  redis.call('SADD', KEYS[key + 1], ARGV[first])
end

function write.E(key, first)
  if not now_ms then
    local now = redis.call('TIME')
    now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
  end
  redis.call('SADD', KEYS[key], ARGV[first])
  redis.call('ZADD', KEYS[key + 1], 'GT', now_ms + ARGV[first + 2], ARGV[first + 1])
end

function write.X(key, first)
  -- By now its messages are stored; without this they only stay longer.
  redis.pcall('PEXPIRE', KEYS[key], ARGV[first])
end

function write.Q(key, first, last)
  redis.call('SADD', KEYS[key], unpack(ARGV, first, last))
end

function write.P(_, first)
  redis.call('PUBLISH', ARGV[first], ARGV[first + 1])
end

-- A user may lack the right to a command. What is refused must be refused before messages are stored, or
-- whoever tries again stores them twice.
for _, turn in ipairs({'BEQ', 'P', 'Z', 'L', 'X'}) do
  each(function(op, key, first, last)
    if string.find(turn, op, 1, true) and not refused[first] then
      write[op](key, first, last)
    end
  end)
end
local names = {}
for _, name in pairs(refused) do
  names[#names + 1] = name
end
return names
