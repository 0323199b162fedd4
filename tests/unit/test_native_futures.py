"""What is native in our futures: the calls that they carry, and who waits for them when."""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import gc
import itertools
import os
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import freethreading
from freethreading._core import AtomicInt64, NativeFuture, call_items, serve
from freethreading._futures import PoolFuture
from support.program import run_program
from support.until import until


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> PoolFuture[Any]:
    return PoolFuture(None, function, args, kwargs)


def run(future: PoolFuture[Any]) -> Any:
    outstanding = AtomicInt64(1, shared=False)
    answer = future.run(None, outstanding)
    assert outstanding.load() == 0
    return answer


def test_it_carries_a_call() -> None:
    future = call(divmod, 7, 2)
    assert run(future) is True
    assert future.result(0) == (3, 1)
    assert run(future) is False
    future = call(dict, a=1)
    future.add_done_callback(id)
    assert run(future) is None
    assert future.result(0) == {"a": 1}
    future = call(int, "x")
    future._condition  # noqa: B018
    answer = run(future)
    assert answer[0] == "set_exception"
    assert isinstance(answer[1], ValueError)
    assert not future.done()
    future = call(print, "never")
    future.cancel()
    assert run(future) is False
    assert future._state == "CANCELLED_AND_NOTIFIED"


def test_a_future_without_a_call_fails_when_it_is_run() -> None:
    future: PoolFuture[Any] = PoolFuture()
    assert run(future) is True
    with pytest.raises(RuntimeError, match="no call"):
        future.result(0)


def test_the_call_runs_in_the_context_of_its_maker() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def read_and_set() -> str:
        seen = variable.get()
        variable.set("the call's")
        return seen

    future = contextvars.copy_context().run(lambda: (variable.set("mine"), call(read_and_set))[1])
    assert run(future) is True
    assert future.result(0) == "mine"
    assert variable.get() == "unset"


def test_the_traceback_begins_in_the_call() -> None:
    def fail() -> None:
        raise ValueError("no")

    future = call(fail)
    run(future)
    error = future.exception(0)
    assert error is not None
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code is fail.__code__


