"""The engine whose workers are threads: one queue, and every worker takes from it."""

from __future__ import annotations

import contextlib
import threading
import time
from queue import Empty
from typing import TYPE_CHECKING, Any

from freethreading import _serialize
from freethreading._backend import strict_mode
from freethreading._core import SimpleQueue
from freethreading._engine import (
    CALL,
    OPEN,
    TERMINATED,
    Engine,
    Options,
    Outcome,
    Task,
    call_item,
    forget,
    terminated_error,
)
from freethreading._thread_worker import PoolThread

if TYPE_CHECKING:
    from collections.abc import Callable


# How long a callback that waits for a result looks for a task of others to run before it looks for the result again.
PUMP_SECONDS = 0.01


class ThreadEngine(Engine):
    """Workers are threads of this process; nothing is pickled (FREETHREADING_STRICT=1: it is checked that it could be).

    A None in the queue tells one worker to look at the state; one that ends passes it on.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._strict = strict_mode()
        self._queue: SimpleQueue[Task | None] = SimpleQueue(shared=False)
        self._threads: set[threading.Thread] = set()  # guarded by _lock
        self._busy: set[threading.Thread] = set()  # those in a task; each thread enters and removes itself
        self._handing: set[threading.Thread] = (
            set()
        )  # those that hand out outcomes, hence in a callback; as _busy
        self._outstanding = 0  # tasks taken in and not done; guarded by _lock
        self._started = 0  # guarded by _lock
        if self._strict and options.initializer is not None:
            _serialize.check((options.initializer, options.initargs), ("initializer", "initargs"))
        if options.eager:
            try:
                with self._lock:
                    for _ in range(options.workers):
                        self._add_worker()
            except BaseException:  # the system has no more threads: those that were started end
                self.terminate()
                raise

    def submit(self, task: Task) -> None:
        if self._strict and task.kind == CALL:
            check_call(task)
        with self._lock:
            self._refuse()
            self._outstanding += 1
            self._queue.put(task)
            # A thread in a callback may wait for what comes here.
            if len(self._threads) < min(self.options.workers, self._outstanding + len(self._handing)):
                self._add_worker()

    def cancel_pending(self) -> None:
        for task in self._take_all():
            task.sink.cancel()

    def join(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.inherited:
            with self._lock:
                thread = next(iter(self._threads), None)
            if thread is None:
                break
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return False
        return True

    def join_idle(self) -> None:
        while True:
            with self._lock:
                thread = next(iter(self._threads - self._busy), None)
            if thread is None:
                return
            thread.join(0.005)  # it may just have taken a task

    def in_engine(self) -> bool:
        return threading.current_thread() in self._threads

    def worker_count(self) -> int:
        return len(self._threads)

    def _closing(self) -> None:
        if self._state == TERMINATED:
            self._fail_all(terminated_error)
        self._queue.put(None)
        if not self._threads:
            forget(self)

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if self._strict:
            _serialize.check(function, "func")
        return function

    def _add_worker(self) -> None:
        # Under the lock.
        prefix = self.options.name_prefix
        name = f"{prefix}_{self._started}" if prefix else None
        thread = PoolThread(target=self._work, name=name, daemon=not self.options.lasting)
        self._started += 1
        self._threads.add(thread)
        try:
            thread.start()
        except BaseException:
            self._threads.discard(thread)
            raise

    def _work(self) -> None:
        try:
            if self._initialise():
                self._serve()
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
                replace = self._state == OPEN and self.broken is None
                if replace or (self._outstanding and not self._threads):
                    with contextlib.suppress(RuntimeError):  # the interpreter ends: no more threads
                        self._add_worker()  # in place of this one, whose max_tasks are used up
                ended = not self._threads
            if ended:
                self._fail_all(terminated_error)
                forget(self)

    def _initialise(self) -> bool:
        initializer = self.options.initializer
        if initializer is None:
            return True
        done, value = call_item(CALL, initializer, (self.options.initargs, {}))
        if not done:
            self._set_broken(value)
            broken = self.broken
            assert broken is not None
            self._fail_all(lambda: broken)
            self._queue.put(None)
        return done

    def _serve(self) -> None:
        me = threading.current_thread()
        budget = self.options.max_tasks
        while budget is None or budget > 0:
            task = self._queue.get()
            if task is None:
                if self._state != OPEN or self.broken is not None:
                    self._queue.put(None)
                    return
                continue
            self._busy.add(me)
            if self._do(task) and budget is not None:
                budget -= 1
            self._busy.discard(me)
            del task

    def _do(self, task: Task) -> bool:
        # Runs a task and hands out its outcomes. False: it was cancelled.
        begun = task.sink.begin()
        outcomes = self._run(task) if begun else []
        # Before the outcomes are known: who submits the next task then finds this worker free.
        with self._lock:
            self._outstanding -= 1
        if begun:
            me = threading.current_thread()
            nested = me in self._handing
            self._handing.add(me)
            try:
                self._hand(task, 0, outcomes)
            finally:
                if not nested:
                    self._handing.discard(me)
        return begun

    def pumping(self) -> bool:
        # In a callback: its worker may be the only one there is.
        return threading.current_thread() in self._handing

    def pump(self) -> None:
        if len(self._busy) < len(self._threads):
            time.sleep(PUMP_SECONDS)  # another worker takes what there is
            return
        try:
            task = self._queue.get(timeout=PUMP_SECONDS)
        except Empty:
            return
        if task is not None:
            self._do(task)
            return
        self._queue.put(None)
        time.sleep(PUMP_SECONDS)

    def _run(self, task: Task) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for item in task.items:
            outcomes.append(
                strict_outcome(task, item) if self._strict else call_item(task.kind, task.function, item)
            )
        return outcomes

    def _take_all(self) -> list[Task]:
        # Takes every waiting task out of the queue.
        tasks: list[Task] = []
        sentinel = False
        while not self._queue.empty():
            try:
                task = self._queue.get_nowait()
            except Exception:  # queue.Empty: a worker was faster
                break
            if task is None:
                sentinel = True
            else:
                tasks.append(task)
        if sentinel:
            self._queue.put(None)
        with self._lock:
            self._outstanding -= len(tasks)
        return tasks

    def _fail_all(self, error: Callable[[], BaseException]) -> None:
        for task in self._take_all():
            if task.sink.begin():
                self._hand(task, 0, [(False, error()) for _ in task.items])


def check_call(task: Task) -> None:
    """Raises what pickling the call would raise on processes."""
    _serialize.check((task.function, *task.items[0]), ("func", "args", "kwargs"))


def strict_outcome(task: Task, item: Any) -> Outcome:
    """Runs an item only if it and its result would pickle."""
    try:
        if task.kind != CALL:
            _serialize.check(item, "item")
        outcome = call_item(task.kind, task.function, item)
        _serialize.check(outcome[1], "result")
    except BaseException as error:
        return False, error
    return outcome
