"""Speed of the queues beside faster-fifo's, multiprocessing's and queue's, in one run.

    python -m benchmarks.queues [--rounds N] [--json FILE] [--verbose] [--only TEXT] [--scale FACTOR]
                                [--backend {threading,multiprocessing}]

Messages between workers: processes where the interpreter has a GIL (the peers' are started with fork), else threads. The
table has medians, a line for each peer; a goal is met where the ratio to the peer is at least the goal's. A limit stands in
the table as a peer. `pip install '.[bench]'` brings the peers that are not in the standard library.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import freethreading

from .comparison import Comparison, compare, shout, table
from .measure import Statement, environment, take_turns, time_statements
from .primitives import BACKEND
from .queue_peers import (
    ANY,
    BIG,
    Peer,
    Room,
    get_many_faster_fifo,
    has_batches,
    import_numpy,
    process_peers,
    thread_peers,
)
from .queue_runs import churn, close, deadline, idle_percent, ping_pong, send, send_batches

KB, MB, GB = 1024, 1024**2, 1024**3
DICT = {"id": 7, "name": "seven", "ready": True}
PARKED = 0.005  # seconds before each message: longer than anybody spins
FLAT = 1 / 1.3  # a queue with many items waiting costs at most 1.3 times one with few
MP, SIMPLE, FIFO = "multiprocessing.Queue", "multiprocessing.SimpleQueue", "faster-fifo"


class Bench(NamedTuple):
    peers: dict[str, Peer]
    rounds: int
    scale: float

    def count(self, full: int, step: int = 1) -> int:
        """So many messages as the scale makes of `full`, a multiple of `step`."""
        return max(int(full * self.scale) // step, 1) * step

    def turns(
        self,
        case: str,
        unit: str,
        run: Callable[[Peer], float],
        goals: dict[str, float],
        *,
        ours: str = "ours",
    ) -> list[Comparison]:
        """Median of `run` for ours and for each peer in turn; `run` gives seconds."""
        factor = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}[unit]
        subjects = {"ours": self.peers[ours]} | {n: self.peers[n] for n in goals if n in self.peers}
        runs = {n: guarded(f"{case}, {n}", lambda p=peer: run(p) * factor) for n, peer in subjects.items()}
        return compare(case, unit, take_turns(runs, self.rounds), goals)

    def statements(
        self, case: str, texts: dict[str, str], goals: dict[str, float], *, ours: str = "ours", items: int = 1
    ) -> list[Comparison]:
        """Nanoseconds an item of a statement about the queue x, which each peer makes."""
        queues = {
            n: self.peers[ours if n == "ours" else n].make(ANY)
            for n in texts
            if n == "ours" or n in self.peers
        }
        names = {"batch": list(range(items)), "get_many_faster_fifo": get_many_faster_fifo}
        with deadline():
            times = time_statements(
                {n: Statement(texts[n], {"x": q} | (names if items > 1 else {})) for n, q in queues.items()},
                rounds=self.rounds,
            )
        for queue in queues.values():
            close(queue)
        return compare(case, "ns", {n: value / items for n, value in times.items()}, goals)


def guarded(what: str, run: Callable[[], float]) -> Callable[[], float]:
    """The run, or not a number and a loud line where it fails: the others' figures stand."""

    def guard() -> float:
        try:
            return run()
        except Exception as error:
            shout(f"{what} FAILED: {error!r}")
            return math.nan

    return guard


# --- cases on both back ends -----------------------------------------------------------------------------------------


def waiting_items(bench: Bench) -> list[Comparison]:
    depths = [10, 1000, bench.count(1_000_000)]
    queues = {depth: bench.peers["ours"].make(ANY) for depth in depths}
    with deadline():
        for depth, queue in queues.items():
            for _ in range(depth):
                queue.put(7)
        times = time_statements(
            {str(depth): Statement("x.put(7); x.get()", {"x": queue}) for depth, queue in queues.items()},
            rounds=bench.rounds,
        )
    return [
        Comparison(f"put+get, {depth:,} waiting", "ns", times[str(depth)], "10 waiting", times["10"], FLAT)
        for depth in depths[1:]
    ]


def idle(bench: Bench) -> list[Comparison]:
    runs = {"ours": guarded("idle", lambda: idle_percent(bench.peers["ours"], 0.3, 1.0))}
    used = take_turns(runs, min(bench.rounds, 3))["ours"]
    return [Comparison("CPU use of an idle queue's waiter", "%", max(used, 1e-6), "limit", 0.1, 1)]


