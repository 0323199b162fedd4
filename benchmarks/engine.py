"""Speed of pools, executors and workers beside the standard library's, in one run.

    python -m benchmarks.engine [--rounds N] [--json FILE] [--only TEXT] [--scale FACTOR]
                                [--backend {threading,multiprocessing}]

Two workers each; the peers' processes are forked where nothing else is said. The table has medians, a line for each peer; a goal
is met where the ratio to the peer is at least the goal's.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import multiprocessing.pool
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import freethreading
from freethreading import _supervisor

from .comparison import Comparison, compare, table
from .measure import environment, take_turns
from .primitives import BACKEND

WORKERS = 2
FLAT = 1 / 1.3  # a call among many costs at most 1.3 times one among few
# Goals of each case: the name of the peer, and how many times faster at least.
Goals = dict[str, float]


def same(item: Any) -> Any:
    return item


def square(x: int) -> int:
    return x * x


def ends(array: Any) -> float:
    return float(array[0] + array[-1])


def kept_array() -> Any:
    """10 MB that this process has already."""
    global _kept
    if _kept is None:
        _kept = np.ones(10_000_000 // 8)
    return _kept


_kept: Any = None


def work(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


class Subjects:
    """How each library makes its executor, pool and worker."""

    def __init__(self, processes: bool, scale: float) -> None:
        self.processes = processes
        self.scale = scale
        fork: Any = multiprocessing.get_context("fork")
        forkserver: Any = multiprocessing.get_context("forkserver")
        ours = freethreading
        self.executors: dict[str, Callable[[], Any]] = {
            "ours": lambda: ours.WorkerPoolExecutor(WORKERS),
            "ProcessPoolExecutor": lambda: concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=fork),
            "ThreadPoolExecutor": lambda: concurrent.futures.ThreadPoolExecutor(WORKERS),
        }
        self.pools: dict[str, Callable[[], Any]] = {
            "ours": lambda: ours.WorkerPool(WORKERS),
            "Pool": lambda: fork.Pool(WORKERS),
            "Pool (forkserver)": lambda: forkserver.Pool(WORKERS),
            "ThreadPool": lambda: multiprocessing.pool.ThreadPool(WORKERS),
        }
        self.workers: dict[str, Callable[[], Any]] = {
            "ours": lambda: ours.Worker(target=same, args=(1,)),
            "Process (fork)": lambda: fork.Process(target=same, args=(1,)),
            "Process (forkserver)": lambda: forkserver.Process(target=same, args=(1,)),
            "Thread": lambda: threading.Thread(target=same, args=(1,)),
        }

    def count(self, number: int) -> int:
        return max(WORKERS, int(number * self.scale))

    def measure(
        self,
        case: str,
        makers: dict[str, Callable[[], Any]],
        run: Callable[[Any], float],
        goals: Goals,
        rounds: int,
    ) -> list[Comparison]:
        """Microseconds; each subject's executor or pool is there for all rounds."""
        with opened({name: makers[name] for name in ("ours", *goals)}) as there:
            runs = {name: (lambda subject=subject: run(subject) * 1e6) for name, subject in there.items()}
            for one in runs.values():
                one()
            return compare(case, "us", take_turns(runs, rounds), goals)


@contextmanager
def opened(makers: dict[str, Callable[[], Any]]) -> Iterator[dict[str, Any]]:
    there = {name: make() for name, make in makers.items()}
    try:
        yield there
    finally:
        for subject in there.values():
            subject.__exit__(None, None, None)


def seconds_of(function: Callable[[], object], times: int = 1) -> float:
    """For each time."""
    begin = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - begin) / times


def round_trip(s: Subjects, rounds: int) -> list[Comparison]:
    def run(executor: Any) -> float:
        return statistics.median(
            seconds_of(lambda: executor.submit(same, 1).result()) for _ in range(s.count(2000))
        )

    goals: Goals = {"ProcessPoolExecutor": 100} if s.processes else {"ThreadPoolExecutor": 20}
    return s.measure("submit().result(), median", s.executors, run, goals, rounds)


