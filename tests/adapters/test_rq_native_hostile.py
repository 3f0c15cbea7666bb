"""What RQ's data may hold to harm who reads it: nothing of it is run, imported or made."""

from __future__ import annotations

import copyreg
import json
import os
import pickle
import struct
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anyjob_rq.native_data import HARMLESS, NativeCall, Unfit, load, read_call


class RunsCode:
    """Pickled, it makes the file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


def call(*args: Any, task: Any = "shop.send", instance: Any = None, kwargs: Any = None) -> bytes:
    return pickle.dumps((task, instance, args, kwargs or {}), protocol=5)


def holding(code: bytes) -> bytes:
    """Return a call whose one argument is what this code of a pickle makes."""
    return b"\x80\x05(\x8c\x09shop.sendN" + code + b"\x85}t."


def named(module: str, name: str) -> bytes:
    return b"".join(b"\x8c" + bytes([len(each)]) + each.encode() for each in (module, name)) + b"\x93"


def hostile() -> Iterator[tuple[str, bytes]]:
    """Yield what has no end, what runs code, and what is broken, by a name for each."""
    endless: list[Any] = []
    endless.append(endless)
    laughs: Any = ["ha"]
    for _ in range(30):
        laughs = [laughs, laughs]
    nested = b"]" * 200_000 + b"a" * 199_999
    yield "holds itself", call(endless)
    yield "a billion of the same", call(laughs)
    yield "nested", holding(nested)
    yield "a memo of 32 GB", holding(b"Nr" + struct.pack("<I", 2**32 - 1))
    yield "a memo by text", holding(b"Np4000000000\n")
    yield "a frame of 8 EB", holding(b"N\x95" + struct.pack("<Q", 2**62))
    yield "bytes of 8 EB", holding(b"\x8e" + struct.pack("<Q", 2**62))
    yield "a bytearray of 8 EB", holding(b"\x96" + struct.pack("<Q", 2**62))
    yield "a bytearray by its size", holding(named("builtins", "bytearray") + b"\x8a\x05\x00\x00\x00\x00\x7f\x85R")
    yield "bytes by their size", holding(named("builtins", "bytes") + b"\x8a\x05\x00\x00\x00\x00\x7f\x85R")
    yield "an extension", holding(b"\x82\x07")
    yield "a persistent id", holding(b"Px\n")
    yield "eval", holding(named("builtins", "eval") + b"\x8c\x031/0\x85R")
    yield "a name in a name", holding(named("datetime", "sys.modules"))
    yield "getattr", holding(named("builtins", "getattr") + named("uuid", "UUID") + b"\x8c\x0b__globals__\x86R")
    yield "a class to be changed", holding(named("uuid", "UUID") + b"N}\x8c\x03hexK\x01s\x86b")
    yield "another to be changed", holding(named("decimal", "Decimal") + b"N}\x8c\x03hexK\x01s\x86b")
    yield "a number of many digits", json.dumps(["shop.send", None, [1], {}]).replace("1", "1" * 9_000).encode()
    yield "brackets", b"[" * 200_000
    yield "a half", call("x" * 100)[:60]
    yield "nothing", b""
    yield "no call", pickle.dumps({"a": 1})
    yield "no name", call(task=None)
    yield "a name of keywords that is none", call(kwargs={1: 2})
    yield "a time zone", holding(named("zoneinfo", "ZoneInfo") + b"\x8c\x0b../../../etc\x85R")


def read(data: bytes) -> NativeCall:
    try:
        return read_call(zlib.compress(data))
    except Unfit as unfit:
        return NativeCall("", obstacle=str(unfit))


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in hostile()])
@pytest.mark.timeout(30)
def test_it_is_told_and_harms_nothing(data: bytes) -> None:
    told = read(data)
    assert told.obstacle is not None
    assert (told.args, told.kwargs) == ((), {})
    assert uuid.UUID(int=1).hex == f"{1:032x}"


def test_nothing_is_run_and_the_call_is_told_all_the_same(tmp_path: Path) -> None:
    for data in (
        call(RunsCode(tmp_path / "run")),
        call(instance=RunsCode(tmp_path / "run")),
        call(kwargs={"a": [RunsCode(tmp_path / "run")]}),
    ):
        told = read_call(zlib.compress(data))
        assert told.task == "shop.send"
        assert told.obstacle is not None
        with pytest.raises(Unfit, match="posix.mkdir"):
            load(data)
    assert not (tmp_path / "run").exists()


def test_an_extension_that_python_remembers_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    copyreg.add_extension(__name__, "RunsCode", 7)
    try:
        pickle.loads(b"\x80\x05\x82\x07.")  # noqa: S301  # now it is in a cache, where no name is asked for
        with pytest.raises(Unfit, match="too strange"):
            load(b"\x80\x05\x82\x07.")
    finally:
        copyreg.remove_extension(__name__, "RunsCode", 7)


def test_a_small_message_that_unpacks_to_gigabytes_is_not_unpacked() -> None:
    unpacked = zlib.compressobj()
    bomb = b"".join(unpacked.compress(bytes(1 << 20)) for _ in range(65)) + unpacked.flush()
    with pytest.raises(Unfit, match="unpacks into more"):
        read_call(bomb)


def test_what_is_not_compressed_is_read_as_rq_does() -> None:
    assert read_call(call(1)).args == [1]


@pytest.mark.parametrize("made", HARMLESS.values())
def test_no_class_of_the_table_can_be_changed_by_a_pickle(made: type) -> None:
    if hasattr(made, "__setstate__"):
        with pytest.raises(TypeError):
            made.__setstate__({})
        return
    with pytest.raises(TypeError, match="immutable"):
        made.anything = 1  # type: ignore[attr-defined]
