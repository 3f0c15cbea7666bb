"""The application for Celery's own commands: `celery -A anyjob_celery.app worker`, `... inspect`, `... flower`."""

from __future__ import annotations

import sys

from anyjob.current import load_served
from anyjob_celery.backend import CeleryBackend

__all__ = ["app"]

if "" not in sys.path:
    sys.path.insert(0, "")  # the application's modules are in this folder, as for `python -m`

_manager, _backend = load_served(CeleryBackend)  # type: ignore[type-abstract]  # it makes none
app = _backend.application(_manager.executor, stop_timeout=_manager.worker_options.stops_within)
