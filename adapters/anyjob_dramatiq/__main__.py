"""Runs Dramatiq's command, and again when a job took its process along: `python -m anyjob_dramatiq <its arguments>`.

Dramatiq ends all its processes when one of them dies. Under a supervisor of your own, `dramatiq` alone will do.
"""

from __future__ import annotations

import signal
import sys
from typing import Final

from anyjob.extend import Supervisor

_KILLED: Final = 1  # what Dramatiq ends with when a process of it was killed; more is wrong usage, or a failed import

if __name__ == "__main__":
    command = [sys.executable, "-m", "dramatiq", *sys.argv[1:]]
    sys.exit(Supervisor({"dramatiq": command}, killed=(_KILLED,), also=(signal.SIGHUP,)).run())
