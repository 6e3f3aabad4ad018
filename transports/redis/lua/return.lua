-- Returns held messages to where they came from, as the next in line.
-- KEYS: held, marked lists, dead letters; then lists with their marked lists, in pairs.
-- ARGV: most crashes, cause, messages (msgpack). A message is {tag, index of its pair, queue, step, how}:
-- `how` is 0 untouched, 1 charged with a crash, 2 suspected. The last of them will be the next in line.
-- Returns for each: 0 not held, 1 returned, {1, document} returned and charged, or
-- {2, key, causes, crashes, document, time} for one that is a dead letter now.
--- include records
local held, marked_lists, dead = KEYS[1], KEYS[2], KEYS[3]
local max_crashes, cause = tonumber(ARGV[1]), ARGV[2]
for key, wanted in pairs({[held] = 'hash', [marked_lists] = 'set', [dead] = 'stream'}) do
  if not usable(key, wanted) then
    return wrong_type(key)
  end
end

local function bring_back(tag, pair, queue, step, how)
  local document = redis.call('HGET', held, tag)
  if not document then
    return 0
  end
  local causes = redis.call('HGET', held, '?' .. tag) or ''
  local crashes, flags = string.match(tag, '^r%d+:%d+:(%d+):(%d+):')
  local m = {queue = queue, step = step, document = document, crashes = tonumber(crashes or 0),
    flags = tonumber(flags or 0), causes = causes}
  redis.call('HDEL', held, tag, '!' .. tag, '?' .. tag)
  if how == 1 then
    m.crashes = m.crashes + 1
    m.causes = with_causes(m.causes, {cause})
  end
  if how ~= 0 and m.flags < REDELIVERED then
    m.flags = m.flags + REDELIVERED
  end
  if how == 2 and m.flags % 2 == 0 then
    m.flags = m.flags + SUSPECT
  end
  if how == 1 and m.crashes >= max_crashes then
    return {2, bury(dead, m, 'crashes'), m.causes, m.crashes, document, m.died}
  end
  local keys = {list = KEYS[2 + 2 * pair], marked = KEYS[3 + 2 * pair], marked_lists = marked_lists, dead = dead}
  put(keys, m, 'RPUSH')
  return how == 1 and {1, document} or 1
end

local answers = {}
for i, message in ipairs(cmsgpack.unpack(ARGV[3])) do
  answers[i] = bring_back(unpack(message))
end
return answers
