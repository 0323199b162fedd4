"""Ctrl-C: the terminal interrupts the program and all of its workers at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import processes
from support.until import until

TESTS = Path(__file__).parents[1]
SECONDS = 5.0  # it takes a tenth of a second; a machine may be busy

PROGRAM = """
import json, os, sys
sys.path.insert(0, {tests!r})
import freethreading
from support import processes

def wait(event, started):
    started.release()
    event.wait()

def tell():
    pids = processes.ours() if os.environ["FREETHREADING_BACKEND"] == "multiprocessing" else []
    print(json.dumps(sorted(pids)), flush=True)

def meet(barrier):
    barrier.wait()

event, started = freethreading.Event(), freethreading.Semaphore(0)
with freethreading.{kind}(2) as pool:
    list(pool.map(meet, [freethreading.Barrier(2)] * 2))  # both workers are there
    {body}
"""
BUSY_POOL = """
    result = pool.starmap_async(wait, [(event, started)] * 2, chunksize=1)
    started.acquire(), started.acquire()
    tell()
    result.get()
"""
BUSY_EXECUTOR = """
    futures = [pool.submit(wait, event, started) for _ in range(2)]
    started.acquire(), started.acquire()
    tell()
    futures[0].result()
"""
IDLE = """
    tell()
    freethreading.Event().wait()
"""
STARTING = """
    others = [freethreading.{kind}(2) for _ in range(3)]
    tell()
    freethreading.Event().wait()
"""


def group_of(pid: int) -> int | None:
    """None: it has ended, as the children do by which the zygote forks workers."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param("WorkerPool", BUSY_POOL, id="pool-busy"),
        pytest.param("WorkerPool", IDLE, id="pool-idle"),
        pytest.param("WorkerPool", STARTING.format(kind="WorkerPool"), id="pool-starting"),
        pytest.param("WorkerPoolExecutor", BUSY_EXECUTOR, id="executor-busy"),
        pytest.param("WorkerPoolExecutor", IDLE, id="executor-idle"),
    ],
)
def test_an_interrupt_ends_the_program_with_one_traceback(kind: str, body: str) -> None:
    code = PROGRAM.format(tests=str(TESTS), kind=kind, body=body)
    program = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "FREETHREADING_BACKEND": "multiprocessing"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert program.stdout is not None
    family = set(json.loads(program.stdout.readline()))
    assert len(family) >= 4  # supervisor, zygote, two workers
    assert {group for pid in family if (group := group_of(pid))} == {program.pid}  # all of them get it
    interrupted = time.monotonic()
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=30)
    assert time.monotonic() - interrupted < SECONDS
    assert program.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    until(lambda: not family & processes.alive(), "nothing is left behind", SECONDS)
