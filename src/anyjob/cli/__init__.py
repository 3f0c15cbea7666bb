"""The command line. Without its libraries the command says what to install."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from click import Group

__all__ = ["load", "main"]


def main() -> None:
    """Run the `anyjob` command."""
    try:
        import click  # noqa: F401  # only whether it is there
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        sys.exit(f"The anyjob command needs {error.name}. Run: pip install 'anyjob[cli]'")
    load()()


def load() -> Group:
    """Return the command with all its commands."""
    from anyjob.cli.adopt import adopt
    from anyjob.cli.commands import cli
    from anyjob.cli.migrate import migrate

    cli.add_command(migrate)
    cli.add_command(adopt)
    return cli
