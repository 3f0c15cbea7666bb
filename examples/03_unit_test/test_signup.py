"""Unit tests of an application with jobs: nothing is mocked, nothing sleeps, no server is needed.

pip install pytest
pytest examples/03_unit_test
"""

from dataclasses import dataclass
from datetime import timedelta

import pytest

from anyjob import BackgroundJob, EnqueueError, JobPriority, RetryPolicy, background_job
from anyjob.testing import JobSandbox

# The application ------------------------------------------------------------------------------------------------------

outbox: list[str] = []
bounces = {"late@example.org": 2}  # how often a mailbox refuses before it accepts


@dataclass
class Welcome:
    to: str
    language: str = "en"


class SendWelcome(BackgroundJob[Welcome]):
    queue = "mail"
    retry = RetryPolicy(max_tries=5, first_wait=60)

    def execute(self, args: Welcome) -> None:
        if bounces.get(args.to, 0):
            bounces[args.to] -= 1
            raise ConnectionError("mailbox unavailable")
        if args.to not in outbox:  # the job may run twice: every broker promises at least once
            outbox.append(args.to)
        remind.using(delay=timedelta(days=7)).enqueue(args.to)


@background_job("remind", retry=None)
def remind(address: str) -> None:
    outbox.append(f"reminder to {address}")


def signup(address: str) -> str:
    """Enqueue the welcome for five minutes later; a signup must not fail because the broker is unreachable."""
    try:
        SendWelcome.enqueue(Welcome(address), delay=300, priority=JobPriority.HIGH)
    except EnqueueError:
        return "your mail may take a while"
    return "welcome"


# Its tests ------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _empty_outbox() -> None:
    outbox.clear()


def test_a_welcome_is_sent_five_minutes_after_signup(anyjob_sandbox: JobSandbox) -> None:
    signup("a@example.org")
    anyjob_sandbox.assert_enqueued(SendWelcome, Welcome("a@example.org"), delay=timedelta(minutes=5), times=1)
    assert anyjob_sandbox.run() == 0  # not before its time
    anyjob_sandbox.travel(minutes=5)
    anyjob_sandbox.run()  # a failure would be raised here
    assert outbox == ["a@example.org"]


def test_some_of_it_is_enough(anyjob_sandbox: JobSandbox) -> None:
    signup("a@example.org")
    anyjob_sandbox.assert_enqueued(SendWelcome, {"to": lambda to: to.endswith("@example.org")}, queue="mail")
    anyjob_sandbox.assert_not_enqueued(remind)


def test_a_block_enqueues_exactly_one_job(anyjob_sandbox: JobSandbox) -> None:
    with anyjob_sandbox.assert_enqueues(1):
        signup("a@example.org")


def test_the_reminder_follows_a_week_later(anyjob_sandbox: JobSandbox) -> None:
    signup("a@example.org")
    assert anyjob_sandbox.run_all() == 2  # the clock moves by itself, to each job
    anyjob_sandbox.assert_ran(remind, {"address": "a@example.org"}, delay=timedelta(days=7))


def test_a_mail_that_bounces_is_tried_again(anyjob_sandbox: JobSandbox) -> None:
    signup("late@example.org")
    anyjob_sandbox.travel(minutes=5)
    with pytest.raises(ConnectionError):
        anyjob_sandbox.run()
    assert anyjob_sandbox.ran[0].next_try_at == anyjob_sandbox.now() + timedelta(seconds=60)
    anyjob_sandbox.run_all(raises=False)
    anyjob_sandbox.assert_ran(SendWelcome, error=None, try_count=3)
    anyjob_sandbox.assert_nothing_abandoned()


def test_a_signup_survives_a_broker_that_is_away(anyjob_sandbox: JobSandbox) -> None:
    with anyjob_sandbox.broker_away():
        assert signup("a@example.org") == "your mail may take a while"
    anyjob_sandbox.assert_nothing_enqueued()


def test_a_welcome_goes_out_once_even_if_its_worker_is_killed(anyjob_sandbox: JobSandbox) -> None:
    signup("a@example.org")
    with anyjob_sandbox.worker_killed(at=1, job=SendWelcome):  # after the mail, before the acknowledgement
        anyjob_sandbox.run_all()
    anyjob_sandbox.assert_ran(SendWelcome, times=2)
    assert outbox.count("a@example.org") == 1