def batches(bench: Bench) -> list[Comparison]:
    if not has_batches():
        shout("Queue HAS NO put_many AND get_many YET: the cases in batches are left out")
        return []
    ours = "x.put_many(batch); x.get_many(100)"
    texts = {"ours": ours, FIFO: "x.put_many(batch); get_many_faster_fifo(x, 100)"}
    count = bench.count(1_000_000, 100)
    goals = {FIFO: 0.0, MP: 0.0, "queue.Queue": 0.0}
    texts |= dict.fromkeys(
        (MP, "queue.Queue"), "\n        for i in batch: x.put(i)\n        for i in batch: x.get()"
    )
    run: Callable[[Peer], float] = lambda p: (  # noqa: E731
        send_batches(p, list(range(100)), count) if p.get_many else send(p, 7, count // 10)
    )
    return [
        *bench.statements("put_many+get_many of 100 ints, per item", texts, goals, items=100),
        *bench.turns("1P1C, ints in batches of 100, per item", "ns", run, goals),
    ]


# --- cases on processes ----------------------------------------------------------------------------------------------


def one_process(bench: Bench) -> list[Comparison]:
    goals = {FIFO: 50.0, SIMPLE: 40.0, MP: 100.0}
    return bench.statements(
        "put+get int, one process", dict.fromkeys(("ours", *goals), "x.put(7); x.get()"), goals
    )


def one_to_one(bench: Bench) -> list[Comparison]:
    rows = []
    for kind, message, goal in (("int", 7, 25.0), ("1 KB bytes", bytes(KB), 12.0), ("small dict", DICT, 4.0)):
        count = bench.count(50_000)
        rows += bench.turns(
            f"1P1C {kind}", "us", lambda p: send(p, message, count), {FIFO: goal, MP: 0, SIMPLE: 0}
        )
    return rows


def round_trips(bench: Bench) -> list[Comparison]:
    few, many = bench.count(100), bench.count(3000)
    return [
        *bench.turns("ping-pong int", "us", lambda p: ping_pong(p, 7, many), {FIFO: 25.0, MP: 0, SIMPLE: 0}),
        *bench.turns(
            "ping-pong int, parked", "us", lambda p: ping_pong(p, 7, few, PARKED), {"pipe": 1.0, FIFO: 0}
        ),
    ]


def megabytes(bench: Bench) -> list[Comparison]:
    message, count, room = bytes(MB), bench.count(100), Room(16, 16 * MB)
    return [
        *bench.turns(
            "1 MB bytes, same source",
            "us",
            lambda p: send(p, message, count, room=room),
            {FIFO: 3.0, MP: 15.0},
        ),
        *bench.turns(
            "1 MB bytes, kept by the receiver",
            "us",
            lambda p: send(p, message, count, room=room, keep=8),
            {FIFO: 1.2, MP: 1.5},
        ),
    ]


def array(bench: Bench) -> list[Comparison]:
    numpy = import_numpy()
    if numpy is None:
        return []
    source, target = numpy.ones(8 * MB), numpy.zeros(8 * MB)
    count, memcpy = bench.count(8), "memcpy"

    def copy() -> float:
        samples = []
        for _ in range(5):
            begin = time.perf_counter()
            numpy.copyto(target, source)
            samples.append(time.perf_counter() - begin)
        return statistics.median(samples)

    beside = bench._replace(peers=bench.peers | {memcpy: bench.peers["pipe"]._replace(name=memcpy)})
    run: Callable[[Peer], float] = lambda p: (  # noqa: E731
        copy() if p.name == memcpy else send(p, source, count, room=Room(2), warm=4)
    )
    return beside.turns("64 MB array", "ms", run, {MP: 25.0, memcpy: 0.65})


def two_to_two(bench: Bench) -> list[Comparison]:
    count = bench.count(50_000, 2)
    run: Callable[[Peer], float] = lambda p: send(p, 7, count, producers=2, consumers=2)  # noqa: E731
    return bench.turns("2P2C int", "us", run, {FIFO: 15.0, MP: 0, SIMPLE: 0})


def shared_arrays(bench: Bench) -> list[Comparison]:
    make: Any = getattr(freethreading, "shared_array", None)
    if make is None or import_numpy() is None:
        shout("freethreading HAS NO shared_array YET, or numpy is missing: its case is left out")
        return []
    array = make((GB // 8,), "float64")
    run = guarded("shared_array", lambda: ping_pong(bench.peers["ours"], array, bench.count(100)) / 2 * 1e6)
    ours = take_turns({"ours": run}, bench.rounds)["ours"]
    return [Comparison("shared_array of 1 GB, one way", "us", ours, "limit", 50.0, 1)]


def published(bench: Bench) -> list[Comparison]:
    """faster-fifo's own cases: tuples of five ints (small) and, for its large messages, 50 KB of bytes.

    As in its benchmark each put and get has a short timeout and is tried again. Every queue has room for 20 large messages.
    """
    bench = bench._replace(rounds=min(bench.rounds, 3))
    small, large = (7,) * 5, bytes(50_000)
    rows = []
    for workers, full in ((1, 40_000), (20, 40_000)):
        for kind, message, count, room in (
            ("small", small, bench.count(full, workers), Room(100_000, 100_000)),
            ("large", large, bench.count(full // 20, workers), Room(BIG // 50_000)),
        ):
            for batch, how in ((0, "get"), (100, "get_many")):
                if batch and not has_batches():
                    continue
                goals = {FIFO: 1.0} if batch else {FIFO: 1.0, MP: 1.0}
                run: Callable[[Peer], float] = lambda p: send(  # noqa: E731
                    p,
                    message,
                    count,
                    producers=workers,
                    consumers=workers,
                    batch=batch,
                    room=room,
                    timeouts=(0.01, 0.001),
                )
                rows += bench.turns(f"published {workers}x{workers}, {kind}, {how}", "us", run, goals)
    return rows


# --- cases on threads ------------------------------------------------------------------------------------------------


def thread_queue(bench: Bench) -> list[Comparison]:
    goals, count = {"queue.Queue": 30.0}, bench.count(50_000)
    text = dict.fromkeys(("ours", *goals), "x.put(7); x.get()")
    return [
        *bench.statements("Queue put+get int", text, goals),
        *bench.turns("Queue 1P1C int", "us", lambda p: send(p, 7, count), {"queue.Queue": 15.0}),
    ]


def thread_simple_queue(bench: Bench) -> list[Comparison]:
    goals, count, ours = {"queue.SimpleQueue": 1.05}, bench.count(200_000), "ours, simple"
    text = dict.fromkeys(("ours", *goals), "x.put(7); x.get()")
    return [
        *bench.statements("SimpleQueue put+get int", text, goals, ours=ours),
        *bench.turns(
            "SimpleQueue 1P1C int", "us", lambda p: send(p, 7, count), {"queue.SimpleQueue": 1.0}, ours=ours
        ),
    ]


def eight_threads(bench: Bench) -> list[Comparison]:
    count, alone = bench.count(20_000), "ours with one thread"
    beside = bench._replace(peers=bench.peers | {alone: bench.peers["ours"]._replace(name=alone)})
    run: Callable[[Peer], float] = lambda p: churn(p, 1 if p.name == alone else 8, count)  # noqa: E731
    return beside.turns("8 threads on one Queue, per operation", "ns", run, {"queue.Queue": 5.0, alone: 0.4})


BOTH = [waiting_items, idle, batches]
CASES: dict[str, list[Callable[[Bench], list[Comparison]]]] = {
    "multiprocessing": [
        *(one_process, one_to_one, round_trips, megabytes, array, two_to_two, shared_arrays),
        *(*BOTH, published),
    ],
    "threading": [thread_queue, thread_simple_queue, eight_threads, *BOTH],
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median is taken")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--verbose", action="store_true", help="print each case when it is measured")
    parser.add_argument(
        "--only", default="", help="cases whose function's name has this text: array, idle, ..."
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of messages; 0.01 for a try")
    parser.add_argument("--backend", choices=sorted(CASES), default=BACKEND)
    options = parser.parse_args()
    os.environ["FREETHREADING_BACKEND"] = options.backend
    peers = process_peers() if options.backend == "multiprocessing" else thread_peers()
    bench = Bench(peers, options.rounds, options.scale)
    rows: list[Comparison] = []
    for case in CASES[options.backend]:
        if options.only in case.__name__:
            try:
                measured = case(bench)
            except Exception as error:
                shout(f"{case.__name__} FAILED: {error!r}")
                continue
            if options.verbose and measured:
                print(*(row.line() for row in measured), sep="\n", file=sys.stderr, flush=True)
            rows += measured
    print(f"{environment()}, back end {options.backend}, medians of {options.rounds} rounds\n")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
