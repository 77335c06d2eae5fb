-- tell: appends to the journal what must reach all members, and rings their bell.
--
-- KEYS: state (as in board); journal, a stream of entries: m the news, p the id of the entry before, so that a reader
--       sees a gap; ends, the list of one model's last ends, where the news are one
-- ARGV: news, bell
local state, journal, ends = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local before = redis.call('HGET', state, 'j') or '0-0'

-- Where the clock went back, ids count on from the last.
local ms, count = string.match(before, '(%d+)-(%d+)')
local id = string.format('%.0f-0', now)
if now <= tonumber(ms) then id = string.format('%s-%.0f', ms, count + 1) end
redis.call('XADD', journal, 'MAXLEN', '~', 16384, id, 'm', ARGV[1], 'p', before)
redis.call('XTRIM', journal, 'MINID', '~', string.format('%.0f', now - 86400000))
redis.call('PEXPIRE', journal, 172800000)
redis.call('HSET', state, 'j', id)
if ends then
    redis.call('RPUSH', ends, ARGV[1])
    redis.call('LTRIM', ends, -128, -1)
    redis.call('PEXPIRE', ends, 2592000000)
end
redis.call('PUBLISH', ARGV[2], '')
return 1
