"""Speed of the primitives beside threading's and multiprocessing's, in one run.

    python -m benchmarks.primitives [--rounds N] [--json FILE]

Each statement is timed in a bare loop; each ping-pong between two workers (threads, or processes started with fork). The
table has medians; a goal is met where the ratio in the peers' columns is at least the goal's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import freethreading

from .measure import Statement, environment, take_turns, time_statements

FORK = multiprocessing.get_context("fork")
GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
BACKEND = "multiprocessing" if GIL else "threading"


class Goal(NamedTuple):
    """At least this many times faster than the peer; 0 where no goal is set."""

    threading: float
    multiprocessing: float


class Row(NamedTuple):
    case: str
    unit: str
    ours: float
    threading: float
    multiprocessing: float
    goal: Goal

    def met(self) -> bool:
        return (
            self.threading / self.ours >= self.goal.threading
            and self.multiprocessing / self.ours >= self.goal.multiprocessing
        )


def statements_of(
    case: str, make: dict[str, Callable[[], Any]], text: str, setup: Callable[[Any], None] | None
) -> dict[str, Statement]:
    statements = {}
    for peer, factory in make.items():
        thing = factory()
        if setup:
            setup(thing)
        statements[peer] = Statement(text, {"x": thing})
    return statements


def peers(name: str, *arguments: object) -> dict[str, Callable[[], Any]]:
    return {
        "ours": lambda: getattr(freethreading, name)(*arguments),
        "threading": lambda: getattr(threading, name)(*arguments),
        "multiprocessing": lambda: getattr(FORK, name)(*arguments),
    }


LOCK_GOAL = Goal(1.5, 1.0) if GIL else Goal(1.1, 1.0)
WITH_GOAL = Goal(1.5, 1.5) if GIL else Goal(1.2, 1.2)
STATEMENTS: list[tuple[str, dict[str, Callable[[], Any]], str, Goal]] = [
    ("Lock acquire+release", peers("Lock"), "x.acquire(); x.release()", LOCK_GOAL),
    ("RLock acquire+release", peers("RLock"), "x.acquire(); x.release()", LOCK_GOAL),
    ("with Lock", peers("Lock"), "\n        with x: pass", WITH_GOAL),
    ("with RLock", peers("RLock"), "\n        with x: pass", WITH_GOAL),
    ("Semaphore acquire+release", peers("Semaphore", 1), "x.acquire(); x.release()", Goal(20, 1.6)),
    (
        "BoundedSemaphore acquire+release",
        peers("BoundedSemaphore", 1),
        "x.acquire(); x.release()",
        Goal(20, 1.6),
    ),
    ("Event set+clear", peers("Event"), "x.set(); x.clear()", Goal(15, 15)),
    ("Event is_set", peers("Event"), "x.is_set()", Goal(1, 1)),
    ("Condition with+notify", peers("Condition"), "\n        with x: x.notify()", Goal(3, 3)),
]


# --- two workers -----------------------------------------------------------------------------------------------------


def pong_semaphores(mine: Any, theirs: Any, rounds: int) -> None:
    for _ in range(rounds):
        mine.acquire()
        theirs.release()


def pong_events(mine: Any, theirs: Any, rounds: int) -> None:
    for _ in range(rounds):
        mine.wait()
        mine.clear()
        theirs.set()


def meet(barrier: Any, other: Any, rounds: int) -> None:
    for _ in range(rounds):
        barrier.wait()


def contend(lock: Any, start: Any, rounds: int) -> None:
    start.wait()
    for _ in range(rounds):
        with lock:
            pass


def run_pair(
    start: Callable[..., Any], make: Callable[[], tuple[Any, Any]], mine: Any, theirs: Any, rounds: int
) -> float:
    """Microseconds a round between this thread (`mine`) and a worker (`theirs`)."""
    first, second = make()
    worker = start(theirs, first, second, rounds + 10)
    mine(first, second, 10)  # the worker is there
    begin = time.perf_counter()
    mine(first, second, rounds)
    spent = time.perf_counter() - begin
    worker.join()
    return spent / rounds * 1e6


def ping_semaphores(first: Any, second: Any, rounds: int) -> None:
    for _ in range(rounds):
        first.release()
        second.acquire()


def ping_events(first: Any, second: Any, rounds: int) -> None:
    for _ in range(rounds):
        first.set()
        second.wait()
        second.clear()


def run_contended(start: Callable[..., Any], make: Callable[[], tuple[Any, Any]], rounds: int) -> float:
    """Nanoseconds per `with lock` of two workers at once."""
    lock, barrier = make()
    workers = [start(contend, lock, barrier, rounds) for _ in range(2)]
    barrier.wait()
    begin = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - begin) / (2 * rounds) * 1e9


def start_thread(target: Any, *arguments: Any) -> Any:
    worker = threading.Thread(target=target, args=arguments)
    worker.start()
    return worker


def start_process(target: Any, *arguments: Any) -> Any:
    worker = FORK.Process(target=target, args=arguments)
    worker.start()
    return worker


def start_ours(target: Any, *arguments: Any) -> Any:
    worker = freethreading.Worker(target=target, args=arguments)
    worker.start()
    return worker


STARTS = {"ours": start_ours, "threading": start_thread, "multiprocessing": start_process}


def pairs(
    name: str,
    *arguments: object,
    second: str | None = None,
    seconds_arguments: tuple[object, ...] | None = None,
) -> dict[str, Any]:
    second_name = second or name
    second_arguments = arguments if seconds_arguments is None else seconds_arguments
    firsts, seconds = peers(name, *arguments), peers(second_name, *second_arguments)
    return {peer: (lambda f=firsts[peer], s=seconds[peer]: (f(), s())) for peer in firsts}


def two_workers(rounds: int) -> list[Row]:
    exchanges: list[tuple[str, dict[str, Any], Any, Any, int]] = [
        ("two Semaphores ping-pong", pairs("Semaphore", 0), ping_semaphores, pong_semaphores, 2000),
        ("two Events ping-pong", pairs("Event"), ping_events, pong_events, 2000),
        ("Barrier of two", pairs("Barrier", 2, second="Event", seconds_arguments=()), meet, meet, 1000),
    ]
    rows = []
    for case, makes, mine, theirs, count in exchanges:
        runs = {peer: (lambda p=peer: run_pair(STARTS[p], makes[p], mine, theirs, count)) for peer in STARTS}
        rows.append(Row(case, "us", goal=Goal(10, 10), **take_turns(runs, rounds)))
    makes = pairs("Lock", second="Barrier", seconds_arguments=(3,))
    runs = {peer: (lambda p=peer: run_contended(STARTS[p], makes[p], 20_000)) for peer in STARTS}
    rows.append(Row("contended Lock, two workers", "ns", goal=Goal(1, 1), **take_turns(runs, rounds)))
    return rows


def table(rows: list[Row]) -> str:
    lines = [
        "| case | freethreading | threading | multiprocessing | faster than threading (goal) | than multiprocessing (goal) | met |",
        "|--|--|--|--|--|--|--|",
    ]
    for row in rows:
        lines.append(
            f"| {row.case}, {row.unit} | {row.ours:.3g} | {row.threading:.3g} | {row.multiprocessing:.3g} "
            f"| {row.threading / row.ours:.1f}x ({row.goal.threading:g}) | {row.multiprocessing / row.ours:.1f}x "
            f"({row.goal.multiprocessing:g}) | {'yes' if row.met() else 'no'} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of which the median is taken")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    os.environ["FREETHREADING_BACKEND"] = BACKEND
    rows = [
        Row(
            case,
            "ns",
            goal=goal,
            **time_statements(statements_of(case, makes, text, None), rounds=options.rounds),
        )
        for case, makes, text, goal in STATEMENTS
    ]
    rows += two_workers(options.rounds)
    print(f"{environment()}, back end {BACKEND}, medians of {options.rounds} rounds\n")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
