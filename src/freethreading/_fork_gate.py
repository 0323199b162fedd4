"""A fork waits for those who start workers.

A forked child has the locks of the threads that it lost as they were: those of standard output, of modules, of this
package, and on free-threaded builds the interpreter's own of each object. Engines start workers from threads that the user
knows nothing of; a fork that came in the middle would leave a child that hangs at its first such lock.
"""

from __future__ import annotations

import os
import threading
from functools import partial

from freethreading import _core

# How long a fork waits: what a worker is given is pickled, and that may run anything.
PATIENCE_SECONDS = 1.0

# Whoever starts a worker has it, and whoever forks, from before until after. A thread that has it may fork.
fork_gate = threading.RLock()


def follow_forks() -> None:
    """Has forks take it. To be called behind what else is registered: the hooks before a fork run in reverse order, and who
    starts a worker takes what others take for a fork.

    The hooks are functions of C: a signal handler that raised in one of Python's would leave the gate shut.
    """
    os.register_at_fork(
        before=partial(_core.shut_gate, fork_gate, PATIENCE_SECONDS),
        after_in_parent=partial(_core.open_gate, fork_gate),
        after_in_child=partial(_core.open_gate_in_child, fork_gate),
    )
