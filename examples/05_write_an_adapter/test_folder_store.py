"""The folder passes the conformance kit, which takes some minutes.

pip install pytest
pytest examples/05_write_an_adapter
"""

from dataclasses import replace
from pathlib import Path

import pytest
from folder_store import FolderStore, folder_backend

from anyjob import Clock, JobStore, StoreBackend
from anyjob.seams.backend import BackendConfig
from anyjob.testing.conformance import BackendConformance, BackendHarness, InProcessHarness, StoreConformance


class TestFolderStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def _in(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_store(self, clock: Clock) -> JobStore:
        return FolderStore(self.folder / "jobs", clock)


class TestFolderBackend(BackendConformance):
    @classmethod
    def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
        def make(config: BackendConfig) -> StoreBackend:
            return folder_backend(replace(config, url=f"folder:{tmp_path_factory.mktemp('jobs')}"))

        def put(store: JobStore, raw: bytes, queue: str) -> None:
            """Put what no envelope could be where one would wait."""
            assert isinstance(store, FolderStore)
            number = store._next_number()
            (store._folder / "free" / f"80.0.{number:012}.{queue}.raw-{number}").write_bytes(raw)

        return InProcessHarness(make, put)
