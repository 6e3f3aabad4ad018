-- Fragment: writes one result and tells those who wait for it; a stored SUCCESS stays as it is.
--
--   store_result(key, document, ttl_ms) -> 1 written, 0 kept the SUCCESS that is there,
--                                                   2 written, but this user may not publish
--
-- `key` must be among KEYS, and is the channel too (interop §8.5); `ttl_ms` is a text ('0' keeps the
-- document), because numbers of Lua are printed as fractions on their way to a command, slowly.
-- It never raises once the first write of a script has been allowed, whatever the key holds, so it may
-- follow writes that cannot be undone. The usual case, no document yet, costs one SET and one PUBLISH;
-- else the state of the document that is there is read from its first bytes, and only where they do
-- not say it (keys in another order) is the document decoded. Same rule as transports/result_state.py.
local function is_success(document)
  local first = string.byte(document)
  if first == 0 then
    -- Compressed, by this engine if the method has no slash in its name: then it is a SUCCESS.
    return string.find(document, '^%zcelery%-compressed%z%w+%z') ~= nil
  end
  if first == 0x80 then
    -- A pickle begins with its first entry; behind the key may be its memo, then a length.
    local _, at = string.find(string.sub(document, 1, 128), 'status', 1, true)
    local tail = at and string.sub(document, at + 1, at + 17) or ''
    return string.find(tail, 'X\7%z%z%zSUCCESS') ~= nil or string.find(tail, '\140\7SUCCESS') ~= nil
  end
  local state = string.match(document, '^%s*{%s*"status"%s*:%s*"([%u_]*)"')
    or string.match(document, '^[\129-\143]\166status[\160-\191]([%u_]+)')
  if state then
    return state == 'SUCCESS'
  end
  local decode = cmsgpack.unpack
  if string.find(document, '^%s*{') then
    decode = cjson.decode
    if string.find(document, '\\u[dD][89abAB]') or string.find(document, '\\u[dD][c-fC-F]') then
      -- Lone surrogates, which this decoder refuses: only the state matters here.
      document = string.gsub(string.gsub(document, '\\\\', '/'), '\\u[dD]%x%x%x', '?')
    end
  end
  local readable, content = pcall(decode, document)
  return readable and type(content) == 'table' and content.status == 'SUCCESS'
end

local function store_result(key, document, ttl_ms)
  local written
  if ttl_ms ~= '0' then
    written = redis.call('SET', key, document, 'PX', ttl_ms, 'NX')
  else
    written = redis.call('SET', key, document, 'NX')
  end
  if not written then
    -- A key that holds something else than text is no result, and is replaced as SET does.
    local present = redis.pcall('GET', key)
    if type(present) == 'string' and is_success(present) then
      return 0
    end
    if ttl_ms ~= '0' then
      redis.call('SET', key, document, 'PX', ttl_ms)
    else
      redis.call('SET', key, document)
    end
  end
  local told = redis.pcall('PUBLISH', key, document)
  return type(told) == 'table' and 2 or 1
end
