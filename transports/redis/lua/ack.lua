-- Acknowledges messages. KEYS: held. ARGV: tags. Returns 1 for each that was held, else 0; or, in the
-- usual case that all were held, how many they are.
local held = KEYS[1]
local answers, all = {}, true
for i = 1, #ARGV do
  local tag = ARGV[i]
  local was_held = redis.call('HDEL', held, tag)
  answers[i] = was_held
  if was_held == 0 then
    all = false
  elseif string.byte(tag) == 114 then
    redis.call('HDEL', held, '!' .. tag, '?' .. tag)
  end
end
return all and #ARGV or answers
