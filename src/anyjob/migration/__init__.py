"""Moves jobs that wait from one backend to another."""

from anyjob.migration.adoption import NativeReader, NativeSource
from anyjob.migration.mover import JobMigration, MigrationOptions
from anyjob.migration.report import MigrationError, MigrationReport, MovedGroup

__all__ = [
    "JobMigration",
    "MigrationError",
    "MigrationOptions",
    "MigrationReport",
    "MovedGroup",
    "NativeReader",
    "NativeSource",
]
