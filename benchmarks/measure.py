"""Measuring: alternating rounds of all subjects of a case, medians, ratios."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple


class Statement(NamedTuple):
    """A statement timed in a bare loop, with the names that it uses."""

    text: str
    names: dict[str, object]


LOOP = """
def loop(count, now, {names}):
    start = now()
    for _ in range(count):
        {text}
    return now() - start
"""


def statement_loop(statement: Statement) -> Callable[[int], float]:
    """A function (rounds) -> seconds of that many executions of the statement, the empty loop's time included."""
    namespace: dict[str, Callable[..., float]] = {}
    exec(LOOP.format(names=", ".join(statement.names), text=statement.text), {}, namespace)
    loop = namespace["loop"]
    return lambda count: loop(count, time.perf_counter, **statement.names)


def empty_loop_seconds(count: int) -> float:
    return statement_loop(Statement("pass", {}))(count)


def time_statements(
    statements: dict[str, Statement], rounds: int = 9, seconds: float = 0.02
) -> dict[str, float]:
    """Median nanoseconds of each subject's statement; the subjects take turns, so that a noisy spell hits all."""
    loops = {name: statement_loop(statement) for name, statement in statements.items()}
    counts = {name: _calibrate(loop, seconds) for name, loop in loops.items()}
    samples: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            count = counts[name]
            samples[name].append(max(loop(count) - empty_loop_seconds(count), 0.0) / count * 1e9)
    return {name: statistics.median(values) for name, values in samples.items()}


def _calibrate(loop: Callable[[int], float], seconds: float) -> int:
    count = 100
    while (spent := loop(count)) < seconds / 4 and count < 50_000_000:
        count *= 4
    return max(10, int(count * seconds / spent))


def take_turns(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median of what each run returns; the subjects take turns."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            samples[name].append(run())
    return {name: statistics.median(values) for name, values in samples.items()}


def environment() -> str:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return (
        f"Python {platform.python_version()} ({'GIL' if gil else 'free-threaded'}), Linux {platform.release()}, "
        f"{os.cpu_count()} CPUs"
    )
