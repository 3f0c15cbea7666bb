"""The folder passes the conformance kit, which takes some minutes.

pip install pytest
pytest examples/05_write_an_adapter
"""

from pathlib import Path

import pytest
from folder_store import FolderStore

from anyjob.extend import Clock, JobStore
from anyjob.testing.conformance import BackendConformance, BackendHarness, FileHarness, StoreConformance


class TestFolderStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _in(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_store(self, clock: Clock) -> JobStore:
        return FolderStore(self.folder / "jobs", clock)


class TestFolderBackend(BackendConformance):
    """With `anyjob worker` in processes of their own, as users run it."""

    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        site = tmp_path_factory.mktemp("site")
        return FileHarness("folder:{folder}", put, site, entry_point="folder_store:folder_backend")


def put(store: JobStore, raw: bytes, queue: str) -> None:
    """Put frames that are no envelopes where envelopes wait."""
    assert isinstance(store, FolderStore)
    with store._lock():
        number = store._next_number()
        (store._folder / "free" / f"80.{0:020}.{number:012}.{queue}.raw-{number}").write_bytes(raw)
