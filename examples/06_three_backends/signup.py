"""Enqueue a job for each of three job systems: see shop.py."""

import shop

from anyjob import JobPriority

shop.SendEmail.enqueue(shop.Email("a@b.c"), priority=JobPriority.HIGH)
shop.charge.enqueue(7, cents=999)
shop.build_report.using(delay=1).enqueue(2026)
print("enqueued 3 jobs")
