"""The Lua of `RedisJobStore`: one protocol, whatever the layout is. Each script is one step that a crash can't halve.

`<ns>:jobs` has a record for each job by its id: `<state> <queue> <level> <due> <seq> <call> <length of worker>`, a line
feed, the worker's name and the message (empty while the layout keeps it). The states:

- `w`: it waits, due or not, in its level.
- `r`: a worker runs it.                 `h`: an operator holds it, and it goes back to its very place.
- `p`: it is parked.                     `q`: an operator holds the parked job.

`<ns>:leases` is a sorted set of `<r or h> <token> <id>`, by when the lease ends, in microseconds of the server's clock;
so a claim that is settled, renewed or released is valid if it is in there. `<ns>:order` has all ids in the order of
their insertion, `<ns>:parked` those that are parked, `<ns>:failures` why. Tokens and sequence numbers are counted by
`<ns>:number`. `call` names the call that claimed it, so that claims in a lost answer are found again.

Every script is given first: the time by the worker's clock, then a time to use as the server's, '' for its own.
"""

from __future__ import annotations

from typing import Final

from anyjob_redis.levels import LEVELS
from anyjob_redis.moved import MOVED
from anyjob_redis.scripts import FITS

__all__ = [
    "CLAIM",
    "COUNT",
    "EXPIRED",
    "HOLD",
    "INSERT",
    "NEXT_DUE",
    "PARK",
    "RECOVER",
    "RELEASE",
    "RELEASE_HELD",
    "RENEW",
    "UNANSWERED",
    "prelude",
]

_KEYS: Final = (
    f"local levels = {{{str(tuple(LEVELS.values()))[1:-1]}}}\n"
    + FITS
    + """
local jobs, order, leases = ns .. ':jobs', ns .. ':order', ns .. ':leases'
local parked, failures, copies = ns .. ':parked', ns .. ':failures', ns .. ':copies'
local function time_text(microseconds) return string.format('%.0f', microseconds) end
local server_time
if ARGV[2] ~= '' then server_time = tonumber(ARGV[2])
else
    local time = redis.call('TIME')
    server_time = time[1] * 1000000 + time[2]
end
-- A worker whose clock runs ahead claims nothing before its time.
local now = ARGV[1]
if ARGV[2] == '' and tonumber(now) > server_time then now = time_text(server_time) end
local function write(id, state, queue, level, due, seq, call, worker, body)
    local head = table.concat({state, queue, level, due, seq, call, #worker}, ' ')
    redis.call('HSET', jobs, id, head .. '\\n' .. worker .. body)
end
-- What is no record of ours is the message of a job that waits in no place in particular.
local function read(id)
    local record = redis.call('HGET', jobs, id)
    if not record then return end
    local state, queue, level, due, seq, call, length, from =
        string.match(record, '^([wrhpq]) ([a-z0-9_-]+) ([a-z_]+) (-?%d+) (%d+) (%S+) (%d+)\\n()')
    if not state then return '?', 'default', 'normal', now, '0', '-', record, '' end
    local body = from + length
    return state, queue, level, due, seq, call, string.sub(record, body), string.sub(record, from, body - 1)
end
"""
)

_FUNCTIONS: Final = """
local function claims_fit() return fits('hash', jobs) and fits('zset', order) and fits('zset', leases) end
local function parked_fit() return fits('zset', parked) and fits('hash', failures) and fits('zset', copies) end
local function store_fits() return claims_fit() and parked_fit() and fits('set', ns .. ':queues') end
local function known_queues()
    local names = {}
    for _, name in ipairs(redis.call('SMEMBERS', ns .. ':queues')) do
        if string.match(name, '^[a-z][a-z0-9_-]*$') then names[#names + 1] = name end
    end
    table.sort(names)
    return names
end
local function queues_from(first)
    if ARGV[first] == '*' then return fits('set', ns .. ':queues') and known_queues() or {} end
    return {unpack(ARGV, first)}
end
local number
local function next_number()
    number = number + 1
    return number
end
-- The first of all that write, and so the check as well: whether so many numbers can be given out.
local function reserve(count)
    local last = try('string', ns .. ':number', 'INCRBY', count)
    if wrong then return false end
    number = last - count
    return true
end
local function wake()
    if redis.call('DEL', ns .. ':idle') == 1 then redis.call('PUBLISH', ns .. ':wake', '') end
end
local function wait_again(id, queue, level, due, seq, message, back)
    write(id, 'w', queue, level, due, seq, '-', '', put_waiting(queue, level, due, seq, id, message, back))
end
local function add(id, queue, level, due, message)
    local seq = time_text(next_number())
    wait_again(id, queue, level, due, seq, message)
    redis.call('ZADD', order, seq, id)
end
local function drop(id)
    redis.call('HDEL', jobs, id)
    redis.call('ZREM', order, id)
end
local function drop_parked(id)
    drop(id)
    if not parked_fit() then return end
    redis.call('HDEL', failures, id)
    redis.call('ZREM', parked, id)
    redis.call('ZREM', copies, id)
end
local function grant(kind, id, until_)
    local token = time_text(next_number())
    redis.call('ZADD', leases, until_, kind .. ' ' .. token .. ' ' .. id)
    return token
end
-- Returns which kind of claim ended here, or nothing if it had ended already.
local function end_lease(token, id)
    for _, kind in ipairs({'r', 'h'}) do
        if redis.call('ZREM', leases, kind .. ' ' .. token .. ' ' .. id) == 1 then return kind end
    end
end
-- Puts back what was claimed or held, as it was, or with another message. Returns false if it can't be now.
local function can_go_back(id)
    local state, queue, level = read(id)
    return not state or state == 'q' or level_fits(queue, level)
end
local function put_back(id, message)
    local state, queue, level, due, seq, _, body = read(id)
    if not state then return end -- somebody else removed it
    if state == 'q' or state == 'p' then write(id, 'p', queue, level, due, seq, '-', '', body)
    else wait_again(id, queue, level, due, seq, message or body, true) end
end
"""


