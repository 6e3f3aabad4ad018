-- Fragment: writes one result and tells those who wait for it.
local function store_result(key, channel, document, ttl_ms)
  if ttl_ms > 0 then
    redis.call('SET', key, document, 'PX', ttl_ms)
  else
    redis.call('SET', key, document)
  end
  redis.call('PUBLISH', channel, document)
end
