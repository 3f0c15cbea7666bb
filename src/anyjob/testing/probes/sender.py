"""Enqueues a probe for each label, and ends as by `kill -9` once all were accepted.

python -m anyjob.testing.probes.sender CONFIG JOURNAL LABEL...
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from anyjob.current import default_registry
from anyjob.settings import load_settings
from anyjob.settings.compose import build
from anyjob.testing.probes.jobs import Probe

__all__: list[str] = []


def _main(config: str, journal: str, *labels: str) -> None:
    settings = load_settings({}, environ={}, directory=Path("/"), config=Path(config))
    if settings is None:
        raise SystemExit(f"{config} names no backend")
    manager = build(settings, registry=default_registry)
    for label in labels:
        manager.enqueue(Probe(journal, label))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _main(*sys.argv[1:])
