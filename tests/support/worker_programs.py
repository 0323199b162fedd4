"""Programs that lose workers, zygotes and supervisors: each is a process of its own, whose leavings are looked for from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

# The first lines of every program: what the tests call on.
PRELUDE = """
import contextlib, faulthandler, os, signal, sys, threading, time
# All stacks before run() gives it up. Not by faulthandler's timer: a forked child would wait for its thread at its end.
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(50)
import freethreading
from freethreading import _supervisor
from support import processes

def wait_for(event):
    event.wait(60)

def put(queue, value):
    queue.put(value)

def alive(pid):
    return pid in processes.alive()

def kill(pids, how=signal.SIGKILL):
    for pid in pids:
        # Among those of a zygote may be one that only forks a spare, and has ended.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)

def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("waited in vain")
        threading.Event().wait(0.005)

def die_at(point):
    # Not this process, which looks at the variable at its first crash point: a supervisor and a zygote that are started now.
    with freethreading.Lock():
        os.environ["FT_CRASH_AT"] = point

def works():
    queue = freethreading.Queue()
    worker = freethreading.Worker(target=put, args=(queue, 7))
    worker.start()
    assert queue.get(timeout=20) == 7
    worker.join()
    return worker.exitcode == 0
"""


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "FREETHREADING_BACKEND": "multiprocessing", "PYTHONPATH": path, **more}


def run(body: str, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body), *args],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answers(body: str, *args: str, **more: str) -> str:
    """What the program printed, which must have ended well."""
    done = run(body, *args, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
