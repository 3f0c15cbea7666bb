"""Debian releases that are unpacked into folders: what they ship runs from there, by chroot.

Mounts belong to the process that needs them (`unshare --mount`) and end with it: nothing is left to be cleaned up. The
network is the machine's own. Needs root, debootstrap, and a mirror: `ANYJOB_TEST_DEBIAN`, or the one that apt uses.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Final

__all__ = ["Debian"]


class Debian:
    """A release, in a folder of its own below `cache`."""

    def __init__(self, release: str, cache: Path) -> None:
        self.release = release
        self.root = cache / release

    def install(self, packages: Sequence[str]) -> None:
        """Unpack the release and install packages of it, unless they are there."""
        if not self.root.exists():
            self._unpack()
        there = [self.root / "var/lib/dpkg/info" / f"{package}.list" for package in packages]
        if not all(path.exists() for path in there):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            apt = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *packages]
            subprocess.run(self.command(apt), check=True, env=environment)

    def command(self, argv: Sequence[str], show: Sequence[Path] = ()) -> list[str]:
        """Return the command that runs in there, with the process id of whoever starts it, from the folder /.

        It sees the folder for temporary files, and `show`, where they are outside.
        """
        mounts = ['mount -t proc proc "$0/proc"', 'mount --rbind /dev "$0/dev"']
        for path in (Path(tempfile.gettempdir()), *show):
            self._make_room(path)
            mounts.append(f'mount --bind {quote(str(path))} "$0"{quote(str(path))}')
        script = " && ".join([*mounts, 'exec chroot "$0" "$@"'])
        return ["unshare", "--mount", "sh", "-c", script, str(self.root), *argv]

    def wrap(self, program: str, path: Path) -> None:
        """Write a program that runs one of the release's own."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec {" ".join(map(quote, self.command([program])))} "$@"\n')
        path.chmod(0o755)

    def _unpack(self) -> None:
        half = self.root.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        # A debootstrap older than the release has no script of that name; all new releases are unpacked as sid is.
        known = (_SCRIPTS / self.release).exists()
        argv = ["debootstrap", "--variant=minbase", "--include=ca-certificates", self.release, str(half), _mirror()]
        subprocess.run([*argv, *([] if known else ["sid"])], check=True)
        silent = half / "usr/sbin/policy-rc.d"
        silent.write_text("#!/bin/sh\nexit 101\n")  # else an installed server starts, on the port that everybody knows
        silent.chmod(0o755)
        half.rename(self.root)

    def _make_room(self, path: Path) -> None:
        inside = self.root / path.relative_to("/")
        if path.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()


def _mirror() -> str:
    if said := os.environ.get("ANYJOB_TEST_DEBIAN"):
        return said
    ask = ["apt-get", "indextargets", "--format", "$(LABEL) $(SITE)", "Created-By: Packages"]
    lines = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.splitlines()
    for label, _, site in (line.partition(" ") for line in lines):
        if label == "Debian":
            return site
    raise SystemExit("apt knows no mirror of Debian: name one by ANYJOB_TEST_DEBIAN")


_SCRIPTS: Final = Path("/usr/share/debootstrap/scripts")
