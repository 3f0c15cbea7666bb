"""Runs adapters' Lua scripts: those of workers on a full server, too. Each script checks all before it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError

__all__ = ["FITS", "SLICE", "register", "run_each", "run_in_slices"]

SLICE: Final = 200
"""How many messages a script moves at a time: it blocks the server for a few milliseconds."""


def register(client: Redis, text: str, *, drains: str | None = None) -> Script:
    """Return a script that runs `text`.

    `drains`: the prefix of the keys of the jobs that it removes, moves or ends. Such a script also runs on a server
    that is full (`maxmemory` reached, nothing evicted): otherwise no job could leave it.
    """
    # Redis refuses no write of a script whose first write needs no memory: EVAL's manual promises that. (A
    # flag, `allow-oom`, says the same since Redis 7.)
    return client.register_script(text if drains is None else f"redis.call('DEL', '{drains}:nothing')\n{text}")


def run_each(
    client: Redis, script: Script, calls: Iterable[Sequence[Any]], *, keys: Sequence[str] = ()
) -> Sequence[bool]:
    """Run a script once for the arguments of each call, in one round trip; return whether each returned 1."""
    # Not by the script object: in a pipeline that asks the server first whether it knows the script, each time.
    every = list(calls)
    if len(every) == 1:
        return [bool(script(keys, every[0]))]
    with client.pipeline(transaction=False) as pipe:
        for args in every:
            pipe.evalsha(script.sha, len(keys), *keys, *args)
        answers = pipe.execute(raise_on_error=False)
    return [bool(_answer(each, script, keys, args)) for each, args in zip(answers, every, strict=True)]


def _answer(answer: Any, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
    if isinstance(answer, NoScriptError):
        return script(keys, args)
    if isinstance(answer, Exception):
        raise answer
    return answer


def run_in_slices(run: Callable[[int], Sequence[Any]]) -> list[bytes]:
    """Run a script again and again until it has no more to do; return the ids that it returned.

    Its argument is how many messages it may move; it returns whether there are more (0 or 1), and then the ids.
    """
    ids: list[bytes] = []
    more = 1
    while more:
        more, *told = run(SLICE)
        ids += told
    return ids


FITS: Final = """
local wrong
local known = {}
local size_of = {list = 'LLEN', hash = 'HLEN', set = 'SCARD', zset = 'ZCARD', string = 'STRLEN'}
local function fits(kind, key)
    if known[key] == kind then return true end
    if type(redis.pcall(size_of[kind], key)) == 'number' then -- in a third of the time of TYPE
        known[key] = kind
        return true
    end
    wrong = redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. redis.call('TYPE', key).ok .. ', and no ' .. kind)
    return false
end
-- Runs a command that is the check as well: one that reads, or the first of all that write.
local function try(kind, key, command, ...)
    local told = redis.pcall(command, key, ...)
    if type(told) ~= 'table' or not told.err then return told end
    if fits(kind, key) then wrong = told end
end
local noted = {}
local function note_queue(key, name)
    if not noted[name] then try('set', key, 'SADD', name) end
    noted[name] = true
end
"""
"""Lua for an adapter's scripts: `fits(kind, key)` tells whether commands for a `kind` of value work on `key`.

Redis does not roll back a script that fails in its middle. So each checks all keys that it will touch before it writes,
and then leaves out those that don't fit, or ends with `if wrong then return wrong end`.
"""
