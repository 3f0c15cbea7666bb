"""The Lua that moves messages on Redis. Each script is one step that a crash can't halve; together they are a protocol.

A level is a list of ids and a hash of messages, as Dramatiq keeps its queues. A message is in exactly one place: a
level, the scheduled set, or with a holder, which has a list of entries, and a hash of each entry's data (kind, level,
due time or `-`, length of the id, id and message):

- `run`: a worker took it to run it; `again`: the same, after another crashed with it. Given back, it goes to the front
  of its level.
- `waiting`: held. A placeholder stands for it in its level, so that it goes back to its very place; a worker
  that reaches the placeholder drops it, and then that place is the front.
- `scheduled`: held, to go back with its due time.

`places` tells the place: a level's name, or `held <holder> <entry>`. A job that is sent again while it is held gets a
new place, and the old message no longer counts: to acknowledge it or give it back changes nothing.
"""

from __future__ import annotations

from typing import Final

from anyjob_redis.levels import LISTS
from anyjob_redis.moved import MOVED
from anyjob_redis.parked import parked_key
from anyjob_redis.scheduled import SCHEDULE
from anyjob_redis.scripts import FITS

__all__ = ["ACKNOWLEDGE", "COUNT", "GIVE_BACK", "MARK", "PUSH_DUE", "SEND", "SWEEP", "TAKE", "TAKE_OFF", "functions"]

MARK: Final = "held "

_MARKS: Final = f"local mark_prefix = '{MARK}'\n"

_FUNCTIONS: Final = (
    _MARKS
    + FITS
    + LISTS
    + """
local places = ns .. ':places'
local function key(level) return ns .. ':' .. level end
local function messages_key(level) return ns .. ':' .. level .. '.msgs' end
local function held_key(holder) return ns .. ':held:' .. holder end
local function held_messages_key(holder) return ns .. ':held:' .. holder .. '.msgs' end
local function is_alive(holder) return redis.call('EXISTS', ns .. ':alive:' .. holder) == 1 end
local function place_of(id) return redis.call('HGET', places, id) end
local function held_by(holder, entry) return 'held ' .. holder .. ' ' .. entry end
local function each_level(visit)
    for _, name in ipairs(known_queues()) do
        for _, level in ipairs(levels) do visit(name .. '.' .. level) end
    end
end
local function level_fits(level) return fits('list', key(level)) and fits('hash', messages_key(level)) end
local function schedule_fits() return fits('zset', ns .. ':scheduled') and fits('hash', ns .. ':scheduled:messages') end
-- Whether the keys that a holder's messages go through can be written.
local function can_hold(holder)
    local number = ns .. ':entries'
    if fits('string', number) and not string.match(redis.call('GET', number) or '0', '^%d+$') then
        wrong = redis.error_reply('WRONGTYPE ' .. number .. ' is no number')
        return false
    end
    return fits('string', number) and fits('list', held_key(holder)) and fits('hash', held_messages_key(holder))
        and fits('set', ns .. ':holders') and fits('set', ns .. ':lost') and fits('set', ns .. ':queues')
        and fits('hash', places) and schedule_fits()
end
local function put(push, id, level, message)
    redis.call('HSET', messages_key(level), id, message)
    redis.call(push, key(level), id)
    redis.call('HSET', places, id, level)
end
local function hold(holder, kind, level, due, id, message)
    local entry = tostring(redis.call('INCR', ns .. ':entries'))
    redis.call('RPUSH', held_key(holder), entry)
    local record = table.concat({kind, level, due, #id, id .. message}, ' ')
    redis.call('HSET', held_messages_key(holder), entry, record)
    redis.call('HSET', places, id, held_by(holder, entry))
    redis.call('SADD', ns .. ':holders', holder)
    return entry
end
local kinds = {run = true, again = true, waiting = true, scheduled = true}
local function held(holder, entry)
    local record = redis.call('HGET', held_messages_key(holder), entry)
    if not record then return end
    local kind, level, due, length, rest = string.match(record, '^(%S+) (%S+) (%S+) (%d+) (.*)$')
    local time = tonumber(due)
    if kinds[kind] and string.match(level, '^[%w_.-]+$') and (kind ~= 'scheduled' or time and time == time) then
        return kind, level, string.sub(rest, 1, length), string.sub(rest, length + 1), due
    end
    return 'foreign', 'default.normal', entry, record -- whoever takes that parks it
end
local function is_scheduled(id) return redis.call('HEXISTS', ns .. ':scheduled:messages', id) == 1 end
local function schedule_message(id, due, level, message)
    schedule(ns, id, due, level .. ' ' .. id .. '\\n' .. message)
end
local function let_go(holder, entry)
    redis.call('HDEL', held_messages_key(holder), entry)
    redis.call('LREM', held_key(holder), 1, entry)
end
"""
)


