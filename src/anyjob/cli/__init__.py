"""The command line. Without its libraries the command says what to install."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the `anyjob` command."""
    try:
        import click  # noqa: F401  # only whether it is there
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        sys.exit(f"The anyjob command needs {error.name}. Run: pip install 'anyjob[cli]'")
    from anyjob.cli.commands import cli
    from anyjob.cli.migrate import migrate

    cli.add_command(migrate)
    cli()
