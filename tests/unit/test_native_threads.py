"""BLAS and OpenMP in workers: no more threads than each has CPUs; what the program has set itself stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import freethreading
from freethreading import _native_threads

pytest.importorskip("numpy")
threadpoolctl = pytest.importorskip("threadpoolctl")


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    for name in _native_threads.NAMES:
        monkeypatch.delenv(name, raising=False)


def threads_of_blas(_: object = None) -> set[int]:
    import numpy as np

    np.ones((4, 4)) @ np.ones((4, 4))
    return {library["num_threads"] for library in threadpoolctl.threadpool_info()}


def variables(_: object = None) -> list[str | None]:
    return [os.environ.get(name) for name in _native_threads.NAMES]


def test_a_library_that_a_worker_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freethreading._cpus.usable_cpus", lambda: 6)
    with freethreading.WorkerPool(2) as pool:
        assert pool.map(variables, range(2)) == [["3"] * 5] * 2
    with freethreading.WorkerPool(9) as pool:
        assert pool.apply(variables) == ["1"] * 5
        assert pool.apply(threads_of_blas) == {1}
    assert variables() == [None] * 5


def variables_within(workers: int) -> list[str | None]:
    with freethreading.WorkerPool(workers) as pool:
        found: list[str | None] = pool.apply(variables)
        return found


def test_a_pool_in_a_call_shares_out_what_its_worker_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freethreading._cpus.usable_cpus", lambda: 12)
    with freethreading.WorkerPool(2) as pool:
        assert pool.apply(variables_within, (3,)) == ["2"] * 5
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with freethreading.WorkerPool(2) as pool:
        assert pool.apply(variables_within, (3,)) == ["7", None, None, None, None]


def test_what_the_program_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with freethreading.WorkerPool(9) as pool:
        assert pool.apply(threads_of_blas) == {
            min(2, os.cpu_count() or 1)
        }  # it starts no more than there are CPUs
        assert pool.apply(variables)[1] == "2"


def test_a_worker_that_is_no_pools_has_what_the_program_has() -> None:
    queue: freethreading.Queue[list[str | None]] = freethreading.Queue()
    worker = freethreading.Worker(target=put_variables, args=(queue,))
    worker.start()
    worker.join()
    worker.close()
    assert queue.get(timeout=30) == [None] * 5


def put_variables(queue: freethreading.Queue[list[str | None]]) -> None:
    queue.put(variables())


PROGRAM = """
import os, sys
import numpy as np
import threadpoolctl
import freethreading
from freethreading import _cpus, _native_threads

def state(_=None):
    np.ones((4, 4)) @ np.ones((4, 4))
    threads = {library["num_threads"] for library in threadpoolctl.threadpool_info()}
    return threads, _native_threads._controller is not None, os.environ.get("OMP_NUM_THREADS")

def tell(queue):
    queue.put(state())

if __name__ == "__main__":
    before = state()
    cpus, _cpus.usable_cpus = _cpus.usable_cpus(), lambda: 6
    with freethreading.WorkerPool(2) as pool:
        print(pool.apply(state))
    os.environ["OMP_NUM_THREADS"] = "4"
    with freethreading.WorkerPool(2) as pool:
        print(pool.apply(state))
    del os.environ["OMP_NUM_THREADS"]
    os.environ["OPENBLAS_NUM_THREADS"] = "2"
    with freethreading.WorkerPool(1) as pool:
        print(pool.apply(state))
    del os.environ["OPENBLAS_NUM_THREADS"]
    queue = freethreading.Queue()
    worker = freethreading.Worker(target=tell, args=(queue,))
    worker.start()
    worker.join()
    assert queue.get(timeout=30) == ({cpus}, True, None)
    assert state() == before
"""


def test_a_library_that_the_zygote_has_loaded(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["({3}, True, '3')", "({4}, True, '4')", "({2}, True, '6')"], (
        done.stderr
    )


LAZY = """
import os
import numpy as np
import threadpoolctl
import freethreading
from freethreading import _native_threads

def tell(queue):
    came_with_numpy = _native_threads._controller is not None
    before = len(os.listdir("/proc/self/task"))
    product = np.ones((600, 600)) @ np.ones((600, 600))
    threads = {library["num_threads"] for library in threadpoolctl.threadpool_info()}
    queue.put((came_with_numpy, before, len(os.listdir("/proc/self/task")), threads, bool((product == 600).all())))

if __name__ == "__main__":
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        with freethreading.WorkerPool(1):  # what comes next is not for the zygote
            os.environ["OPENBLAS_NUM_THREADS"] = "2"
    queue = freethreading.Queue()
    worker = freethreading.Worker(target=tell, args=(queue,))
    worker.start()
    worker.join()
    print(queue.get(timeout=30))
"""


@pytest.mark.parametrize("given", [True, False])
def test_threads_of_a_library_start_when_there_is_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    if not any(library["internal_api"] == "openblas" for library in threadpoolctl.threadpool_info()):
        pytest.skip("NumPy has another BLAS here")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("it starts no more than there are CPUs")
    if given:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    file = tmp_path / "program.py"
    file.write_text(LAZY)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["(True, 1, 2, {2}, True)"], done.stderr
