-- Fragment: messages that are moved between lists, with or without a record of crashes.
-- A message is a table: queue, step, document, crashes, flags, causes (JSON array, or '').
local SUSPECT, REDELIVERED = 1, 2

local function usable(key, wanted)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == wanted
end

local function wrong_type(key)
  return redis.error_reply('PREFORK WRONGTYPE ' .. key)
end

local function now()
  local time = redis.call('TIME')
  return string.format('%d.%06d', time[1], time[2])
end

-- Appends lines to a JSON array. What is none (somebody else wrote it) becomes its first line: by now
-- the message has been taken from where it was, so nothing may be raised.
local function with_causes(causes, lines)
  if #lines == 0 then
    return causes
  end
  local all = {}
  if causes ~= '' then
    local readable, found = pcall(cjson.decode, causes)
    all = readable and type(found) == 'table' and found or {causes}
  end
  for _, line in ipairs(lines) do
    all[#all + 1] = line
  end
  return cjson.encode(all)
end

-- Takes an entry of a marked list apart: document, crashes, flags, causes. What has no record after all
-- is a message without one.
local function read_entry(entry)
  local line = string.find(entry, '\n', 1, true)
  if line then
    local crashes, flags, causes = string.match(string.sub(entry, 1, line - 1), '^(%d+):(%d+):(.*)$')
    if crashes then
      return string.sub(entry, line + 1), tonumber(crashes), tonumber(flags), causes
    end
  end
  return entry, 0, 0, ''
end

-- Adds a dead letter, and returns its key.
local function bury(dead, m, reason, lines)
  m.causes, m.died = with_causes(m.causes, lines or {}), now()
  return redis.call('XADD', dead, '*', 'queue', m.queue, 'reason', reason, 'causes', m.causes,
    'priority', m.step, 'crashes', m.crashes, 'died', m.died, 'document', m.document)
end

-- Puts a message into its list or, if it has a record, into the marked list that is served before it.
-- keys: list, marked, marked_lists, dead. `push` is RPUSH for the next in line, LPUSH for the last.
-- A key that somebody uses for something else keeps no message from being settled: it is buried.
local function put(keys, m, push)
  local plain = m.crashes == 0 and m.flags % 2 == 0
  local key = plain and keys.list or keys.marked
  if not usable(key, 'list') then
    bury(keys.dead, m, 'wrong-key-type', {'the key ' .. key .. ' is no list'})
    return false
  end
  if plain then
    redis.call(push, key, m.document)
  else
    local record = m.crashes .. ':' .. m.flags .. ':' .. m.causes
    redis.call(push, key, record .. '\n' .. m.document)
    redis.call('SADD', keys.marked_lists, keys.list)
  end
  return true
end