def callback_round_trip(s: Subjects, rounds: int) -> list[Comparison]:
    def run(executor: Any) -> float:
        def once() -> None:
            told = threading.Event()
            executor.submit(same, 1).add_done_callback(lambda _: told.set())
            told.wait()

        return statistics.median(seconds_of(once) for _ in range(s.count(2000)))

    goals: Goals = {"ProcessPoolExecutor": 10} if s.processes else {"ThreadPoolExecutor": 4}
    return s.measure("the same, told by a callback", s.executors, run, goals, rounds)


def burst(s: Subjects, rounds: int) -> list[Comparison]:
    count = s.count(10_000)

    def run(executor: Any) -> float:
        return (
            seconds_of(lambda: [f.result() for f in [executor.submit(same, i) for i in range(count)]]) / count
        )

    goals: Goals = {"ProcessPoolExecutor": 80} if s.processes else {"ThreadPoolExecutor": 15}
    return s.measure(f"burst of {count:,} submits, each", s.executors, run, goals, rounds)


def executor_map(s: Subjects, rounds: int) -> list[Comparison]:
    count = s.count(10_000)

    def run(executor: Any) -> float:
        return seconds_of(lambda: list(executor.map(same, range(count)))) / count

    goals: Goals = {"ProcessPoolExecutor": 1000} if s.processes else {"ThreadPoolExecutor": 200}
    return s.measure(f"Executor.map of {count:,}, each", s.executors, run, goals, rounds)


def pool_map(s: Subjects, rounds: int) -> list[Comparison]:
    count = s.count(500_000)
    peer = "Pool" if s.processes else "ThreadPool"
    best: dict[int, float] = {}
    with s.pools[peer]() as pool:
        for chunksize in (100, 1000, 10_000, 100_000):
            best[chunksize] = seconds_of(lambda size=chunksize: pool.map(square, range(count), size))
    size = min(best, key=best.__getitem__)

    def run(pool: Any) -> float:
        ours = isinstance(pool, freethreading.WorkerPool)
        return seconds_of(lambda: pool.map(square, range(count), *([] if ours else [size]))) / count

    goals: Goals = {peer: 1.6 if s.processes else 2}
    return s.measure(f"Pool.map of {count:,} x*x, each (peer: chunksize {size})", s.pools, run, goals, rounds)


def imap(s: Subjects, rounds: int) -> list[Comparison]:
    count = s.count(10_000)

    def run(pool: Any) -> float:
        return seconds_of(lambda: list(pool.imap_unordered(same, range(count)))) / count

    goals: Goals = {"Pool": 20} if s.processes else {"ThreadPool": 6}
    return s.measure(f"imap_unordered of {count:,}, chunksize 1, each", s.pools, run, goals, rounds)


def apply(s: Subjects, rounds: int) -> list[Comparison]:
    def run(pool: Any) -> float:
        return seconds_of(lambda: pool.apply(same, (1,)), s.count(2000))

    goals: Goals = {"Pool": 100} if s.processes else {"ThreadPool": 40}
    return s.measure("apply", s.pools, run, goals, rounds)


