-- Moves one chunk of what waits in our own structures to lists that everybody reads.
-- KEYS: a schedule or a marked list, the set that names it, dead letters; then the lists: of every step
--   for a schedule, its source for a marked list.
-- ARGV: schedule or marked; the name in the set; most messages; most bytes; the steps (schedule only).
-- Returns {how many, how many with a record of crashes, how many were damaged and are dead letters now}.
--- include records
--- include schedule
local from, names, dead = KEYS[1], KEYS[2], KEYS[3]
local scheduled = ARGV[1] == 'schedule'
for i, wanted in ipairs({scheduled and 'zset' or 'list', 'set', 'stream'}) do
  if not usable(KEYS[i], wanted) then
    return wrong_type(KEYS[i])
  end
end
for i = 4, #KEYS do
  if not usable(KEYS[i], 'list') then
    return wrong_type(KEYS[i])
  end
end
local steps = {}
for i = 5, #ARGV do
  steps[i - 4] = tonumber(ARGV[i])
end

local limit, bytes_left = tonumber(ARGV[3]), tonumber(ARGV[4])
local moved, marked, damaged = 0, 0, 0

-- The earliest due first, to the back of the line.
local function next_scheduled()
  local member = redis.call('ZRANGE', from, 0, 0)[1]
  if not member then
    return nil
  end
  redis.call('ZREM', from, member)
  local m = read_member(member)
  if m then
    redis.call('LPUSH', KEYS[3 + step_index(steps, m.step)], m.document)
    return #member, m.crashes > 0
  end
  bury(dead, {queue = ARGV[2], step = 0, crashes = 0, causes = '', document = member}, 'bad-schedule')
  return #member, false, true
end

-- The last in line first, to the front of the list: what was served before it still is.
local function next_marked()
  local entry = redis.call('LPOP', from)
  if not entry then
    return nil
  end
  local document, crashes = read_entry(entry)
  redis.call('RPUSH', KEYS[4], document)
  return #entry, crashes > 0
end

local step = scheduled and next_scheduled or next_marked
while moved < limit and bytes_left > 0 do
  local bytes, crashed, bad = step()
  if not bytes then
    break
  end
  bytes_left = bytes_left - bytes
  moved = moved + 1
  marked = marked + (crashed and 1 or 0)
  damaged = damaged + (bad and 1 or 0)
end
if redis.call('EXISTS', from) == 0 then
  redis.call('SREM', names, ARGV[2])
end
return {moved, marked, damaged}
