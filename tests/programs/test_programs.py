"""The example programs print what they say, on both back ends, as separate programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(backend: str, *arguments: str, source: str | None = None) -> str:
    environment = {**os.environ, "FREETHREADING_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, *arguments],
        input=source,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_signal_and_share(backend: str) -> None:
    assert run(backend, str(EXAMPLES / "signal_and_share.py")).split() == ["True", "True", "data"]


def test_who_is_there(backend: str) -> None:
    children, workers, ident = run(backend, str(EXAMPLES / "who_is_there.py")).split()
    assert (children, workers) == ("0", "1")
    assert int(ident) > 0


def test_workers(backend: str) -> None:
    lines = run(backend, str(EXAMPLES / "workers.py")).splitlines()
    assert lines[0] == {"threading": "MainThread", "multiprocessing": "MainProcess"}[backend]
    assert lines[1:3] == ["Hello from MyWorker!", "[0, 1, 4, 9, 16]"]
    assert re.fullmatch(r"Hello from \S+!", lines[3])


@pytest.mark.watchdog(400)
def test_stdlib_census() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "FREETHREADING_BACKEND"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "stdlib_census.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"multiprocessing +[\d.]+ s .* [\d.]+x", done.stdout)


UNGUARDED = """
import sys
sys.stderr.flush()
print("top level", flush=True)
import freethreading

counter = 0

class Point:
    def __init__(self, x): self.x = x
    def moved(self): return Point(self.x + OFFSET)

OFFSET = 10

def initialise(value):
    global counter
    counter = value

def count():
    global counter
    counter += 1
    return counter

def move(point):
    return point.moved()

with freethreading.WorkerPool(workers=1, initializer=initialise, initargs=(100,)) as pool:
    print([pool.apply(count) for _ in range(3)])
    moved = pool.apply(move, (Point(1),))
    print(type(moved) is Point, moved.x)
    print(pool.map(lambda x: x + OFFSET, range(3)))
pool.join()
"""
EXPECTED = ["top level", "[101, 102, 103]", "True 11", "[10, 11, 12]"]


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_functions_of_an_unguarded_main(backend: str, how: str, tmp_path: Path) -> None:
    if how == "file":
        path = tmp_path / "program.py"
        path.write_text(UNGUARDED)
        output = run(backend, str(path))
    elif how == "-c":
        output = run(backend, "-c", UNGUARDED)
    else:
        output = run(backend, "-", source=UNGUARDED)
    assert output.splitlines() == EXPECTED


def test_functions_of_a_guarded_main(backend: str, tmp_path: Path) -> None:
    body = UNGUARDED.replace('print("top level", flush=True)\n', "").partition("with freethreading")
    program = body[0] + 'if __name__ == "__main__":\n    print("top level", flush=True)\n'
    program += "".join(f"    {line}\n" for line in (body[1] + body[2]).splitlines())
    path = tmp_path / "program.py"
    path.write_text(program)
    assert run(backend, str(path)).splitlines() == EXPECTED


NESTED = """
import freethreading

def triple(x):
    return x * 3

def in_a_pool(x):
    with freethreading.WorkerPool(workers=1) as pool:
        return pool.map(triple, [x]) + pool.map(lambda y: triple(y) + 1, [x])

def in_a_worker(x):
    queue = freethreading.Queue()
    worker = freethreading.Worker(target=lambda: queue.put(triple(x)))
    worker.start()
    worker.join()
    return queue.get()

with freethreading.WorkerPool(workers=1) as pool:
    print(pool.apply(in_a_pool, (1,)), pool.apply(in_a_worker, (2,)))
"""


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_workers_of_workers_of_an_unguarded_main(backend: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(NESTED)
    arguments = {"file": [str(path)], "-c": ["-c", NESTED], "stdin": ["-"]}[how]
    assert run(backend, *arguments, source=NESTED).strip() == "[3, 4] 6"