def functions(root: str) -> str:
    """Return the functions that move messages between levels and holders."""
    return f"{SCHEDULE}local ns = '{root}'\nlocal parked_key = '{parked_key(root)}'\n{_FUNCTIONS}"


PUSH_DUE: Final = """
local function push_due(_, payload)
    local level, id, message = string.match(payload, '^(%S+) (%S+)\\n(.*)$')
    if not level then return 'nothing tells its level' end
    if not level_fits(level) or not fits('hash', places) then return false end
    put('RPUSH', id, level, message)
end
"""

# mode ('new': refuse ids that are there | 'again'), a move or '', then of each job: id, mark, queue, level, due ('' is
# now), message. Returns the ids that are taken.
SEND: Final = (
    MOVED
    + """
local again, moved = ARGV[1] == 'again', ARGV[2]
local taken, seen = {}, {}
if moved ~= '' then fits('set', moved) end
for i = 3, #ARGV, 6 do
    local id = ARGV[i]
    local place = try('hash', places, 'HGET', id)
    local is_there = try('hash', ns .. ':scheduled:messages', 'HEXISTS', id) == 1
        or try('hash', parked_key, 'HEXISTS', id) == 1 or place
    if ARGV[i + 4] == '' then level_fits(ARGV[i + 3]) else schedule_fits() end
    if again then
        schedule_fits()
        if place and not string.match(place, '^held ') then level_fits(place) end
    elseif not wrong and not has_come(moved, ARGV[i + 1]) then -- what has come is no second one
        if seen[id] or is_there then taken[#taken + 1] = id end
        seen[id] = true
    end
end
if wrong then return wrong end
if #taken > 0 then return taken end
for i = 3, #ARGV, 6 do note_queue(ns .. ':queues', ARGV[i + 2]) end
if wrong then return wrong end
local function send(id, queue, level, due, message)
    local push = 'RPUSH'
    if again then
        local place = place_of(id)
        local holder, entry = string.match(place or '', '^held (%S+) (%S+)$')
        if holder then
            if held(holder, entry) == 'again' then push = 'LPUSH' end -- it keeps its place
        elseif place then -- the answer to the first attempt was lost
            redis.call('LREM', key(place), 1, id)
            redis.call('HDEL', messages_key(place), id)
        end
        redis.call('HDEL', places, id)
        unschedule(ns, id)
    end
    if due ~= '' then schedule_message(id, due, level, message) else put(push, id, level, message) end
end
for i = 3, #ARGV, 6 do
    if not has_come(moved, ARGV[i + 1]) then
        note_come(moved, ARGV[i + 1])
        send(ARGV[i], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
    end
end
return taken
"""
)

# holder, how many, turn, number of queues, queues, then the entries that the holder knows of. Returns 'lapsed' if the
# holder is not alive; else of each message the kind, level, entry, id and, if there is such a message, its bytes.
TAKE: Final = """
local holder, count, turn, n = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if not is_alive(holder) then return 'lapsed' end
if not can_hold(holder) then return wrong end
local taken, known = {}, {}
for i = 5 + n, #ARGV do known[ARGV[i]] = true end
if redis.call('LLEN', held_key(holder)) > #ARGV - 4 - n then
    for _, entry in ipairs(redis.call('LRANGE', held_key(holder), 0, -1)) do
        if not known[entry] then -- it was taken, and the answer was lost
            local kind, level, id, message = held(holder, entry)
            if kind then taken[#taken + 1] = {kind, level, entry, id, message} end
        end
    end
end
for _, level_name in ipairs(levels) do
    for i = 0, n - 1 do
        local level = ARGV[5 + (i + turn) % n] .. '.' .. level_name
        while #taken < count and level_fits(level) do
            local id = pop(key(level))
            if not id then break end
            local message = redis.call('HGET', messages_key(level), id)
            local kind = redis.call('SREM', ns .. ':lost', id) == 1 and 'again' or 'run'
            redis.call('HDEL', messages_key(level), id)
            local entry = hold(holder, kind, level, '-', id, message or '')
            taken[#taken + 1] = {kind, level, entry, id, message}
        end
    end
end
return taken
"""

# holder, entry. Returns whether it was still held.
ACKNOWLEDGE: Final = """
local holder, entry = ARGV[1], ARGV[2]
if not can_hold(holder) then return wrong end
local kind, level, id = held(holder, entry)
if not kind then return 0 end
let_go(holder, entry)
if place_of(id) == held_by(holder, entry) then redis.call('HDEL', places, id) end
if kind == 'waiting' then
    if level_fits(level) then redis.call('LREM', key(level), 1, mark_of(id)) end
    redis.call('SREM', ns .. ':lost', id)
end
return 1
"""

