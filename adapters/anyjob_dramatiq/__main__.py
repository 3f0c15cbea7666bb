"""Runs Dramatiq's command, and again when a job crashed its process: `python -m anyjob_dramatiq <its arguments>`.

Dramatiq ends all its processes when one of them ends. Under a supervisor of your own, `dramatiq` alone will do.
"""

from __future__ import annotations

import signal
import sys
from typing import Final

from anyjob.extend import Supervisor

_KILLED: Final = 1  # Dramatiq's exit code if a process was killed; higher codes: wrong usage, failed import

if __name__ == "__main__":
    command = [sys.executable, "-m", "dramatiq", *sys.argv[1:]]
    sys.exit(Supervisor({"dramatiq": command}, killed=(_KILLED,), also=(signal.SIGHUP,)).run())
