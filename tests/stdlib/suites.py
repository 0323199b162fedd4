"""The standard library's own suites with our types in place of theirs. Importable in workers: their functions come by name.

    python suites.py SUITE     runs one suite on the back end of FREETHREADING_BACKEND and prints one JSON line a test

The classes of `test.lock_tests`, `test.test_queue`, `test._test_multiprocessing` and `test.test_concurrent_futures` are
taken as this interpreter ships them; which of their tests are meant to differ, and why, stands in differences.py.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import queue
import sys
import types
import unittest
from typing import Any

import freethreading

BACKEND = freethreading.get_backend()
if BACKEND == "multiprocessing":
    # The tests share multiprocessing's own locks and arrays too: those of a fork context reach forked children only, and a
    # worker is no fork of the program.
    multiprocessing.set_start_method("spawn", force=True)


def shipped(name: str) -> Any:
    """The module of the `test` package, None where this interpreter does not ship it."""
    try:
        return importlib.import_module(f"test.{name}")
    except ImportError:
        return None


def define(name: str, base: Any, *mixins: type, **attributes: Any) -> None:
    """Makes a test class of a base of the standard library's, findable by name in this module."""
    if base is None:
        return
    bases = (*mixins, base) if issubclass(base, unittest.TestCase) else (*mixins, base, unittest.TestCase)
    globals()[name] = type(name, bases, {"__module__": __name__, **attributes})


lock_tests = shipped("lock_tests")
if lock_tests:
    define("LockTests", lock_tests.LockTests, locktype=staticmethod(freethreading.Lock))
    define("RLockTests", lock_tests.RLockTests, locktype=staticmethod(freethreading.RLock))
    define("EventTests", lock_tests.EventTests, eventtype=staticmethod(freethreading.Event))
    define("ConditionTests", lock_tests.ConditionTests, condtype=staticmethod(freethreading.Condition))
    define("SemaphoreTests", lock_tests.SemaphoreTests, semtype=staticmethod(freethreading.Semaphore))
    define(
        "BoundedSemaphoreTests",
        lock_tests.BoundedSemaphoreTests,
        semtype=staticmethod(freethreading.BoundedSemaphore),
    )
    define("BarrierTests", lock_tests.BarrierTests, barriertype=staticmethod(freethreading.Barrier))

test_queue = shipped("test_queue")
if test_queue:
    support = shipped("support")
    support.real_max_memuse = 8 << 30  # its tests of 50 threads ask for 5 GiB, and use next to nothing
    names = types.SimpleNamespace(
        Queue=freethreading.Queue,
        SimpleQueue=freethreading.SimpleQueue,
        Empty=queue.Empty,
        Full=queue.Full,
        ShutDown=freethreading.ShutDown,
    )
    define("QueueTests", test_queue.QueueTest, queue=names)

    class SimpleQueueSetUp:
        def setUp(self) -> None:
            self.type2test = freethreading.SimpleQueue
            super().setUp()  # type: ignore[misc]

    define("SimpleQueueTests", test_queue.BaseSimpleQueueTest, SimpleQueueSetUp, queue=names)

