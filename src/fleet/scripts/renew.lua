-- renew: a lease holds longer, unless another was given or something was forgotten since.
--
-- KEYS: task, flight, caller, state, as in board
-- ARGV: caller, fence, lease
local fence = tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local t = redis.call('HMGET', KEYS[1], 'f', 'm', 'c' .. ARGV[1])
local s = redis.call('HMGET', KEYS[4], 'f', 'm')
local mark = math.max(tonumber(t[2] or 0), tonumber(t[3] or 0), tonumber(s[2] or 0),
    tonumber(redis.call('HGET', KEYS[3], 'm') or 0))
local l = tonumber(redis.call('HGET', KEYS[2], 'l') or 0)
if not t[1] or not s[1] or l ~= fence or fence <= mark then return 0 end
redis.call('HSET', KEYS[2], 'x', now + tonumber(ARGV[3]))
return 1
