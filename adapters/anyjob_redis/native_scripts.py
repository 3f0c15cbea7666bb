"""Lua that holds messages of an application's own queues, and releases them.

Held messages are in the hash KEYS[1], by a tag: the kind of key, the key, the item, and where it was, that is its due
time, or the neighbour that was next before it. KEYS[2] is the sorted set of the ends of the holds, by the server's
clock.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ACKNOWLEDGE", "GIVE_BACK", "HELD", "HOLD", "INDEX_PAST", "LAPSE"]

_HEAD: Final = """
local held, times = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
"""

# seconds, then of each: tag, kind, key, item. Returns the tags of those that were there.
HOLD: Final = (
    _HEAD
    + """
local function packed(...)
    local text = ''
    for _, field in ipairs({...}) do text = text .. #field .. ':' .. field end
    return text
end
local function neighbour_of(kind, key, item)
    local place = redis.call('LPOS', key, item, 'RANK', kind == 'left' and 1 or -1)
    if kind == 'right' then return place and redis.call('LINDEX', key, place + 1) end
    return place and place > 0 and redis.call('LINDEX', key, place - 1)
end
local taken = {}
for i = 2, #ARGV, 4 do
    local tag, kind, key, item = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local where, found = '', 0
    if kind == 'zset' then
        if fits('zset', key) then
            where = redis.call('ZSCORE', key, item) or ''
            found = redis.call('ZREM', key, item)
        end
    elseif fits('list', key) then
        where = neighbour_of(kind, key, item) or ''
        found = redis.call('LREM', key, kind == 'left' and 1 or -1, item)
    end
    if found == 1 then
        redis.call('HSET', held, tag, packed(kind, key, item, where))
        redis.call('ZADD', times, now + tonumber(ARGV[1]), tag)
        taken[#taken + 1] = tag
    end
end
return taken
"""
)

HELD: Final = (
    _HEAD
    + """
local function entry_of(tag)
    local text, at, fields = redis.call('HGET', held, tag) or '', 1, {}
    while at <= #text do
        local size, from = string.match(text, '^(%d+):()', at)
        at = from + size
        fields[#fields + 1] = string.sub(text, from, at - 1)
    end
    return fields[1], fields[2], fields[3], fields[4]
end
local function let_go(tag)
    redis.call('ZREM', times, tag)
    redis.call('HDEL', held, tag)
end
local push_of = {left = 'LPUSH', right = 'RPUSH'}
local beside = {left = 'AFTER', right = 'BEFORE'}
local function give_back(tag)
    local kind, key, item, where = entry_of(tag)
    if kind and not fits(kind == 'zset' and kind or 'list', key) then return end -- it stays held
    if kind == 'zset' then redis.call('ZADD', key, where, item)
    elseif kind and redis.call('LINSERT', key, beside[kind], where, item) < 1 then
        redis.call(push_of[kind], key, item) -- what was before it is gone, so it is in front
    end
    let_go(tag)
    return true
end
"""
)

# tags. Returns of each whether it was still held.
ACKNOWLEDGE: Final = """
local were_held = {}
for i, tag in ipairs(ARGV) do
    local kind, key, item = entry_of(tag)
    if kind then forget(key, item) end
    let_go(tag)
    were_held[i] = kind and 1 or 0
end
return were_held
"""

# tags, those held first in front.
GIVE_BACK: Final = """
for i = #ARGV, 1, -1 do give_back(ARGV[i]) end
return wrong
"""

# limit. Gives back messages that were held for too long, those held last first; returns how many there were, and
# how many could not go, which are tried again in a minute.
LAPSE: Final = """
local lapsed, stay = redis.call('ZREVRANGEBYSCORE', times, now, '-inf', 'LIMIT', 0, ARGV[1]), 0
for _, tag in ipairs(lapsed) do
    if not give_back(tag) then
        redis.call('ZADD', times, now + 60, tag)
        stay = stay + 1
    end
end
return {#lapsed, stay}
"""

# kind, key, item, its index in an untouched list. Returns the index of the item that follows it; 0 if it is gone.
# It is nearer to the front if workers go on, or something was put in front; and the same item may be there twice.
INDEX_PAST: Final = """
local kind, key, item, at_most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local index
for _, place in ipairs(redis.call('LPOS', key, item, 'RANK', kind == 'left' and 1 or -1, 'COUNT', 0)) do
    if kind == 'right' then place = redis.call('LLEN', key) - 1 - place end
    if not index or place <= at_most then index = place end
end
return index and index + 1 or 0
"""
