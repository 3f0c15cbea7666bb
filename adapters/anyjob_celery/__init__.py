"""Runs jobs on Celery: over RabbitMQ, over Redis, or in an application of yours."""

from anyjob.extend import check_versions

check_versions("celery")

from anyjob_celery.backend import CeleryBackend, OwnCeleryBackend
from anyjob_celery.on_amqp import AmqpCeleryBackend
from anyjob_celery.on_redis import RedisCeleryBackend

__all__ = ["AmqpCeleryBackend", "CeleryBackend", "OwnCeleryBackend", "RedisCeleryBackend"]
