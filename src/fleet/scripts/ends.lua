-- ends: the last ends of a model's tasks, oldest first.
--
-- KEYS: ends, as in tell
return redis.call('LRANGE', KEYS[1], 0, -1)