_GIVING: Final = """
-- Returns the id if it went back; 'stays' if it has nowhere to go to.
local function give_back(holder, entry, lost)
    local kind, level, id, message, due = held(holder, entry)
    if kind and not level_fits(level) then return nil, 'stays' end
    redis.call('HDEL', held_messages_key(holder), entry)
    redis.call('LREM', held_key(holder), -1, entry) -- from where the last one is
    if not kind then return end
    if kind == 'foreign' then redis.call('SADD', ns .. ':queues', 'default')
    elseif place_of(id) ~= held_by(holder, entry) then return end
    if kind == 'scheduled' then
        redis.call('HDEL', places, id)
        schedule_message(id, due, level, message)
        return id
    end
    local mark = kind == 'waiting' and redis.call('LPOS', key(level), mark_of(id))
    if mark then
        redis.call('LSET', key(level), mark, id)
        redis.call('HSET', messages_key(level), id, message)
        redis.call('HSET', places, id, level)
    else
        put('LPUSH', id, level, message)
    end
    if kind == 'again' or kind == 'run' and lost then redis.call('SADD', ns .. ':lost', id) end
    return id
end
-- The last taken first, for each goes to the front. What has no place to go to stays, behind the others.
local function give_back_last(holder, lost, limit, given)
    local list, went = held_key(holder), 0
    if not can_hold(holder) then return went end
    local entries = redis.call('LRANGE', list, -limit, -1)
    for i = #entries, 1, -1 do
        local id, stays = give_back(holder, entries[i], lost)
        if stays then redis.call('LMOVE', list, list, 'RIGHT', 'LEFT') else went = went + 1 end
        given[#given + 1] = id
    end
    if redis.call('LLEN', list) == 0 then redis.call('SREM', ns .. ':holders', holder) end
    return went
end
"""

# limit, holder, entries (none: all that it holds): released, not lost. Returns whether there is more, and the ids that
# went back.
GIVE_BACK: Final = (
    _GIVING
    + """
local limit, holder, given = tonumber(ARGV[1]), ARGV[2], {0}
if #ARGV == 2 and give_back_last(holder, false, limit, given) > 0 and redis.call('EXISTS', held_key(holder)) == 1 then
    given[1] = 1
end
if not can_hold(holder) then return wrong end
for i = #ARGV, 3, -1 do given[#given + 1] = give_back(holder, ARGV[i], false) end
return given
"""
)

# limit. Returns whether there is more, and the ids that went back from crashed holders.
SWEEP: Final = (
    _GIVING
    + """
local left, given = tonumber(ARGV[1]), {0}
if not fits('set', ns .. ':holders') then return wrong end
for _, holder in ipairs(redis.call('SMEMBERS', ns .. ':holders')) do
    if not is_alive(holder) then left = left - give_back_last(holder, true, left, given) end
    if left == 0 then
        given[1] = 1
        break
    end
end
return given
"""
)

# holder, milliseconds of its life, then of each job: level or 'scheduled', id. Returns id and entry of what it holds.
TAKE_OFF: Final = """
local holder, taken = ARGV[1], {}
if not can_hold(holder) then return wrong end
redis.call('SET', ns .. ':alive:' .. holder, 1, 'PX', ARGV[2])
for i = 3, #ARGV, 2 do
    local level, id = ARGV[i], ARGV[i + 1]
    if level == 'scheduled' then
        local payload = redis.call('HGET', ns .. ':scheduled:messages', id)
        local to, _, message = string.match(payload or '', '^(%S+) (%S+)\\n(.*)$')
        if to then -- else it is left, to be parked when it is due
            local due = unschedule(ns, id)
            taken[#taken + 1] = {id, hold(holder, 'scheduled', to, due, id, message)}
        end
    else
        local message = level_fits(level) and redis.call('HGET', messages_key(level), id)
        local place = message and redis.call('LPOS', key(level), id)
        if place then
            redis.call('LSET', key(level), place, mark_of(id))
            redis.call('HDEL', messages_key(level), id)
            taken[#taken + 1] = {id, hold(holder, 'waiting', level, '-', id, message)}
        end
    end
end
return taken
"""

# now. Returns how many are waiting, scheduled and running.
COUNT: Final = """
local now = tonumber(ARGV[1])
if not schedule_fits() then return wrong end
local later = redis.call('ZCOUNT', ns .. ':scheduled', '(' .. ARGV[1], '+inf')
local waiting, scheduled, running = redis.call('ZCARD', ns .. ':scheduled') - later, later, 0
each_level(function(level) -- a mark counts for what it marks
    if level_fits(level) then waiting = waiting + redis.call('LLEN', key(level)) end
end)
for _, holder in ipairs(fits('set', ns .. ':holders') and redis.call('SMEMBERS', ns .. ':holders') or {}) do
    local messages = held_messages_key(holder)
    for _, entry in ipairs(fits('hash', messages) and redis.call('HKEYS', messages) or {}) do
        local kind, _, _, _, due = held(holder, entry)
        if kind == 'scheduled' then
            if tonumber(due) > now then scheduled = scheduled + 1 else waiting = waiting + 1 end
        elseif kind ~= 'waiting' then running = running + 1 end
    end
end
return {waiting, scheduled, running}
"""
