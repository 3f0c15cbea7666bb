"""Stores that break one promise each, made backends: the kit has to find every one. test_kit.py runs this file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as replaced
from datetime import timedelta
from typing import Any

import pytest
from conformance.limited import HasNoDelay, limited
from harnesses import memory_harness
from msgspec import Raw
from msgspec.structs import replace

from anyjob import Clock, DuplicateJobIdError, JobEnvelope, JobFailure, JobFilter, JobPriority, JobState
from anyjob.base.envelope import id_in
from anyjob.extend import JobStore
from anyjob.run.postponing import SNOOZES_HEADER
from anyjob.seams.capabilities import BulkAtomicity, Quality
from anyjob.seams.outcome import Abandoned, Completed, Deferred, Outcome, Retry
from anyjob.seams.source import JobClaim, LostJob
from anyjob.seams.stored import JobPage
from anyjob.stores.memory import InMemoryJobStore
from anyjob.testing.conformance import BackendConformance, BackendHarness, StoreConformance


class Faithful(InMemoryJobStore):
    """The control: it passes whatever the others fail."""


class EnvelopesChanged(InMemoryJobStore):
    """Changes what is sent on its way in."""

    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        raise NotImplementedError

    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        super().insert([self.change(each) for each in envelopes], once=once)


class DropsPriority(EnvelopesChanged):
    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        return replace(envelope, priority=JobPriority.NORMAL)


class TurnsPriorityRound(EnvelopesChanged):
    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        return replace(envelope, priority=JobPriority(30 - envelope.priority))


class DropsDelay(EnvelopesChanged):
    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        return replace(envelope, due_at=None)


class RoundsDelayDown(EnvelopesChanged):
    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        return replace(envelope, due_at=envelope.due_at and envelope.due_at.replace(microsecond=0))


class DelaysMore(EnvelopesChanged):
    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        return replace(envelope, due_at=envelope.due_at and envelope.due_at + timedelta(seconds=2.5))


class DropsHeaders(EnvelopesChanged):
    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        return replace(envelope, headers={})


class GivesOtherIds(EnvelopesChanged):
    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        return replace(envelope, id=f"{len(self._rows)}-{envelope.id}"[:64])


class DropsWhatIsNotAscii(EnvelopesChanged):
    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        return replace(envelope, args=Raw(bytes(envelope.args).decode().encode("ascii", "replace")))


class MixesQueues(InMemoryJobStore):
    def claim(self, *, queues: Any, **rest: Any) -> Sequence[JobClaim]:
        return super().claim(queues=None, **rest)


class TakesTheLastFirst(InMemoryJobStore):
    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        back = timedelta(seconds=len(self._rows))
        super().insert([replace(each, first_due_at=each.first_due_at - back) for each in envelopes], once=once)


class ShufflesBulks(InMemoryJobStore):
    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        back = [timedelta(seconds=number % 7) for number in range(len(envelopes))]
        moved = [replace(each, first_due_at=each.first_due_at - by) for each, by in zip(envelopes, back, strict=True)]
        super().insert(moved, once=once)


class RunsTwice(InMemoryJobStore):
    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        super().insert(envelopes, once=once)
        super().insert([replace(each, id=f"{each.id[:60]}-too") for each in envelopes], once=once)


class AcceptsTakenIds(InMemoryJobStore):
    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        super().insert([replace(each, id=f"{each.id}-{len(self._rows)}"[:64]) for each in envelopes], once=once)


class DropsHalfABulk(InMemoryJobStore):
    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        super().insert(envelopes[: max(1, len(envelopes) // 2)], once=once)


class LosesKilledJobs(InMemoryJobStore):
    def recover(self) -> Sequence[LostJob]:
        lost = super().recover()
        for each in lost:
            self.settle(self.hold(_one(each.id), limit=1, lease=timedelta(1), worker="x")[0], Completed())
        return lost


class RunsWhatItForgot(InMemoryJobStore):
    """At most once: what a worker has in hand is nowhere else."""

    declares: Mapping[str, Any] = {"redelivery_bound": None}

    def claim(self, **rest: Any) -> Sequence[JobClaim]:
        claims = super().claim(**rest)
        for each in claims:
            super().settle(each, Completed())
        return claims

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        return ()

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        if isinstance(outcome, Retry | Deferred):
            self.insert([outcome.envelope])
        elif isinstance(outcome, Abandoned):
            self.park(outcome.raw, outcome.failure)
        return True


class RunsWhatItForgotAmongMany(RunsWhatItForgot):
    """The same, found by another test."""


class KeepsPartOfABulk(InMemoryJobStore):
    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        for number, each in enumerate(envelopes):
            try:
                super().insert([each], once=once)
            except DuplicateJobIdError as error:
                kept, rest = ([job.id for job in part] for part in (envelopes[:number], envelopes[number:]))
                raise DuplicateJobIdError(str(error), accepted=kept, rejected=rest) from error


class KeepsMoreOfABulkThanItSays(InMemoryJobStore):
    declares: Mapping[str, Any] = {"bulk": BulkAtomicity.BATCH}

    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        ids = [each.id for each in envelopes]
        try:
            super().insert(envelopes, once=once)
        except DuplicateJobIdError as error:
            super().insert(envelopes[:3], once=once)
            raise DuplicateJobIdError(str(error), rejected=ids) from error


class TakesTurns(InMemoryJobStore):
    """Declares that it doesn't, or that it does, and is the other way."""

    declares: Mapping[str, Any] = {"priority_across_queues": False}


