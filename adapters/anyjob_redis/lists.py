"""Levels that are lists of ids, each with a hash of messages beside it: as Dramatiq keeps its queues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from anyjob_redis.layout import KEY_OF, Layout
from anyjob_redis.places import CHUNK

__all__ = ["ListLayout"]


_MARK: Final = b"held "

_LISTS: Final = (
    KEY_OF
    + f"local mark = '{_MARK.decode()}'\n"
    + """
local function messages_of(queue, level) return key_of(queue, level) .. '.msgs' end
local function later_of(queue, level) return key_of(queue, level) .. '.later' end
local function level_fits(queue, level)
    return fits('list', key_of(queue, level)) and fits('hash', messages_of(queue, level))
        and fits('zset', later_of(queue, level))
end
local function id_of(item)
    if string.sub(item, 1, #mark) == mark then return string.sub(item, #mark + 1), true end
    return item, false
end
local function is_before(item, due, seq)
    local _, _, _, its_due, its_seq = read((id_of(item)))
    if not its_due then return true end -- it is nobody's
    return tonumber(its_due) < due or tonumber(its_due) == due and tonumber(its_seq) < seq
end
-- Puts an id at its place in the order, which is looked for from the front or from the end.
local function line_up(queue, level, due, seq, id, in_front)
    local list = key_of(queue, level)
    due, seq = tonumber(due), tonumber(seq)
    if in_front then
        for i = 0, 99 do
            local item = redis.call('LINDEX', list, i)
            if not item then return redis.call('RPUSH', list, id) end
            if not is_before(item, due, seq) then return redis.call('LINSERT', list, 'BEFORE', item, id) end
        end
        return redis.call('LPUSH', list, id)
    end
    for i = -1, -100, -1 do
        local item = redis.call('LINDEX', list, i)
        if not item then return redis.call('LPUSH', list, id) end
        if is_before(item, due, seq) then
            if i == -1 then return redis.call('RPUSH', list, id) end
            return redis.call('LINSERT', list, 'AFTER', item, id)
        end
    end
    redis.call('RPUSH', list, id)
end
local function promote(queue, level)
    local later = later_of(queue, level)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', later, '-inf', now, 'LIMIT', 0, 200)) do
        redis.call('ZREM', later, id)
        local state, _, _, due, seq, call, body = read(id)
        if state == 'w' then
            redis.call('HSET', messages_of(queue, level), id, body)
            line_up(queue, level, due, seq, id, false)
            write(id, 'w', queue, level, due, seq, call, '', '')
        end
    end
end
local function put_waiting(queue, level, due, seq, id, message, back)
    if tonumber(due) > tonumber(now) then
        redis.call('ZADD', later_of(queue, level), due, id)
        return message
    end
    local place = back and redis.call('LPOS', key_of(queue, level), mark .. id)
    redis.call('HSET', messages_of(queue, level), id, message)
    if place then redis.call('LSET', key_of(queue, level), place, id)
    else
        promote(queue, level)
        line_up(queue, level, due, seq, id, back)
    end
    return ''
end
local function first_due(queue, level)
    if not level_fits(queue, level) then return end
    promote(queue, level)
    while true do
        local item = redis.call('LINDEX', key_of(queue, level), 0)
        if not item then return end
        local id, is_mark = id_of(item)
        if not is_mark then
            local _, _, _, due = read(id)
            return id, due or '0'
        end
        redis.call('LPOP', key_of(queue, level)) -- what is held goes back to the front
    end
end
local function message_of(queue, level, id)
    local message = redis.call('HGET', messages_of(queue, level), id)
    if message then redis.call('HDEL', messages_of(queue, level), id) end
    return message or nil
end
local function pop_waiting(queue, level, first)
    redis.call('LPOP', key_of(queue, level))
    return first, message_of(queue, level, first)
end
local function remove_waiting(queue, level, due, seq, id)
    if redis.call('ZREM', later_of(queue, level), id) == 1 then return true end
    local place = redis.call('LPOS', key_of(queue, level), id)
    if not place then return false end
    redis.call('LSET', key_of(queue, level), place, mark .. id)
    return true, message_of(queue, level, id)
end
local function forget_held(queue, level, id)
    if level_fits(queue, level) then redis.call('LREM', key_of(queue, level), 1, mark .. id) end
end
local function earliest(queue, level)
    local first, due = first_due(queue, level)
    return first and due or redis.call('ZRANGE', later_of(queue, level), 0, 0, 'WITHSCORES')[2]
end
local function count_waiting(queue, level, by)
    local later = redis.call('ZCOUNT', later_of(queue, level), '(' .. by, '+inf')
    return redis.call('LLEN', key_of(queue, level)) + redis.call('ZCARD', later_of(queue, level)) - later, later
end
local function is_counted(queue, level, id)
    return level_fits(queue, level) and redis.call('LPOS', key_of(queue, level), mark .. id) ~= false
end
"""
)


class ListLayout(Layout):
    """A list of ids, the hash `<list>.msgs` of messages, and the sorted set `<list>.later` of jobs that are due later.

    A job that is due later goes to its list when a worker looks at its level. A placeholder stands in a list for an id
    that an operator holds. A job that goes back, or that is sent late, gets its place among the next hundred: with more
    than that in between, it is in front, or behind.
    """

    lua = _LISTS

    def walk(self, client: Any, root: str, queue: str, level: str) -> Iterator[str]:
        key, start = self.key(root, queue, level), 0
        while chunk := client.lrange(key, start, start + CHUNK - 1):
            yield from (each.decode("utf-8", "replace") for each in chunk if not each.startswith(_MARK))
            start += len(chunk)
        start = 0
        while chunk := client.zrange(f"{key}.later", start, start + CHUNK - 1):
            yield from (each.decode("utf-8", "replace") for each in chunk)
            start += len(chunk)

    def messages(self, client: Any, root: str, waiting: Sequence[tuple[bytes, str, str]]) -> Sequence[bytes | None]:
        found: dict[bytes, bytes | None] = {}
        for (queue, level), jobs in groupby(sorted(waiting, key=lambda job: job[1:]), key=lambda job: job[1:]):
            ids = [job_id for job_id, _, _ in jobs]
            messages = client.hmget(f"{self.key(root, queue, level)}.msgs", ids)
            found.update(zip(ids, messages, strict=True))
        return [found[job_id] for job_id, _, _ in waiting]
