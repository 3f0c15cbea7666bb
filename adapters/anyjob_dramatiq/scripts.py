"""The Lua that moves messages on Redis. Each script is one step that a crash can't halve; together they are a protocol.

A level is a list of ids and a hash of messages, as Dramatiq keeps its queues. A message is in exactly one place: a
level, the scheduled set, or with a holder, who has a list of entries, and a hash of what each is (kind, level, due time
or `-`, length of the id, id and message):

- `run`: a worker took it to run it; `again`: the same, after another had died with it. Given back, it goes to the front
  of its level.
- `waiting`: held off the shelf. A mark stands for it in its level, so that it goes back to its very place; a worker
  that meets the mark drops it, and then that place is the front.
- `scheduled`: held off the shelf, to go back with its due time.

`places` tells which: a level's name, or `held <holder> <entry>`. A job that is sent again while it is held gets a new
place, and the old message is of no account any more: whoever acknowledges it or gives it back changes nothing.
"""

from __future__ import annotations

from typing import Final

from anyjob_redis.levels import LISTS
from anyjob_redis.moved import MOVED
from anyjob_redis.parked import parked_key
from anyjob_redis.scheduled import SCHEDULE

__all__ = ["ACKNOWLEDGE", "COUNT", "GIVE_BACK", "MARK", "PUSH_DUE", "SEND", "SWEEP", "TAKE", "TAKE_OFF", "functions"]

MARK: Final = "held "

_MARKS: Final = f"local mark_prefix = '{MARK}'\n"

_FUNCTIONS: Final = (
    _MARKS
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
local function held(holder, entry)
    local record = redis.call('HGET', held_messages_key(holder), entry)
    if not record then return end
    local kind, level, due, length, rest = string.match(record, '^(%S+) (%S+) (%S+) (%d+) (.*)$')
    return kind, level, string.sub(rest, 1, length), string.sub(rest, length + 1), due
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
if not again then
    for i = 3, #ARGV, 6 do
        local id = ARGV[i]
        if has_come(moved, ARGV[i + 1]) then -- no second one
        elseif seen[id] or place_of(id) or is_scheduled(id) or redis.call('HEXISTS', parked_key, id) == 1 then
            taken[#taken + 1] = id
        end
        seen[id] = true
    end
    if #taken > 0 then return taken end
end
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
    redis.call('SADD', ns .. ':queues', queue)
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
local taken, known = {}, {}
for i = 5 + n, #ARGV do known[ARGV[i]] = true end
if redis.call('LLEN', held_key(holder)) > #ARGV - 4 - n then
    for _, entry in ipairs(redis.call('LRANGE', held_key(holder), 0, -1)) do
        if not known[entry] then -- it was taken, and the answer was lost
            local kind, level, id, message = held(holder, entry)
            taken[#taken + 1] = {kind, level, entry, id, message}
        end
    end
end
for _, level_name in ipairs(levels) do
    for i = 0, n - 1 do
        local level = ARGV[5 + (i + turn) % n] .. '.' .. level_name
        while #taken < count do
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
local kind, level, id = held(holder, entry)
if not kind then return 0 end
let_go(holder, entry)
if place_of(id) == held_by(holder, entry) then redis.call('HDEL', places, id) end
if kind == 'waiting' then
    redis.call('LREM', key(level), 1, mark_of(id))
    redis.call('SREM', ns .. ':lost', id)
end
return 1
"""

_GIVING: Final = """
local function give_back(holder, entry, lost)
    local kind, level, id, message, due = held(holder, entry)
    if not kind then return end
    let_go(holder, entry)
    if place_of(id) ~= held_by(holder, entry) then return end
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
    if kind ~= 'waiting' and (lost or kind == 'again') then redis.call('SADD', ns .. ':lost', id) end
    return id
end
local function give_back_all(holder, lost, given)
    local entries = redis.call('LRANGE', held_key(holder), 0, -1)
    for i = #entries, 1, -1 do -- the last taken first, for each goes to the front
        given[#given + 1] = give_back(holder, entries[i], lost)
    end
    redis.call('SREM', ns .. ':holders', holder)
end
"""

# holder, entries (none: all that it holds): released, not lost. Returns the ids that went back.
GIVE_BACK: Final = (
    _GIVING
    + """
local given = {}
if #ARGV == 1 then give_back_all(ARGV[1], false, given) end
for i = #ARGV, 2, -1 do given[#given + 1] = give_back(ARGV[1], ARGV[i], false) end
return given
"""
)

# Returns the ids that went back from holders that are dead.
SWEEP: Final = (
    _GIVING
    + """
local given = {}
for _, holder in ipairs(redis.call('SMEMBERS', ns .. ':holders')) do
    if not is_alive(holder) then give_back_all(holder, true, given) end
end
return given
"""
)

# holder, milliseconds of its life, then of each job: level or 'scheduled', id. Returns id and entry of what it holds.
TAKE_OFF: Final = """
local holder, taken = ARGV[1], {}
redis.call('SET', ns .. ':alive:' .. holder, 1, 'PX', ARGV[2])
for i = 3, #ARGV, 2 do
    local level, id = ARGV[i], ARGV[i + 1]
    if level == 'scheduled' then
        local due, payload = unschedule(ns, id)
        if payload then
            local to, _, message = string.match(payload, '^(%S+) (%S+)\\n(.*)$')
            taken[#taken + 1] = {id, hold(holder, 'scheduled', to, due, id, message)}
        end
    else
        local message = redis.call('HGET', messages_key(level), id)
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
local later = redis.call('ZCOUNT', ns .. ':scheduled', '(' .. ARGV[1], '+inf')
local waiting, scheduled, running = redis.call('ZCARD', ns .. ':scheduled') - later, later, 0
each_level(function(level) waiting = waiting + redis.call('LLEN', key(level)) end) -- a mark counts for what it marks
for _, holder in ipairs(redis.call('SMEMBERS', ns .. ':holders')) do
    for _, entry in ipairs(redis.call('HKEYS', held_messages_key(holder))) do
        local kind, _, _, _, due = held(holder, entry)
        if kind == 'scheduled' then
            if tonumber(due) > now then scheduled = scheduled + 1 else waiting = waiting + 1 end
        elseif kind ~= 'waiting' then running = running + 1 end
    end
end
return {waiting, scheduled, running}
"""
