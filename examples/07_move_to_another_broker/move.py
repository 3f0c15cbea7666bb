"""Moves waiting jobs from Celery over Redis to Dramatiq over RabbitMQ, and loses none on the way.

pip install '.[all]'       # in the folder of a clone
cd examples/07_move_to_another_broker
export REDIS_URL=redis://localhost:6379/0 AMQP_URL=amqp://guest:guest@localhost
python move.py

It prints:

enqueued 1000 jobs
old has 500 waiting, 500 scheduled; new has 0 waiting, 0 scheduled
would move 250 scheduled report.build from the queue default
would move 250 waiting report.build from the queue default
would move 250 scheduled mail.send from the queue mail
would move 250 waiting mail.send from the queue mail
read 1000 = moved 1000 + left 0 + foreign 0
old has 0 waiting, 0 scheduled; new has 500 waiting, 500 scheduled

From a shell it is `anyjob migrate old new --dry-run`, then `anyjob migrate old new`; to see the jobs run,
`anyjob worker --backend new`. docs/change_your_broker.md tells how an application goes on meanwhile.
"""

import mailing

from anyjob import JobManager, JobPriority, JobState, get_manager


def enqueue(manager: JobManager) -> None:
    levels = list(JobPriority)
    jobs = [
        manager.prepare(args, priority=levels[number % 5], delay=3600 if number % 2 else None)
        for number in range(500)
        for args in (mailing.Email(f"{number}@b.c"), mailing.Report(number))
    ]
    manager.enqueue_many(jobs)
    print(f"enqueued {len(jobs)} jobs")


def tell(manager: JobManager) -> None:
    told = []
    for alias in ("old", "new"):
        counts = manager.inspect(alias).count()
        told.append(f"{alias} has {counts[JobState.WAITING]} waiting, {counts[JobState.SCHEDULED]} scheduled")
    print("; ".join(told))


manager = get_manager()
enqueue(manager)
tell(manager)

for group in manager.migration("old", "new").preview().groups:
    print(f"would move {group.moved} {group.state} {group.job} from the queue {group.queue}")

report = manager.migration("old", "new").move()
print(f"read {report.read} = moved {report.moved} + left {report.left} + foreign {report.foreign}")
tell(manager)
