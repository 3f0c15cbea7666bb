"""What is shipped: names, types, entry points, dependencies."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Final, NoReturn

import pytest

import anyjob
from anyjob import extend
from anyjob.base.errors import BackendNotInstalledError
from anyjob.base.versions import check_versions
from anyjob.seams.backend import BackendConfig
from anyjob.settings.loader import GROUP, installed_schemes, load_backend

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
RANGES = {extra: [each for each in EXTRAS[extra] if "<" in each] for extra in ("celery", "dramatiq", "rq")}
PAGES = {**RANGES, "rabbitmq": EXTRAS["amqp"][1:], "redis": EXTRAS["redis"][1:]}

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(anyjob.__path__, "anyjob.")
    if name != "anyjob.__main__" and not name.startswith("anyjob.cli.")  # which need libraries of their own
]


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(anyjob.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("module", ["anyjob", *MODULES])
def test_every_public_name_exists(module: str) -> None:
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", ())  # the packages that only group modules have none
    assert len(set(names)) == len(names)
    for name in names:
        assert hasattr(loaded, name)


def test_nothing_public_is_left_out_of_the_package() -> None:
    named = {name for name in vars(anyjob) if name.isidentifier() and not name.startswith("_")}  # not pytest's own
    submodules = {name.split(".")[1] for name in MODULES} | {"cli"}
    assert named - submodules == set(anyjob.__all__) - submodules


def test_the_names_for_authors_are_those_that_authors_use() -> None:
    """Adapters and the example of one import from `anyjob.extend` alone, and it has nothing that nobody uses."""
    taken, elsewhere = set(), set()
    for path in (*(ROOT / "adapters").rglob("*.py"), *(ROOT / "examples" / "05_write_an_adapter").rglob("*.py")):
        for module, names in _imports_of_anyjob(path):
            if module == "anyjob.extend":
                taken |= names
            elif (module, path.name) != ("anyjob.current", "app.py") and not module.startswith("anyjob.testing"):
                elsewhere.add(f"{path.relative_to(ROOT)}: {module}")
    page = (ROOT / "docs" / "write_an_adapter.md").read_text(encoding="utf-8")
    named = {word for code in re.findall(r"```.*?```|`[^`]+`", page, re.DOTALL) for word in re.findall(r"\w+", code)}
    assert not elsewhere
    assert taken <= set(extend.__all__) <= taken | named


def _imports_of_anyjob(path: Path) -> Iterator[tuple[str, set[str]]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "anyjob":
            yield str(node.module), {each.name for each in node.names}
        elif isinstance(node, ast.Import):
            yield from ((each.name, set()) for each in node.names if each.name.partition(".")[0] == "anyjob")


def test_all_errors_have_one_root_and_end_in_error() -> None:
    from anyjob.base import errors

    for name in errors.__all__:
        assert name.endswith("Error")
        assert issubclass(getattr(errors, name), anyjob.AnyjobError)
        assert getattr(anyjob, name) is getattr(errors, name)


def test_the_core_depends_on_msgspec_alone() -> None:
    needed = importlib.metadata.requires("anyjob") or []
    assert [each for each in needed if "extra ==" not in each] == ["msgspec>=0.20"]


def test_the_classifiers_name_the_pythons_that_are_run() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: 3\.(\d+)", " ".join(project["classifiers"]))
    run = re.search(r"py3\{([\d,]+)\}", (root / "tox.ini").read_text(encoding="utf-8"))
    assert run is not None
    assert named == run[1].split(",")
    assert project["requires-python"] == f">=3.{named[0]}"


def test_backends_are_found_by_entry_points() -> None:
    schemes = installed_schemes()
    assert {"memory", "rq+redis", "rq+rediss", "rq+unix"} <= set(schemes)
    for entry_point in schemes.values():
        library = entry_point.module.partition(".")[0].removeprefix("anyjob_")  # of an adapter: it may be missing
        if importlib.util.find_spec(library):
            assert callable(entry_point.load())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_the_versions_that_its_extra_asks_for(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert PAGES[name]
    for each in PAGES[name]:
        assert f"`{each}`" in page


def test_the_oldest_that_is_tested_is_the_oldest_that_is_supported() -> None:
    floors = {tuple(re.split(">=|,<", each)[:2]) for each in chain(*RANGES.values())}
    pins = [line.split("==") for line in (ROOT / "tests" / "oldest.txt").read_text().splitlines() if "==" in line]
    assert {(library, _shortened(version)) for library, version in pins} == {
        (library, _shortened(version)) for library, version in floors
    }


def _shortened(version: str) -> str:
    return version.removesuffix(".0")


_URLS: Final = {
    "memory:": None,
    "redis://localhost": "redis",
    "rq+redis://localhost": "rq",
    "celery+amqp://localhost": "celery",
    "dramatiq+redis://localhost": "dramatiq",
}


def test_a_frozen_application_without_metadata_finds_the_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {each.name: each.value for each in metadata.distribution("anyjob").entry_points if each.group == GROUP}

    def missing(name: str) -> NoReturn:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "entry_points", lambda **_: ())
    for function in ("requires", "version", "distribution"):
        monkeypatch.setattr(metadata, function, missing)
    assert {each.name: each.value for each in installed_schemes().values()} == theirs
    check_versions("rq")
    for url, library in _URLS.items():
        if library is None or importlib.util.find_spec(library):
            load_backend(BackendConfig(alias="main", url=url))
    monkeypatch.setitem(sys.modules, "anyjob_rq", None)
    with pytest.raises(BackendNotInstalledError, match="no package anyjob_rq. A frozen application"):
        load_backend(BackendConfig(alias="main", url="rq+redis://localhost"))
