"""Modules that workers' functions need: imported once, by the zygote, whatever the main module is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.unfit_modules import UNFIT

# Each import of it is a line of a file.
MODULE = """
import os
import pathlib
import sys

with pathlib.Path(__file__).with_suffix(".log").open("a") as log:
    log.write(f"{os.getpid()}\\n")


def work(number):
    return number * 2


def surroundings(_):
    return seen


def look(name):
    was_there = name in sys.modules
    return os.getpid(), was_there, __import__(name).work(1)


class Doubler:
    def __init__(self, by=2):
        self.by = by

    def work(self, number):
        return number * self.by

    def __call__(self, number):
        return number * self.by


seen = (os.environ.get("COLOUR"), sys.argv[1:], os.getcwd())
"""
# What a program does with the module, so that a worker calls something of it. `results` are the products 0 and 2.
USES = {
    "pool": "with freethreading.WorkerPool(3) as pool: results = pool.map(module.work, range(2))",
    "chunks": "with freethreading.WorkerPool(3) as pool: results = pool.map(module.work, range(2), chunksize=1)",
    "imap": "with freethreading.WorkerPool(3) as pool: results = list(pool.imap(module.work, range(2)))",
    "apply": "with freethreading.WorkerPool(3) as pool: results = [pool.apply(module.work, (k,)) for k in range(2)]",
    "initializer": (
        "with freethreading.WorkerPool(3, module.work, (1,)) as pool:\n    results = pool.map(int, [0, 2])"
    ),
    "executor": (
        "with freethreading.WorkerPoolExecutor(3) as executor:\n"
        "    results = [executor.submit(module.work, k).result() for k in range(2)]"
    ),
    "executor map": (
        "with freethreading.WorkerPoolExecutor(3) as executor: results = list(executor.map(module.work, range(2)))"
    ),
    "partial": (
        "import functools\n"
        "with freethreading.WorkerPool(3) as pool: results = pool.map(functools.partial(module.work), range(2))"
    ),
    "method": "with freethreading.WorkerPool(3) as pool: results = pool.map(module.Doubler().work, range(2))",
    "instance": "with freethreading.WorkerPool(3) as pool: results = pool.map(module.Doubler(), range(2))",
    "lambda": "with freethreading.WorkerPool(3) as pool: results = pool.map(lambda k: module.work(k), range(2))",
    "function of main": (
        "def twice(number): return module.work(number)\n"
        "with freethreading.WorkerPool(3) as pool: results = pool.map(twice, range(2))"
    ),
    "class of a global": (
        "doubler = module.Doubler()\n"
        "def twice(number): return doubler(number)\n"
        "with freethreading.WorkerPool(3) as pool: results = pool.map(twice, range(2))"
    ),
    "workers": (
        "queue = freethreading.Queue()\n"
        "def put(number): queue.put(module.work(number))\n"
        "workers = [freethreading.Worker(target=put, args=(k,)) for k in range(2)]\n"
        "for worker in workers: worker.start()\n"
        "results = sorted(queue.get(timeout=30) for _ in workers)\n"
        "for worker in workers: worker.join()"
    ),
    "plain workers": (
        "workers = [freethreading.Worker(target=module.work, args=(k,)) for k in range(2)]\n"
        "for worker in workers: worker.start()\n"
        "for worker in workers: worker.join()\n"
        "results = [2 * worker.exitcode for worker in workers]; results[1] += 2"
    ),
}
# A module that starts a worker is unfit where it is only met with a call.
UNFIT_FOR_CALLS = {
    **UNFIT,
    "worker": (
        "import signal, freethreading\n"
        "if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: freethreading.Worker(target=work, args=(1,)).start()"
    ),
}


def write_module(folder: Path, name: str = "module", rest: str = "") -> None:
    (folder / f"{name}.py").write_text(MODULE + rest + "\n")


def imports(folder: Path, name: str = "module") -> int:
    """How many times the module was imported; the program is one of them."""
    return len((folder / f"{name}.log").read_text().split())


def run(folder: Path, program: str, *args: str) -> list[Any]:
    """Runs a program without a guard; what it prints, a line each."""
    (folder / "program.py").write_text(program)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "program.py", *args],
        env={**os.environ, "FREETHREADING_BACKEND": "multiprocessing", "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return [eval(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("use", USES)
def test_is_imported_once_for_all_workers(tmp_path: Path, use: str) -> None:
    write_module(tmp_path)
    assert run(tmp_path, f"import cloudpickle, freethreading, module\n{USES[use]}\nprint(results)") == [
        [0, 2]
    ]
    assert imports(tmp_path) == 2


def test_one_that_is_imported_under_the_guard_only(tmp_path: Path) -> None:
    write_module(tmp_path)
    program = (
        "import freethreading\n"
        "if __name__ == '__main__':\n"
        "    import module\n"
        "    with freethreading.WorkerPool(3) as pool: print(pool.map(module.work, range(2)))\n"
    )
    assert run(tmp_path, program) == [[0, 2]]
    assert imports(tmp_path) == 2


@pytest.mark.watchdog(120)
@pytest.mark.parametrize("how", UNFIT_FOR_CALLS)
def test_one_that_cannot_be_forked_behind_is_each_workers_own(tmp_path: Path, how: str) -> None:
    write_module(tmp_path, "module", UNFIT_FOR_CALLS[how])
    write_module(tmp_path, "fit")
    program = """
