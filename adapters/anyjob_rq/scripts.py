"""The Lua that moves messages. Each script is one step that a crash can't halve; together they are the protocol.

A message is in exactly one place: a queue's list, its queue's scheduled set, or its holder's list. A holder's list has
entries `<kind> <queue> <score> <id>`, and the job's hash names the holder:

- `run`: a worker took it to run it. Given back, it goes to the front of its queue.
- `waiting`: held. A placeholder stands for it in the queue's list, so that it goes back to its very place; a
  worker that reaches the placeholder drops it, and then that place is the front.
- `scheduled`: held, due at `score`.

A job that is sent again while it is held gets a new hash, without a holder: acknowledging the old message then leaves
the new one alone.
"""

from __future__ import annotations

from typing import Final

from anyjob_redis.levels import LISTS
from anyjob_redis.moved import MOVED
from anyjob_redis.scripts import FITS
from anyjob_redis.skew import EARLIER

__all__ = ["ACKNOWLEDGE", "COUNT", "GIVE_BACK", "PROMOTE", "SEND", "SWEEP", "TAKE", "TAKE_OFF"]

_PRELUDE: Final = (
    "local rq, ns, mark_prefix = ARGV[1], ARGV[2], ARGV[3]\n"
    + FITS
    + LISTS
    + """
local function job_key(id) return rq .. ':job:' .. id end
local function queue_key(name) return rq .. ':queue:' .. name end
local function scheduled_key(name) return rq .. ':scheduled:' .. name end
local function held_key(holder) return ns .. ':held:' .. holder end
local function alive_key(holder) return ns .. ':alive:' .. holder end
local function is_hash(key) return redis.call('TYPE', key).ok == 'hash' end
local function each_native(visit)
    for _, name in ipairs(known_queues()) do
        for _, level in ipairs(levels) do visit(ns .. ':' .. name .. ':' .. level) end
    end
end
local kinds = {run = true, waiting = true, scheduled = true}
-- What is no entry of ours counts as the id of a job that is not there: whoever takes that parks it.
local function parse(entry)
    local kind, queue, score, id = string.match(entry, '^(%S+) (%S+) (%S+) (.*)$')
    local due = tonumber(score)
    if kinds[kind] and string.match(queue, '^[%w_:-]+$') and (kind ~= 'scheduled' or due and due == due) then
        return kind, queue, score, id
    end
    redis.call('SADD', ns .. ':queues', 'default')
    return 'run', ns .. ':default:normal', '-', entry
end
-- Whether the keys that a holder's messages go through can be written.
local function can_hold(holder)
    return fits('list', held_key(holder)) and fits('set', ns .. ':holders') and fits('set', ns .. ':queues')
end
local function hold(holder, kind, queue, score, id)
    redis.call('RPUSH', held_key(holder), kind .. ' ' .. queue .. ' ' .. score .. ' ' .. id)
    redis.call('SADD', ns .. ':holders', holder)
end
-- What RQ noted for its monitors when the job began.
local function forget_executions(holder, queue, id)
    local registry, wip = rq .. ':executions:' .. id, rq .. ':wip:' .. queue
    local executions = rq .. ':worker:' .. holder .. ':executions'
    if not (fits('zset', registry) and fits('zset', wip) and fits('set', executions)) then return end
    for _, execution in ipairs(redis.call('ZRANGE', registry, 0, -1)) do
        local member = id .. ':' .. execution
        redis.call('DEL', rq .. ':execution:' .. member)
        redis.call('ZREM', wip, member)
        redis.call('SREM', executions, member)
    end
    redis.call('DEL', registry)
end
"""
)

# mode ('new': refuse ids that are there | 'again'), a move or '', a holder and its entry or '' (refuse what it lost),
# then of each job: native id, id, mark, logical queue, native queue, due ('' is now), number of fields and values,
# fields and values. Returns the ids that are taken.
SEND: Final = (
    _PRELUDE
    + MOVED
    + """
local again, moved, holder, entry = ARGV[4] == 'again', ARGV[5], ARGV[6], ARGV[7]
local function each_job(visit)
    local i = 8
    while i <= #ARGV do
        local n = tonumber(ARGV[i + 6])
        if not has_come(moved, ARGV[i + 2]) then
            visit(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], i + 7, i + 6 + n)
        end
        i = i + 7 + n
    end
end
if moved == '' or fits('set', moved) then
    each_job(function(_, _, _, _, queue, due)
        if due ~= '' then fits('zset', scheduled_key(queue)) else fits('list', queue_key(queue)) end
    end)
end
if not (fits('hash', ns .. ':rq:parked') and fits('set', rq .. ':queues') and fits('set', ns .. ':queues')) then
    return wrong
end
if holder ~= '' then fits('list', held_key(holder)) end
if wrong then return wrong end
local taken, seen = {}, {}
if holder ~= '' and not redis.call('LPOS', held_key(holder), entry) then
    each_job(function(_, id) taken[#taken + 1] = id end)
    return taken
end
if not again then
    each_job(function(native, id)
        local there = redis.call('EXISTS', job_key(native)) + redis.call('HEXISTS', ns .. ':rq:parked', id)
        if seen[id] or there > 0 then taken[#taken + 1] = id end
        seen[id] = true
    end)
    if #taken > 0 then return taken end
end
local function is_there_already(key, first, last)
    if redis.call('HEXISTS', key, 'anyjob_holder') == 1 then return false end
    for i = first, last, 2 do
        if ARGV[i] == 'data' then return redis.call('HGET', key, 'data') == ARGV[i + 1] end
    end
end
each_job(function(native, _, mark, logical, queue, due, first, last)
    note_come(moved, mark)
    local key, push = job_key(native), 'RPUSH'
    if again and is_hash(key) then
        if is_there_already(key, first, last) then return end -- the answer to the first attempt was lost
        if redis.call('HEXISTS', key, 'anyjob_redelivered') == 1 then push = 'LPUSH' end -- it keeps its place
    end
    if again then redis.call('DEL', key) end -- else not: it must be refused on a server that is full
    redis.call('HSET', key, unpack(ARGV, first, last))
    redis.call('SADD', rq .. ':queues', queue_key(queue))
    redis.call('SADD', ns .. ':queues', logical)
    if due ~= '' then redis.call('ZADD', scheduled_key(queue), due, native)
    else redis.call(push, queue_key(queue), native) end
end)
return taken
"""
)

