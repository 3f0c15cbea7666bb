"""Worlds of a store in files that several processes share: `anyjob worker` runs its jobs, and is killed, in earnest."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anyjob.seams.store import JobStore
from anyjob.stores.store_backend import StoreBackend
from anyjob.testing.conformance.harness import BackendHarness
from anyjob.testing.conformance.processes import ServerWorld

__all__ = ["FileHarness", "FileWorld", "Put"]

Put = Callable[[JobStore, bytes, str], None]
"""Puts raw bytes into a queue of a store, where an envelope would be."""


class FileWorld(ServerWorld):
    """A store in a folder of its own."""

    def __init__(
        self, url: str, folder: Path, settings: Mapping[str, Any], put: Put, found_in: Sequence[Path] = ()
    ) -> None:
        self.found_in = found_in
        self._put = put
        self._store_folder = folder / "store"
        self._store_folder.mkdir()
        super().__init__(url.format(folder=self._store_folder), folder, settings)

    def put(self, raw: bytes, *, queue: str = "default") -> None:
        backend = self.manager.backend()
        assert isinstance(backend, StoreBackend)
        self._put(backend.store, raw, queue)

    def put_hostile(self, path: Path) -> int:
        del path  # nothing but bytes can get into a store
        self.put(b"\x80\x04\x95 no JSON")
        self.put(b"[" * 100_000)
        return 2

    def clear(self) -> None:
        shutil.rmtree(self._store_folder)


class FileHarness(BackendHarness):
    """Opens `FileWorld`s. `url` has `{folder}` where each world's own folder is to be named.

    `put` writes raw bytes into a queue of the store. `entry_point` (`module:function`) is what the scheme of `url`
    stands for, where no installed package says so: the kit's processes find it as if one did, by what is written into
    `site`, an empty folder.
    """

    def __init__(self, url: str, put: Put, site: Path, *, entry_point: str | None = None) -> None:
        self._url = url
        self._put = put
        self._site = site
        self._found_in: Sequence[Path] = ()
        if entry_point is not None:
            self._install(entry_point)

    def open(self, folder: Path, **settings: Any) -> FileWorld:
        return FileWorld(self._url, folder, settings, self._put, self._found_in)

    def unreachable(self, host: str, port: int) -> None:
        return

    def close(self) -> None:
        if self._found_in:
            sys.path.remove(str(self._site))

    def _install(self, entry_point: str) -> None:
        """Make the metadata of a package that names the entry point, and nothing else of one."""
        metadata = self._site / "anyjob_kit_adapter-0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: anyjob-kit-adapter\nVersion: 0\n")
        scheme = self._url.partition(":")[0]
        (metadata / "entry_points.txt").write_text(f"[anyjob.backends]\n{scheme} = {entry_point}\n")
        sys.path.append(str(self._site))
        module = find_spec(entry_point.partition(":")[0].partition(".")[0])
        assert module is not None, f"{entry_point} can't be imported"
        place = next(iter(module.submodule_search_locations or ()), module.origin)
        assert place is not None, f"{entry_point} is in no file"
        self._found_in = (self._site, Path(place).parent)
