-- Lets an owner hold the next messages of its queues. Due messages are promoted first.
-- KEYS: owners, held, marked lists, queues with a schedule, dead letters; the schedule of each queue;
--   then for each step, for each queue: its list and its marked list.
-- ARGV: owner, fence, most messages, most bytes, first number, most to promote, first queue and first
--   step to look at (from 0; after any other than 0 that one comes last), number of queues, number of the first source, the queues, the steps.
-- Returns false if the owner may not reserve; else
--   {runs, documents, keys of the wrong type}.
-- A run is five numbers: source, number of the first message, how many, crashes, flags.
-- A tag is <number>:<source>:<fence>, and with a record r<number>:<source>:<crashes>:<flags>:<fence>.
local queues = tonumber(ARGV[9])
local LISTS = 5 + queues

local registered = redis.call('HGET', KEYS[1], ARGV[1])
if not registered or string.byte(registered) == 33 then
  return false
end

-- Most calls of a worker with little to do find nothing: one look at all keys says so, before anything
-- else is made ready.
local there = queues == 0
for first = 6, #KEYS, 1000 do
  there = there or redis.call('EXISTS', unpack(KEYS, first, math.min(first + 999, #KEYS))) > 0
end
if not there then
  -- Nobody would learn from a look that this server takes no writes any more (it is a replica now).
  local popped = redis.pcall('RPOP', KEYS[LISTS + 1])
  if type(popped) == 'table' and popped.err then
    return popped
  end
  return {{}, {}, {}}
end

--- include records
--- include schedule
local fence, first_source = ARGV[2], tonumber(ARGV[10])
local first_queue, first_step = tonumber(ARGV[7]), tonumber(ARGV[8])
local max_n, max_bytes, number = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local held, marked_lists, due_queues, dead = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
if not usable(held, 'hash') then
  return wrong_type(held)
end

-- A key of the wrong type costs its own queue only. Anything else that is refused (a replica, a server
-- that cannot save) concerns all of them: the first refusal is returned if nothing was taken.
local wrong, refusal = {}, nil
local steps = {}
for i = 11 + queues, #ARGV do
  steps[#steps + 1] = tonumber(ARGV[i])
end

local function list_key(step, queue)
  return LISTS + 2 * ((step - 1) * queues + queue) - 1
end

local function refused(key, answer)
  if string.find(answer.err, 'WRONGTYPE', 1, true) then
    wrong[#wrong + 1] = key
  else
    refusal = refusal or answer
  end
end

local has_marked = redis.call('SCARD', marked_lists) > 0

-- Promotion takes messages out of a schedule: every other key that it may need must be good by then.
local function may_promote()
  for key, wanted in pairs({[due_queues] = 'set', [dead] = 'stream'}) do
    if not usable(key, wanted) then
      wrong[#wrong + 1] = key
      return false
    end
  end
  return true
end

local function promote_all()
  local time, left = now(), tonumber(ARGV[6])
  for queue = 1, queues do
    local due = KEYS[5 + queue]
    local waiting = redis.pcall('ZCOUNT', due, '-inf', time)
    if type(waiting) == 'table' then
      refused(due, waiting)
    elseif waiting > 0 and left > 0 and may_promote() then
      local lists, marked = {}, {}
      for step = 1, #steps do
        lists[step] = KEYS[list_key(step, queue)]
        marked[step] = KEYS[list_key(step, queue) + 1]
      end
      left = left - promote({due = due, due_queues = due_queues, marked_lists = marked_lists, dead = dead,
        lists = lists, marked = marked}, ARGV[10 + queue], steps, left, time, max_bytes)
      has_marked = redis.call('SCARD', marked_lists) > 0
    end
  end
end

local runs, documents = {}, {}
local fields, count, bytes = {}, 0, 0

local function flush()
  if #fields > 0 then
    redis.call('HSET', held, unpack(fields))
    fields = {}
  end
end

local function full()
  return count >= max_n or bytes >= max_bytes or refusal
end

-- Takes messages with a record; true when a suspect ends the batch.
local function take_marked(source, key, list)
  while not full() do
    local entry = redis.pcall('LINDEX', key, -1)
    if not entry then
      redis.call('SREM', marked_lists, list)
      return false
    elseif entry.err then
      refused(key, entry)
      return false
    end
    local document, crashes, flags, causes = read_entry(entry)
    local suspect = flags % 2 == 1
    if suspect and count > 0 then
      return true
    end
    redis.call('RPOP', key)
    local tag = number .. ':' .. source .. ':' .. fence
    if crashes > 0 or flags > 0 then
      tag = 'r' .. number .. ':' .. source .. ':' .. crashes .. ':' .. flags .. ':' .. fence
    end
    redis.call('HSET', held, tag, document)
    if causes ~= '' then
      redis.call('HSET', held, '?' .. tag, causes)
    end
    for _, value in ipairs({source, number, 1, crashes, flags}) do
      runs[#runs + 1] = value
    end
    count, number, bytes = count + 1, number + 1, bytes + #document
    documents[count] = document
    if suspect then
      return true
    end
  end
  return false
end

local function take(source, key)
  local first, suffix = number, ':' .. source .. ':' .. fence
  local chunk = 4
  while not full() do
    local want = math.min(chunk, max_n - count)
    local popped = redis.pcall('RPOP', key, want)
    if not popped then
      break
    elseif popped.err then
      refused(key, popped)
      break
    end
    local n, largest = #fields, 1
    for i = 1, #popped do
      local document = popped[i]
      local size = #document
      fields[n + 1], fields[n + 2] = number .. suffix, document
      n, count, number, bytes = n + 2, count + 1, number + 1, bytes + size
      documents[count] = document
      if size > largest then
        largest = size
      end
    end
    if n > 900 then
      flush()
    end
    if #popped < want then
      break
    end
    chunk = math.max(1, math.min(chunk * 4, 400, math.floor((max_bytes - bytes) / largest)))
  end
  if number > first then
    for _, value in ipairs({source, first, number - first, 0, 0}) do
      runs[#runs + 1] = value
    end
  end
end

local function take_all()
  for place = 0, #steps - 1 do
    local step = place + 1
    if first_step > 0 then
      -- The best one is the last to be looked at, whichever of the others is the first.
      step = place < #steps - 1 and (first_step - 1 + place) % (#steps - 1) + 2 or 1
    end
    for i = 0, queues - 1 do
      local queue = (first_queue + i) % queues + 1
      local source = first_source + (step - 1) * queues + queue - 1
      local key = list_key(step, queue)
      if has_marked then
        flush()
        if take_marked(source, KEYS[key + 1], KEYS[key]) then
          return
        end
      end
      if full() then
        return
      end
      take(source, KEYS[key])
    end
  end
end

for first = 6, LISTS, 1000 do
  if redis.call('EXISTS', unpack(KEYS, first, math.min(first + 999, LISTS))) > 0 then
    promote_all()
    break
  end
end
take_all()
if refusal and count == 0 then
  return refusal
end
flush()
return {runs, documents, wrong}
