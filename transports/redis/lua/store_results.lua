-- Stores results. KEYS: of the results. ARGV: document and lifetime in ms (0 keeps it) of each.
-- Returns for each what store_result returns.
--- include store_result
local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = store_result(key, ARGV[2 * i - 1], ARGV[2 * i])
end
return answers
