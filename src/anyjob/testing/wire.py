"""A snapshot of the form of every job's messages: a test that fails before a deploy breaks the queued ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from anyjob.current import default_registry
from anyjob.define.configuration import JobConfiguration
from anyjob.define.registry import JobRegistry
from anyjob.define.signature import JobFunction
from anyjob.testing.narrowing import narrowings
from anyjob.testing.schema import schema_of

__all__ = ["assert_wire_unbroken"]

Entry = Mapping[str, Any]


def assert_wire_unbroken(
    path: str | Path, *, registry: JobRegistry | None = None, packages: Iterable[str] = ()
) -> None:
    """Claim that this code can run what the code of the snapshot at `path` enqueued; bring the snapshot up to date.

    It holds each job's names, the JSON schema of its arguments and their version. A job that is gone, a field that is
    gone, new without a default or of a narrower type fails, unless a step of `upgrades` leads away from the version in
    the snapshot. A compatible change is written down; with `CI` set in the environment it fails instead, because the
    file had to be committed. `packages` are those whose jobs count (as ["shop"], to leave out those of tests); default
    is all in `registry`, which is by default the default one. Import the jobs first: `get_manager().import_jobs()`.
    """
    __tracebackhide__ = True
    path, registry = Path(path), registry or default_registry
    known: dict[str, Entry] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    faults = [f"  {name}: {fault}" for name, entry in known.items() for fault in _faults(entry, registry.find(name))]
    if faults:
        raise AssertionError("\n".join(["Jobs that are queued already would break:", *faults, _MEND.format(path.name)]))
    chosen = tuple(packages)
    entries = {name: _entry(each) for name, each in registry.names.items() if name in known or _is_in(each, chosen)}
    if entries == known:
        return
    if os.environ.get("CI", "").lower() in ("1", "true"):
        changed = sorted(name for name in {*entries, *known} if entries.get(name) != known.get(name))
        raise AssertionError(f"{path} is not up to date ({', '.join(changed)}). Run this test and commit the file.")
    path.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")


_MEND: Final = (
    "Give a new field a default, keep an old name by aliases=[...], leave a type as wide as it was, or give the job "
    "a step: upgrades = {{1: from_old_to_new}}. When no such job can be queued any more, delete its entry in {}."
)


def _faults(entry: Entry, job: JobConfiguration | None) -> Iterator[str]:
    if job is None:
        yield "no job has this name or alias"
        return
    version = entry["version"]
    if version > job.args_version:
        yield f"its arguments had version {version}, and have {job.args_version}: steps of `upgrades` are gone"
    elif version == job.args_version:
        yield from narrowings(entry["args"], schema_of(job.args_type))
    elif version + 1 not in job.upgrades:
        yield f"the step from version {version} to {version + 1} is gone from `upgrades`"


def _entry(job: JobConfiguration) -> dict[str, Any]:
    return {"version": job.args_version, "args": schema_of(job.args_type)}


def _is_in(job: JobConfiguration, packages: tuple[str, ...]) -> bool:
    defined = job.job.function if isinstance(job.job, JobFunction) else job.job
    return not packages or any(f"{defined.__module__}.".startswith(f"{package}.") for package in packages)
