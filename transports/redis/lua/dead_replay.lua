-- Puts a dead letter back into its queue, as if it had just been sent.
-- KEYS: dead letters, list. ARGV: key of the letter. Returns 1, or 0 if it is gone.
--- include records
if not usable(KEYS[2], 'list') then
  return wrong_type(KEYS[2])
end
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then
  return 0
end
local document = ''
for i = 1, #found[2], 2 do
  if found[2][i] == 'document' then
    document = found[2][i + 1]
  end
end
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('LPUSH', KEYS[2], document)
return 1
