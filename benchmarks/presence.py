"""The cost of being there: importing the package, making each object, opening a session.

python -m benchmarks.presence
"""

from __future__ import annotations

import os
import queue
import statistics
import subprocess
import sys
import threading
import time

import freethreading

from .measure import Statement, environment, time_statements

IMPORTS = {
    "freethreading": "import freethreading",
    "queue, concurrent.futures": "import queue, concurrent.futures",
}
SESSION = "import time, freethreading; s = time.perf_counter(); freethreading.Lock(shared=True); print(time.perf_counter() - s)"


def import_milliseconds(rounds: int = 15) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, text in IMPORTS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", text], check=True)
            samples[name].append((time.perf_counter() - begin) * 1e3)
    return {name: statistics.median(values) for name, values in samples.items()}


def session_milliseconds(rounds: int = 15) -> float:
    outputs = [
        subprocess.run([sys.executable, "-c", SESSION], check=True, capture_output=True, text=True).stdout
        for _ in range(rounds)
    ]
    return statistics.median(float(output) * 1e3 for output in outputs)


def main() -> int:
    print(environment(), "\n")
    imports = import_milliseconds()
    bare = import_milliseconds_of_nothing()
    ours, peer = (value - bare for value in imports.values())
    print(
        f"import freethreading {ours:.2f} ms, import queue, concurrent.futures {peer:.2f} ms: {ours / peer:.2f}x (goal: at most 1.3)"
    )
    os.environ["FREETHREADING_BACKEND"] = "threading"
    for name, standard, goal in (
        ("Lock", threading.Lock, 3.0),
        ("Event", threading.Event, 1.0),
        ("Condition", threading.Condition, 1.0),
        ("Queue", queue.Queue, 1.0),
    ):
        times = time_statements(
            {
                "ours": Statement("x()", {"x": getattr(freethreading, name)}),
                "standard": Statement("x()", {"x": standard}),
            }
        )
        ratio = times["ours"] / times["standard"]
        print(
            f"making a {name}: {times['ours']:.0f} ns, the standard library's {times['standard']:.0f} ns: {ratio:.2f}x (goal: at most {goal:g})"
        )
    print(f"the first shared object (opens the session): {session_milliseconds():.2f} ms (goal: under 1)")
    return 0


def import_milliseconds_of_nothing(rounds: int = 15) -> float:
    samples = []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        samples.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(samples)


if __name__ == "__main__":
    sys.exit(main())
