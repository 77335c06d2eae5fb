-- beat: each second. Heartbeat, clock, members, and what the journal has since.
--
-- KEYS: state (as in board); journal (as in tell); members, a sorted set by when they last beat
-- ARGV: member, birth and id that it has read up to (empty: none), a birth for an engine that has none, entries at most
local state, journal, members = KEYS[1], KEYS[2], KEYS[3]
local me, birth, since, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local s = redis.call('HMGET', state, 'b', 'j')
if not s[1] then
    redis.call('HSET', state, 'b', ARGV[4])
    s[1] = ARGV[4]
end
local last = s[2] or '0-0'
-- On a full engine the members stay as they are.
redis.pcall('ZADD', members, now, me)
redis.call('ZREMRANGEBYSCORE', members, '-inf', string.format('(%.0f', now - 5000000))
redis.call('PEXPIRE', members, 3600000)
redis.call('PEXPIRE', state, 691200000)

-- The entries from an id on, one more than is asked for.
local function read(from)
    local entries = {}
    for _, entry in ipairs(redis.call('XRANGE', journal, from, '+', 'COUNT', most + 1)) do
        entries[#entries + 1] = { entry[1], entry[2][2], entry[2][4] }
    end
    return entries
end

local joined, entries
if birth ~= s[1] then
    joined, entries = 'new', read(string.format('%.0f', now / 1000 - 60000))
else
    joined, entries = 'resumed', read('(' .. since)
    local before = entries[1] and entries[1][3] or last
    if before ~= since then joined, entries = 'gap', read('-') end
end
local more = #entries > most and 1 or 0
if more == 1 then entries[#entries] = nil end
local news = {}
for at, entry in ipairs(entries) do
    news[at] = entry[2]
    last = entry[1]
end
return { now, redis.call('ZCARD', members), joined, s[1], last, more, news }
