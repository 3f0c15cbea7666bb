"""Runs jobs on Celery: over RabbitMQ, over Redis, or in an application of yours."""

from anyjob_celery.backend import CeleryBackend
from anyjob_celery.on_amqp import AmqpCeleryBackend

__all__ = ["AmqpCeleryBackend", "CeleryBackend"]
