-- board: what is known of an entry, or who asks upstream for it.
--
-- Times and fences are microseconds of the engine's clock. These are the keys of all scripts:
--   task     hash: f highest fence given for the task, m mark of the task, c<caller> mark of the task for one caller.
--            Where it is missing, nothing of the task counts.
--   flight   hash: the lease (l fence, x end, o owner); the value (vf fence, va asked, vr received, vx fresh until,
--            vu useful until, b sealed; vk whether it was kept); failures (fb members that failed, rx rest until)
--   waiters  set of members that wait for the lease
--   caller   hash: m mark of the caller
--   state    hash: f highest fence given at all, m mark of everything, b birth, j last entry of the journal
-- ARGV: member, caller, have, asked within (or -1), may lead, lease, expires, a birth for an engine that has none
--
-- No shebang: a full engine or a replica still answers what is fresh, and fails at the first write.
local task, flight, waiters, caller, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local me, have, within, lease = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- It lay in a socket while this engine or its sidecar was stopped: nobody waits for it any more.
if now > tonumber(ARGV[7]) then return { now, 'late' } end

local t = redis.call('HMGET', task, 'f', 'm', 'c' .. ARGV[2])
local s = redis.call('HMGET', state, 'f', 'm', 'b')
local last, known = tonumber(t[1] or 0), t[1] and s[1]
local mark = math.max(tonumber(t[2] or 0), tonumber(t[3] or 0), tonumber(s[2] or 0),
    tonumber(redis.call('HGET', caller, 'm') or 0))
local v = redis.call('HMGET', flight, 'l', 'x', 'o', 'vf', 'va', 'vr', 'vx', 'vu', 'rx')
local l, x, owner = tonumber(v[1] or 0), tonumber(v[2] or 0), v[3]
local vf, va, vr, vx, vu = tonumber(v[4] or 0), tonumber(v[5] or 0), tonumber(v[6] or 0), tonumber(v[7] or 0),
    tonumber(v[8] or 0)
local rx = tonumber(v[9] or 0)

local value = false
if known and vf > mark and vf > have and now < vu + 60000000 then value = redis.call('HGET', flight, 'b') end
-- A value from the future was received before the clock went back: not fresh, but of use.
if value and now < vx and vr <= now + 1000000 and (within < 0 or va >= now - within) then
    return { now, 'fresh', vf, value }
end
if known and l > mark and now < x then
    -- Asked again by its owner, whom the reply has not reached.
    if owner == me then return { now, 'lead', vf, value, l, s[3] } end
    redis.call('SADD', waiters, me)
    redis.call('PEXPIRE', waiters, 30000)
    return { now, 'wait', vf, value, l, x - now, owner }
end
if now < rx then return { now, 'rest', vf, value, rx - now } end
if ARGV[5] == '0' then return { now, 'vacant', vf, value } end

local fence = math.max(now, last + 1, mark + 1, vf + 1)
-- What was there before a record was lost stays forgotten.
if not t[1] then redis.call('HSET', task, 'm', fence - 1) end
if not s[1] then redis.call('HSET', state, 'm', fence - 1) end
if not s[3] then
    redis.call('HSET', state, 'b', ARGV[8])
    s[3] = ARGV[8]
end
redis.call('HSET', task, 'f', fence)
redis.call('HSET', state, 'f', math.max(fence, tonumber(s[1] or 0)))
redis.call('HSET', flight, 'l', fence, 'x', now + lease, 'o', me)
-- An hour is longer than any flight.
for _, key in ipairs({ task, flight }) do
    if redis.call('PTTL', key) < 3600000 then redis.call('PEXPIRE', key, 3600000) end
end
if not s[1] then redis.call('PEXPIRE', state, 691200000) end
return { now, 'lead', vf, value, fence, s[3] }