import freethreading, fit, module

def both(name):
    return fit.look(name), module.work(1), fit.look("fit")

for _ in range(2):
    with freethreading.WorkerPoolExecutor(1) as executor:
        print(executor.submit(both, "module").result(90))
"""
    seen = run(tmp_path, program)
    assert [(module[1:], two, of_fit[1:]) for module, two, of_fit in seen] == [
        ((True, 2), 2, (True, 2))  # it is there when the function is, as a global of it
    ] * 2
    if how != "sleep":  # else the time for both is over
        # In the program, twice in the zygote (together, then each alone); and in the two workers.
        assert imports(tmp_path, "fit") == 1 + 2
        assert imports(tmp_path) == 1 + 2 + 2


def test_later_workers_of_a_pool_have_what_the_first_had_to_import(tmp_path: Path) -> None:
    write_module(tmp_path)
    write_module(tmp_path, "late")
    program = """
import os, signal
import freethreading, module
from support.until import until

with freethreading.WorkerPool(1) as pool:
    first = pool.apply(module.look, ("module",))
    import late  # its workers are there
    print((first[1], pool.apply(module.look, ("late",))[1]))
    print(pool.apply(late.work, (1,)))
    os.kill(first[0], signal.SIGKILL)
    until(lambda: pool.apply(os.getpid) != first[0], "there is another worker")
    print(pool.apply(module.look, ("late",))[1])
"""
    assert run(tmp_path, program) == [(True, False), 2, True]
    assert imports(tmp_path, "late") == 3  # the program, its first worker, the zygote


def test_spares_of_before_are_not_used(tmp_path: Path) -> None:
    write_module(tmp_path)
    program = """
import os, sys
import freethreading
from support import processes
from support.until import until

queue = freethreading.Queue()

def look():
    queue.put("module" in sys.modules)

def work(number):
    return module.work(number)

def seen():
    worker = freethreading.Worker(target=look)
    worker.start()
    found = queue.get(timeout=30)
    worker.join()
    return found

print(seen())
until(lambda: processes.spares(), "there is a spare")
import module
with freethreading.WorkerPool(1) as pool:
    print(pool.map(work, range(2)))
print(seen())
"""
    assert run(tmp_path, program) == [False, [0, 2], True]
    assert imports(tmp_path) == 2


def test_a_module_that_is_reloaded_is_imported_anew(tmp_path: Path) -> None:
    write_module(tmp_path)
    program = """
import importlib, pathlib
import freethreading, module

def tripled():
    with freethreading.WorkerPool(2) as pool:
        return pool.map(module.work, range(2))

print(tripled())
path = pathlib.Path("module.py")
path.write_text(path.read_text().replace("number * 2", "number * 3") + "\\nadded = work\\n")
importlib.reload(module)
print(tripled())
with freethreading.WorkerPool(2) as pool:
    print(pool.map(module.added, range(2)))
