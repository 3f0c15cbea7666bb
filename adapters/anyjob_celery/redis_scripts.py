"""The Lua that moves Celery's messages on Redis. Each script is one step that a crash can't halve.

A message is in exactly one place: a queue's list (one per level, as kombu names them; the right end is next), the
scheduled set, or held. The hash `<namespace>:held` has, by a tag that is made for each hold,

    run <queue> <level>                a worker took it to run it
    waiting <queue> <level>            held; a mark stands for it in its list, so that it goes back to its
                                       very place. A worker that meets the mark drops it: then that place is the front
    scheduled <member> <due>           held

and then, after a line feed, the message. `<namespace>:held:times` has when the holder of each last gave a sign of life,
by the clock of the server.
"""

from __future__ import annotations

from typing import Final

from anyjob_redis.moved import MOVED
from anyjob_redis.scheduled import SCHEDULE
from anyjob_redis.scripts import FITS

__all__ = [
    "ACKNOWLEDGE",
    "BEAT",
    "COUNT",
    "FRESH",
    "GIVE_BACK",
    "HOLD",
    "INDEX_AFTER",
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

PUSH: Final = (
    FITS
    + """
local function list_of(namespace, queue, level)
    local key = namespace .. ':celery:' .. queue
    if level == '0' then return key end
    return key .. '\\6\\22' .. level
end
local function push(namespace, queue, level, item, command)
    local key = list_of(namespace, queue, level)
    if not fits('list', key) then return wrong.err end
    redis.call(command, key, item)
    local wake = namespace .. ':wake:' .. queue
    local tokens = redis.pcall('LLEN', wake) -- it only saves time
    if type(tokens) == 'number' and tokens < 8 then redis.call('LPUSH', wake, 1) end
end
local function push_due(namespace, payload)
    local queue, level, item = string.match(payload, '^(%S+) (%S+)\\n(.*)$')
    if not queue then return 'it names no queue' end
    return push(namespace, queue, level, item, 'LPUSH')
end
"""
)
"""`push` and `push_due` return why they can't, and have done nothing then."""

_SENDING: Final = (
    SCHEDULE
    + PUSH
    + """
local namespace = ARGV[1]
local function can_schedule()
    return fits('zset', namespace .. ':scheduled') and fits('hash', namespace .. ':scheduled:messages')
end
"""
)

_PRELUDE: Final = (
    _SENDING
    + f"local fresh, lost_head, mark = '{FRESH}', '{LOST}', '{MARK}'\n"
    + """
local held, times = namespace .. ':held', namespace .. ':held:times'
if not (fits('hash', held) and fits('zset', times)) then return wrong end
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
    return push(namespace, queue, level, item, 'RPUSH')
end
function back.waiting(queue, level, item, tag)
    local key = list_of(namespace, queue, level)
    if not fits('list', key) then return wrong.err end
    local place = redis.call('LPOS', key, mark .. tag, 'RANK', -1)
    if not place then return push(namespace, queue, level, item, 'RPUSH') end
    redis.call('LSET', key, place, item)
end
function back.scheduled(member, due, item)
    if not can_schedule() then return wrong.err end
    schedule(namespace, member, due, item)
end
local function give_back(tag, lost)
    local entry = redis.call('HGET', held, tag)
    if not entry then return end
    local kind, first, second, item = string.match(entry, '^(%S+) (%S+) (%S+)\\n(.*)$')
    local why = 'the entry can not be read'
    if back[kind] then why = back[kind](first, second, item, tag, lost) end
    if not why then let_go(tag) end
    return why
end
"""
)

# a move or '', then of each job: mark, queue, level, due ('' is now), member, message
SEND: Final = (
    _SENDING
    + MOVED
    + """
local moved = ARGV[2]
local function can_send(queue, level, due)
    if due ~= '' then return can_schedule() end
    return fits('list', list_of(namespace, queue, level))
end
local function send(queue, level, due, member, item)
    if due == '' then push(namespace, queue, level, item, 'LPUSH')
    else schedule(namespace, member, due, queue .. ' ' .. level .. '\\n' .. item) end
end
if moved ~= '' then fits('set', moved) end
for i = 3, #ARGV, 6 do can_send(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
if wrong then return wrong end
for i = 3, #ARGV, 6 do note_queue(namespace .. ':queues', ARGV[i + 1]) end
if wrong then return wrong end
for i = 3, #ARGV, 6 do
    if not has_come(moved, ARGV[i]) then
        note_come(moved, ARGV[i])
        send(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
    end
end
"""
)

# tag, number of levels, queues in their order. Returns the queue and the message, or nothing. All levels of a queue are
# looked at before the next lower one of any. What the tag holds already is handed out again: its answer was lost. On a
# full server it works as it is, for it pops first.
TAKE: Final = (
    _PRELUDE
    + """
local tag, levels = ARGV[2], tonumber(ARGV[3])
local function pop(key)
    local item
    repeat
        item = redis.call('RPOP', key)
    until not item or string.sub(item, 1, #mark) ~= mark
    return item
end
local queue, item = string.match(redis.call('HGET', held, tag) or '', '^run (%S+) %S+\\n(.*)$')
if queue then return {queue, item} end
for level = 0, levels - 1 do
    for i = 4, #ARGV do
        local key = list_of(namespace, ARGV[i], tostring(level))
        item = fits('list', key) and pop(key) -- another type in one place holds up no other queue
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
        local key = queue and list_of(namespace, queue, level)
        if key and fits('list', key) then redis.call('LREM', key, -1, mark .. tag) end
    end
    were_held[#were_held + 1] = let_go(tag)
end
return were_held
"""
)

# '1' if the holder was lost, tags. Backwards: what was taken first is in front again. What can't go back stays held.
GIVE_BACK: Final = (
    _PRELUDE
    + """
local why
for i = #ARGV, 3, -1 do why = give_back(ARGV[i], ARGV[2] == '1') or why end
return why and redis.error_reply('ERR ' .. why)
"""
)

# tags. What is no longer held is not brought back.
BEAT: Final = (
    _PRELUDE
    + """
local now = server_time()
for i = 2, #ARGV do redis.call('ZADD', times, 'XX', now, ARGV[i]) end
"""
)

# lease, limit. Returns the tags that went back. What can't is tried again after another lease.
SWEEP: Final = (
    _PRELUDE
    + """
local now, gone = server_time(), {}
local silent = redis.call('ZRANGEBYSCORE', times, '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, tonumber(ARGV[3]))
for _, tag in ipairs(silent) do
    if give_back(tag, true) then redis.call('ZADD', times, now, tag)
    else
        redis.call('ZREM', times, tag)
        gone[#gone + 1] = tag
    end
end
return gone
"""
)

# seconds, then of each message: tag, and `waiting <queue> <level>` with the message, or `scheduled <member>` with ''.
# Returns the tags that hold something now.
HOLD: Final = (
    _PRELUDE
    + """
local until_ = server_time() + tonumber(ARGV[2])
local taken = {}
if not can_schedule() then return wrong end
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
        local place = fits('list', key) and redis.call('LPOS', key, item, 'RANK', -1)
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

# queue, level, message, limit. Returns the index of what follows the message, 0 if it is not among so many from the
# front. A transaction would do, but for a full server, which refuses any.
INDEX_AFTER: Final = (
    _PRELUDE
    + """
local key = list_of(namespace, ARGV[2], ARGV[3])
local place = redis.call('LPOS', key, ARGV[4], 'RANK', -1, 'MAXLEN', ARGV[5])
return place and redis.call('LLEN', key) - place or 0
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
