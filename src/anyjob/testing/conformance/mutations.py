"""Envelopes that nobody would send: one right one, changed in every way that we thought of, each with its fate."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final

from msgspec import Struct

__all__ = ["Fate", "Mutant", "mutations"]


class Fate(Enum):
    """The fate of a mutated envelope."""

    PARKED = "parked"
    """It can't be read, or not as a job of ours."""
    RUNS = "runs"
    """The change is harmless."""
    STAYS = "stays"
    """It is for later: neither run nor parked."""


class Mutant(Struct, frozen=True):
    """One changed envelope. Whatever can carry it holds `mark`, which no other one holds."""

    mark: str
    what: str
    """Names the change in a failure's message."""
    raw: bytes
    fate: Fate


_MEGABYTE: Final = 1_000_000
_DEEP: Final = "[" * 100_000 + "]" * 100_000

# Each field: JSON texts that it must not hold. `NaN` is none, and nothing here may be read as if it were.
_WRONG: Final[Mapping[str, Sequence[str]]] = {
    "v": ("null", '"1"', "0", "-1", "2", "1e300", "1" * 400, "true", "[1]", "NaN"),
    "id": ("null", "7", '""', '"../../etc/passwd"', '".*"', '"a b"', '"a\\nb"', '"\\u0000"', f'"{"x" * 65}"', '"é"'),
    "name": ("null", "7", '""', "[]", "{}", f'"{"n" * 129}"', '"\\ud800"', f'"{"n" * _MEGABYTE}"', '"\x00\xff"'),
    "args": ("null", "7", '"text"', "[]", "{}", "NaN", _DEEP, '{"journal":1,"label":"x"}', '{"journal":"\\ud800"}'),
    "queue": ("null", "7", '""', '"A"', '"a:b"', '"a*"', '"../x"', '"\\u0000"', f'"{"q" * 64}"', '"a\\n"'),
    "priority": ("null", '"15"', "0", "-5", "7", "15.5", "1e300", "true", "[]", "1" * 400),
    "created_at": ("null", "0", '""', '"now"', '"2026-01-01T00:00:00"', '"2026-13-01T00:00:00Z"', "[]", "-1e300"),
    "first_due_at": ("null", "0", '"0000-01-01T00:00:00Z"', '"2026-01-01T25:00:00Z"', "{}", "NaN"),
    "due_at": ("0", '""', '"soon"', '"2026-01-01T00:00:00"', '"10000-01-01T00:00:00Z"', "1e300", "Infinity", "[]"),
    "try_count": ("null", "-1", '"0"', "1.5", "1000001", "1" * 400, "NaN", "true"),
    "last_try_at": ("0", '"yesterday"', '"2026-01-01"', "{}"),
    "last_error": ("0", "[]", '"\\ud800"', "true"),
    "lost_count": ("null", "-1", "1.5", "1000001", "1" * 400, '"0"', "1000000", "6"),
    "headers": ("null", "[]", '"x"', '{"a":1}', '{"a":null}', '{"a":{"b":"c"}}', '{"a":"\\ud800"}', "7"),
}

# Each field: JSON texts that are unusual, and right.
_RIGHT: Final[Mapping[str, Sequence[str]]] = {
    "queue": ('"b"', '"a"'),
    "priority": ("5", "25"),
    "created_at": ('"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59.999999Z"', '"2026-01-01T00:00:00+14:00"'),
    "first_due_at": ('"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59.999999Z"'),
    "due_at": ("null", '"0001-01-01T00:00:00Z"', '"1969-12-31T23:59:59Z"'),
    "try_count": ("7", "999999"),
    "last_try_at": ("null", '"9999-12-31T23:59:59Z"'),
    "last_error": ("null", '"\\u0000\\n%s{}"', f'"{"e" * 10_000}"'),
    "lost_count": ("1", "5"),
    "headers": (
        '{"anyjob-deferrals":"99999999999999999999"}',
        '{"anyjob-deferrals":"-1","x":"\\u0000\\n"}',
        '{"anyjob-deferrals":"NaN"}',
        '{"anyjob-args":"99999999999999999999"}',
        '{"anyjob-args":"\\u0661"}',
        '{"anyjob-unheard-of":"x"}',
        f'{{"x":"{"h" * _MEGABYTE}"}}',
    ),
}

