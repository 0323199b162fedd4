"""Worker, and who is there: the contract of threading.Thread and multiprocessing.Process."""

from __future__ import annotations

import atexit
import multiprocessing.connection
import os
import signal
import sys
import threading
from typing import Any

import pytest

import freethreading
from support.subjects import Subject
from support.until import until


def report_name(result: Any) -> None:
    result.put((freethreading.current_worker().name, freethreading.get_ident()))


def add(result: Any, a: int, b: int = 0, *, c: int = 0) -> None:
    result.put(a + b + c)


def wait_for(event: Any) -> None:
    event.wait(20)


def leave_with(code: Any) -> None:
    sys.exit(code)


def fail() -> None:
    raise LookupError("uncaught in a worker")


class Doubler(freethreading.Worker):
    def __init__(self, number: int, result: Any) -> None:
        super().__init__(name="doubler")
        self.number = number
        self.result = result

    def run(self) -> None:
        self.result.put((self.number * 2, self.name))


def test_runs_its_target_with_arguments(ours: Subject) -> None:
    result = ours.Queue()
    worker = freethreading.Worker(target=add, args=(result, 1), kwargs={"b": 2, "c": 3})
    assert not worker.is_alive()
    worker.start()
    assert result.get(timeout=20) == 6
    worker.join()
    assert not worker.is_alive()
    assert worker.exitcode == 0


def test_name_and_ident_inside(ours: Subject) -> None:
    result = ours.Queue()
    worker = freethreading.Worker(target=report_name, args=(result,), name="given")
    worker.start()
    assert result.get(timeout=20) == ("given", worker.ident)
    worker.join()
    assert worker.name == "given"


def test_subclass_overrides_run(ours: Subject) -> None:
    result = ours.Queue()
    worker = Doubler(21, result)
    worker.start()
    assert result.get(timeout=20) == (42, "doubler")
    worker.join()


def test_is_listed_while_it_runs(ours: Subject) -> None:
    let_go = ours.Event()
    before = freethreading.active_count()
    assert freethreading.active_children() == []
    worker = freethreading.Worker(target=wait_for, args=(let_go,))
    worker.start()
    assert worker in freethreading.active_children()
    assert worker in freethreading.enumerate()
    assert freethreading.active_count() == before + 1
    let_go.set()
    worker.join()
    assert freethreading.active_children() == []
    assert freethreading.active_count() == before


def test_join_times_out(ours: Subject) -> None:
    let_go = ours.Event()
    worker = freethreading.Worker(target=wait_for, args=(let_go,))
    worker.start()
    worker.join(0.02)
    assert worker.is_alive()
    assert worker.exitcode is None
    let_go.set()
    worker.join(20)
    assert not worker.is_alive()


@pytest.mark.parametrize("misuse", ["start twice", "join early", "join itself", "daemon late"])
def test_misuse(ours: Subject, misuse: str) -> None:
    let_go = ours.Event()
    worker = freethreading.Worker(target=wait_for, args=(let_go,))
    expected = (RuntimeError, AssertionError)
    if misuse == "join early":
        for error in expected:
            with pytest.raises(error):
                worker.join()
        return
    if misuse == "join itself":
        for error in expected:
            with pytest.raises(error):
                freethreading.current_worker().join()
        return
    worker.start()
    for error in expected:
        with pytest.raises(error):
            if misuse == "start twice":
                worker.start()
            else:
                worker.daemon = True
    let_go.set()
    worker.join()


def test_group_must_be_none(ours: Subject) -> None:
    with pytest.raises((AssertionError, ValueError)):
        freethreading.Worker(group="group")  # type: ignore[arg-type]


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (3, 3)])
def test_exit_code_of_sys_exit(ours: Subject, code: Any, expected: int) -> None:
    worker = freethreading.Worker(target=leave_with, args=(code,))
    worker.start()
    worker.join()
    assert worker.exitcode == expected


