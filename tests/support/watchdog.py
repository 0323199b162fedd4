"""How long a test may take, and where its watchdog writes."""

from __future__ import annotations

import faulthandler
import os
import signal

WATCHDOG_SECONDS = float(os.environ.get("FT_TEST_TIMEOUT", "120"))

_output = 2


def keep_stderr() -> None:
    """Standard error as it is now is the watchdog's. To be called before pytest captures it: a dump would be lost with it."""
    global _output
    _output = os.dup(2)


def watchdog_output() -> int:
    """A descriptor."""
    return _output


def watch_child() -> None:
    """Ends this process, which a test has forked, with all stacks once it takes too long: its parent's watchdog sees nothing of it.

    By a signal: the thread of faulthandler's timer is not in the child, and a new one would wait for it.
    """
    faulthandler.register(signal.SIGALRM, file=_output, all_threads=True, chain=True)
    signal.alarm(max(1, int(WATCHDOG_SECONDS / 2)))
