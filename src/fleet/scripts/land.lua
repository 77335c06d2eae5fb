-- land: upstream's answer. It is stored where it is the newest and nothing was forgotten since its lease, and given to all
-- who wait for it.
--
-- KEYS: task, flight, waiters, caller, state, as in board
-- ARGV: member, caller, fence, asked, received, fresh until, useful until, keep, sealed, channels of members, entry,
--       longest value that is pushed, birth of the engine that gave the lease, channel of all members
-- Its age is not judged: a landing that comes late says when upstream was asked.
local task, flight, waiters, caller, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local me, fence, asked, useful = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[7])
local keep, sealed = ARGV[8] == '1', ARGV[9]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local number = string.format('%.0f', fence)

-- Says that it has landed, with the value where that is not too large.
local function word(how)
    local value = #sealed <= tonumber(ARGV[12]) and sealed or nil
    return table.concat({ how, ARGV[11], number, string.format('%.0f', now), value }, '\n')
end

-- Tells those who wait, all but the sender.
local function push(what)
    for _, member in ipairs(redis.call('SMEMBERS', waiters)) do
        if member ~= me then redis.call('PUBLISH', ARGV[10] .. member, what) end
    end
    redis.call('DEL', waiters)
end

local t = redis.call('HMGET', task, 'f', 'm', 'c' .. ARGV[2])
local s = redis.call('HMGET', state, 'f', 'm', 'b')
local mark = math.max(tonumber(t[2] or 0), tonumber(t[3] or 0), tonumber(s[2] or 0),
    tonumber(redis.call('HGET', caller, 'm') or 0))
local v = redis.call('HMGET', flight, 'l', 'vf', 'vk')
local l, vf = tonumber(v[1] or 0), tonumber(v[2] or 0)

-- The memory was lost since, and with it who waits: all are told, and nothing is kept.
local lost = not t[1] or not s[1] or s[3] ~= ARGV[13]
if lost or fence <= mark or asked <= mark then
    if l == fence then redis.call('HDEL', flight, 'l', 'x', 'o') end
    -- Where a later lease was given, its own landing is what they wait for.
    if lost then
        redis.call('PUBLISH', ARGV[14], word('stray'))
    elseif l <= fence then
        push(table.concat({ 'vacant', ARGV[11], number }, '\n'))
    end
    return 'forgotten'
end
if fence == vf then return v[3] == '1' and 'kept' or 'pushed' end
if fence < vf then return 'superseded' end

-- On a full engine the answer still reaches those who wait.
local stored
if keep then
    stored = redis.pcall('HSET', flight, 'vf', fence, 'vk', '1', 'va', ARGV[4], 'vr', ARGV[5], 'vx', ARGV[6], 'vu', ARGV[7],
        'b', sealed)
else
    stored = redis.pcall('HSET', flight, 'vf', fence, 'vk', '0')
    redis.call('HDEL', flight, 'va', 'vr', 'vx', 'vu', 'b')
end
local full = type(stored) == 'table' and stored.err
redis.call('HDEL', flight, 'fb', 'rx')
if l <= fence then redis.call('HDEL', flight, 'l', 'x', 'o') end
if fence > tonumber(t[1]) then redis.pcall('HSET', task, 'f', fence) end

-- A value is kept for a minute beyond its use, a week at most; the record of its task, with the marks, for longer.
local ttl = math.min(604800000, math.max(3600000, math.ceil((useful - now) / 1000) + 60000))
redis.call('PEXPIRE', flight, ttl)
if redis.call('PTTL', task) < ttl + 60000 then redis.call('PEXPIRE', task, ttl + 60000) end

push(word('landed'))
return keep and not full and 'kept' or 'pushed'
