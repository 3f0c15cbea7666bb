"""Child processes end with who started them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from anyjob.testing.probes.journal import wait_until

PARENT = """
import signal, sys
from anyjob.base.children import start_child
child = start_child([sys.executable, "-c", "import os, signal; os.write(1, b'%d' % os.getpid()); signal.pause()"])
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_child_is_stopped_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(os.read(parent.stdout.fileno(), 100))
        parent.kill()
        parent.wait()
        # It held the pipe's other end.
        wait_until(lambda: os.read(parent.stdout.fileno(), 100) == b"", what=f"{child} to end")  # type: ignore[union-attr]
