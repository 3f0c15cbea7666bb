"""The Lua that moves Celery's messages on Redis. Each script is one step that a crash can't halve.

A message is in exactly one place: a queue's list (one per level, as kombu names them; the right end is next), the
scheduled set, or held. The hash `<namespace>:held` has, by a tag that is made for each hold,

    run <queue> <level>                a worker took it to run it
    waiting <queue> <level>            held off the shelf; a mark stands for it in its list, so that it goes back to its
                                       very place. A worker that meets the mark drops it: then that place is the front
    scheduled <member> <due>           held off the shelf

and then, after a line feed, the message. `<namespace>:held:times` has when the holder of each last gave a sign of life,
by the clock of the server.
"""

from __future__ import annotations

from typing import Final

from anyjob_redis.moved import MOVED
from anyjob_redis.scheduled import SCHEDULE

__all__ = [
    "ACKNOWLEDGE",
    "BEAT",
    "COUNT",
    "FRESH",
    "GIVE_BACK",
    "HOLD",
    "LOST",
    "MARK",
    "PUSH",
    "SEND",
    "SWEEP",
    "TAKE",
]

FRESH: Final = '{"redelivered":false,'
LOST: Final = '{"redelivered":true,'
"""How every message of ours begins, and how one does whose holder was lost: kombu's own flag lies too deep for Lua."""

MARK: Final = "held:"

PUSH: Final = """
local function list_of(namespace, queue, level)
    local key = namespace .. ':celery:' .. queue
    if level == '0' then return key end
    return key .. '\\6\\22' .. level
end
local function push(namespace, queue, level, item, command)
    redis.call(command, list_of(namespace, queue, level), item)
    local wake = namespace .. ':wake:' .. queue
    if redis.call('LLEN', wake) < 8 then redis.call('LPUSH', wake, 1) end
end
local function push_due(namespace, payload)
    local queue, level, item = string.match(payload, '^(%S+) (%S+)\\n(.*)$')
    push(namespace, queue, level, item, 'LPUSH')
end
"""

_PRELUDE: Final = (
    SCHEDULE
    + PUSH
    + f"local fresh, lost_head, mark = '{FRESH}', '{LOST}', '{MARK}'\n"
    + """
local namespace = ARGV[1]
local held, times = namespace .. ':held', namespace .. ':held:times'
local function server_time()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end
local function hold(tag, kind, item, until_)
    redis.call('HSET', held, tag, kind .. '\\n' .. item)
    redis.call('ZADD', times, until_, tag)
end
local function let_go(tag)
    redis.call('ZREM', times, tag)
    return redis.call('HDEL', held, tag)
end
local back = {}
function back.run(queue, level, item, tag, lost)
    if lost and string.sub(item, 1, #fresh) == fresh then item = lost_head .. string.sub(item, #fresh + 1) end
    push(namespace, queue, level, item, 'RPUSH')
end
function back.waiting(queue, level, item, tag)
    local key = list_of(namespace, queue, level)
    local place = redis.call('LPOS', key, mark .. tag, 'RANK', -1)
    if place then redis.call('LSET', key, place, item) else push(namespace, queue, level, item, 'RPUSH') end
end
function back.scheduled(member, due, item) schedule(namespace, member, due, item) end
local function give_back(tag, lost)
    local entry = redis.call('HGET', held, tag)
    if not entry then return end
    local kind, first, second, item = string.match(entry, '^(%S+) (%S+) (%S+)\\n(.*)$')
    let_go(tag)
    back[kind](first, second, item, tag, lost)
end
"""
)

# a move or '', then of each job: mark, queue, level, due ('' is now), member, message
SEND: Final = (
    _PRELUDE
    + MOVED
    + """
local function send(queue, level, due, member, item)
    redis.call('SADD', namespace .. ':queues', queue)
    if due == '' then push(namespace, queue, level, item, 'LPUSH')
    else schedule(namespace, member, due, queue .. ' ' .. level .. '\\n' .. item) end
end
local moved = ARGV[2]
for i = 3, #ARGV, 6 do
    if not has_come(moved, ARGV[i]) then
        note_come(moved, ARGV[i])
        send(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
    end
end
"""
)