# holder, RQ's now, turn, logical queues in order (none: all that are known). Returns nothing, or 'lapsed' if the holder
# is not alive, or the queue, the id and, if there is such a hash, its fields. A holder runs one at a time.
TAKE: Final = (
    _PRELUDE
    + """
local holder, now, turn = ARGV[4], ARGV[5], tonumber(ARGV[6])
if redis.call('EXISTS', alive_key(holder)) == 0 then return 'lapsed' end
if not can_hold(holder) then return wrong end
local names = {unpack(ARGV, 7)}
if #names == 0 then names = known_queues() end
local held = redis.call('LINDEX', held_key(holder), 0)
if held then -- it was taken, and the answer was lost
    local _, queue, _, id = parse(held)
    if not is_hash(job_key(id)) then return {queue, id, {}} end
    if redis.call('HGET', job_key(id), 'anyjob_holder') == holder then
        return {queue, id, redis.call('HGETALL', job_key(id))}
    end
    redis.call('LPOP', held_key(holder))
end
for _, level in ipairs(levels) do
    for i = 0, #names - 1 do
        local queue = ns .. ':' .. names[(i + turn) % #names + 1] .. ':' .. level
        local id = pop(queue_key(queue))
        if id then
            hold(holder, 'run', queue, '-', id)
            local key = job_key(id)
            if not is_hash(key) then return {queue, id, {}} end
            local fields = redis.call('HGETALL', key)
            redis.call('HSET', key, 'status', 'started', 'anyjob_holder', holder, 'worker_name', holder,
                'started_at', now, 'last_heartbeat', now)
            return {queue, id, fields}
        end
    end
end
"""
)

# holder, entry, counter of the worker ('' is none), seconds. Returns whether the entry was still held.
ACKNOWLEDGE: Final = (
    _PRELUDE
    + """
local holder, entry = ARGV[4], ARGV[5]
if not can_hold(holder) then return wrong end
if redis.call('LREM', held_key(holder), 1, entry) == 0 then return 0 end
local kind, queue, _, id = parse(entry)
local key = job_key(id)
forget_executions(holder, queue, id)
if not is_hash(key) or redis.call('HGET', key, 'anyjob_holder') == holder then redis.call('DEL', key) end
if kind == 'waiting' and fits('list', queue_key(queue)) then redis.call('LREM', queue_key(queue), 1, mark_of(id)) end
local worker = rq .. ':worker:' .. holder
if ARGV[6] ~= '' and is_hash(worker) then
    redis.pcall('HINCRBY', worker, ARGV[6], 1)
    redis.pcall('HINCRBYFLOAT', worker, 'total_working_time', ARGV[7])
end
return 1
"""
)

_GIVING: Final = """
local function put_back(kind, queue, score, id, lost)
    local key = job_key(id)
    if kind == 'scheduled' then
        redis.call('ZADD', scheduled_key(queue), score, id)
    elseif kind == 'waiting' then
        local place = redis.call('LPOS', queue_key(queue), mark_of(id))
        if place then redis.call('LSET', queue_key(queue), place, id)
        else redis.call('LPUSH', queue_key(queue), id) end
    else
        if is_hash(key) then
            redis.call('HSET', key, 'status', 'queued')
            if lost then redis.call('HSET', key, 'anyjob_redelivered', 1) end
        end
        redis.call('LPUSH', queue_key(queue), id)
    end
end
-- The last taken first, for each goes to the front. What has no place to go to stays, behind the others.
local function give_back(holder, lost, limit, given)
    local held, went = held_key(holder), 0
    if not can_hold(holder) then return went end
    for _ = 1, math.min(limit, redis.call('LLEN', held)) do
        local entry = redis.call('RPOP', held)
        local kind, queue, score, id = parse(entry)
        local key = job_key(id)
        if not fits('list', queue_key(queue)) or not fits('zset', scheduled_key(queue)) then
            redis.call('LPUSH', held, entry)
        else
            local ours = is_hash(key) and redis.call('HGET', key, 'anyjob_holder') == holder
            forget_executions(holder, queue, id)
            if ours then redis.call('HDEL', key, 'anyjob_holder') end
            if ours or kind == 'run' and not is_hash(key) then
                put_back(kind, queue, score, id, lost)
                given[#given + 1] = id
            end
            went = went + 1
        end
    end
    if redis.call('LLEN', held) == 0 then redis.call('SREM', ns .. ':holders', holder) end
    return went
end
"""