def prelude(root: str, layout_lua: str) -> str:
    """Return the beginning of each script: `root` is the prefix of all keys."""
    return f"local ns = '{root}'\n{_KEYS}{layout_lua}{_FUNCTIONS}"


# a key of marks or '', then of each job: id, mark, queue, level, due, message. Returns the ids that are taken.
INSERT: Final = (
    MOVED
    + """
local marks, taken, seen = ARGV[3], {}, {}
if store_fits() and (marks == '' or fits('set', marks)) then
    for i = 4, #ARGV, 6 do
        local id = ARGV[i]
        if not has_come(marks, ARGV[i + 1]) then -- what has come is no second one
            level_fits(ARGV[i + 2], ARGV[i + 3])
            if seen[id] or redis.call('HEXISTS', jobs, id) == 1 then taken[#taken + 1] = id end
            seen[id] = true
        end
    end
end
if wrong then return wrong end
if #taken > 0 then return taken end
if not reserve((#ARGV - 3) / 6) then return wrong end
for i = 4, #ARGV, 6 do note_queue(ns .. ':queues', ARGV[i + 2]) end
for i = 4, #ARGV, 6 do
    if not has_come(marks, ARGV[i + 1]) then
        note_come(marks, ARGV[i + 1])
        add(ARGV[i], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
    end
end
wake()
return taken
"""
)