@pytest.mark.parametrize("how", ["run", "cancelled", "dropped"])
def test_it_keeps_nothing_of_its_call(how: str) -> None:
    class Thing:
        def __call__(self, other: Any) -> None:
            pass

    things = [Thing(), Thing()]
    references = [weakref.ref(thing) for thing in things]
    future: PoolFuture[Any] | None = call(*things)
    del things
    assert future is not None
    if how == "dropped":
        future = None
    else:
        if how == "cancelled":
            future.cancel()
        run(future)
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_cycles_are_collected() -> None:
    class Thing:
        pass

    thing: Any = Thing()
    thing.future = PoolFuture()
    thing.future.set_result(thing)
    thing.future.add_done_callback(lambda future, held=thing: held)
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "arguments",
    [(None, id), (None, id, [1]), (None, id, "text"), (None, id, (), 5), (1, 2, 3, 4, 5)],
    ids=repr,
)
def test_bad_arguments(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        PoolFuture(*arguments)


def test_misuse() -> None:
    future = call(id, 1)
    with pytest.raises(RuntimeError, match="once only"):
        NativeFuture.__init__(future, None, id, ())
    with pytest.raises(TypeError, match="AtomicInt64"):
        future.run(None, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no state"):
        future._state = "elsewhere"
    with pytest.raises(TypeError):
        future.result("soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="derive from BaseException"):
        future.set_exception("a text")  # type: ignore[arg-type]


def test_size() -> None:
    # What a queued call costs besides its arguments.
    assert sys.getsizeof(PoolFuture()) <= 200


VARIABLE: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default="unset")


def read_and_set(item: Any) -> Any:
    seen = VARIABLE.get()
    VARIABLE.set(item)
    if item == 2:
        raise ValueError(f"no {item}")
    return seen


def test_items_are_called_in_copies_of_a_context() -> None:
    context = contextvars.copy_context()
    context.run(VARIABLE.set, "mine")
    values, failures = call_items(read_and_set, [1, 2, 3], False, context, None)
    assert failures == [1]
    assert [values[0], type(values[1]), values[2]] == ["mine", ValueError, "mine"]
    assert context[VARIABLE] == "mine"
    prepared: list[contextvars.Context] = []

    def prepare(given: contextvars.Context) -> contextvars.Context:
        assert given is context
        prepared.append(contextvars.Context())
        return prepared[-1]

    assert call_items(read_and_set, range(2), False, context, prepare) == (["unset", "unset"], [])
    assert [mine[VARIABLE] for mine in prepared] == [0, 1]


def test_items_with_a_star() -> None:
    context = contextvars.Context()
    values, failures = call_items(divmod, [(7, 2), [9, 3], 5, (1, 0)], True, context, None)
    assert values[:2] == [(3, 1), (3, 0)]
    assert [type(value) for value in values[2:]] == [TypeError, ZeroDivisionError]
    assert failures == [2, 3]
    assert call_items(divmod, [], True, context, None) == ([], [])


def test_misuse_of_what_serves() -> None:
    number = AtomicInt64(0, shared=False)
    queue: Any = freethreading.SimpleQueue(shared=False)
    bad: Any = call_items
    for arguments in ((id,), (id, [], False, None, None), (id, 5, False, contextvars.Context(), None)):
        with pytest.raises(TypeError):
            bad(*arguments)
    bad = serve
    surplus = AtomicInt64(0, shared=False)
    good: tuple[Any, ...] = (queue, number, number, None, surplus, None)
    for at, wrong in ((0, []), (1, 1), (2, 1), (4, None), (5, "x")):
        with pytest.raises(TypeError):
            bad(*good[:at], wrong, *good[at + 1 :])
    for arguments in ((), good[:5]):
        with pytest.raises(TypeError):
            bad(*arguments)
    for item, expected in ((None, False), ("a thing", "a thing"), (call(id, 1), None), (cancelled(), None)):
        queue.put(item)
        assert serve(*good) == expected
    future = call(int, "x")
    future.add_done_callback(id)
    queue.put(future)
    assert serve(queue, number, AtomicInt64(0, shared=False), None, surplus, None) == (future, None)


def cancelled() -> PoolFuture[Any]:
    future = call(print, "never")
    future.cancel()
    return future


def test_memory_of_calls_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes from thread to thread, and what is made there, is freed."""
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")

    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    def give_back(thing: Thing) -> Thing:
        made = Thing()
        things.append(weakref.ref(made))
        return made

    with freethreading.WorkerPoolExecutor(2) as executor:
        for _ in range(200):
            thing = Thing()
            things.append(weakref.ref(thing))
            executor.submit(give_back, thing).result(30)
            del thing
        for made in executor.map(give_back, [Thing() for _ in range(50)]):
            things.append(weakref.ref(made))
        del made
    with freethreading.WorkerPool(2) as pool:
        pool.map(give_back, [Thing() for _ in range(50)])
    until(lambda: gc.collect() >= 0 and not any(thing() for thing in things), "all of them are gone")


@pytest.mark.parametrize("looks", [True, False])
def test_races_have_one_winner(seed: int, looks: bool) -> None:
    """Settling, cancelling, waiting and looking at the condition, at once: one wins, everybody hears of it."""
    rounds = 300
    futures = [PoolFuture() for _ in range(rounds)]
    barrier = threading.Barrier(5)
    wins: list[list[str]] = [[] for _ in range(rounds)]
    called: list[list[int]] = [[] for _ in range(rounds)]
    heard: list[int] = []

    def settle(value: str) -> None:
        for number, future in enumerate(futures):
            barrier.wait()
            try:
                future.set_result(value)
            except concurrent.futures.InvalidStateError:
                continue
            wins[number].append(value)

    def cancel() -> None:
        for number, future in enumerate(futures):
            barrier.wait()
            if future.cancel():
                future.set_running_or_notify_cancel()  # as the worker does that finds it cancelled
                wins[number].append("cancelled")

    def listen() -> None:
        for number, future in enumerate(futures):
            barrier.wait()
            future.add_done_callback(lambda _, number=number: called[number].append(number))

    def wait() -> None:
        for number, future in enumerate(futures):
            barrier.wait()
            if looks and number % 2:
                concurrent.futures.wait([future], 30)
            with contextlib.suppress(concurrent.futures.CancelledError):
                future.result(30)
            heard.append(number)

    threads = [
        threading.Thread(target=target, args=args)
        for target, args in (
            (settle, ("a",)),
            (settle, ("b",)),
            (cancel, ()),
            (listen, ()),
            (wait, ()),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(won) for won in wins] == [1] * rounds
    for future, won in zip(futures, wins, strict=True):
        assert future.cancelled() if won == ["cancelled"] else future.result(0) == won[0]
    assert called == [[number] for number in range(rounds)]
    assert heard == list(range(rounds))


def test_submitting_from_many_threads(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(2) as executor:
        found: list[list[int]] = [[] for _ in range(4)]

        def submit(part: list[int]) -> None:
            futures = [executor.submit(pow, 2, number) for number in range(50)]
            part.extend(future.result(60) for future in futures)

        threads = [threading.Thread(target=submit, args=(part,)) for part in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[2**number for number in range(50)]] * 4


def test_a_wait_in_a_forked_child_is_an_error(backend: str) -> None:
    event: Any = freethreading.Event()
    with freethreading.WorkerPoolExecutor(1) as executor:
        future = executor.submit(event.wait, 30)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                future.result()
            except RuntimeError as error:
                code = 0 if "forked" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        event.set()
        assert future.result(30)


def test_an_interrupt_ends_a_wait() -> None:
    import signal

    future: PoolFuture[Any] = PoolFuture()
    main = threading.main_thread().ident
    assert main is not None
    counter = itertools.count()

    def interrupt() -> None:
        while next(counter) < 1:
            signal.pthread_kill(main, signal.SIGINT)

    timer = threading.Timer(0.05, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        future.result(30)
    timer.join()
    future.set_result(1)
    assert future.result(0) == 1


# What the user does to a future that an executor has.


def test_one_that_the_user_has_settled(backend: str) -> None:
    event: Any = freethreading.Event()
    executor = freethreading.WorkerPoolExecutor(1)
    futures = [executor.submit(event.wait), executor.submit(print, "never"), executor.submit(int, "5")]
    more = [
        executor.submit(int, number) for number in range(5)
    ]  # those behind it that a process engine keeps back
    concurrent.futures.wait([futures[1], more[4]], 0)
    for future in (futures[1], more[4]):
        if future.cancel():  # a process engine gives it to a worker early
            continue
        future.set_result(1)
    event.set()
    assert futures[2].result(30) == 5
    executor.shutdown()


def test_a_callback_that_ends_its_thread(backend: str) -> None:
    event: Any = freethreading.Event()
    executor = freethreading.WorkerPoolExecutor(1)
    running = executor.submit(event.wait)
    waiting = [executor.submit(int, number) for number in range(6)]
    hooked: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda args: hooked.append(args.exc_type))
        until(running.running, "a worker has it")
        waiting[4].add_done_callback(lambda _: sys.exit("the callback"))
        executor.shutdown(wait=False, cancel_futures=True)
        assert hooked == [SystemExit]
        event.set()
        assert running.result(30)
        for future in waiting[-2:]:
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(30)
        executor.shutdown()


def test_an_idle_worker_keeps_no_outcome(backend: str) -> None:
    class Thing:
        pass

    with freethreading.WorkerPoolExecutor(1) as executor:
        event: Any = freethreading.Event()
        future: Any = executor.submit(event.wait)
        future.add_done_callback(lambda future: None)
        future.held = Thing()
        gone = weakref.ref(future.held)
        event.set()
        assert future.result(30)
        del future
        assert executor.submit(int).result(30) == 0
        until(lambda: gc.collect() >= 0 and gone() is None, "the future is let go")


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="what another thread has made goes there when that thread runs again",
)
def test_no_cycle_is_left_of_a_failed_call(backend: str) -> None:
    class Thing:
        pass

    def failed(get: Callable[[], Any]) -> weakref.ref[Thing]:
        try:
            get()
        except ValueError as error:
            held: Any = error
            held.thing = Thing()
            gone = weakref.ref(held.thing)
            del held
        return gone

    gc.collect()
    gc.disable()
    try:
        with freethreading.WorkerPoolExecutor(1) as executor:
            ways: list[Callable[[], Any]] = [
                lambda: executor.submit(int, "x").result(30),
                lambda: next(executor.map(int, ["x"])),
                lambda: next(executor.map(int, ["x", "y"], chunksize=2)),
                lambda: next(executor.map(int, ["x"], buffersize=1)),
            ]
            for get in ways:
                gone = failed(get)
                until(lambda gone=gone: gone() is None, "the exception is let go")  # type: ignore[misc]
    finally:
        gc.enable()


# The end of the interpreter meets threads in calls of ours: they end where they are.

SLOW_END = """
import sys, threading, time
import concurrent.futures as futures
import freethreading
from freethreading._futures import PoolFuture
class Slow:
    def __del__(self, sleep=time.sleep):
        for _ in range(30):
            sleep(0.01)
slow = Slow()
"""
IN_A_CALLBACK = """
def call(future, sleep=time.sleep):
    begun.set()
    while True:
        sleep(0.001)
begun = threading.Event()
with freethreading.WorkerPoolExecutor(1) as executor:
    future = executor.submit(int)
    future.result()
threading.Thread(target=future.add_done_callback, args=(call,), daemon=True).start()
begun.wait(30)
"""
IN_A_WAIT = """
def poll(future, late=futures.TimeoutError):
    begun.set()
    while True:
        try:
            future.result(0.001)
        except late:
            pass
begun = threading.Event()
threading.Thread(target=poll, args=(PoolFuture(),), daemon=True).start()
begun.wait(30)
"""
IN_A_CALL = """
def call(item, sleep=time.sleep):
    begun.set()
    while True:
        sleep(0.001)
begun = threading.Event()
pool = freethreading.WorkerPool(2)
results = pool.map_async(call, range(2), 1), pool.apply_async(call, (1,))
begun.wait(30)
"""


@pytest.mark.parametrize("where", [IN_A_CALLBACK, IN_A_WAIT, IN_A_CALL], ids=["callback", "wait", "call"])
def test_the_interpreter_ends_while_a_thread_is_in(where: str) -> None:
    done = run_program(SLOW_END + where, "threading")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Fatal" not in done.stderr
    assert "terminate called" not in done.stderr


def test_the_interpreter_ends_while_an_iterator_is_there(backend: str) -> None:
    code = """
import freethreading
executor = freethreading.WorkerPoolExecutor(1)
results = executor.map(str, range(3))
print(next(results))
"""
    done = run_program(code, backend)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


class Node:
    pass


@pytest.mark.parametrize("order", ["attribute first", "outcome first", "outcome", "callback", "condition"])
def test_cycles_with_one_that_is_done_are_collected(order: str) -> None:
    future: Any = PoolFuture()
    node = Node()
    if order == "attribute first":
        future.node, node.future = node, future
    if order == "callback":
        future.add_done_callback(lambda _, node=node: None)
        node.future = future
    if order == "outcome":
        future.set_result([node])
        node.future = future
    else:
        future.set_result(1)
    if order == "outcome first":
        future.node, node.future = node, future
    if order == "condition":
        future._condition.node = node
        node.future = future
    gone = weakref.ref(node)
    del future, node
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="there it is no gain")
def test_garbage_collection_passes_calls_that_are_done(backend: str) -> None:
    with freethreading.WorkerPoolExecutor(1) as executor:
        futures = [executor.submit(abs, -number) for number in range(100)]
        assert [future.result() for future in futures] == list(range(100))
        assert not any(map(gc.is_tracked, futures))
