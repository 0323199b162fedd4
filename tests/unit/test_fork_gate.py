"""Forks and those who start workers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import freethreading
from freethreading._core import open_gate, open_gate_in_child, shut_gate
from freethreading._fork_gate import fork_gate
from support.until import until
from support.watchdog import watch_child

SECONDS = 30.0


def fork(in_child: Callable[[], int]) -> int:
    """The exit code of a forked child."""
    child = os.fork()
    if child == 0:
        code = 99
        watch_child()
        try:
            code = in_child()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class OnPickling:
    """Calls the function when it is pickled."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def __reduce__(self) -> Any:
        self._function()
        return int, (7,)


def start(argument: Any) -> int | None:
    worker = freethreading.Worker(target=sys.exit, args=(argument,))
    worker.start()
    worker.join()
    return worker.exitcode


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_a_fork_waits_for_a_start() -> None:
    order: list[str] = []
    inside, go_on = threading.Event(), threading.Event()

    def pickled() -> None:
        inside.set()
        assert go_on.wait(SECONDS)
        order.append("pickled")

    def forker() -> None:
        shut_gate(fork_gate, SECONDS)  # as a fork does, but for the patience
        order.append("forked")
        open_gate(fork_gate)

    starter = in_thread(lambda: order.append(f"exit code {start(OnPickling(pickled))}"))
    assert inside.wait(SECONDS)
    thread = in_thread(forker)
    until(lambda: "forker" in functions_of(thread), "the fork is at the gate")
    go_on.set()
    thread.join()
    starter.join()
    assert order.index("pickled") < order.index("forked")
    assert "exit code 7" in order


def functions_of(thread: threading.Thread) -> list[str]:
    frame = sys._current_frames().get(thread.ident or 0)
    found: list[str] = []
    while frame is not None:
        found.append(frame.f_code.co_name)
        frame = frame.f_back
    return found


def test_a_start_that_forks() -> None:
    codes: list[int] = []
    assert start(OnPickling(lambda: codes.append(fork(lambda: 5)))) == 7
    assert codes == [5]


def test_a_fork_does_not_wait_for_ever() -> None:
    inside, forked = threading.Event(), threading.Event()

    def pickled() -> None:
        inside.set()
        assert forked.wait(SECONDS)

    starter = in_thread(lambda: start(OnPickling(pickled)))
    assert inside.wait(SECONDS)
    assert fork(lambda: start(4) or 0) == 4  # the child starts workers of its own
    forked.set()
    starter.join()


@pytest.mark.parametrize("after", [open_gate, open_gate_in_child])
def test_what_a_fork_takes_it_gives_back(after: Callable[[Any], None]) -> None:
    gate = threading.RLock()
    taken: list[bool] = []

    def try_it() -> None:
        shut_gate(gate, 0.0)
        open_gate(gate)  # which gives back what it has
        taken.append(gate.acquire(blocking=False))
        if taken[-1]:
            gate.release()

    shut_gate(gate, SECONDS)
    after(gate)
    with gate:  # as in a start that forks
        shut_gate(gate, SECONDS)
        after(gate)
        in_thread(try_it).join()
    in_thread(try_it).join()
    assert taken == [False, True]


def test_a_child_has_it_free_whoever_had_it() -> None:
    gate = threading.RLock()
    in_thread(gate.acquire).join()
    shut_gate(gate, 0.0)
    open_gate(gate)
    assert not gate.acquire(blocking=False)
    open_gate_in_child(gate)
    assert gate.acquire(blocking=False)


def test_signals_during_forks_leave_it_open() -> None:
    program = """
import os, signal, threading
import freethreading
from freethreading._fork_gate import fork_gate

def interrupt(*_):
    raise InterruptedError

freethreading.Lock(shared=True)
signal.signal(signal.SIGALRM, interrupt)
for delay in range(1, 200):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, delay * 1e-5)
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except InterruptedError:
        pass
entered = []
thread = threading.Thread(target=lambda: entered.append(fork_gate.acquire(timeout=30)))
thread.start()
thread.join()
print(entered)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout == "[True]\n", done.stderr


def test_misuse() -> None:
    bad: Any = shut_gate
    for arguments in ((), (fork_gate,), (object(), 1.0), (fork_gate, "x")):
        with pytest.raises((TypeError, AttributeError)):
            bad(*arguments)
    with pytest.raises(AttributeError):
        open_gate_in_child(object())
