"""Random generators of modules that workers have from the process they are forked from: docs/design/imports.md."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import freethreading
from freethreading import _generators
from support import random_modules

WORKERS = 3


@pytest.fixture(autouse=True)
def on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


def drawn_by_workers(draw: Callable[[Any], dict[str, float]]) -> dict[str, set[float]]:
    """How many different numbers each generator has given."""
    barrier: Any = freethreading.Barrier(WORKERS)
    with freethreading.WorkerPool(WORKERS) as pool:
        draws = pool.map(draw, [barrier] * WORKERS, chunksize=1)
    return {name: {each[name] for each in draws} for name in draws[0]}


def counts(draw: Callable[[Any], dict[str, float]]) -> dict[str, int]:
    return {name: len(numbers) for name, numbers in drawn_by_workers(draw).items()}


def test_those_without_a_seed_differ_from_worker_to_worker() -> None:
    assert counts(random_modules.draw) == {
        "unseeded": WORKERS,
        "held": WORKERS,
        "own": WORKERS,
        "the module's": WORKERS,
        "seeded": 1,
        "reseeded": 1,
        "restored": 1,
        "copied": 1,
        "pickled": 1,
    }
    assert drawn_by_workers(random_modules.draw)["seeded"] == {random.Random(7).random()}


def test_those_of_numpy() -> None:
    pytest.importorskip("numpy")
    from support import numpy_modules

    assert counts(numpy_modules.draw) == {
        "unseeded": WORKERS,
        "philox": WORKERS,
        "sfc": WORKERS,
        "named": WORKERS,
        "old": WORKERS,
        "old_anew": WORKERS,
        "the module's": WORKERS,
        "seeded": 1,
        "old_seeded": 1,
        "old_restored": 1,
        "jumped": 1,
        "jumped_twister": 1,
        "restored": 1,
    }


PROGRAM = """
import random
import freethreading
try:
    import numpy as np
    generators = [random.Random(), np.random.default_rng()]
except ImportError:
    generators = [random.Random()]

def draw(barrier):
    barrier.wait(60)
    return [generator.random() for generator in generators]

if __name__ == "__main__":
    barrier = freethreading.Barrier(2)
    with freethreading.WorkerPool(2) as pool:
        first, second = pool.map(draw, [barrier] * 2, chunksize=1)
    print(all(a != b for a, b in zip(first, second)))
"""


def test_those_of_the_main_module(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    run = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=True)
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_what_watches_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    seed, randbits, finders = random.Random.seed, secrets.randbits, list(sys.meta_path)
    setstate = random.Random.setstate
    monkeypatch.setattr(_generators, "_bit_generators", [])
    with _generators.watched():
        before = random.Random()
        known = random.Random(1)
    behind = random.Random()
    assert (random.Random.seed, secrets.randbits, sys.meta_path) == (seed, randbits, finders)
    assert random.Random.setstate is setstate
    states = [each.getstate() for each in (before, known, behind)]
    _generators.renew()
    assert [
        each.getstate() == state for each, state in zip((before, known, behind), states, strict=True)
    ] == [
        False,
        True,
        True,
    ]


def test_modules_that_are_imported_meanwhile_are_as_ever(tmp_path: Path) -> None:
    program = """
import sys
from freethreading import _generators
for name in ("random", "secrets"):
    sys.modules.pop(name, None)
class Asks:
    def find_spec(self, name, path=None, target=None):
        for finder in sys.meta_path:
            if finder is not self and (find := getattr(finder, "find_spec", None)):
                if (spec := find(name, path, target)) is not None:
                    return spec
sys.meta_path.insert(0, object())
with _generators.watched():
    sys.meta_path.insert(0, Asks())
    import random, secrets
    one = random.Random()
assert type(random.__loader__).__name__ == "SourceFileLoader", random.__loader__
assert random.__spec__.loader is random.__loader__
assert id(one) in _generators._unseeded
assert random.Random.seed.__qualname__ == "Random.seed" and secrets.randbits.__name__ == "getrandbits"
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, timeout=60, check=True)
