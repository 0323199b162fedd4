"""Parses every .py file of the running interpreter's standard library, one after another and in a pool of workers.

    python examples/stdlib_census.py [--workers N]

Each file is parsed to its syntax tree; its nodes and its distinct names are counted. Both runs must agree to the last
count; the program prints both times and the speed-up, for each back end that this interpreter runs at full speed on.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import freethreading


class Census(NamedTuple):
    files: int
    nodes: int
    names: int
    unparsed: int


def count(path: str) -> Census:
    """The census of one file; a file that is no valid Python (a test's bad syntax) counts as unparsed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            tree = ast.parse(Path(path).read_bytes(), path)
        except (SyntaxError, ValueError):
            return Census(1, 0, 0, 1)
    nodes = 0
    names: set[str] = set()
    for node in ast.walk(tree):
        nodes += 1
        if isinstance(node, ast.Name):
            names.add(node.id)
    return Census(1, nodes, len(names), 0)


def total(parts: list[Census]) -> Census:
    return Census(*map(sum, zip(*parts)))


def timed(run: Callable[[], list[Census]]) -> tuple[Census, float]:
    start = time.perf_counter()
    result = total(run())
    return result, time.perf_counter() - start


def standard_library() -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(str(path) for path in root.rglob("*.py") if "site-packages" not in path.parts)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=None, help="workers in the pool (default: one a CPU)")
    options = parser.parse_args()

    paths = standard_library()
    print(f"Python {sys.version.split()[0]}, {len(paths)} files of {sysconfig.get_path('stdlib')}")
    serial, serial_seconds = timed(lambda: [count(path) for path in paths])
    print(f"serial               {serial_seconds:6.2f} s   {serial.nodes:,} nodes, {serial.names:,} names")

    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    failed = False
    for backend in ["multiprocessing"] if gil else ["threading", "multiprocessing"]:
        os.environ["FREETHREADING_BACKEND"] = backend
        with freethreading.WorkerPool(workers=options.workers) as pool:
            pool.map(abs, range(8))  # the workers are there
            parallel, seconds = timed(lambda: pool.map(count, paths, chunksize=8))
        speedup = serial_seconds / seconds
        print(
            f"{backend:20} {seconds:6.2f} s   {parallel.nodes:,} nodes, {parallel.names:,} names   {speedup:.2f}x"
        )
        if parallel != serial:
            print(f"the counts differ: {parallel} in the pool, {serial} serially", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
