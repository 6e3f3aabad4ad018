-- Fragment: the schedules of queues. Needs records.lua.

-- Takes a member of a schedule apart.
local function read_member(member)
  local line = string.find(member, '\n', 1, true)
  local head = line and string.sub(member, 1, line - 1) or ''
  local step, crashes, rest = string.match(head, '^[^:]*:(%d+):(%d+)(.*)$')
  if not step then
    return nil
  end
  local flags, causes = string.match(rest, '^:(%d+):(.*)$')
  return {
    step = tonumber(step), crashes = tonumber(crashes), flags = tonumber(flags or 0), causes = causes or '',
    document = string.sub(member, line + 1),
  }
end

local function write_member(unique, m)
  return unique .. ':' .. m.step .. ':' .. m.crashes .. ':' .. m.flags .. ':' .. m.causes .. '\n' .. m.document
end

-- The index of the step that serves a priority, among ascending steps.
local function step_index(steps, priority)
  local found = 1
  for i, step in ipairs(steps) do
    if step <= priority then
      found = i
    end
  end
  return found
end

-- Moves up to `limit` due messages of one queue into its lists; returns how many.
-- keys: due, due_queues, marked_lists, dead; lists and marked (arrays by index of the step).
local function promote(keys, queue, steps, limit, until_wall_s, max_bytes)
  local moved, bytes, chunk = 0, 0, 4
  while moved < limit and bytes < max_bytes do
    local want = math.min(chunk, limit - moved)
    local found = redis.call('ZRANGEBYSCORE', keys.due, '-inf', until_wall_s, 'LIMIT', 0, want)
    for _, member in ipairs(found) do
      redis.call('ZREM', keys.due, member)
      local m = read_member(member)
      if m then
        local i = step_index(steps, m.step)
        m.queue = queue
        put({list = keys.lists[i], marked = keys.marked[i], marked_lists = keys.marked_lists, dead = keys.dead},
          m, 'LPUSH')
      else
        bury(keys.dead, {queue = queue, step = 0, crashes = 0, causes = '', document = member}, 'bad-schedule')
      end
      bytes = bytes + #member
    end
    moved = moved + #found
    if #found < want then
      break
    end
    chunk = chunk * 2
  end
  if moved > 0 and redis.call('EXISTS', keys.due) == 0 then
    redis.call('SREM', keys.due_queues, queue)
  end
  return moved
end