test_multiprocessing = shipped("_test_multiprocessing")
if test_multiprocessing:
    # For so long a process lives, and others take to come; a machine may be busy.
    test_multiprocessing.DELTA = 0.5

    class OurNames(test_multiprocessing.BaseMixin):  # type: ignore[misc, name-defined]
        TYPE = "processes" if BACKEND == "multiprocessing" else "threads"
        Process = freethreading.Worker
        connection = multiprocessing.connection
        current_process = staticmethod(freethreading.current_worker)
        parent_process = staticmethod(multiprocessing.parent_process)
        active_children = staticmethod(freethreading.active_children)
        Pool = staticmethod(freethreading.WorkerPool)
        Pipe = staticmethod(multiprocessing.Pipe)
        Queue = staticmethod(freethreading.Queue)
        JoinableQueue = staticmethod(freethreading.Queue)
        Lock = staticmethod(freethreading.Lock)
        RLock = staticmethod(freethreading.RLock)
        Semaphore = staticmethod(freethreading.Semaphore)
        BoundedSemaphore = staticmethod(freethreading.BoundedSemaphore)
        Condition = staticmethod(freethreading.Condition)
        Event = staticmethod(freethreading.Event)
        Barrier = staticmethod(freethreading.Barrier)
        Value = staticmethod(multiprocessing.Value)
        Array = staticmethod(multiprocessing.Array)

    for case in (
        "_TestProcess", "_TestQueue", "_TestLock", "_TestSemaphore", "_TestCondition", "_TestEvent", "_TestBarrier", "_TestPool",
        "_TestPoolWorkerErrors",
    ):  # fmt: skip
        found: Any = getattr(test_multiprocessing, case, None)
        # The test's class before the names, as in the standard library: its setUpClass() calls on theirs.
        define("Multiprocessing" + case[5:], found and type(case, (found, OurNames), {}))


def executor_cases() -> None:
    modules = [shipped("test_concurrent_futures")]
    for part in ("executor", "test_wait", "test_as_completed", "test_thread_pool", "util"):
        modules.append(shipped(f"test_concurrent_futures.{part}"))
    found: dict[str, Any] = {}
    for module in modules:
        found |= vars(module) if module else {}
    if "ExecutorMixin" not in found:
        return
    for case in ("ExecutorTest", "WaitTests", "AsCompletedTests"):
        mixins = (found["ExecutorMixin"],)
        define(
            "Executor" + case, found.get(case) and type(case, (found[case], found["BaseTestCase"]), {}), *mixins,
            executor_type=freethreading.WorkerPoolExecutor,
            create_event=lambda _: freethreading.Event(),
        )  # fmt: skip


executor_cases()

SUITES = {
    "lock_tests": [
        "LockTests", "RLockTests", "EventTests", "ConditionTests", "SemaphoreTests", "BoundedSemaphoreTests", "BarrierTests",
    ],
    "test_queue": ["QueueTests", "SimpleQueueTests"],
    "test_multiprocessing": [name for name in list(globals()) if name.startswith("Multiprocessing")],
    "test_concurrent_futures": [name for name in list(globals()) if name.startswith("ExecutorExecutor") or name in (
        "ExecutorWaitTests", "ExecutorAsCompletedTests")],
}  # fmt: skip


class Report(unittest.TestResult):
    """Prints each test's name before it runs and its outcome after, so that a test that hangs is known."""

    def tell(self, test: unittest.TestCase, outcome: str, detail: str = "") -> None:
        # On a line of its own: some tests print how long they took.
        print(
            "\n" + json.dumps({"test": test.id().partition(".")[2], "outcome": outcome, "detail": detail}),
            flush=True,
        )

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.tell(test, "started")

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.tell(test, "passed")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self.tell(test, "failed", self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self.tell(test, "failed", self.errors[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.tell(test, "failed", f"in {subtest}")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.tell(test, "skipped", reason)


def main() -> int:
    suite = sys.argv[1]
    only = set(sys.argv[2:])
    loader = unittest.TestLoader()
    tests = unittest.TestSuite(
        loader.loadTestsFromTestCase(globals()[name]) for name in SUITES[suite] if name in globals()
    )
    if only:
        tests = unittest.TestSuite(
            test for group in tests for test in group if test.id().partition(".")[2] in only
        )
    excluded = set(json.loads(os.environ.get("FT_EXCLUDED", "[]")))
    kept = [test for group in tests for test in (group if isinstance(group, unittest.TestSuite) else [group])]
    report = Report()
    unittest.TestSuite(test for test in kept if test.id().partition(".")[2] not in excluded).run(report)
    print("\n" + json.dumps({"finished": report.testsRun}), flush=True)
    return 0


if __name__ == "__main__":
    import suites  # the classes must be found by this module's name in workers, not as __main__'s

    sys.exit(suites.main())
