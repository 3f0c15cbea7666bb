"""How an application sets up its log, imported like its jobs: JSON, a line for each record (docs/logging.md)."""

from __future__ import annotations

import json
import logging
import logging.config
from typing import Final

__all__ = ["LOGGING", "JsonFormatter"]


class JsonFormatter(logging.Formatter):
    """Writes what anyjob tells of a job, and the message."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {key: value for key, value in vars(record).items() if key.startswith("job_")}
        return json.dumps({"level": record.levelname, "message": record.getMessage(), **facts})


LOGGING: Final = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonFormatter}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
}

logging.config.dictConfig(LOGGING)