class SpinsWithoutDelay(HasNoDelay):
    declares: Mapping[str, Any] = {"delay": Quality.NONE}

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        if isinstance(outcome, Abandoned) and outcome.envelope is not None:
            outcome = Deferred(outcome.envelope)
        return super().settle(claim, outcome)


class ForgetsToCountCrashes(InMemoryJobStore):
    def recover(self) -> Sequence[LostJob]:
        lost = super().recover()
        for each in lost:
            row = self._rows[each.id]
            row.raw = row.raw.replace(b'"lost_count":1', b'"lost_count":0')
        return lost


class RecoversLate(InMemoryJobStore):
    def claim(self, *, lease: timedelta, **rest: Any) -> Sequence[JobClaim]:
        return super().claim(lease=lease * 4, **rest)

    def renew(self, claims: Sequence[JobClaim], lease: timedelta) -> Sequence[JobClaim]:
        return super().renew(claims, lease * 4)


class ChargesWhatIsReleased(InMemoryJobStore):
    def release(self, claims: Sequence[JobClaim]) -> None:
        super().release(claims)
        for claim in claims:
            if claim.id in self._rows:
                raw = self._rows[claim.id].raw
                self._rows[claim.id].raw = raw.replace(b'"args":', b'"try_count":1,"args":')


class OutcomesChanged(InMemoryJobStore):
    """Does something else than the outcome asks for."""

    def change(self, outcome: Outcome) -> Outcome:
        raise NotImplementedError

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        return super().settle(claim, self.change(outcome))


class SettlesWhatItLost(InMemoryJobStore):
    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        held = super().settle(claim, outcome)
        if not held and isinstance(outcome, Retry):
            self.insert([replace(outcome.envelope, id=f"{claim.id[:60]}-too")])
        return held


