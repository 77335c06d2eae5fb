-- forget: sets a mark. What has a fence up to it counts no more, leases included.
--
-- KEYS: the hash that has the mark (task, caller or state), state, as in board
-- ARGV: the mark's field in it, for how long the hash is kept at least, whether it is a task's
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local h = redis.call('HMGET', KEYS[1], ARGV[1], 'f')
-- Beyond all fences that were given: they are ahead of the clock, where it went back. A caller's are not known.
local last = tonumber(h[2] or redis.call('HGET', KEYS[2], 'f') or 0)
local mark = math.max(now, tonumber(h[1] or 0) + 1, last + 1)
redis.call('HSET', KEYS[1], ARGV[1], mark)
-- What was there before a record was lost stays forgotten.
if ARGV[3] == '1' and (ARGV[1] == 'm' or not h[2]) then redis.call('HSET', KEYS[1], 'm', mark, 'f', mark) end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return mark