_UNKNOWN_NAMES: Final = ('"os.system"', '"a\\nb: [CRITICAL] x"', '"\\u0000"', '"%s{0}$(id)"', '"celery.chord_unlock"')

_NO_ENVELOPES: Final = (b"null", b"true", b"0", b"-1e400", b'"text"', b"[]", b"[[[[]]]]", b"{}", b'{"v":1}', b'{"":{}}')


def mutations(right: Mapping[str, Any], seed: str) -> Iterator[Mutant]:
    """Yield about 180 mutants of an envelope, `right`: of its JSON, as data. `seed` chooses where it is cut and hurt.

    Each has an id and a mark of its own; only the envelope's `id` and the mark differ where it is said to run.
    """
    marked = ((f"hostile-{number:03d}", *each) for number, each in enumerate(_texts(right, random.Random(seed))))
    for mark, what, text, fate in marked:
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        yield Mutant(mark, what, raw.replace(_MARK.encode(), mark.encode()), fate)


_MARK: Final = "hostile-mark"

_Text = tuple[str, str | bytes, Fate]


def _texts(right: Mapping[str, Any], dice: random.Random) -> Iterator[_Text]:
    fields = {"mark": json.dumps(_MARK), **{name: json.dumps(value) for name, value in right.items()}}
    fields["id"] = json.dumps(_MARK)
    for raw in _NO_ENVELOPES:
        yield f"{raw!r}", raw, Fate.PARKED
    for table, fate in ((_WRONG, Fate.PARKED), (_RIGHT, Fate.RUNS)):
        for field, values in table.items():
            for value in values:
                yield f"{field} = {value[:60]}", _object({**fields, field: value}), fate
    for name in _UNKNOWN_NAMES:
        yield f"name = {name}", _object({**fields, "name": name}), Fate.PARKED
    later = {**fields, "due_at": '"2999-01-01T00:00:00Z"'}
    yield "due in 2999", _object(later), Fate.STAYS
    yield from _of_shape(fields, dice)


def _of_shape(fields: Mapping[str, str], dice: random.Random) -> Iterator[_Text]:
    whole = _object(fields)
    required = ("v", "id", "name", "args", "queue", "priority", "created_at", "first_due_at")
    for field in required:
        yield f"without {field}", _object({name: text for name, text in fields.items() if name != field}), Fate.PARKED
    for field in dice.sample(required, 4):
        renamed = {(name.upper() if name == field else name): text for name, text in fields.items()}
        yield f"{field} in capitals", _object(renamed), Fate.PARKED
    for cut in sorted(dice.sample(range(40, len(whole) - 1), 8)):
        yield f"cut at {cut}", whole[:cut], Fate.PARKED
    yield "twice", whole + whole, Fate.PARKED
    yield "in a list", f"[{whole}]", Fate.PARKED
    yield "as text", json.dumps(whole), Fate.PARKED
    yield "closes its frame", whole + '], {}, {"callbacks": [{"task": "os.system"}]}]', Fate.PARKED
    yield "a comma too many", whole[:-1] + ",}", Fate.PARKED
    yield "with a byte order mark", b"\xef\xbb\xbf" + whole.encode(), Fate.PARKED
    yield "in UTF-16", whole.encode("utf-16"), Fate.PARKED
    yield "in single quotes", whole.replace('"', "'"), Fate.PARKED
    yield "with NUL behind it", whole.encode() + b"\x00", Fate.PARKED
    yield "of another version, twice said", whole[:-1] + ',"v":99}', Fate.PARKED
    yield "of another version, with what comes with it", whole[:-1] + ',"v":3,"args":{"$ref":"x"}}', Fate.PARKED
    yield "with a field twice", whole[:-1] + ',"priority":5}', Fate.RUNS
    yield "with fields of tomorrow", whole[:-1] + ',"since_tomorrow":[1,{"a":null}],"id2":"x"}', Fate.RUNS
    yield "with a field of a megabyte", whole[:-1] + f',"more":"{"m" * _MEGABYTE}"}}', Fate.RUNS
    yield "in white space", "\n\t " + whole.replace('","', '" ,\r\n "') + " ", Fate.RUNS
    yield "backwards", _object(dict(reversed([*fields.items()]))), Fate.RUNS
    yield "with a depth of fifty", whole[:-1] + f',"more":{"[" * 50 + "]" * 50}}}', Fate.RUNS


def _object(fields: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in fields.items()) + "}"
