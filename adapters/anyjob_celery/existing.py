"""Jobs in a Celery application of the user's own: our task is added to it, and nothing of theirs is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import msgspec
from celery import Celery
from kombu.exceptions import KombuError

from anyjob.backend import BackendConfig, send_one_by_one
from anyjob.capabilities import BulkAtomicity, Capabilities, Quality
from anyjob.envelope import JobEnvelope, JobPriority, write_envelope
from anyjob.errors import ConfigurationError, InvalidOptionError
from anyjob.executor import JobExecutor
from anyjob.log import JobLogger
from anyjob.shelf import JobShelf
from anyjob.store import JobState
from anyjob_amqp import LEVELS, AmqpAddress, AmqpNames, AmqpShelf, Links, Publisher
from anyjob_celery.backend import CeleryBackend
from anyjob_celery.fence import IS_HELD
from anyjob_celery.frame import TASK, headers_of
from anyjob_celery.safety import Settings, risks_of, transport_option
from anyjob_celery.server import risks_of_existing
from anyjob_celery.stopping import StopFlag, TellJobs
from anyjob_celery.task import JobTask
from anyjob_redis import ParkedJobs, RedisShelf, connect

__all__ = ["ExistingCeleryBackend"]

logger = JobLogger("anyjob.worker")


class ExistingCeleryBackend(CeleryBackend):
    """An application of the user's own: `celery://?app=module:attribute`.

    Jobs are sent by its own `send_task` and run by its own workers, beside its tasks. Its settings decide what is
    promised: what they put at risk is logged, setting by setting (`risks`), and what they don't give is not declared.
    Delays are Celery's own countdown. `default` is the application's default queue, any other its queue of that name.

    A worker knows our task if it imports `anyjob_celery.app`: `anyjob worker` does, others by their setting `imports`.
    """

    def __init__(self, config: BackendConfig) -> None:
        super().__init__(replace(config, options={**config.options, "delay": "native"}))
        if self.options:
            raise ConfigurationError(
                f"backends.{config.alias}.options: {', '.join(self.options)}: the application has settings of its own."
            )
        self.app = _find(config)
        conf: Settings = self.app.conf
        with self.app.connection_for_write() as connection:  # a description: nothing connects
            transport: str = connection.transport.driver_type
            self._errors = (KombuError, OSError, *connection.connection_errors, *connection.channel_errors)
            make_shelf = _SHELVES.get(transport)
            if make_shelf is None or conf["task_protocol"] != 2:
                raise ConfigurationError(
                    f"backends.{config.alias}: the application must use Redis or RabbitMQ (it uses {transport}), which "
                    f"have a place for jobs that were given up, and task_protocol 2 (it has {conf['task_protocol']})."
                )
            self.capabilities = _CAPABILITIES[transport](conf, self.app.amqp.queues)
            self.shelf, self._close, self._look = make_shelf(self, connection)
        self._levels = _LEVELS[transport](conf)
        self._holds = IS_HELD[transport]
        if transport == "redis":  # held for longer than this, it would be delivered again
            self.longest_eta = min(self.longest_eta, _visibility_timeout(conf) / 2)
        self.risks = risks_of(conf, transport)
        for risk in self.risks:
            logger.warning("unsafe backend=%s %s", config.alias, risk)

    def send(self, envelopes: Sequence[JobEnvelope]) -> None:
        native = {envelope.queue: self._native_queue(envelope.queue) for envelope in envelopes}

        def send(envelope: JobEnvelope) -> None:
            self.app.send_task(
                TASK,
                args=[msgspec.json.decode(write_envelope(envelope))],
                task_id=envelope.id,
                queue=native[envelope.queue],
                priority=self._levels[envelope.priority],
                eta=self.native_eta(envelope),
                serializer="json",
                ignore_result=True,
                retry=False,
                argsrepr=headers_of(envelope)["argsrepr"],
                kwargsrepr="{}",
                shadow=envelope.name,
            )

        send_one_by_one(envelopes, send, self._errors, "Celery")

    def holds(self, message: Any) -> bool:
        return self._holds(message, self.config.enqueue_timeout)

    def look_for_risks(self) -> Sequence[str]:
        return [*self._look(self.app.amqp.queues)]

    def close(self) -> None:
        """Close our own connections; the application's are its own."""
        self._close()

    def application(self, executor: JobExecutor, *, stop_timeout: float) -> Any:  # noqa: ARG002  # their jobs stop as ever
        stop = StopFlag()
        self.app.register_task(JobTask(self, executor, stop))
        self.app.steps["worker"].add(TellJobs)
        self.app.anyjob = TellJobs.Options(self, stop)
        return self.app

    def _native_queue(self, logical: str) -> str:
        queues = self.app.amqp.queues
        if logical == "default" and logical not in queues:
            return str(self.app.conf["task_default_queue"])
        if logical not in queues and not self.app.conf["task_create_missing_queues"]:
            raise InvalidOptionError(
                f"Backend {self.config.alias!r}: the application has no queue {logical!r}. Queues: {', '.join(queues)}."
            )
        return logical


