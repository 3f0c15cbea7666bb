"""The conformance kit: the duties of every backend and store, as tests that an adapter's own test module runs.

    class TestMyBackend(BackendConformance):
        @classmethod
        def make_harness(cls, tmp_path_factory): ...

A declared feature turns its tests on; where it is not declared, the same tests see that the call is refused.
"""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from anyjob.testing.conformance.store_machine import StoreMachine

_SUITES = (
    "chaos",
    "crashes",
    "delay",
    "endings",
    "files",
    "fixtures",
    "harness",
    "hostile",
    "moving",
    "names",
    "order",
    "outages",
    "retries",
    "runs",
    "inspector",
    "stage",
    "store",
)
pytest.register_assert_rewrite(*(f"{__name__}.{each}" for each in _SUITES))

from anyjob.testing.conformance.chaos import ChaosConformance  # noqa: E402  # rewritten, so that failures explain
from anyjob.testing.conformance.crashes import CrashesConformance  # noqa: E402
from anyjob.testing.conformance.delay import DelayConformance  # noqa: E402
from anyjob.testing.conformance.endings import EndingsConformance  # noqa: E402
from anyjob.testing.conformance.files import FileHarness, FileWorld  # noqa: E402
from anyjob.testing.conformance.harness import BackendHarness, WorkerHandle, World  # noqa: E402
from anyjob.testing.conformance.hostile import HostileConformance  # noqa: E402
from anyjob.testing.conformance.in_process import InProcessHarness  # noqa: E402
from anyjob.testing.conformance.inspector import InspectorConformance  # noqa: E402
from anyjob.testing.conformance.moving import MovingConformance  # noqa: E402
from anyjob.testing.conformance.names import NamesConformance  # noqa: E402
from anyjob.testing.conformance.order import OrderConformance  # noqa: E402
from anyjob.testing.conformance.outages import OutagesConformance  # noqa: E402
from anyjob.testing.conformance.processes import ServerHarness, ServerWorld  # noqa: E402
from anyjob.testing.conformance.redis_server import PrivateRedis, RedisHarness  # noqa: E402
from anyjob.testing.conformance.retries import RetriesConformance  # noqa: E402
from anyjob.testing.conformance.runs import RunsConformance  # noqa: E402
from anyjob.testing.conformance.store import StoreConformance  # noqa: E402

__all__ = [
    "BackendConformance",
    "BackendHarness",
    "FileHarness",
    "FileWorld",
    "InProcessHarness",
    "PrivateRedis",
    "RedisHarness",
    "ServerHarness",
    "ServerWorld",
    "StoreConformance",
    "StoreMachine",
    "WorkerHandle",
    "World",
]


def __getattr__(name: str) -> Any:
    """Import the state machine for who asks for it: it alone needs Hypothesis."""
    if name != "StoreMachine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from anyjob.testing.conformance.store_machine import StoreMachine
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise ImportError("StoreMachine needs Hypothesis. Run: pip install hypothesis", name="hypothesis") from error
    return StoreMachine


class BackendConformance(
    RunsConformance,
    OrderConformance,
    DelayConformance,
    RetriesConformance,
    EndingsConformance,
    NamesConformance,
    CrashesConformance,
    OutagesConformance,
    InspectorConformance,
    MovingConformance,
    HostileConformance,
    ChaosConformance,
):
    """Everything that a backend must do. Subclass it and say by `make_harness` what it is to be run on."""
