"""Workers that die, or grow too large, while the program is in C code that keeps the GIL: the supervisor sees to them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import freethreading
from support import processes
from support.shared import just
from support.until import until

SECONDS = 60.0
MIB = 1 << 20
LIMIT = 64 * MIB  # a worker begins with a quarter of that or less
JUMP = 200 * MIB

kept: list[bytes] = []


@pytest.fixture(autouse=True)
def on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("there is no GIL that could be kept")
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def keep_the_gil_until_told(pipe: Path) -> None:
    """Reads a byte in C, as an extension module does that does not let the GIL go."""
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        buffer = ctypes.create_string_buffer(1)
        assert ctypes.PyDLL(None).read(descriptor, buffer, 1) == 1
    finally:
        os.close(descriptor)


def tell(pipe: Path) -> int:
    pipe.write_bytes(b"x")
    return os.getpid()


def pid() -> int:
    return os.getpid()


def die_when_told(gate: Any) -> None:
    assert gate.wait(SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def grow_when_told(gate: Any) -> None:
    assert gate.wait(SECONDS)
    kept.append(b"x" * JUMP)
    threading.Event().wait()


def tell_when_gone(pipe: Path, other: int) -> None:
    until(lambda: other not in processes.alive(), "the other worker has ended", SECONDS)
    tell(pipe)


def crew_of(pool: Any) -> Any:
    return pool._engine._crew


def has_standby(pool: Any) -> bool:
    return crew_of(pool)._standby is not None


def test_a_dead_worker_is_replaced(pipe: Path) -> None:
    gate: Any = freethreading.Event()
    with freethreading.WorkerPoolExecutor(1) as executor:
        before = executor.submit(pid).result(SECONDS)
        for _ in range(2):
            until(lambda: has_standby(executor), "there is one in reserve")
            gate.clear()
            dies = executor.submit(die_when_told, gate)
            told = executor.submit(tell, pipe)
            gate.set()
            keep_the_gil_until_told(pipe)
            assert told.result(SECONDS) != before
            before = told.result(0)
            assert isinstance(dies.exception(SECONDS), freethreading.WorkerLostError)
            until(lambda: len(crew_of(executor)) == 1, "those that are too many have left")


def test_a_death_that_the_supervisor_meets_before_the_standby(pipe: Path) -> None:
    gate: Any = freethreading.Event()
    supervisor = processes.Table().supervisor()
    libc = ctypes.PyDLL(None)
    with freethreading.WorkerPoolExecutor(1) as executor:
        dies = executor.submit(die_when_told, gate)
        told = executor.submit(tell, pipe)
        until(dies.running, "a worker has it")
        [member] = crew_of(executor)._members
        descriptor = os.open(pipe, os.O_RDWR)
        interval = sys.getswitchinterval()
        os.kill(supervisor, signal.SIGSTOP)
        try:
            until(lambda: has_standby(executor), "it has been asked for")
            gate.set()
            until(lambda: member.process.pid not in processes.alive(), "the worker is dead")
            # From here on no other thread of the program runs.
            sys.setswitchinterval(SECONDS)
            libc.kill(supervisor, signal.SIGCONT)
            assert libc.read(descriptor, ctypes.create_string_buffer(1), 1) == 1
        finally:
            sys.setswitchinterval(interval)
            os.kill(supervisor, signal.SIGCONT)
            os.close(descriptor)
        assert told.result(SECONDS)
        assert isinstance(dies.exception(SECONDS), freethreading.WorkerLostError)


def test_one_that_is_far_too_large_is_ended_and_replaced(pipe: Path) -> None:
    gate: Any = freethreading.Event()
    with freethreading.WorkerPoolExecutor(1, max_memory_per_child=LIMIT) as executor:
        executor.submit(pid).result(SECONDS)
        until(lambda: has_standby(executor), "there is one in reserve")
        grows = executor.submit(grow_when_told, gate)
        told = executor.submit(tell, pipe)
        gate.set()
        keep_the_gil_until_told(pipe)
        error = grows.exception(SECONDS)
        assert isinstance(error, freethreading.WorkerLostError)
        assert error.reason is not None and f"max_memory_per_child ({LIMIT:,})" in error.reason
        assert told.result(SECONDS)


def test_one_that_is_far_too_large_is_ended_beside_others(pipe: Path) -> None:
    gate: Any = freethreading.Event()
    with freethreading.WorkerPoolExecutor(2, max_memory_per_child=LIMIT) as executor:
        grows = executor.submit(grow_when_told, gate)
        members = crew_of(executor)._members
        until(lambda: any(member.process.record.item for member in members), "a worker runs it")
        [member] = [member for member in members if member.process.record.item]
        told = executor.submit(tell_when_gone, pipe, member.process.pid)
        until(told.running, "the other worker has it")
        gate.set()
        keep_the_gil_until_told(pipe)
        assert isinstance(grows.exception(SECONDS), freethreading.WorkerLostError)
        told.result(SECONDS)


def test_one_in_reserve_is_nobodys_worker() -> None:
    with freethreading.WorkerPool(2) as pool:
        pool.apply(just, (1,))
        until(lambda: has_standby(pool), "there is one in reserve")
        standby = crew_of(pool)._standby.process
        assert len(freethreading.active_children()) == pool._engine.worker_count() == 2
        assert standby.record.pid == 0 and not standby.record.ended()
    pool.join()
    assert standby.record.ended() and standby.exitcode == 1


def test_one_in_reserve_goes_with_the_supervisor() -> None:
    with freethreading.WorkerPool(1) as pool:
        pool.apply(just, (1,))
        until(lambda: has_standby(pool), "there is one in reserve")
        standby = crew_of(pool)._standby
        os.kill(processes.supervisor_pid(), signal.SIGKILL)
        until(lambda: has_standby(pool) and crew_of(pool)._standby is not standby, "there is another one")
        assert pool.apply(just, (2,)) == 2


def test_pools_without_workers_have_none_in_reserve() -> None:
    with freethreading.WorkerPoolExecutor(1, idle_timeout=2.0) as executor:
        executor.submit(just, 1).result(SECONDS)
        until(lambda: has_standby(executor), "there is one in reserve")
        until(lambda: not has_standby(executor), "there is none", SECONDS)
        until(lambda: executor._engine.worker_count() == 0, "nor any other")
        assert executor.submit(just, 2).result(SECONDS) == 2


def test_a_program_that_replaces_its_workers_needs_none() -> None:
    with freethreading.WorkerPoolExecutor(1) as executor:
        executor.submit(pid).result(SECONDS)
        until(lambda: has_standby(executor), "there is one in reserve")
        standby = crew_of(executor)._standby
        for _ in range(3):
            os.kill(executor.submit(pid).result(SECONDS), signal.SIGKILL)
            until(lambda: all(m.ready and not m.gone for m in crew_of(executor)._members), "it is replaced")
        assert executor.submit(pid).result(SECONDS)
        assert crew_of(executor)._standby is standby