# limit, holder, whether its running job is lost ('1') or released. Returns if there is more, and the ids that went
# back.
GIVE_BACK: Final = (
    _PRELUDE
    + _GIVING
    + """
local limit, given = tonumber(ARGV[4]), {0}
if give_back(ARGV[5], ARGV[6] == '1', limit, given) > 0 and redis.call('EXISTS', held_key(ARGV[5])) == 1 then
    given[1] = 1
end
if wrong then return wrong end
return given
"""
)

# limit. Returns whether there are more, and the ids that went back from crashed holders.
SWEEP: Final = (
    _PRELUDE
    + _GIVING
    + """
local left, given = tonumber(ARGV[4]), {0}
if not fits('set', ns .. ':holders') then return wrong end
for _, holder in ipairs(redis.call('SMEMBERS', ns .. ':holders')) do
    if redis.call('EXISTS', alive_key(holder)) == 0 then left = left - give_back(holder, true, left, given) end
    if left == 0 then
        given[1] = 1
        break
    end
end
return given
"""
)

# now, '1' if that is a machine's time, RQ's now, limit. Returns when the next is due, if any is.
PROMOTE: Final = (
    _PRELUDE
    + EARLIER
    + """
local first, now, left = nil, earlier(ARGV[4], ARGV[5]), tonumber(ARGV[7])
each_native(function(queue)
    local set = scheduled_key(queue)
    if not fits('zset', set) or not fits('list', queue_key(queue)) then return end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now, 'LIMIT', 0, left)) do
        left = left - 1
        redis.call('ZREM', set, id)
        if is_hash(job_key(id)) then redis.call('HSET', job_key(id), 'status', 'queued', 'enqueued_at', ARGV[6]) end
        redis.call('RPUSH', queue_key(queue), id)
    end
    local due = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    if due and (not first or tonumber(due) < tonumber(first)) then first = due end
end)
return first
"""
)

# holder, milliseconds of its life, then of each job: kind ('waiting' | 'scheduled'), native queue, native id. Returns
# the entries of those that it holds now.
TAKE_OFF: Final = (
    _PRELUDE
    + """
local holder, held = ARGV[4], {}
if not can_hold(holder) then return wrong end
redis.call('SET', alive_key(holder), 1, 'PX', ARGV[5])
for i = 6, #ARGV, 3 do
    local kind, queue, id, score = ARGV[i], ARGV[i + 1], ARGV[i + 2], '-'
    local there = false
    if is_hash(job_key(id)) and fits('list', queue_key(queue)) and fits('zset', scheduled_key(queue)) then
        if kind == 'waiting' then
            local place = redis.call('LPOS', queue_key(queue), id)
            there = place and redis.call('LSET', queue_key(queue), place, mark_of(id))
        else
            score = redis.call('ZSCORE', scheduled_key(queue), id)
            there = score and redis.call('ZREM', scheduled_key(queue), id)
        end
    end
    if there then
        hold(holder, kind, queue, score, id)
        redis.call('HSET', job_key(id), 'anyjob_holder', holder)
        held[#held + 1] = kind .. ' ' .. queue .. ' ' .. score .. ' ' .. id
    end
end
return held
"""
)

# now. Returns how many are waiting, scheduled and running.
COUNT: Final = (
    _PRELUDE
    + """
local waiting, scheduled, running = 0, 0, 0
each_native(function(queue)
    if not fits('zset', scheduled_key(queue)) or not fits('list', queue_key(queue)) then return end
    local all = redis.call('ZCARD', scheduled_key(queue))
    local later = redis.call('ZCOUNT', scheduled_key(queue), '(' .. ARGV[4], '+inf')
    waiting = waiting + redis.call('LLEN', queue_key(queue)) + all - later -- a mark counts for the job it stands for
    scheduled = scheduled + later
end)
for _, holder in ipairs(fits('set', ns .. ':holders') and redis.call('SMEMBERS', ns .. ':holders') or {}) do
    for _, entry in ipairs(fits('list', held_key(holder)) and redis.call('LRANGE', held_key(holder), 0, -1) or {}) do
        local kind, queue, score, id = parse(entry)
        if not fits('list', queue_key(queue)) then kind = 'run' end
        if kind == 'run' then running = running + 1
        elseif kind == 'scheduled' then
            if tonumber(score) > tonumber(ARGV[4]) then scheduled = scheduled + 1 else waiting = waiting + 1 end
        elseif not redis.call('LPOS', queue_key(queue), mark_of(id)) then waiting = waiting + 1 end
    end
end
return {waiting, scheduled, running}
"""
)
