"""Writes the capability matrix, from what the backends declare, into README.md and docs/capabilities.md.

python docs/matrix.py            # rewrite them
python docs/matrix.py --check    # fail if they are stale
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from celery import Celery
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

from anyjob.seams.backend import BackendConfig
from anyjob.settings.loader import load_backend

ROOT: Final = Path(__file__).parents[1]

# One column each: a URL as a user would write it.
COLUMNS: Final = {
    "`memory:`": "memory:",
    "`amqp`": "amqp://localhost",
    "`redis`": "redis://localhost",
    "`rq+redis`": "rq+redis://localhost",
    "`celery+redis`": "celery+redis://localhost",
    "`celery+amqp`": "celery+amqp://localhost",
    "`dramatiq+redis`": "dramatiq+redis://localhost",
    "`dramatiq+amqp`": "dramatiq+amqp://localhost",
}

# An application's own, with the settings that it has by default: they decide what is promised.
celery_redis = Celery("shop", broker="redis://localhost", set_as_current=False)
celery_amqp = Celery("shop", broker="amqp://localhost", set_as_current=False)
dramatiq_redis = RedisBroker(url="redis://localhost")  # type: ignore[no-untyped-call]  # Dramatiq's
dramatiq_amqp = RabbitmqBroker(url="amqp://localhost")
APPLICATIONS: Final = {
    "`celery`, Redis": f"celery://?app={__name__}:celery_redis",
    "`celery`, RabbitMQ": f"celery://?app={__name__}:celery_amqp",
    "`dramatiq`, Redis": f"dramatiq://?broker={__name__}:dramatiq_redis",
    "`dramatiq`, RabbitMQ": f"dramatiq://?broker={__name__}:dramatiq_amqp",
}

# What README shows of it; docs/capabilities.md has it whole.
SHORT: Final = ("priority", "delay", "a taken id is refused", "lists jobs", "runs again after a crash, within")

TABLES: Final = (
    ("README.md", "matrix", COLUMNS, SHORT),
    ("docs/capabilities.md", "matrix", COLUMNS, None),
    ("docs/capabilities.md", "matrix of applications", APPLICATIONS, None),
)


def matrix(columns: Mapping[str, str], titles: Sequence[str] | None = None) -> str:
    """Return the matrix of some backends as a Markdown table."""
    said = [dict(load_backend(BackendConfig(alias="x", url=url)).capabilities.describe()) for url in columns.values()]
    lines = [_line(["", *columns]), _line(["---"] * (len(columns) + 1))]
    lines += [_line([title, *(each[title] for each in said)]) for title in titles or said[0]]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Rewrite all tables, or check them."""
    logging.disable(logging.WARNING)  # what the defaults put at risk
    for name, title, columns, rows in TABLES:
        path = ROOT / name
        begin, end = f"<!-- {title}: python docs/matrix.py -->", "<!-- /matrix -->"
        before, text = path.read_text(encoding="utf-8").split(begin)
        fresh = f"{before}{begin}\n{matrix(columns, rows)}\n{end}{text.partition(end)[2]}"
        if "--check" not in sys.argv:
            path.write_text(fresh, encoding="utf-8")
        elif fresh != path.read_text(encoding="utf-8"):
            sys.exit(f"{path.name} is stale: run python docs/matrix.py")


if __name__ == "__main__":
    main()
