"""Messages that this worker can't run: unknown, renamed, of another version, damaged, hostile."""

from __future__ import annotations

import json
from pathlib import Path

from anyjob.base.envelope import write_envelope
from anyjob.seams.capabilities import Quality
from anyjob.testing.conformance.fixtures import KitFixtures, needs
from anyjob.testing.conformance.harness import JOBS, World
from anyjob.testing.probes.deployed import NEWCOMER
from anyjob.testing.probes.jobs import NAME

__all__ = ["NamesConformance"]

DEPLOYED = "anyjob.testing.probes.deployed"


class NamesConformance(KitFixtures):
    """Nothing that arrives is lost, loops, or runs what the registry doesn't hold."""

    @needs("delay")
    def test_an_unknown_job_waits_for_the_deploy(self, *, world: World) -> None:
        old = world.start_worker(defer_unknown=600.0)  # looks again after 5 s
        args = json.dumps({"journal": str(world.journal.path), "label": "new"}).encode()
        (job_id,) = world.manager.enqueue_many([world.envelope(NEWCOMER, args)])
        world.enqueue("sentinel")
        world.journal.wait(1)
        old.stop()
        world.start_worker(imports=[JOBS, DEPLOYED])
        (end,) = world.journal.wait(1, "end", "new", timeout=30)
        assert (end.id, end.try_count) == (job_id, 1)
        assert end.headers.get("anyjob-deferrals") == "1"

    @needs("parked jobs")
    def test_a_job_that_stays_unknown_is_parked(self, *, world: World) -> None:
        """After a while; at once where it can't wait, for it would come again and again all the while."""
        world.start_worker(defer_unknown=600.0 if world.can.delay is Quality.NONE else 2.0)
        envelope = world.envelope(f"{NAME}.never-heard-of", b'{"x":1}')
        world.manager.enqueue_many([envelope])
        (parked,) = world.wait_parked(timeout=40)
        assert parked.envelope is not None
        assert parked.failure is not None
        assert (parked.envelope.id, bytes(parked.envelope.args)) == (envelope.id, b'{"x":1}')
        assert "never-heard-of" in parked.failure.message

    def test_an_old_name_still_runs(self, world: World) -> None:
        args = json.dumps({"journal": str(world.journal.path), "label": "a"}).encode()
        world.manager.enqueue_many([world.envelope(f"{NAME}.probe-of-old", args)])
        world.start_worker()
        world.journal.wait(1)

    def test_a_field_of_a_newer_version_is_ignored(self, world: World) -> None:
        args = json.dumps({"journal": str(world.journal.path), "label": "a", "since_tomorrow": 1}).encode()
        world.manager.enqueue_many([world.envelope(f"{NAME}.probe", args)])
        world.start_worker()
        world.journal.wait(1)

    @needs("parked jobs")
    def test_a_newer_envelope_is_parked_untouched(self, *, world: World) -> None:
        plain = json.loads(write_envelope(world.envelope(f"{NAME}.probe")))
        newer = json.dumps({**plain, "v": 2, "since_tomorrow": ["x"]}).encode()
        world.enqueue("before")
        world.put(newer)
        world.enqueue("after")
        world.start_worker()
        (parked,) = world.wait_parked()
        assert json.loads(parked.raw) == json.loads(newer)
        assert parked.failure is not None
        assert "version 2" in parked.failure.message
        world.journal.wait(2)

    @needs("parked jobs")
    def test_what_is_no_envelope_is_parked_while_its_neighbours_run(self, *, world: World) -> None:
        bodies = [b"{}", b'["no", "envelope"]', b'"text"', b'{"v":1}', b"null", b'{"v":1,"id":"../../x","name":"x"}']
        for number, body in enumerate(bodies):
            world.put(body)
            world.enqueue(f"{number}")
        world.start_worker()
        parked = world.wait_parked(len(bodies))
        assert sorted(json.dumps(json.loads(each.raw)) for each in parked) == sorted(
            json.dumps(json.loads(body)) for body in bodies
        )
        world.journal.wait(len(bodies))
        assert world.journal.begun() == [f"{number}" for number in range(len(bodies))]

    @needs("parked jobs")
    def test_a_hostile_message_runs_nothing(self, *, world: World, tmp_path: Path) -> None:
        touched = tmp_path / "touched"
        world.enqueue("before")
        count = world.put_hostile(touched)
        world.enqueue("after")
        world.start_worker()
        parked = world.wait_parked(count)
        world.journal.wait(2)
        world.enqueue("sentinel")
        world.journal.wait(3)
        assert not touched.exists()
        assert len(parked) == count
        assert all(each.failure for each in parked)

    @needs("delay")
    def test_an_import_path_is_only_an_unknown_name(self, *, world: World, tmp_path: Path) -> None:
        touched = tmp_path / "touched"
        args = json.dumps([f"touch {touched}"]).encode()
        world.manager.enqueue_many([world.envelope("os.system", args)])
        world.enqueue("sentinel")
        world.start_worker()
        world.journal.wait(1)
        assert not touched.exists()
