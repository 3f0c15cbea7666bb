"""The parts that all adapters on RabbitMQ share. Knows no job library."""

from anyjob_amqp.backend import AmqpBackend, AmqpQueuesBackend, message_of
from anyjob_amqp.capabilities import NATIVES_CAN, KnownQueues, NotedNames, capabilities_of
from anyjob_amqp.consumer import AmqpConsumer
from anyjob_amqp.consuming import HEARTBEAT, AmqpDelivery
from anyjob_amqp.inspector import AmqpInspector, ReadMessage, body_of, jobs_in
from anyjob_amqp.links import Link, Links, refuse_unknown_options
from anyjob_amqp.moves import MoveJournal
from anyjob_amqp.publisher import Parcel, Publisher
from anyjob_amqp.server import RabbitServer
from anyjob_amqp.source import AmqpSource
from anyjob_amqp.topology import JOB_QUEUE, LEVELS, AmqpNames, Route
from anyjob_amqp.undecodable import FRAME_HEADER, fault_in, frame_handler, telling_header
from anyjob_amqp.urls import AmqpAddress, read_url

__all__ = [
    "FRAME_HEADER",
    "HEARTBEAT",
    "JOB_QUEUE",
    "LEVELS",
    "NATIVES_CAN",
    "AmqpAddress",
    "AmqpBackend",
    "AmqpConsumer",
    "AmqpDelivery",
    "AmqpInspector",
    "AmqpNames",
    "AmqpQueuesBackend",
    "AmqpSource",
    "KnownQueues",
    "Link",
    "Links",
    "MoveJournal",
    "NotedNames",
    "Parcel",
    "Publisher",
    "RabbitServer",
    "ReadMessage",
    "Route",
    "body_of",
    "capabilities_of",
    "fault_in",
    "frame_handler",
    "jobs_in",
    "message_of",
    "read_url",
    "refuse_unknown_options",
    "telling_header",
]
