-- Stores documents about a message that is still held; for one that is not, nothing.
-- KEYS: held, three that are not used, then those of the results.
-- ARGV: tag, results (msgpack, as in settle.lua), our database, that of the results.
--- include store_result
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
if ARGV[3] ~= ARGV[4] then
  redis.call('SELECT', ARGV[4])
end
for _, result in ipairs(cmsgpack.unpack(ARGV[2])) do
  store_result(KEYS[result[1]], result[2], result[3], result[4])
end
if ARGV[3] ~= ARGV[4] then
  redis.call('SELECT', ARGV[3])
end
return 1