"""
    assert run(tmp_path, program) == [[0, 2], [0, 3], [0, 3]]
    assert imports(tmp_path) == 4  # the program twice, the zygote, the next one


def test_nobody_waits_for_an_import_whose_worker_he_does_not_need(tmp_path: Path) -> None:
    unfit = "import signal, time; signal.getsignal(signal.SIGINT) is signal.SIG_IGN and time.sleep(60)"
    write_module(tmp_path, "module", unfit)
    program = """
import time
import freethreading, module

with freethreading.WorkerPool(1) as pool:
    pool.apply(abs, (1,))  # there is a zygote
begin = time.monotonic()
pool = freethreading.WorkerPool(2)
result = pool.map_async(module.work, range(2))
pool.terminate()
pool.join()
print(time.monotonic() - begin < 5)
"""
    assert run(tmp_path, program) == [True]


def test_what_an_import_does_to_its_process_reaches_no_other_worker(tmp_path: Path) -> None:
    rest = """
import signal
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the zygote
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
"""
    write_module(tmp_path, "module", rest)
    program = """
import os, signal
import freethreading, module

def look():
    umask = os.umask(0)
    os.umask(umask)
    return umask, signal.pthread_sigmask(signal.SIG_BLOCK, ())

with freethreading.WorkerPool(1) as pool:
    print(pool.apply(module.work, (1,)))
with freethreading.WorkerPool(1) as pool:
    print(pool.apply(look) == look())
"""
    assert run(tmp_path, program) == [2, True]


def test_a_module_sees_what_is_around_the_program(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write_module(tmp_path / "elsewhere")
    program = """
import os, sys
import freethreading

with freethreading.WorkerPool(1) as pool:
    print(pool.apply(abs, (-1,)))  # the zygote has started
os.environ["COLOUR"] = "blue"
sys.argv[1:] = ["one", "two"]
sys.path.insert(0, os.path.abspath("elsewhere"))
os.chdir("elsewhere")
import module
with freethreading.WorkerPool(1) as pool:
    print(pool.apply(module.surroundings, (0,)))
"""
    expected = ("blue", ["one", "two"], str(tmp_path / "elsewhere"))
    assert run(tmp_path, program, "before") == [1, expected]
    assert imports(tmp_path / "elsewhere") == 2


def test_while_the_zygote_imports_workers_start_that_were_asked_for_before(tmp_path: Path) -> None:
    # The zygote's import waits until a worker that was started before has written.
    os.mkfifo(tmp_path / "fifo")
    write_module(
        tmp_path,
        "module",
        "import signal\nif signal.getsignal(signal.SIGINT) is signal.SIG_IGN: open('fifo').read()",
    )
    program = """
import threading
import freethreading, module

def write():
    with open("fifo", "w") as file:
        file.write("go on")

pool = freethreading.WorkerPool(1)
print(pool.apply(abs, (-1,)))
writer = freethreading.Worker(target=write)
writer.start()  # waits for the reader, which is the import
with freethreading.WorkerPool(1) as other:
    print(other.apply(module.look, ("module",))[1:])
writer.join()
print(writer.exitcode)
pool.terminate()
"""
    assert run(tmp_path, program) == [1, (True, 2), 0]
    assert imports(tmp_path) == 2


def test_numpy_in_functions_of_a_main_program_without_a_guard(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("threadpoolctl")
    program = """
import os, sys
import freethreading
import numpy as np

def norms(scale):
    return float(np.linalg.norm(scale * np.eye(100) @ np.ones(100))), len(os.listdir("/proc/self/task"))

def look(_):
    return "numpy" in sys.modules

with freethreading.WorkerPool(2) as pool:
    print(pool.map(norms, [1.0, 2.0]))
with freethreading.WorkerPool(2) as pool:
    print(pool.map(look, range(4)))
"""
    norms, have_it = run(tmp_path, program)
    assert [norm for norm, _ in norms] == [10.0, 20.0]
    assert have_it == [True] * 4


def test_polars_in_functions_of_a_main_program_without_a_guard(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    program = """
import freethreading
import polars as pl

def total(size):
    return pl.DataFrame({"a": range(size)}).select(pl.col("a").sum()).item()

for _ in range(2):
    with freethreading.WorkerPool(2) as pool:
        print(pool.map(total, [10, 100]))
"""
    assert run(tmp_path, program) == [[45, 4950]] * 2