def arrays(s: Subjects, rounds: int) -> list[Comparison]:
    array = np.ones(10_000_000 // 8)
    times = s.count(20)

    def send(executor: Any) -> float:
        return seconds_of(lambda: executor.submit(ends, array).result(), times)

    def receive(executor: Any) -> float:
        return seconds_of(lambda: executor.submit(kept_array).result(), times)

    goals: Goals = {"ProcessPoolExecutor": 15} if s.processes else {"ThreadPoolExecutor": 1}
    return [
        *s.measure("10 MB array as argument", s.executors, send, goals, rounds),
        *s.measure("10 MB array as result", s.executors, receive, goals, rounds),
    ]


def start_and_join(s: Subjects, rounds: int) -> list[Comparison]:
    goals: Goals = {"Process (fork)": 4, "Process (forkserver)": 50} if s.processes else {"Thread": 1}

    def once(make: Callable[[], Any]) -> None:
        worker = make()
        worker.start()
        worker.join()

    runs = {
        name: (lambda make=s.workers[name]: seconds_of(lambda: once(make), s.count(50)) * 1e6)
        for name in ("ours", *goals)
    }
    for run in runs.values():
        run()
    return compare("Worker start+join", "us", take_turns(runs, rounds), goals)


def further_pool(s: Subjects, rounds: int) -> list[Comparison]:
    goals: Goals = {"Pool": 2.5, "Pool (forkserver)": 8} if s.processes else {"ThreadPool": 1}

    def once(make: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        with make() as pool:
            pool.apply(same, (1,))
            return (time.perf_counter() - begin) * 1e6

    runs = {name: (lambda make=s.pools[name]: once(make)) for name in ("ours", *goals)}
    for run in runs.values():
        run()
    return compare("a further pool to its first result", "us", take_turns(runs, rounds), goals)


# A program of its own; argument: whose pool. Prints milliseconds from its first line, without the start of the interpreter.
FIRST_POOL = """
import sys
import time

begin = time.perf_counter()


def same(item):
    return item


if __name__ == "__main__":
    if sys.argv[1] == "ours":
        from freethreading import WorkerPool as Pool
    else:
        import multiprocessing

        Pool = multiprocessing.get_context(sys.argv[1]).Pool
    with Pool(2) as pool:
        pool.apply(same, (1,))
        print((time.perf_counter() - begin) * 1e3)
"""


def first_pool(s: Subjects, rounds: int) -> list[Comparison]:
    if not s.processes:
        return []
    goals: Goals = {"forkserver": 1, "fork": 0}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "first_pool.py"
        program.write_text(FIRST_POOL)

        def once(whose: str) -> float:
            command = [sys.executable, str(program), whose]
            return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

        runs = {name: (lambda name=name: once(name)) for name in ("ours", *goals)}
        return compare("a program's first pool to its first result", "ms", take_turns(runs, rounds), goals)


def skewed(s: Subjects, rounds: int) -> list[Comparison]:
    small, large = s.count(1000), s.count(20)
    tasks = [0.001] * small + [0.5 * min(1, s.scale * 10)] * large
    bound = sum(tasks) / WORKERS * 1e6
    rows: list[Comparison] = []
    for name, order in (("large ones last", tasks), ("large ones first", tasks[::-1])):
        with s.executors["ours"]() as executor:
            figure = seconds_of(lambda order=order, e=executor: list(e.map(work, order))) * 1e6  # type: ignore[misc]
        rows.append(
            Comparison(f"skewed tasks, {name}, makespan", "us", figure, "1.1 x the bound", 1.1 * bound, 1)
        )
    return rows[: 2 * min(rounds, 1)]


def growth(s: Subjects, rounds: int) -> list[Comparison]:
    """What a call costs among many, beside what it costs among few."""

    def run(count: int) -> float:
        with s.executors["ours"]() as executor:
            executor.submit(same, 0).result()
            return seconds_of(lambda: burst_of(executor, count)) / count * 1e6

    few, many = s.count(1000), s.count(1_000_000)
    runs = {"ours": lambda: run(many), f"{few:,} calls": lambda: run(few)}
    figures = take_turns(runs, min(rounds, 3))
    return compare(f"a call among {many:,}", "us", figures, {f"{few:,} calls": FLAT})


def burst_of(executor: Any, count: int) -> None:
    for future in [executor.submit(same, number) for number in range(count)]:
        future.result()


# In a program of its own, whose allocator has no memory left from what went before; argument: how many calls.
WAITING = """
import sys
import freethreading

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

count = int(sys.argv[1])
event = freethreading.Event()
with freethreading.WorkerPoolExecutor(2) as executor:
    blocked = [executor.submit(event.wait) for _ in range(2)]
    futures, numbers = [None] * count, list(range(count))
    before = resident()
    for number in numbers:
        futures[number] = executor.submit(abs, number)
    used = resident() - before
    event.set()
    for future in (*blocked, *futures):
        future.result()
print(used / count)
"""


def queued(s: Subjects, rounds: int) -> list[Comparison]:
    """Memory of the program for each call that waits, its future and its argument's tuple included."""

    def run() -> float:
        command = [sys.executable, "-c", WAITING, str(s.count(200_000))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)

    figures = take_turns({"ours": run}, min(rounds, 3))
    return [Comparison("memory for each call that waits", "bytes", figures["ours"], "limit", 300, 1)]


def many_workers(s: Subjects, rounds: int) -> list[Comparison]:
    count = s.count(20_000)

    def run(workers: int) -> float:
        barrier = freethreading.Barrier(workers)
        with freethreading.WorkerPoolExecutor(workers) as executor:
            for met in [executor.submit(barrier.wait) for _ in range(workers)]:
                met.result()  # all have started
            burst_of(executor, count)
            return seconds_of(lambda: burst_of(executor, count)) / count * 1e6

    runs = {"ours": lambda: run(64), "2 workers": lambda: run(2)}
    return compare("a call with 64 workers", "us", take_turns(runs, min(rounds, 3)), {"2 workers": 0.75})


def idle(s: Subjects, rounds: int) -> list[Comparison]:
    """CPU that a pool uses which has had nothing to do for some seconds, with all of its processes."""

    def run() -> float:
        with s.pools["ours"]() as pool:
            pool.map(same, range(100))
            time.sleep(3)
            begin, before = time.perf_counter(), cpu_seconds()
            time.sleep(2)
            return (cpu_seconds() - before) / (time.perf_counter() - begin) * 100

    used = take_turns({"ours": run}, min(rounds, 3))["ours"]
    return [Comparison("CPU use of an idle pool", "%", max(used, 1e-6), "limit", 0.1, 1)]


def worker_memory(s: Subjects, rounds: int) -> list[Comparison]:
    """Private memory of a worker process that has run a call."""
    if not s.processes:
        return []

    def run(make: Callable[[], Any]) -> float:
        with make() as pool:
            pid = pool.apply(os.getpid)
            return sum(numbers_of(f"/proc/{pid}/smaps_rollup", ("Private_Clean:", "Private_Dirty:"))) / 1024

    runs = {name: (lambda make=s.pools[name]: run(make)) for name in ("ours", "Pool", "Pool (forkserver)")}
    figures = take_turns(runs, min(rounds, 3))
    limit = Comparison("private memory of an idle worker", "MiB", figures["ours"], "limit", 3, 1)
    return [limit, *compare(limit.case, "MiB", figures, {"Pool": 0, "Pool (forkserver)": 0})]


def numbers_of(path: str, names: tuple[str, ...]) -> list[float]:
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    return [float(words[1]) for words in lines if words and words[0] in names]


def cpu_seconds() -> float:
    """Used so far by this process and all that it has started, directly or not; but for this thread, which measures."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family, found = {os.getpid(), _supervisor.pid()} - {0}, 0  # the supervisor is nobody's child
    while found != len(family):
        found = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    total = 0
    for pid in family:
        for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
            if task.name == str(threading.get_native_id()):
                continue
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:
                continue
    return total / 1e9


CASES = [
    round_trip,
    callback_round_trip,
    burst,
    executor_map,
    pool_map,
    imap,
    apply,
    arrays,
    start_and_join,
    first_pool,
    further_pool,
    skewed,
    growth,
    queued,
    many_workers,
    idle,
    worker_memory,
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median is taken")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument(
        "--only", default="", help="cases whose function's name has this text: map, skewed, ..."
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of calls; 0.01 for a try")
    parser.add_argument("--backend", choices=["threading", "multiprocessing"], default=BACKEND)
    options = parser.parse_args()
    os.environ["FREETHREADING_BACKEND"] = options.backend
    subjects = Subjects(options.backend == "multiprocessing", options.scale)
    rows: list[Comparison] = []
    for case in CASES:
        if options.only in case.__name__:
            rows += case(subjects, options.rounds)
    print(f"{environment()}, back end {options.backend}, medians of {options.rounds} rounds\n")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
