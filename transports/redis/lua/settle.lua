-- Settles a batch of held messages: each with its results and follow-ups, or not at all.
-- KEYS: held, marked lists, queues with a schedule, dead letters; then whatever the outcomes name by index.
-- ARGV: outcomes (msgpack), unique text, our database, that of the results. An outcome is {tag, verdict, results, follow-ups, more}:
--   verdict 0 acknowledge; 1 requeue: more = {list, marked, queue, step, crashed, causes};
--   2 defer: more = {schedule, queue, step, due time}; 3 dead: more = {queue, step, reason, causes};
--   a result is {key, document, lifetime in ms or '0'}; a follow-up is {list, queue, step, document},
--   or with a due time {schedule, queue, step, document, due time}, or {0, channel, '', document} for the
--   subscribers of a fanout.
-- Returns for each 1, or 0 if it was not held; and behind them how many channels were not told, because
-- this user may not publish on them.
--- include records
--- include schedule
--- include store_result
local held, marked_lists, due_queues, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
for i, wanted in ipairs({'hash', 'set', 'set', 'stream'}) do
  if not usable(KEYS[i], wanted) then
    return wrong_type(KEYS[i])
  end
end

local AGAIN_S, CLOCKS_APART_S = 0.1, 3600
local serial = 0
local to_store = {}

local function delay(key, m, due)
  if not usable(key, 'zset') then
    return bury(dead, m, 'wrong-key-type', {'the key ' .. key .. ' is no sorted set'})
  end
  serial = serial + 1
  redis.call('ZADD', key, due, write_member(ARGV[2] .. string.format('%05d', serial), m))
  redis.call('SADD', due_queues, m.queue)
end

local function message_of(tag, document, queue, step)
  local crashes, flags = string.match(tag, '^r%d+:%d+:(%d+):(%d+):')
  return {queue = queue, step = step, document = document, crashes = tonumber(crashes or 0),
    flags = tonumber(flags or 0), causes = redis.call('HGET', held, '?' .. tag) or ''}
end

local verdicts = {}

verdicts[1] = function(m, list, marked, _, _, crashed, causes)
  if crashed then
    m.crashes = m.crashes + 1
    m.causes = with_causes(m.causes, causes)
    if m.flags < REDELIVERED then
      m.flags = m.flags + REDELIVERED
    end
  end
  put({list = KEYS[list], marked = KEYS[marked], marked_lists = marked_lists, dead = dead}, m, 'LPUSH')
end

verdicts[2] = function(m, schedule, _, _, due)
  -- Whoever defers to a moment that has just passed here has a clock that is behind ours. It would be
  -- handed the same message again and again, until its own clock has come so far.
  local ago_s = now() - due
  if ago_s >= 0 and ago_s < CLOCKS_APART_S then
    due = due + ago_s + AGAIN_S
  end
  delay(KEYS[schedule], m, due)
end

verdicts[3] = function(m, _, _, reason, causes)
  bury(dead, m, reason, causes)
end

local untold = 0

local function follow_up(key, queue, step, document, due)
  if key == 0 then
    -- Its message is settled by now: what cannot be told must not undo that.
    local told = redis.pcall('PUBLISH', queue, document)
    untold = untold + (type(told) == 'table' and 1 or 0)
    return
  end
  local m = {queue = queue, step = step, document = document, crashes = 0, flags = 0, causes = ''}
  if due then
    delay(KEYS[key], m, due)
  else
    put({list = KEYS[key], marked_lists = marked_lists, dead = dead}, m, 'LPUSH')
  end
end

local function settle(tag, verdict, results, follow_ups, more)
  local m
  if verdict == 0 then
    if redis.call('HDEL', held, tag) == 0 then
      return 0
    end
  else
    local document = redis.call('HGET', held, tag)
    if not document then
      return 0
    end
    m = message_of(tag, document, more[verdict == 1 and 3 or verdict == 2 and 2 or 1],
      more[verdict == 1 and 4 or verdict == 2 and 3 or 2])
    redis.call('HDEL', held, tag)
  end
  if string.byte(tag) == 114 then
    redis.call('HDEL', held, '!' .. tag, '?' .. tag)
  end
  if m then
    verdicts[verdict](m, unpack(more))
  end
  for _, result in ipairs(results) do
    to_store[#to_store + 1] = result
  end
  for _, message in ipairs(follow_ups) do
    follow_up(unpack(message))
  end
  return 1
end

local answers = {}
for i, outcome in ipairs(cmsgpack.unpack(ARGV[1])) do
  answers[i] = settle(unpack(outcome))
end
if #to_store > 0 then
  local elsewhere = ARGV[3] ~= ARGV[4]
  if elsewhere then
    redis.call('SELECT', ARGV[4])
  end
  for _, result in ipairs(to_store) do
    local stored = store_result(KEYS[result[1]], result[2], result[3])
    untold = untold + (stored == 2 and 1 or 0)
  end
  if elsewhere then
    redis.call('SELECT', ARGV[3])
  end
end
answers[#answers + 1] = untold
return answers