# How many claims ended, then of each: id, token, and `done`; or `put` and the new id, queue, level, due time, message;
# or `park` and the message, failure. Then limit, lease, worker, call, queues (`*`: all that are known).
# Returns of each that ended whether it was still held ('2': the new id is taken), then of each claimed: id, token,
# message.
CLAIM: Final = """
local ended, at = tonumber(ARGV[3]), 4
local width = {done = 3, put = 8, park = 5}
local limit
if claims_fit() then
    for _ = 1, ended do
        if ARGV[at + 2] ~= 'done' then store_fits() end
        if ARGV[at + 2] == 'put' then level_fits(ARGV[at + 4], ARGV[at + 5]) end
        at = at + width[ARGV[at + 2]]
    end
    limit = tonumber(ARGV[at])
end
if wrong or not reserve(ended + 2 * limit) then return wrong end
local told = {}
local settle = {}
function settle.done(id, kind)
    if kind == 'r' then return drop(id) end
    local state, queue, level = read(id)
    if state == 'q' then return drop_parked(id) end
    if state == 'h' then forget_held(queue, level, id) end
    drop(id)
end
function settle.put(id, kind, i)
    settle.done(id, kind)
    note_queue(ns .. ':queues', ARGV[i + 4])
    add(ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6], ARGV[i + 7])
end
function settle.park(id, _, i)
    local state, queue, level, due, seq = read(id)
    if state == 'h' then forget_held(queue, level, id) end
    if not queue then -- somebody removed it: what is told of it is kept all the same
        queue, level, due, seq = 'default', 'normal', now, time_text(next_number())
        redis.call('ZADD', order, seq, id)
    end
    write(id, 'p', queue, level, due, seq, '-', '', ARGV[i + 3])
    redis.call('HSET', failures, id, ARGV[i + 4])
    redis.call('ZADD', parked, seq, id)
end
at = 4
local put = false
for n = 1, ended do
    local id, token, what = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    if what == 'put' and ARGV[at + 3] ~= id and redis.call('HEXISTS', jobs, ARGV[at + 3]) == 1 then
        told[n] = 2
    else
        local kind = end_lease(token, id)
        if kind then settle[what](id, kind, at) end
        put = put or kind and what == 'put'
        told[n] = kind and 1 or 0
    end
    at = at + width[what]
end
if put then wake() end
if limit == 0 then return told end

local until_, worker, call = time_text(server_time + ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
local names, claimed = queues_from(at + 4), 0
local function take(queue, level, first)
    local id, message = pop_waiting(queue, level, first)
    local state, _, _, due, seq, _, body
    if id and #id <= 200 and string.match(id, '^[%w_~-]+$') then state, _, _, due, seq, _, body = read(id) end
    if state == 'w' then message = message or body
    elseif state == '?' then
        message, seq, due = body, time_text(next_number()), now
        redis.call('ZADD', order, seq, id)
    elseif state then return -- it is elsewhere, and was put in here by somebody else
    else -- it is nothing of ours, and to be parked as what it is
        seq, due, message = time_text(next_number()), now, message or first
        id = 'foreign-' .. seq
        redis.call('ZADD', order, seq, id)
    end
    write(id, 'r', queue, level, due, seq, call, worker, message)
    local token = grant('r', id, until_)
    told[#told + 1], told[#told + 2], told[#told + 3] = id, token, message
    claimed = claimed + 1
end
local firsts, dues = {}, {}
local function is_before(one, other)
    local due, others = tonumber(dues[one]), tonumber(dues[other])
    return due < others or due == others and firsts[one] < firsts[other]
end
for _, level in ipairs(levels) do
    for _, name in ipairs(names) do firsts[name], dues[name] = first_due(name, level, now) end
    while claimed < limit do
        local best
        for _, name in ipairs(names) do
            if firsts[name] and (not best or is_before(name, best)) then best = name end
        end
        if not best then break end
        take(best, level, firsts[best])
        if claimed < limit then firsts[best], dues[best] = first_due(best, level, now) end
    end
    if claimed == limit then break end
end
if claimed == 0 then redis.call('SET', ns .. ':idle', 1, 'EX', 60) end
return told
"""

# pairs of id and token: released, uncharged.
RELEASE: Final = """
if not store_fits() then return wrong end
for i = 3, #ARGV, 2 do
    if can_go_back(ARGV[i]) and end_lease(ARGV[i + 1], ARGV[i]) then put_back(ARGV[i]) end
end
wake()
return 0
"""

# calls whose answers were lost. Releases their claims, uncharged. Returns how many.
UNANSWERED: Final = """
if not store_fits() then return wrong end
local calls, found = {}, 0
for i = 3, #ARGV do calls[ARGV[i]] = true end
for _, member in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    local token, id = string.match(member, '^r (%d+) (.+)$')
    if id then
        local _, _, _, _, _, call = read(id)
        if calls[call] and can_go_back(id) and end_lease(token, id) then
            put_back(id)
            found = found + 1
        end
    end
end
return found
"""

# holder. Gives back all that it holds.
RELEASE_HELD: Final = """
if not store_fits() then return wrong end
for _, member in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    local token, id = string.match(member, '^h (%d+) (.+)$')
    local _, _, _, _, _, _, _, worker = read(id or '')
    if worker == ARGV[3] and can_go_back(id) and end_lease(token, id) then put_back(id) end
end
wake()
return 0
"""

# lease, then pairs of id and token. Returns of each whether it is still held.
RENEW: Final = """
if not fits('zset', leases) then return wrong end
local until_, told = time_text(server_time + ARGV[3]), {}
for i = 4, #ARGV, 2 do
    told[#told + 1] = 0
    for _, kind in ipairs({'r', 'h'}) do
        local member = kind .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i]
        if redis.call('ZSCORE', leases, member) then
            redis.call('ZADD', leases, until_, member)
            told[#told] = 1
        end
    end
end
return told
"""

