"""An application's settings, as Celery has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Settings", "transport_option"]

Settings = Mapping[str, Any]


def transport_option(conf: Settings, name: str, default: Any = None) -> Any:
    """Return one of `broker_transport_options`."""
    return (conf["broker_transport_options"] or {}).get(name, default)
