"""Stores in files that break a promise which only processes can see broken. test_kit.py runs this file."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "examples" / "05_write_an_adapter"))

from folder_store import FolderStore, folder_backend
from test_folder_store import put

from anyjob import JobEnvelope
from anyjob.extend import StoreBackend
from anyjob.seams.backend import BackendConfig
from anyjob.testing.conformance import BackendConformance, BackendHarness, FileHarness


class WritesAtTheEnd(FolderStore):
    """Takes jobs, and writes them when its process ends in order."""

    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        atexit.register(super().insert, envelopes, once=once)


def _backend(store: type[FolderStore]) -> Callable[[BackendConfig], StoreBackend]:
    def make(config: BackendConfig) -> StoreBackend:
        declared = folder_backend(config).capabilities
        return StoreBackend(store(Path(config.url.partition(":")[2]), config.clock), declared, lease=config.lease)

    return make


writes_at_the_end = _backend(WritesAtTheEnd)

FOLDERS_FOUND_BY: Mapping[str, str] = {
    "writes_at_the_end": "test_what_was_accepted_outlives_its_sender",
}
"""The test that is about the promise each of these entry points breaks."""


def _suite(entry_point: str) -> type[BackendConformance]:
    class Suite(BackendConformance):
        @classmethod
        def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
            return FileHarness("folder:{folder}", put, tmp_path_factory.mktemp("site"), entry_point=entry_point)

    return Suite


TestFaithful = _suite("folder_store:folder_backend")
globals().update({f"Test{name}": _suite(f"conformance.folder_mutants:{name}") for name in FOLDERS_FOUND_BY})