# limit, microseconds between the looks of each live worker (0: by a test's clock, which knows no outage).
# Puts held jobs back. Returns of each expired lease of a worker: its member of the set, message, worker, and for how
# long it has been expired.
EXPIRED: Final = """
if not store_fits() then return wrong end
local told, look = {}, tonumber(ARGV[4])
if look > 0 then
    -- If nobody looked for twice that time, the server was away, or nobody was there: then who lives has to have the
    -- time to renew first.
    local sign = ns .. ':watched'
    if not fits('string', sign) then return wrong end
    local since = tonumber(redis.call('GET', sign) or '') or server_time
    redis.call('SET', sign, time_text(since), 'PX', math.ceil(look * 2 / 1000))
    if server_time - since < look then return told end
end
local over = redis.call('ZRANGEBYSCORE', leases, '-inf', time_text(server_time), 'WITHSCORES', 'LIMIT', 0, ARGV[3])
for i = 1, #over, 2 do
    local kind, _, id = string.match(over[i], '^([rh]) (%d+) (.+)$')
    if not kind then redis.call('ZREM', leases, over[i]) -- none of ours
    elseif kind == 'h' then
        if can_go_back(id) then
            redis.call('ZREM', leases, over[i])
            put_back(id)
        end
    elseif not can_go_back(id) then -- its level's key is of another type: not now
        redis.call('ZADD', leases, server_time + 60000000, over[i])
    else
        local state, _, _, _, _, _, body, worker = read(id)
        if state == 'r' then
            for _, each in ipairs({over[i], body, worker, time_text(server_time - over[i + 1])}) do
                told[#told + 1] = each
            end
        else redis.call('ZREM', leases, over[i]) end
    end
end
return told
"""

# of each: its member of the set of leases, new message. Puts back the jobs of expired ones. Returns of each if it was.
RECOVER: Final = """
if not store_fits() then return wrong end
local told = {}
for i = 3, #ARGV, 2 do
    local until_ = redis.call('ZSCORE', leases, ARGV[i])
    local id = string.match(ARGV[i], '^r %d+ (.+)$')
    if until_ and tonumber(until_) <= server_time and can_go_back(id) then
        redis.call('ZREM', leases, ARGV[i])
        put_back(id, ARGV[i + 1])
        told[#told + 1] = 1
    else told[#told + 1] = 0 end
end
wake()
return told
"""

# queues (`*`: all that are known). Returns when the first is due, and the server's time.
NEXT_DUE: Final = """
if not fits('set', ns .. ':queues') then return wrong end
local first
for _, name in ipairs(queues_from(3)) do
    for _, level in ipairs(levels) do
        local due = level_fits(name, level) and earliest(name, level)
        if due and (not first or tonumber(due) < tonumber(first)) then first = due end
    end
end
if not first then return {} end
return {time_text(tonumber(first)), time_text(server_time)}
"""

# lease, worker, call, ids. Returns of each that it holds now: id, token, message.
HOLD: Final = """
if not store_fits() or not reserve(#ARGV) then return wrong end
local until_, worker, call, told = time_text(server_time + ARGV[3]), ARGV[4], ARGV[5], {}
for i = 6, #ARGV do
    local id = ARGV[i]
    local state, queue, level, due, seq, _, body = read(id)
    local held
    if state == 'p' then held = 'q'
    elseif state == 'w' and level_fits(queue, level) then
        local there, message = remove_waiting(queue, level, due, seq, id)
        body = message or body
        held = there and 'h'
    end
    if held then
        write(id, held, queue, level, due, seq, call, worker, body)
        local token = grant('h', id, until_)
        told[#told + 1], told[#told + 2], told[#told + 3] = id, token, body
    end
end
return told
"""

# id, id as a copy, message, failure. Returns the id that it got.
PARK: Final = """
if not store_fits() or not reserve(1) then return wrong end
local id = ARGV[3]
local state, _, _, _, _, _, body = read(id)
if state == 'p' and body == ARGV[5] then -- the answer was lost
    redis.call('HSET', failures, id, ARGV[6])
    return id
end
if state then
    id = ARGV[4]
    redis.call('ZADD', copies, 0, id)
end
local seq = time_text(next_number())
write(id, 'p', 'default', 'normal', now, seq, '-', '', ARGV[5])
redis.call('ZADD', order, seq, id)
redis.call('HSET', failures, id, ARGV[6])
redis.call('ZADD', parked, seq, id)
return id
"""

# Returns how many wait, are due later, run and are parked.
COUNT: Final = """
if not store_fits() then return wrong end
local waiting, scheduled, running = 0, 0, 0
for _, name in ipairs(known_queues()) do
    for _, level in ipairs(levels) do
        if level_fits(name, level) then
            local due, later = count_waiting(name, level, ARGV[1])
            waiting, scheduled = waiting + due, scheduled + later
        end
    end
end
for _, member in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    local kind, id = string.match(member, '^([rh]) %d+ (.+)$')
    if kind == 'r' then running = running + 1
    elseif kind == 'h' then
        local state, queue, level, due = read(id)
        if state == 'h' and not is_counted(queue, level, id) then
            if tonumber(due) > tonumber(ARGV[1]) then scheduled = scheduled + 1 else waiting = waiting + 1 end
        end
    end
end
return {waiting, scheduled, running, redis.call('ZCARD', parked)}
"""