def test_uncaught_exception_is_printed_and_the_exit_code_is_one(
    ours: Subject, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = freethreading.Worker(target=fail)
    if not ours.processes:
        seen: list[Any] = []
        hook, threading.excepthook = threading.excepthook, seen.append
        try:
            worker.start()
            worker.join()
        finally:
            threading.excepthook = hook
        assert seen[0].exc_type is LookupError
    else:
        worker.start()
        worker.join()
        assert "LookupError: uncaught in a worker" in capfd.readouterr().err
    assert worker.exitcode == 1


def test_sentinel_is_ready_at_the_end(ours: Subject) -> None:
    let_go = ours.Event()
    worker = freethreading.Worker(target=wait_for, args=(let_go,))
    worker.start()
    assert multiprocessing.connection.wait([worker.sentinel], timeout=0.02) == []
    let_go.set()
    assert multiprocessing.connection.wait([worker.sentinel], timeout=20) == [worker.sentinel]
    worker.join()
    worker.close()


def test_terminate_and_kill(ours: Subject) -> None:
    for method, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
        let_go = ours.Event()
        worker = freethreading.Worker(target=wait_for, args=(let_go,))
        worker.start()
        if ours.processes:
            getattr(worker, method)()
            worker.join()
            assert worker.exitcode == -number
        else:
            with pytest.raises(NotImplementedError, match="thread"):
                getattr(worker, method)()
            let_go.set()
            worker.join()


def test_close(ours: Subject) -> None:
    let_go = ours.Event()
    worker = freethreading.Worker(target=wait_for, args=(let_go,))
    worker.start()
    with pytest.raises(ValueError):
        worker.close()
    let_go.set()
    worker.join()
    worker.close()
    worker.close()
    assert repr(worker) == f"<Worker name={worker.name!r} closed>"
    for ask in ("pid", "ident", "native_id", "exitcode", "sentinel"):
        with pytest.raises(ValueError, match="closed"):
            getattr(worker, ask)
    for call in (worker.is_alive, worker.join, worker.start):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_a_forked_child_may_ask_whether_it_is_alive(ours: Subject) -> None:
    let_go = ours.Event()
    worker = freethreading.Worker(target=wait_for, args=(let_go,))
    worker.start()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            # A thread is not in the child; a process is the parent's.
            code = 0 if worker.is_alive() is (freethreading.get_backend() == "multiprocessing") else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    let_go.set()
    worker.join()


def test_many_at_once(ours: Subject) -> None:
    result = ours.Queue()
    workers = [freethreading.Worker(target=add, args=(result, number)) for number in range(8)]
    for worker in workers:
        worker.start()
    assert sorted(result.get(timeout=20) for _ in workers) == list(range(8))
    for worker in workers:
        worker.join()
    assert len({worker.name for worker in workers}) == 8


def read_environment(result: Any) -> None:
    result.put((os.environ.get("FT_TEST_VALUE"), os.getcwd(), "/ft-test-path" in sys.path))


def test_sees_environment_folder_and_path_as_they_are_at_start(
    ours: Subject, monkeypatch: Any, tmp_path: Any
) -> None:
    result = ours.Queue()
    for value in ("first", "second"):
        monkeypatch.setenv("FT_TEST_VALUE", value)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend("/ft-test-path")
        worker = freethreading.Worker(target=read_environment, args=(result,))
        worker.start()
        assert result.get(timeout=20) == (value, str(tmp_path), True)
        worker.join()


def echo_pipe(connection: Any, lock: Any, items: Any) -> None:
    with lock:
        connection.send(("echo", connection.recv(), multiprocessing.parent_process() is not None))
    items.put("through multiprocessing")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_multiprocessing_objects_as_arguments(ours: Subject, method: str) -> None:
    if not ours.processes:
        pytest.skip("a matter of processes")
    context = multiprocessing.get_context(method)
    mine, theirs = context.Pipe()
    items = context.Queue()
    worker = freethreading.Worker(target=echo_pipe, args=(theirs, context.Lock(), items))
    worker.start()
    mine.send("hello")
    assert mine.poll(20)
    assert mine.recv() == ("echo", "hello", True)
    assert items.get(timeout=20) == "through multiprocessing"
    worker.join()
    assert worker.exitcode == 0
    items.close()
    items.join_thread()
    mine.close()
    theirs.close()


def note_the_exit(items: Any) -> None:
    atexit.register(items.put, "exit function")


def test_exit_functions_of_a_process_run_at_its_end(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("a matter of processes")
    items = ours.Queue()
    worker = freethreading.Worker(target=note_the_exit, args=(items,))
    worker.start()
    assert items.get(timeout=20) == "exit function"
    worker.join()
    assert worker.exitcode == 0
    worker.close()


def test_is_one_of_multiprocessings_children(ours: Subject) -> None:
    if not ours.processes:
        pytest.skip("a matter of processes")
    let_go = ours.Event()
    worker = freethreading.Worker(target=wait_for, args=(let_go,))
    worker.start()
    assert worker.pid in {child.pid for child in multiprocessing.active_children()}
    let_go.set()
    worker.join()
    until(lambda: not multiprocessing.active_children(), "no child is left")
