-- Moves due messages of one queue into its lists.
-- KEYS: schedule, queues with a schedule, marked lists, dead letters; then for each step the list and its
--   marked list. ARGV: queue, most messages, most bytes, the steps.
-- Returns {how many, due time of the next or '', the time now}.
--- include records
--- include schedule
for i, wanted in ipairs({'zset', 'set', 'set', 'stream'}) do
  if not usable(KEYS[i], wanted) then
    return wrong_type(KEYS[i])
  end
end
local keys = {due = KEYS[1], due_queues = KEYS[2], marked_lists = KEYS[3], dead = KEYS[4], lists = {}, marked = {}}
local steps = {}
for i = 4, #ARGV do
  local step = i - 3
  steps[step] = tonumber(ARGV[i])
  keys.lists[step], keys.marked[step] = KEYS[3 + 2 * step], KEYS[4 + 2 * step]
end
local moved = promote(keys, ARGV[1], steps, tonumber(ARGV[2]), now(), tonumber(ARGV[3]))
local following = redis.call('ZRANGE', keys.due, 0, 0, 'WITHSCORES')
if not following[2] and moved == 0 then
  redis.call('SREM', keys.due_queues, ARGV[1])
end
return {moved, following[2] or '', now()}
