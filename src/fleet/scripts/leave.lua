-- leave: gives a lease back, without an answer. Those who wait board again.
--
-- KEYS: flight, waiters, as in board
-- ARGV: member, fence, why, channels of members, entry, failures until rest, rest. Why: unused, failed, timed_out
local flight, waiters = KEYS[1], KEYS[2]
local me, fence, why = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local v = redis.call('HMGET', flight, 'l', 'fb')
if tonumber(v[1] or 0) ~= fence then return 0 end
redis.call('HDEL', flight, 'l', 'x', 'o')

-- Each member that fails counts once.
local rests = why == 'timed_out'
if why == 'failed' then
    local failed = v[2] or ''
    if not string.find(failed, me, 1, true) then failed = failed .. me .. ',' end
    local _, count = string.gsub(failed, ',', '')
    rests = count >= tonumber(ARGV[6])
    redis.call('HSET', flight, 'fb', rests and '' or failed)
end
if rests then
    redis.call('HSET', flight, 'rx', now + tonumber(ARGV[7]))
end

local word = table.concat({ 'vacant', ARGV[5], ARGV[2] }, '\n')
for _, member in ipairs(redis.call('SMEMBERS', waiters)) do
    redis.call('PUBLISH', ARGV[4] .. member, word)
end
redis.call('DEL', waiters)
return 1
