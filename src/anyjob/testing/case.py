"""The sandbox for unittest, Django's test cases and IsolatedAsyncioTestCase."""

from __future__ import annotations

import unittest
from collections.abc import Mapping
from typing import Any, ClassVar

from anyjob.testing.sandbox import JobSandbox, in_memory

__all__ = ["JobSandboxMixin"]


class JobSandboxMixin(unittest.TestCase):
    """Gives each test `self.sandbox`, made in `setUp` and gone after the test. Put it before other base classes."""

    sandbox: JobSandbox
    sandbox_options: ClassVar[Mapping[str, Any]] = {}
    """What `in_memory` is called with."""

    def setUp(self) -> None:
        super().setUp()
        self.sandbox = self.enterContext(in_memory(**self.sandbox_options))
