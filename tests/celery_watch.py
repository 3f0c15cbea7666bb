"""An application that reports to Sentry and OpenTelemetry: for a worker that imports it, and, run, a producer.

The environment says where to: `WATCH_DSN`, `WATCH_CA`, and `WATCH_SPANS`, a file with a line of JSON for each span.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import sentry_sdk
from celery_jobs import FailsFirst
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from anyjob import current
from anyjob.send.manager import JobManager


class _ToFile(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        file = os.open(os.environ["WATCH_SPANS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for span in spans:
            os.write(file, json.dumps(json.loads(span.to_json(indent=None))).encode() + b"\n")
        os.close(file)
        return SpanExportResult.SUCCESS


def watch() -> None:
    """Report what this process, and its children, do."""
    sentry_sdk.init(os.environ["WATCH_DSN"], ca_certs=os.environ["WATCH_CA"], traces_sample_rate=1.0)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_ToFile()))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]


def produce(manager: JobManager, shop: str, folder: Path, kinds: Mapping[str, int]) -> None:
    """Send a job to each backend, and a native task, of each kind, in one trace; print the label of each by its id.

    A kind says how many of its tries fail.
    """
    sent = {}
    tracer = trace.get_tracer("shop")
    with sentry_sdk.start_transaction(op="http.server", name="checkout"), tracer.start_as_current_span("checkout"):
        for kind, fails in kinds.items():
            for alias in ("amqp", "redis", "app"):
                envelope = manager.prepare(FailsFirst(str(folder / "journal"), f"{alias}-{kind}", fails))
                manager.backend(alias).send([envelope])
                sent[envelope.id] = f"{alias}-{kind}"
            result = import_module(shop).native.delay(str(folder), f"native-{kind}", fails)
            sent[result.id] = f"native-{kind}"
        assert trace.get_current_span().name == "checkout"  # type: ignore[attr-defined]
    sys.stdout.write(json.dumps(sent))


watch()
if __name__ == "__main__":
    produce(current.get_manager(), sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
