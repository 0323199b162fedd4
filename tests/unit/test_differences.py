"""docs/guide/differences.md has a line for each difference between the back ends, and each line is true."""

from __future__ import annotations

import os
import pickle
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextvars import ContextVar, copy_context
from decimal import DefaultContext, getcontext, setcontext
from pathlib import Path
from queue import Full
from typing import Any

import pytest

import freethreading
from freethreading import Event, Queue, SharedBuffer, Worker, WorkerPool, WorkerPoolExecutor
from support.program import run_program

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "differences.md"

Check = Callable[[bool], None]  # is given whether workers are processes
CHECKS: dict[str, Check] = {}
seen_by_worker = "program"


def line(what: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[what] = check
        return check

    return register


def in_worker(target: Callable[..., object], *args: Any) -> Worker:
    worker = Worker(target=target, args=args)
    worker.start()
    worker.join()
    return worker


def run_in_pool(function: Callable[..., Any], *args: Any) -> Any:
    with WorkerPool(workers=1) as pool:
        result = pool.apply(function, args)
    pool.join()
    return result


def append(items: list[int]) -> None:
    items.append(1)


@line("arguments, results, queue items")
def passing(processes: bool) -> None:
    items: list[int] = []
    in_worker(append, items)
    assert items == ([] if processes else [1])
    assert (run_in_pool(list.copy, items) is not items) and (
        run_in_pool(same, items) is items
    ) is not processes
    queue: Queue[list[int]] = Queue()
    queue.put(items)
    assert (queue.get() is items) is not processes


def same(thing: Any) -> Any:
    return thing


def set_global() -> None:
    global seen_by_worker
    seen_by_worker = "worker"


@line("global variables")
def global_variables(processes: bool) -> None:
    global seen_by_worker
    seen_by_worker = "program"
    in_worker(set_global)
    assert seen_by_worker == ("program" if processes else "worker")


class Nowhere:
    variable: ContextVar[str] = ContextVar("nowhere", default="unset")


VALUES: ContextVar[list[int]] = ContextVar("values")


def read_variable() -> str:
    return Nowhere.variable.get()


def extend_values() -> list[int]:
    VALUES.get().append(1)
    return VALUES.get()


@line("a context variable that is no module's attribute (`decimal`'s context, `numpy.errstate`)")
def variable_of_no_module(processes: bool) -> None:
    def check() -> None:
        Nowhere.variable.set("mine")
        setcontext(getcontext().copy())
        getcontext().prec = 7
        assert run_in_pool(read_variable) == ("unset" if processes else "mine")
        assert run_in_pool(precision) == (DefaultContext.prec if processes else 7)

    copy_context().run(check)


def precision() -> int:
    return getcontext().prec


@line("the value of a context variable")
def value_of_a_variable(processes: bool) -> None:
    def check() -> None:
        values: list[int] = []
        VALUES.set(values)
        with WorkerPool(workers=1) as pool:
            found = [pool.apply(extend_values) for _ in range(2)]
        assert found == ([[1], [1, 1]] if processes else [values, values])
        assert values == ([] if processes else [1, 1])

    copy_context().run(check)


@line("`start()` with an argument that cannot be pickled")
def unpicklable_argument(processes: bool) -> None:
    def start() -> None:
        in_worker(same, threading.Lock())

    if processes:
        with pytest.raises(ValueError, match=r"args\[0\]"):
            start()
        return
    start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREETHREADING_STRICT", "1")
        with pytest.raises(ValueError, match=r"args\[0\]"):
            start()


def wait_for(event: Any) -> None:
    event.wait(30)


@line("`Worker.terminate()`, `Worker.kill()`")
def ending(processes: bool) -> None:
    for method, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
        event = Event()
        worker = Worker(target=wait_for, args=(event,))
        worker.start()
        if processes:
            getattr(worker, method)()
        else:
            with pytest.raises(NotImplementedError):
                getattr(worker, method)()
            event.set()
        worker.join()
        assert worker.exitcode == (-number if processes else 0)


def tell_and_wait(begun: Any, go_on: Any, done: Any) -> None:
    begun.set()
    go_on.wait(30)
    try:
        freethreading.check_cancelled()
    except CancelledError:
        done.set()


@line("`WorkerPool.terminate()`")
def terminating_a_pool(processes: bool) -> None:
    begun, go_on, done = Event(), Event(), Event()
    pool = WorkerPool(workers=1)
    pool.apply_async(tell_and_wait, (begun, go_on, done))
    assert begun.wait(30)
    pool.terminate()
    go_on.set()
    pool.join()
    assert done.is_set() is not processes


def ask_for_ever(begun: Any) -> None:
    begun.set()
    while True:
        freethreading.check_cancelled()


@line("`Future.cancel(force=True)` of a call that runs")
def cancelling_a_running_call(processes: bool) -> None:
    with WorkerPoolExecutor(1) as executor:
        begun, go_on = Event(), Event()
        worker = executor.submit(freethreading.get_ident).result(30)
        never_asks = executor.submit(tell_and_never_ask, begun, go_on)
        assert begun.wait(30)
        assert never_asks.cancel(force=True)
        if processes:
            with pytest.raises(CancelledError):
                never_asks.result(30)
        else:
            go_on.set()
            assert never_asks.result(30) == "done"
        begun.clear()
        asks = executor.submit(ask_for_ever, begun)
        assert begun.wait(30)
        assert asks.cancel(force=True)
        with pytest.raises(CancelledError):
            asks.result(30)
        assert (executor.submit(freethreading.get_ident).result(30) != worker) is processes


def tell_and_never_ask(begun: Any, go_on: Any) -> str:
    begun.set()
    go_on.wait(30)
    return "done"


@line("`Worker.pid`")
def pid(processes: bool) -> None:
    assert (in_worker(same, None).pid != os.getpid()) is processes


@line("`get_ident()`")
def ident(processes: bool) -> None:
    assert freethreading.get_ident() == (os.getpid() if processes else threading.get_ident())
    answers: Queue[bool] = Queue()
    in_worker(compare_idents, answers, processes)
    assert answers.get(timeout=20)


def compare_idents(answers: Any, processes: bool) -> None:
    answers.put(freethreading.get_ident() == (os.getpid() if processes else threading.get_ident()))


@line("`current_worker().name` in the main program")
def main_name(processes: bool) -> None:
    assert freethreading.current_worker().name == ("MainProcess" if processes else "MainThread")


class Unbuildable:
    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ()


def refuse() -> None:
    raise KeyError("not again")


@line("`Queue.get` of an item that cannot be rebuilt")
def unbuildable_item(processes: bool) -> None:
    queue: Queue[Unbuildable] = Queue()
    item = Unbuildable()
    queue.put(item)
    if processes:
        with pytest.raises(KeyError, match="not again"):
            queue.get(timeout=20)
    else:
        assert queue.get(timeout=20) is item
    assert queue.empty()


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@line("`Queue(max_bytes=...)`")
def byte_bound(processes: bool) -> None:
    items: Queue[bytes] = Queue(max_bytes=1000)
    items.put(bytes(900))
    assert items.max_bytes == 1000
    if processes:
        with pytest.raises(Full):
            items.put_nowait(bytes(900))
    else:
        items.put_nowait(bytes(900))


def keep_much() -> int:
    kept.append(b"x" * (64 << 20))
    return os.getpid()


kept: list[bytes] = []


@line("`max_memory_per_child`")
def memory_bound(processes: bool) -> None:
    try:
        with WorkerPool(workers=1, max_memory_per_child=48 << 20) as pool:
            assert (pool.apply(keep_much) == pool.apply(os.getpid)) is not processes
        pool.join()
    finally:
        kept.clear()


@line("a worker that is killed")
def killed(processes: bool) -> None:
    if processes:
        with pytest.raises(freethreading.WorkerLostError) as caught:
            run_in_pool(kill_myself)
        assert pickle.loads(pickle.dumps(caught.value.signal)) == signal.SIGKILL


def release(buffer: Any) -> None:
    buffer.release()


@line("`SharedBuffer.release()`")
def releasing(processes: bool) -> None:
    buffer = SharedBuffer(1)
    in_worker(release, buffer)
    if processes:
        assert bytes(buffer) == b"\0"
    else:
        with pytest.raises(ValueError, match="was released"):
            bytes(buffer)


UNCAUGHT = """
import threading, freethreading
threading.excepthook = lambda args: print("hooked")
def fail():
    raise KeyError("uncaught")
worker = freethreading.Worker(target=fail)
worker.start()
worker.join()
print(worker.exitcode)
"""


@line("an uncaught exception in a `Worker`")
def uncaught(processes: bool) -> None:
    done = run_program(UNCAUGHT, "multiprocessing" if processes else "threading")
    assert done.stdout.split() == (["1"] if processes else ["hooked", "1"])
    assert ("KeyError: 'uncaught'" in done.stderr) is processes


DAEMONIC = """
import freethreading, os, signal
def wait(begun):
    signal.signal(signal.SIGTERM, lambda *args: os._exit(os.write(1, b"terminated") and 0)) if {processes} else None
    begun.set()
    freethreading.Event().wait(60)
begun = freethreading.Event()
freethreading.Worker(target=wait, args=(begun,), daemon=True).start()
begun.wait(30)
"""


@line("a daemonic `Worker` at exit")
def daemonic(processes: bool) -> None:
    done = run_program(DAEMONIC.format(processes=processes), "multiprocessing" if processes else "threading")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("terminated" if processes else "")


def test_every_line_has_a_check_and_every_check_a_line() -> None:
    rows = re.findall(r"^\| (.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows[1:] == list(CHECKS)  # the first is the heading


@pytest.mark.parametrize("what", CHECKS)
def test_difference(what: str, backend: str) -> None:
    CHECKS[what](backend == "multiprocessing")
