"""A Django application with jobs, and its tests: run by test_django.py, by Django's own runner, in a process."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, models, transaction
from django.test import TestCase
from django.test.runner import DiscoverRunner

from anyjob import AsyncBackgroundJob, BackgroundJob, background_job, current_job
from anyjob.testing import JobSandboxMixin

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    USE_TZ=True,
)
django.setup()


class Order(models.Model):
    number = models.IntegerField()
    paid_by = models.TextField(default="")

    class Meta:
        app_label = __name__


@dataclass
class Pay:
    number: int


class PayOrder(BackgroundJob[Pay]):
    def execute(self, args: Pay) -> None:
        assert Order.objects.filter(number=args.number).update(paid_by="a sync job") == 1


@dataclass
class PayLater:
    number: int


class PayOrderLater(AsyncBackgroundJob[PayLater]):
    time_limit = 5

    async def execute(self, args: PayLater) -> None:
        order = await Order.objects.aget(number=args.number)
        order.paid_by = "an async job"
        await order.asave()


@background_job("shop.where")
async def note_the_thread() -> None:
    seen.append(await sync_to_async(threading.current_thread)())
    seen.append(current_job().id)


seen: list[object] = []


class Cases(JobSandboxMixin, TestCase):
    def setUp(self) -> None:
        super().setUp()
        assert not Order.objects.exists()  # what the tests before did was rolled back
        Order.objects.create(number=7)  # and is not committed: another connection would not see it

    def paid_by(self) -> str:
        return str(Order.objects.get(number=7).paid_by)

    def test_a_sync_job(self) -> None:
        PayOrder.enqueue(Pay(7))
        assert self.sandbox.run() == 1
        assert self.paid_by() == "a sync job"

    def test_an_async_job(self) -> None:
        PayOrderLater.enqueue(PayLater(7))
        assert self.sandbox.run() == 1
        assert self.paid_by() == "an async job"

    def test_an_async_job_s_sync_parts_run_in_the_thread_of_the_test(self) -> None:
        seen.clear()
        job_id = note_the_thread.enqueue()
        self.sandbox.run()
        assert seen == [threading.current_thread(), job_id]

    def test_at_enqueue(self) -> None:
        with self.sandbox.run_at_enqueue():
            PayOrder.enqueue(Pay(7))
            assert self.paid_by() == "a sync job"
            PayOrderLater.enqueue(PayLater(7))
            assert self.paid_by() == "an async job"

    def test_enqueued_on_commit(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            transaction.on_commit(lambda: PayOrder.enqueue(Pay(7)) and None)
            self.sandbox.assert_not_enqueued()
        assert self.sandbox.run_all() == 1
        assert self.paid_by() == "a sync job"

    def test_a_failed_job_leaves_the_transaction_usable(self) -> None:
        PayOrderLater.enqueue(PayLater(8))
        with self.assertRaises(Order.DoesNotExist):  # noqa: PT027  # Django's runner runs it
            self.sandbox.run()
        PayOrder.enqueue(Pay(7))
        self.sandbox.run()
        assert self.paid_by() == "a sync job"
        assert connection.in_atomic_block

    async def test_in_an_async_test(self) -> None:
        await PayOrder.aenqueue(Pay(7))
        assert await self.sandbox.arun() == 1
        assert (await Order.objects.aget(number=7)).paid_by == "a sync job"
        await PayOrderLater.aenqueue(PayLater(7))
        assert await self.sandbox.arun() == 1
        assert (await Order.objects.aget(number=7)).paid_by == "an async job"

    async def test_at_enqueue_in_an_async_test(self) -> None:
        with self.sandbox.run_at_enqueue():
            await PayOrderLater.aenqueue(PayLater(7))
            assert (await Order.objects.aget(number=7)).paid_by == "an async job"
            await PayOrder.aenqueue(Pay(7))
            assert (await Order.objects.aget(number=7)).paid_by == "a sync job"


class Runner(DiscoverRunner):
    def setup_databases(self, **options: Any) -> Any:
        made = super().setup_databases(**options)
        with connection.schema_editor() as editor:
            editor.create_model(Order)
        return made


if __name__ == "__main__":
    sys.modules["django_shop"] = sys.modules["__main__"]
    sys.exit(Runner().run_tests(["django_shop"]))
