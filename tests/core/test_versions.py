"""Libraries in versions that an adapter isn't made for are refused in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata

import pytest

from anyjob import ConfigurationError
from anyjob.base.versions import check_versions

ASKED_FOR = [
    "msgspec>=0.20",
    "click>=8.2; extra == 'cli'",
    "anyjob[cli]; extra == 'carrier'",
    "pigeon<4,>=2.6; extra == 'carrier'",
    'owl >=1.2.1; extra == "carrier"',
    "packaging; extra == 'carrier'",
    "raven>=9; extra == 'other'",
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    versions = {"packaging": "1", "raven": "1", "click": "1"}  # none of these is asked about

    def version_of(library: str) -> str:
        if library not in versions:
            raise metadata.PackageNotFoundError(library)
        return versions[library]

    monkeypatch.setattr(metadata, "requires", {"anyjob": ASKED_FOR}.get)
    monkeypatch.setattr(metadata, "version", version_of)
    return versions


@pytest.mark.parametrize(
    "there",
    [
        {"pigeon": "2.6"},
        {"pigeon": "2.6.0"},
        {"pigeon": "2.10.3", "owl": "1.2.1"},
        {"pigeon": "3.99.1.post2", "owl": "1.10"},
        {"pigeon": "3.0.0rc1"},
        {"pigeon": "2.6.0b1"},
        {"pigeon": "3.1.dev0+g12345", "owl": "2026.11.28"},
        {},
    ],
    ids=str,
)
def test_what_is_in_range_is_supported(installed: dict[str, str], there: Mapping[str, str]) -> None:
    installed.update(there)
    check_versions("carrier")


@pytest.mark.parametrize("version", ["2.5.9", "2", "1.99", "4", "4.0.0", "4.0.0a1", "10.0", "unknown"])
def test_what_is_not_is_refused_in_one_sentence(installed: dict[str, str], version: str) -> None:
    installed["pigeon"] = version
    with pytest.raises(ConfigurationError) as caught:
        check_versions("carrier")
    assert str(caught.value) == (
        f"anyjob[carrier] supports pigeon >=2.6,<4, and {version} is installed: pip install 'pigeon>=2.6,<4'"
    )


def test_every_fault_is_told_at_once(installed: dict[str, str]) -> None:
    installed.update({"pigeon": "1.0", "owl": "1.2"})
    with pytest.raises(ConfigurationError) as caught:
        check_versions("carrier")
    assert [fault.split()[2] for fault in caught.value.faults] == ["pigeon", "owl"]


@pytest.mark.parametrize("extra", ["celery", "dramatiq", "rq"])
def test_an_adapter_looks_before_it_imports_its_library(extra: str) -> None:
    """In a process of its own: its modules are imported here, or their library is missing."""
    code = f"""
import sys
from importlib import metadata
version = metadata.version
metadata.version = lambda library: "0.1" if library == "{extra}" else version(library)
try:
    import anyjob_{extra}
except Exception as error:
    print(type(error).__name__, error, "{extra}" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15, check=True)
    told = done.stdout
    assert told.startswith(f"ConfigurationError anyjob[{extra}] supports {extra} ")
    assert "and 0.1 is installed: pip install" in told
    assert told.endswith(" False\n")
