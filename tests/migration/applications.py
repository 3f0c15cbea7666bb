"""Applications that know nothing of anyjob: their tasks, their worker, and what they send, by their library alone."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from celery import Celery, chain
from dramatiq import Broker, Message
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from migration.pairs import Servers
from redis import Redis
from rq import Queue, Retry, Worker
from rq.suspension import resume, suspend

from anyjob.testing.probes.journal import wait_until

__all__ = ["APPLICATIONS", "REPORT", "SEND_MAIL", "Application", "application_on"]

SEND_MAIL: Final = "shop.tasks.send_mail"
REPORT: Final = "shop.tasks.report"


class Application(ABC):
    """An application on a broker, of which there is one for a test at a time."""

    url: str
    """The backend that reads its queues; `${BROKER_URL}` is its broker's."""
    worker: str
    """The command of its worker."""
    tasks: str | None = None
    """Its module `shop.tasks`, if that is not the page's."""
    transport = "redis"

    def __init__(self, broker_url: str) -> None:
        self.broker_url = broker_url

    def environment(self) -> Mapping[str, str]:
        return {"BROKER_URL": self.broker_url, "TASKS_URL": self.url.replace("${BROKER_URL}", self.broker_url)}

    @abstractmethod
    def send(self, task: str, *args: Any, delay: float = 0.0, tries: int = 0, **kwargs: Any) -> str:
        """Call a task, which has failed so many times; return the id of the message."""

    @abstractmethod
    def send_chain(self, *args: Any) -> object:
        """Call `send_mail`, and `report` when it is done; return the id of the message that is sent now."""

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Have its workers take nothing, if a stop at the wrong moment would cost them what they just took."""
        yield

    def close(self) -> None:
        return


class CeleryApplication(Application):
    url = "celery://?app=shop.tasks:app"
    worker = "celery -A shop.tasks worker"

    def __init__(self, broker_url: str) -> None:
        super().__init__(broker_url)
        self.app = Celery("shop", broker=broker_url, set_as_current=False)

    def send(self, task: str, *args: Any, delay: float = 0.0, tries: int = 0, **kwargs: Any) -> str:
        return str(self.app.send_task(task, args, kwargs, countdown=delay or None, retries=tries).id)

    def send_chain(self, *args: Any) -> object:
        send_mail, report = (self.app.signature(task, args=args, immutable=True) for task in (SEND_MAIL, REPORT))
        return chain(send_mail, report, app=self.app).apply_async().parent.id

    def close(self) -> None:
        self.app.close()


class CeleryAmqpApplication(CeleryApplication):
    transport = "amqp"


class RQApplication(Application):
    url = "rq+${BROKER_URL}"
    worker = "rq worker --with-scheduler default"
    tasks = """
import os

def note(text):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{text}\\n")

def send_mail(number, copies=1):
    note(f"mail {number}")

def report(number):
    note(f"report {number}")
"""

    def __init__(self, broker_url: str) -> None:
        super().__init__(broker_url)
        self._client = Redis.from_url(broker_url)
        self._queue = Queue("default", connection=self._client)

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "RQ_REDIS_URL": self.broker_url}

    def send(self, task: str, *args: Any, delay: float = 0.0, tries: int = 0, **kwargs: Any) -> str:
        retry = Retry(max=3) if tries else None  # it tells how many are left, not how many were
        if delay:
            return self._queue.enqueue_in(timedelta(seconds=delay), task, *args, retry=retry, **kwargs).id
        return self._queue.enqueue(task, *args, retry=retry, **kwargs).id

    def send_chain(self, *args: Any) -> object:
        first = self._queue.enqueue(SEND_MAIL, *args)
        self._queue.enqueue(REPORT, *args, depends_on=first)
        return first.id

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """As docs/coming_from.md says. An idle worker rests after one job more: send on."""
        suspend(self._client)
        try:
            wait_until(self._rests, timeout=60, what="RQ's workers to be suspended")
            yield
        finally:
            resume(self._client)

    def _rests(self) -> bool:
        states = [each.get_state() for each in Worker.all(queue=self._queue)]
        return bool(states) and set(states) == {"suspended"}

    def close(self) -> None:
        self._client.close()


class DramatiqApplication(Application):
    url = "dramatiq://?broker=shop.tasks:broker"
    worker = "dramatiq shop.tasks --processes 1 --threads 2"
    broker_class: type[Any] = RedisBroker
    tasks = """
import os
import dramatiq
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url=os.environ["BROKER_URL"])
dramatiq.set_broker(broker)

def note(text):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{text}\\n")

@dramatiq.actor(actor_name="shop.tasks.send_mail")
def send_mail(number, copies=1):
    note(f"mail {number}")

@dramatiq.actor(actor_name="shop.tasks.report")
def report(number):
    note(f"report {number}")
"""

    def __init__(self, broker_url: str) -> None:
        super().__init__(broker_url)
        self._broker: Broker = self.broker_class(url=broker_url)
        self._broker.declare_queue("default")

    def send(self, task: str, *args: Any, delay: float = 0.0, tries: int = 0, **kwargs: Any) -> str:
        message: Message[Any] = self._message(task, args, kwargs, **({"retries": tries} if tries else {}))
        return self._broker.enqueue(message, delay=int(delay * 1000) or None).message_id

    def send_chain(self, *args: Any) -> object:
        send_mail, report = (self._message(task, args, {}) for task in (SEND_MAIL, REPORT))
        return self._broker.enqueue(send_mail.copy(options={"pipe_target": report.asdict()})).message_id

    def close(self) -> None:
        self._broker.close()

    def _message(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], **options: Any) -> Message[Any]:
        return Message(queue_name="default", actor_name=task, args=tuple(args), kwargs=dict(kwargs), options=options)


class DramatiqAmqpApplication(DramatiqApplication):
    transport = "amqp"
    broker_class = RabbitmqBroker
    tasks = (
        (DramatiqApplication.tasks or "")
        .replace("dramatiq.brokers.redis", "dramatiq.brokers.rabbitmq")
        .replace("RedisBroker", "RabbitmqBroker")
    )


def application_on(system: str, servers: Servers) -> Application:
    """Return the application of that library and transport, on the tests' own server."""
    kind = APPLICATIONS[system]
    url = servers.url(f"any+{kind.transport}").partition("+")[2]
    return kind(re.sub("//$", "/%2F", url))  # so each library's client understands the vhost


APPLICATIONS: Final[Mapping[str, type[Application]]] = {
    "celery-redis": CeleryApplication,
    "celery-amqp": CeleryAmqpApplication,
    "rq": RQApplication,
    "dramatiq-redis": DramatiqApplication,
    "dramatiq-amqp": DramatiqAmqpApplication,
}
