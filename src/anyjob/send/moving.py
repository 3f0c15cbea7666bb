"""Makes the migrations of a manager: from backend to backend, and from a job library's own queues."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from anyjob.define.configuration import JobConfiguration
from anyjob.migration import JobMigration, MigrationOptions, MigrationReport, NativeReader, NativeSource
from anyjob.seams.backend import JobBackend
from anyjob.send.preparing import JobPreparer
from anyjob.send.wiring import JobWiring

__all__ = ["make_adoption", "make_migration"]

Progress = Callable[[MigrationReport], None]


def make_migration(
    wiring: JobWiring, source: str, destination: str, options: MigrationOptions | None, progress: Progress
) -> JobMigration:
    """Return a migration, not begun; raises as `JobManager.migration`."""
    return _between(wiring, (source, wiring.backends[source]), destination, options, progress)


def make_adoption(
    wiring: JobWiring,
    preparer: JobPreparer,
    source: str,
    tasks: Mapping[str, JobConfiguration],
    destination: str,
    options: MigrationOptions | None,
    queues: Collection[str] | None,
    progress: Progress,
) -> JobMigration:
    """Return a migration of native messages, not begun; raises as `JobManager.adoption`."""
    reader = NativeReader(tasks, preparer.at(wiring.clock), wiring.clock)
    inspector = wiring.backends[source].native_inspector(reader, queues)
    return _between(wiring, (source, NativeSource(inspector)), destination, options, progress)


def _between(
    wiring: JobWiring,
    source: tuple[str, JobBackend | NativeSource],
    destination: str,
    options: MigrationOptions | None,
    progress: Progress,
) -> JobMigration:
    return JobMigration(
        source,
        (destination, wiring.backends[destination]),
        options or MigrationOptions(),
        clock=wiring.clock,
        refuse=lambda envelope: wiring.router.refuse_unknown_queue(destination, envelope.queue),
        progress=progress,
    )