def _find(config: BackendConfig) -> Celery:
    """Return the application that the URL names."""
    named = parse_qs(urlsplit(config.url).query).get("app", [""])[0]
    module_name, _, attribute = named.partition(":")
    where = f"backends.{config.alias}.url: app={named}"
    if not module_name:
        raise ConfigurationError(f"{where}: name the application, as celery://?app=shop.celery:app.")
    try:
        found = getattr(import_module(module_name), attribute or "app", None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the module imports: its own affair
        raise ConfigurationError(f"{where}: there is no module {module_name!r} here or on the path.") from error
    if not isinstance(found, Celery):
        raise ConfigurationError(f"{where}: {attribute or 'app'!r} is no Celery application in {module_name}.")
    return found


def _visibility_timeout(conf: Settings) -> timedelta:
    return timedelta(seconds=float(transport_option(conf, "visibility_timeout", 3600)))


def _on_redis(conf: Settings, _queues: Mapping[str, Any]) -> Capabilities:
    exact = len(set(_redis_levels(conf).values())) == len(JobPriority) and conf["worker_prefetch_multiplier"] == 1
    sweep = timedelta(
        seconds=float(transport_option(conf, "unacked_restore_interval", 10))
        * float(transport_option(conf, "unacked_restore_throttle", 10))
    )
    return replace(
        _CAN,
        priority=Quality.EXACT if exact else Quality.APPROXIMATE,
        redelivery_bound=_visibility_timeout(conf) + sweep,
    )


def _on_amqp(conf: Settings, queues: Mapping[str, Any]) -> Capabilities:
    most = [(queue.queue_arguments or {}).get("x-max-priority") or queue.max_priority or 0 for queue in queues.values()]
    has_levels = min(most, default=0) >= max(LEVELS.values())
    priority = Quality.EXACT if conf["worker_prefetch_multiplier"] == 1 else Quality.APPROXIMATE
    return replace(
        _CAN,
        priority=priority if has_levels else Quality.NONE,
        priority_across_queues=False,
        redelivery_bound=timedelta(seconds=6),
    )


_CAN: Final = Capabilities(
    delay=Quality.APPROXIMATE,
    bulk=BulkAtomicity.BATCH,
    listing=frozenset({JobState.ABANDONED}),
    removal=frozenset({JobState.ABANDONED}),
    moving=frozenset({JobState.ABANDONED}),
    counts={JobState.ABANDONED: Quality.EXACT},
    durable=True,
    exact_loss_count=False,
)

_CAPABILITIES: Final[Mapping[str, Callable[[Settings, Mapping[str, Any]], Capabilities]]] = {
    "redis": _on_redis,
    "amqp": _on_amqp,
}


def _redis_levels(conf: Settings) -> Mapping[JobPriority, int]:
    """Return each priority as the step that is nearest: the first step is sooner."""
    steps = list(transport_option(conf, "priority_steps", (0, 3, 6, 9)))
    levels = sorted(JobPriority, reverse=True)
    return {level: steps[round(number * (len(steps) - 1) / (len(levels) - 1))] for number, level in enumerate(levels)}


_LEVELS: Final[Mapping[str, Callable[[Settings], Mapping[JobPriority, int]]]] = {
    "redis": _redis_levels,
    "amqp": lambda _conf: LEVELS,
}


_Shelf = tuple[JobShelf, Callable[[], None], Callable[[Mapping[str, Any]], Iterable[str]]]
"""With what closes its connections, and what tells the server's risks for the application's queues."""


def _parked_on_redis(backend: ExistingCeleryBackend, connection: Any) -> _Shelf:
    config = backend.config
    client = connect(replace(config, options={}), connection.as_uri(include_password=True))
    parked = ParkedJobs(client, config.namespace, config.clock)
    shelf = RedisShelf(parked, resend=backend.resend, clock=config.clock, capabilities=backend.capabilities)
    return shelf, client.close, lambda _queues: ()


def _parked_on_amqp(backend: ExistingCeleryBackend, connection: Any) -> _Shelf:
    config = backend.config
    address = AmqpAddress(
        host=connection.hostname or "localhost",
        port=connection.port or connection.transport.default_port,
        user=connection.userid or "guest",
        password=connection.password or "guest",
        vhost=connection.virtual_host or "/",
        tls=bool(connection.ssl),
    )
    links = Links(address, config.enqueue_timeout, {"ssl": connection.ssl} if connection.ssl else {})
    shelf = AmqpShelf(
        links,
        Publisher(links, config.enqueue_timeout),
        AmqpNames(config.namespace),
        resend=backend.resend,
        clock=config.clock,
        capabilities=backend.capabilities,
    )
    return shelf, links.close, partial(risks_of_existing, links)


_SHELVES: Final[Mapping[str, Callable[[ExistingCeleryBackend, Any], _Shelf]]] = {
    "redis": _parked_on_redis,
    "amqp": _parked_on_amqp,
}
