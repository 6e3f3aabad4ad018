-- Stores documents about a message that is still held; for one that is not, nothing.
-- KEYS: held, then those of the results. ARGV: tag, our database, that of the results; then for each
-- result its document and its lifetime in ms or 0.
--- include store_result
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
local elsewhere = ARGV[2] ~= ARGV[3]
if elsewhere then
  redis.call('SELECT', ARGV[3])
end
for i = 2, #KEYS do
  store_result(KEYS[i], ARGV[2 * i], ARGV[2 * i + 1])
end
if elsewhere then
  redis.call('SELECT', ARGV[2])
end
return 1