class TriesOnce(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        return Completed() if isinstance(outcome, Retry) else outcome


class TriesForever(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        gave_up = isinstance(outcome, Abandoned) and outcome.envelope is not None
        return Retry(outcome.envelope) if gave_up else outcome  # type: ignore[union-attr,arg-type]


class RetriesAtOnce(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        return Retry(replace(outcome.envelope, due_at=None)) if isinstance(outcome, Retry) else outcome


class ChargesWhoExitsNothing(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Abandoned) or outcome.envelope is None:
            return outcome
        if outcome.failure.error_type not in ("SystemExit", "KeyboardInterrupt"):
            return outcome
        return Deferred(replace(outcome.envelope, lost_count=outcome.envelope.lost_count + 1))


class ChargesThePolite(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Deferred) or SNOOZES_HEADER not in outcome.envelope.headers:
            return outcome
        return Deferred(replace(outcome.envelope, try_count=1))


class WakesSnoozers(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        return Deferred(replace(outcome.envelope, due_at=None)) if isinstance(outcome, Deferred) else outcome


class LosesWhatIsDueNow(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        due = outcome.envelope.due_at if isinstance(outcome, Deferred) else None
        return outcome if due is None or due > self.clock.now() else Completed()


class ForgivesTheLate(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        late = isinstance(outcome, Abandoned) and "JobTimeLimitError" in outcome.failure.error_type
        return Completed() if late else outcome


class LosesWhatCantBeTold(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        told = not isinstance(outcome, Abandoned) or "HostileError" not in outcome.failure.error_type
        return outcome if told else Completed()


class LogsBeforeItSettles(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        logging.getLogger("anyjob.worker").warning("%s", type(outcome).__name__)
        return outcome


class DropsTheUnknown(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        return Completed() if isinstance(outcome, Deferred) and outcome.envelope.headers else outcome


class DropsTheUnreadable(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        return Completed() if isinstance(outcome, Abandoned) and outcome.envelope is None else outcome


class DropsTheReason(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Abandoned):
            return outcome
        return replace(outcome, failure=replace(outcome.failure, message="it failed", error_type="Error"))


class TrimsWhatIsParked(InMemoryJobStore):
    def park(self, raw: bytes, failure: JobFailure) -> str:
        return super().park(raw.decode(errors="replace").encode(), failure)


class ParksUnderNewIds(InMemoryJobStore):
    def park(self, raw: bytes, failure: JobFailure) -> str:
        job_id = super().park(b"no id", failure)
        self._rows[job_id].raw = raw
        return job_id

    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        if not isinstance(outcome, Abandoned):
            return super().settle(claim, outcome)
        self.park(outcome.raw, outcome.failure)
        return super().settle(claim, Completed())


class OverwritesCopies(InMemoryJobStore):
    def park(self, raw: bytes, failure: JobFailure) -> str:
        self._rows.pop(id_in(raw) or "", None)
        return super().park(raw, failure)


class CountsPagesFromTheFront(InMemoryJobStore):
    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        first, found = int(cursor or 0), super().scan(chosen, limit=10_000).jobs
        return JobPage(found[first : first + limit], str(first + limit) if len(found) > first + limit else None)


class IsBlockedByFarJobs(InMemoryJobStore):
    def claim(self, **rest: Any) -> Sequence[JobClaim]:
        return () if self.count()[JobState.SCHEDULED] > 1_000 else super().claim(**rest)


class CancelsNothing(InMemoryJobStore):
    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        held = self._leases.get(claim.id)
        if isinstance(outcome, Completed) and held is not None and not held.running:
            self.release([claim])
            return True
        return super().settle(claim, outcome)


class HoldsNothingBehindWhatIsHeld(InMemoryJobStore):
    def hold(self, chosen: JobFilter, *, limit: int, **rest: Any) -> Sequence[JobClaim]:
        first = [job.id for job in self.scan(chosen, limit=2 * limit).jobs]
        return super().hold(replaced(chosen, ids=frozenset(first)), limit=limit, **rest)


class LetsTakenJobsRun(InMemoryJobStore):
    def hold(self, chosen: JobFilter, **rest: Any) -> Sequence[JobClaim]:
        claims = super().hold(chosen, **rest)
        self.release(claims)
        return claims


class KeepsWhatWasTaken(InMemoryJobStore):
    def release(self, claims: Sequence[JobClaim]) -> None:
        if all(claim.id in self._leases and self._leases[claim.id].running for claim in claims):
            super().release(claims)


class KeepsTheOldBudget(InMemoryJobStore):
    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        if claim.id in self._failures and isinstance(outcome, Deferred):
            outcome = Deferred(replace(outcome.envelope, try_count=1))
        return super().settle(claim, outcome)


class CountsWrong(InMemoryJobStore):
    def count(self) -> Mapping[JobState, int]:
        return {**super().count(), JobState.SCHEDULED: 0}


class HidesWhatWaits(InMemoryJobStore):
    def scan(self, chosen: JobFilter, **rest: Any) -> JobPage:
        page = super().scan(chosen, **rest)
        return replace(page, jobs=[job for job in page.jobs if job.state is not JobState.WAITING])


class RepeatsPages(InMemoryJobStore):
    def scan(self, chosen: JobFilter, *, cursor: str | None = None, limit: int = 100) -> JobPage:
        return super().scan(chosen, cursor=cursor and str(max(0, int(cursor) - 1)), limit=limit)


class TakesInAnyOrder(InMemoryJobStore):
    def hold(self, chosen: JobFilter, **rest: Any) -> Sequence[JobClaim]:
        return super().hold(chosen, **rest)[::-1]


class TakesWhatIsNotChosen(InMemoryJobStore):
    def hold(self, chosen: JobFilter, **rest: Any) -> Sequence[JobClaim]:
        return super().hold(JobFilter(states=chosen.states, where=chosen.where), **rest)


class LosesWhatAMoverHeld(InMemoryJobStore):
    def release(self, claims: Sequence[JobClaim]) -> None:
        for claim in claims:
            if claim.id in self._leases and not self._leases[claim.id].running:
                self.settle(claim, Completed())
        super().release(claims)


class MovesWhatIsNoJob(InMemoryJobStore):
    def hold(self, chosen: JobFilter, **rest: Any) -> Sequence[JobClaim]:
        claims = super().hold(JobFilter(states=chosen.states), **rest)
        for claim in claims:
            if b'"no": "job"' in claim.raw:
                self.settle(claim, Completed())
        return claims


class GivesMovedJobsNewTries(EnvelopesChanged):
    def change(self, envelope: JobEnvelope) -> JobEnvelope:
        return replace(envelope, try_count=0)


class ParksForAnotherReason(InMemoryJobStore):
    def park(self, raw: bytes, failure: JobFailure) -> str:
        return super().park(raw, replace(failure, message="lost"))


class LosesEveryTenthJob(InMemoryJobStore):
    inserted = 0

    def insert(self, envelopes: Sequence[JobEnvelope], *, once: str | None = None) -> None:
        super().insert([each for each in envelopes if not self._is_tenth()], once=once)

    def _is_tenth(self) -> bool:
        self.inserted += 1
        return self.inserted % 10 == 0


class DropsWhatIsNoJson(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        return Completed() if isinstance(outcome, Abandoned) and b"\xef\xbb\xbf" in outcome.raw else outcome


class DropsWhatIsForLater(OutcomesChanged):
    def change(self, outcome: Outcome) -> Outcome:
        due = outcome.envelope.due_at if isinstance(outcome, Deferred) else None
        return Completed() if due is not None and due.year > 2_900 else outcome


class ParksTheHarmless(InMemoryJobStore):
    def settle(self, claim: JobClaim, outcome: Outcome) -> bool:
        if b"since_tomorrow" in claim.raw and isinstance(outcome, Completed):
            self.park(claim.raw, JobFailure("x", "x", "", self.clock.now(), "x", 0))
        return super().settle(claim, outcome)


# Which test has to find which of them.
FOUND_BY: Mapping[type[InMemoryJobStore], str] = {
    DropsPriority: "test_high_priorities_overtake_at_a_stopped_worker",
    TurnsPriorityRound: "test_all_five_levels",
    DropsDelay: "test_never_early_and_in_time",
    RoundsDelayDown: "test_never_early_and_in_time",
    DelaysMore: "test_never_early_and_in_time",
    DropsHeaders: "test_headers_are_kept",
    GivesOtherIds: "test_an_id_of_the_callers_own_is_kept",
    DropsWhatIsNotAscii: "test_large_arguments_arrive",
    MixesQueues: "test_a_worker_leaves_other_queues_alone",
    TakesTheLastFirst: "test_first_in_first_out",
    ShufflesBulks: "test_many_at_once",
    RunsTwice: "test_a_job_runs_once",
    AcceptsTakenIds: "test_a_taken_id_is_refused",
    DropsHalfABulk: "test_aenqueue_many",
    LosesKilledJobs: "test_a_killed_workers_job_runs_again",
    RunsWhatItForgot: "test_a_killed_workers_job_runs_again",
    RunsWhatItForgotAmongMany: "test_kills_between_many_jobs_lose_none",
    KeepsPartOfABulk: "test_a_bulk_that_fails_is_kept_as_declared",
    KeepsMoreOfABulkThanItSays: "test_a_bulk_that_fails_is_kept_as_declared",
    TakesTurns: "test_across_queues_the_level_counts_first",
    SpinsWithoutDelay: "test_a_job_that_stays_unknown_is_parked",
    ForgetsToCountCrashes: "test_a_killed_workers_job_runs_again",
    RecoversLate: "test_a_killed_workers_job_runs_again",
    ChargesWhatIsReleased: "test_a_job_that_outlasts_the_stop_goes_back_uncharged",
    SettlesWhatItLost: "test_what_a_paused_worker_lost_is_not_its_own_any_more",
    TriesOnce: "test_a_policy_of_three_is_three_runs",
    TriesForever: "test_no_policy_is_one_run",
    ChargesWhoExitsNothing: "test_a_job_that_exits_fails_once[SystemExit(3)]",
    ChargesThePolite: "test_a_job_that_heeds_the_stop_is_not_charged[RetryLater]",
    WakesSnoozers: "test_a_snoozed_job_runs_again_and_not_early",
    LosesWhatIsDueNow: "test_a_snooze_needs_no_time",
    ForgivesTheLate: "test_a_job_in_a_call_of_c_code_is_no_success_beyond_its_limit",
    LosesWhatCantBeTold: "test_an_exception_that_can_not_be_looked_at_is_charged_like_any_other",
    LogsBeforeItSettles: "test_a_log_filter_that_raises_ends_no_try[True]",
    RetriesAtOnce: "test_the_waits_between_tries",
    DropsTheUnknown: "test_a_job_that_stays_unknown_is_parked",
    DropsTheUnreadable: "test_what_is_no_envelope_is_parked_while_its_neighbours_run",
    DropsTheReason: "test_a_newer_envelope_is_parked_untouched",
    TrimsWhatIsParked: "test_what_cant_be_read_is_kept_to_the_byte",
    IsBlockedByFarJobs: "test_far_jobs_hold_up_nobody",
    CancelsNothing: "test_a_cancelled_job_never_runs",
    LetsTakenJobsRun: "test_what_is_taken_is_nobody_elses_and_goes_back",
    KeepsWhatWasTaken: "test_a_delayed_job_that_was_taken_goes_back_as_it_was",
    KeepsTheOldBudget: "test_a_parked_job_is_retried_by_the_id_that_enqueue_returned",
    ParksUnderNewIds: "test_a_parked_job_is_discarded_by_the_id_that_enqueue_returned",
    OverwritesCopies: "test_parked_copies_of_a_job_are_told_apart",
    CountsPagesFromTheFront: "test_pages_of_parked_jobs_stand_what_is_done_to_them",
    CountsWrong: "test_counts",
    HidesWhatWaits: "test_lists_what_waits_without_touching_it",
    RepeatsPages: "test_pages_hold_every_job_once",
    TakesInAnyOrder: "test_what_waits_moves_away_as_it_is",
    TakesWhatIsNotChosen: "test_part_of_it_moves_away",
    LosesWhatAMoverHeld: "test_a_mover_that_fails_loses_nothing",
    MovesWhatIsNoJob: "test_what_is_no_job_stays_in_its_place",
    GivesMovedJobsNewTries: "test_what_is_moved_here_runs_here_in_order",
    ParksForAnotherReason: "test_parked_jobs_move_if_asked",
    LosesEveryTenthJob: "test_chaos_loses_nothing",
    DropsWhatIsNoJson: "test_two_hundred_hostile_messages",
    DropsWhatIsForLater: "test_two_hundred_hostile_messages",
    ParksTheHarmless: "test_two_hundred_hostile_messages",
}


STORES_FOUND_BY: Mapping[type[InMemoryJobStore], str] = {
    HoldsNothingBehindWhatIsHeld: "test_holding_finds_what_is_free_behind_what_is_held",
}
"""The same for the tests of seam 2."""


def _one(job_id: str) -> JobFilter:
    return JobFilter(ids=frozenset({job_id}))


def _suite(make_store: Callable[..., InMemoryJobStore]) -> type[BackendConformance]:
    """Return the kit's tests over the in-memory backend with another store in it."""

    class Suite(BackendConformance):
        @classmethod
        def make_harness(cls, tmp_path_factory: pytest.TempPathFactory) -> BackendHarness:
            return memory_harness(limited(make_store, **getattr(make_store, "declares", {})))

    return Suite


def _store_suite(store: type[InMemoryJobStore]) -> type[StoreConformance]:
    """Return the tests of seam 2 over a store."""

    class Suite(StoreConformance):
        def make_store(self, clock: Clock) -> JobStore:
            return store(clock)

    return Suite


EVERY: Sequence[type[InMemoryJobStore]] = [Faithful, *FOUND_BY]
globals().update({f"Test{each.__name__}": _suite(each) for each in EVERY})
STORES: Sequence[type[InMemoryJobStore]] = [Faithful, *STORES_FOUND_BY]
globals().update({f"TestStore{each.__name__}": _store_suite(each) for each in STORES})
