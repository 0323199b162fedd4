"""Every test of the standard library's suites that ours are not meant to pass, with its reason.

A key is a test's name, "Class.test"; a value says on which back ends it differs, and why. A test that is listed here and
passes fails ours, so that the list stays true. HANGS lists tests that cannot be run at all with our types.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    reason: str
    backends: tuple[str, ...] = ("threading", "multiprocessing")
    runs: bool = True  # False: it must not even be started (it would wait for ever, or ends the process)


DIFFERENCES: dict[str, Difference] = {}