# tag, number of levels, queues in their order. Returns the queue and the message, or nothing. All levels of a queue are
# looked at before the next lower one of any.
TAKE: Final = (
    _PRELUDE
    + """
local tag, levels = ARGV[2], tonumber(ARGV[3])
for level = 0, levels - 1 do
    for i = 4, #ARGV do
        local key, item = list_of(namespace, ARGV[i], tostring(level))
        repeat item = redis.call('RPOP', key) until not item or string.sub(item, 1, #mark) ~= mark
        if item then
            hold(tag, 'run ' .. ARGV[i] .. ' ' .. level, item, server_time())
            return {ARGV[i], item}
        end
    end
end
return false
"""
)

# tags. Returns of each whether it was still held.
ACKNOWLEDGE: Final = (
    _PRELUDE
    + """
local were_held = {}
for i = 2, #ARGV do
    local tag = ARGV[i]
    if string.sub(tag, 1, 8) == 'waiting-' then -- its mark has gone from the list as well
        local queue, level = string.match(redis.call('HGET', held, tag) or '', '^waiting (%S+) (%S+)\\n')
        if queue then redis.call('LREM', list_of(namespace, queue, level), -1, mark .. tag) end
    end
    were_held[#were_held + 1] = let_go(tag)
end
return were_held
"""
)

# '1' if the holder was lost, tags. Backwards: what was taken first is in front again.
GIVE_BACK: Final = _PRELUDE + "for i = #ARGV, 3, -1 do give_back(ARGV[i], ARGV[2] == '1') end"

# tags. What is no longer held is not brought back.
BEAT: Final = (
    _PRELUDE
    + """
local now = server_time()
for i = 2, #ARGV do redis.call('ZADD', times, 'XX', now, ARGV[i]) end
"""
)

# lease
SWEEP: Final = (
    _PRELUDE
    + """
local silent = redis.call('ZRANGEBYSCORE', times, '-inf', server_time() - tonumber(ARGV[2]), 'LIMIT', 0, 100)
for _, tag in ipairs(silent) do
    if redis.call('HEXISTS', held, tag) == 1 then give_back(tag, true) else redis.call('ZREM', times, tag) end
end
return silent
"""
)

# seconds, then of each message: tag, and `waiting <queue> <level>` with the message, or `scheduled <member>` with ''.
# Returns the tags that hold something now.
HOLD: Final = (
    _PRELUDE
    + """
local until_ = server_time() + tonumber(ARGV[2])
local taken = {}
for i = 3, #ARGV, 3 do
    local tag, kind, item = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local member = string.match(kind, '^scheduled (%S+)$')
    if member then
        local due, payload = unschedule(namespace, member)
        if payload then
            hold(tag, kind .. ' ' .. due, payload, until_)
            taken[#taken + 1] = tag
        end
    else
        local queue, level = string.match(kind, '^waiting (%S+) (%S+)$')
        local key = list_of(namespace, queue, level)
        local place = redis.call('LPOS', key, item, 'RANK', -1)
        if place then
            redis.call('LSET', key, place, mark .. tag)
            hold(tag, kind, item, until_)
            taken[#taken + 1] = tag
        end
    end
end
return taken
"""
)

# number of levels, now. Returns how many wait, are scheduled, run.
COUNT: Final = (
    _PRELUDE
    + """
local now = tonumber(ARGV[3])
local later = redis.call('ZCOUNT', namespace .. ':scheduled', '(' .. ARGV[3], '+inf')
local waiting, scheduled, running = redis.call('ZCARD', namespace .. ':scheduled') - later, later, 0
for _, queue in ipairs(redis.call('SMEMBERS', namespace .. ':queues')) do
    for level = 0, tonumber(ARGV[2]) - 1 do
        waiting = waiting + redis.call('LLEN', list_of(namespace, queue, tostring(level)))
    end
end
for _, tag in ipairs(redis.call('HKEYS', held)) do
    if string.match(tag, '^run%-') then running = running + 1 end
    if string.match(tag, '^scheduled%-') then
        local due = tonumber(string.match(redis.call('HGET', held, tag), '^scheduled %S+ (%S+)'))
        if due > now then scheduled = scheduled + 1 else waiting = waiting + 1 end
    end
end
return {waiting, scheduled, running}
"""
)
