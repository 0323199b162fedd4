"""Calls of process engines: who takes the answers, cancelling, what a call leaves behind."""

from __future__ import annotations

import concurrent.futures
import gc
import math
import os
import random
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import freethreading
from support.shared import Shared
from support.until import until

SECONDS = 30.0

counter: Any = None
gate: Any = None


def share(a: Any, b: Any) -> None:
    global counter, gate
    counter, gate = a, b


def count(number: int) -> int:
    counter.fetch_add(1)
    return number


def count_as_text(number: int) -> str:
    counter.fetch_add(1)
    return str(number) * 500


def wait_at_gate() -> int:
    gate.wait(SECONDS)
    return os.getpid()


def same(value: Any, *, extra: Any = None) -> Any:
    return value if extra is None else (value, extra)


def reject(text: str) -> None:
    raise ValueError(text)


def fork_and_tell(number: int) -> tuple[int, bool]:
    worker = os.getpid()
    child = os.fork()
    if child:
        gate.wait(0.02)  # the child, which comes back as well, is the first to end
        os.waitpid(child, 0)
    return number, os.getpid() == worker


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Slow:
    """Takes its time to be rebuilt."""

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, ()


def rebuild() -> Slow:
    taken.append(threading.get_ident())
    return Slow()


taken: list[int] = []


def slow_value() -> Slow:
    return Slow()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    shared = Shared()
    yield shared
    shared.__dict__.clear()


@pytest.fixture
def executor(shared: Shared) -> Iterator[freethreading.WorkerPoolExecutor]:
    with freethreading.WorkerPoolExecutor(1, share, shared.initargs()) as executor:
        yield executor
        shared.gate.set()


def busy(executor: freethreading.WorkerPoolExecutor) -> concurrent.futures.Future[int]:
    """A call that a worker runs until the gate is open."""
    future = executor.submit(wait_at_gate)
    until(future.running, "a worker runs it")
    return future


@pytest.mark.parametrize(
    "call",
    [
        lambda e: (e.submit(same, 1), 1),
        lambda e: (e.submit(same, "x" * 100, extra=[1, {"k": 2.5}]), ("x" * 100, [1, {"k": 2.5}])),
        lambda e: (e.submit(same, b"x" * 1_000_000), b"x" * 1_000_000),
        lambda e: (e.submit(math.sqrt, 4), 2.0),
        lambda e: (e.submit(pow, 2, 5), 32),
        lambda e: (e.submit(same, {1, 2}), {1, 2}),  # by pickle
        lambda e: (e.submit(lambda x: x + 1, 1), 2),  # by value
        lambda e: (e.submit("abc".upper), "ABC"),
        lambda e: (e.submit(same, None), None),
    ],
    ids=["small", "keywords", "large", "module", "builtin", "pickled", "lambda", "method", "none"],
)
def test_every_kind_of_call(executor: freethreading.WorkerPoolExecutor, call: Callable[[Any], Any]) -> None:
    for _ in range(3):
        future, expected = call(executor)
        assert future.result(SECONDS) == expected
        assert future.done() and not future.running() and not future.cancelled()


def test_a_call_is_native_where_nothing_stands_against_it(executor: freethreading.WorkerPoolExecutor) -> None:
    engine: Any = executor._engine
    number = engine._calls.number_of(same)
    assert number > 0
    assert engine._calls.number_of(same) == number
    assert engine._calls.number_of(lambda: 1) == 0
    assert engine._calls.number_of(Slow) == 0


def test_a_name_that_is_bound_anew(
    executor: freethreading.WorkerPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = same
    assert executor.submit(old, 1).result(SECONDS) == 1
    monkeypatch.setattr(f"{__name__}.same", reject)
    assert executor.submit(old, 1).result(SECONDS) == 1  # what was given, by value
    with pytest.raises(ValueError, match="new"):
        executor.submit(reject, "new").result(SECONDS)
    monkeypatch.undo()
    assert executor.submit(old, 2).result(SECONDS) == 2


def test_exceptions_come_with_their_traceback(executor: freethreading.WorkerPoolExecutor) -> None:
    future = executor.submit(reject, "no")
    with pytest.raises(ValueError, match="no") as caught:
        future.result(SECONDS)
    assert "in reject" in str(caught.value.__cause__)
    assert isinstance(future.exception(), ValueError)


def test_a_call_that_is_cancelled_never_runs(
    executor: freethreading.WorkerPoolExecutor, shared: Shared
) -> None:
    running = busy(executor)
    assert not running.cancel()
    waiting = [executor.submit(count, number) for number in range(100)]
    assert not any(future.running() for future in waiting)
    called: list[Any] = []
    waiting[10].add_done_callback(called.append)
    cancelled = waiting[::10]
    assert all(future.cancel() for future in cancelled)
    assert all(future.cancelled() and future.cancel() for future in cancelled)
    assert called == [waiting[10]]
    done, pending = concurrent.futures.wait(cancelled, 0)
    assert len(done) == 10 and not pending
    shared.gate.set()
    for number, future in enumerate(waiting):
        if number % 10:
            assert future.result(SECONDS) == number
        else:
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(SECONDS)
    assert shared.counter.load() == 90


def test_submits_and_cancels_at_random(shared: Shared, seed: int) -> None:
    rng = random.Random(seed)
    with freethreading.WorkerPoolExecutor(2, share, shared.initargs()) as executor:
        futures: list[concurrent.futures.Future[int]] = []
        cancelled: set[int] = set()
        for number in range(4000):
            futures.append(executor.submit(count, number))
            victim = rng.randrange(max(0, number - 20), number + 1)
            if rng.random() < 0.5 and futures[victim].cancel():
                cancelled.add(victim)
        for number, future in enumerate(futures):
            assert future.cancelled() == (number in cancelled)
            if number not in cancelled:
                assert future.result(SECONDS) == number
        assert shared.counter.load() == 4000 - len(cancelled)


@pytest.mark.parametrize("seed", range(3))
def test_thousands_that_wait_are_found_again(shared: Shared, seed: int) -> None:
    rng = random.Random(seed)
    with freethreading.WorkerPoolExecutor(2) as executor:
        blocked = [executor.submit(shared.gate.wait, 60) for _ in range(2)]
        futures = {number: executor.submit(same, number) for number in range(5000)}
        gone = rng.sample(sorted(futures), 2500)
        assert sum(futures[number].cancel() for number in gone[:2000]) == 2000
        futures.update({number: executor.submit(same, number) for number in gone[:1000]})
        shared.gate.set()
        left = futures.keys() - set(gone[1000:2000])
        assert all(futures[number].result(60) == number for number in rng.sample(sorted(left), len(left)))
        assert all(future.result(60) for future in blocked)


@pytest.mark.parametrize("told", [False, True], ids=["waited for", "some told"])
def test_many_threads_wait_each_for_its_own(executor: freethreading.WorkerPoolExecutor, told: bool) -> None:
    failures: list[BaseException] = []

    def ask(thread: int) -> None:
        try:
            for number in range(300):
                value = f"{thread}/{number}" * (40 if number % 7 == 0 else 1)
                future = executor.submit(same, value)
                if told and number % 5 == 0:
                    future.add_done_callback(lambda _: None)
                assert future.result(SECONDS) == value
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_who_waits_for_one_rebuilds_no_other(executor: freethreading.WorkerPoolExecutor) -> None:
    taken.clear()
    first, second = executor.submit(slow_value), executor.submit(same, 1)
    assert second.result(SECONDS) == 1
    thread = threading.Thread(target=first.result, args=(SECONDS,))
    thread.start()
    thread.join()
    # The engine's own thread rebuilds what nobody has waited for for a while.
    drainer = next(thread for thread in threading.enumerate() if thread.name == "freethreading-drainer")
    assert len(taken) == 1
    assert taken[0] in {thread.ident, drainer.ident}
    assert isinstance(first.result(SECONDS), Slow)


def test_done_becomes_true_though_nobody_waits(executor: freethreading.WorkerPoolExecutor) -> None:
    future = executor.submit(same, {1})
    until(future.done, "it is done")
    assert future.result(0) == {1}
    futures = [executor.submit(same, number) for number in range(1000)]
    until(lambda: all(future.done() for future in futures), "all are done")
    assert [future.result(0) for future in futures] == list(range(1000))


def test_a_result_that_nobody_takes_is_let_go(executor: freethreading.WorkerPoolExecutor) -> None:
    gone = weakref.ref(executor.submit(slow_value))
    other = weakref.ref(executor.submit(same, 1))
    until(lambda: gc.collect() >= 0 and gone() is None and other() is None, "both are gone")


def test_a_timeout_passes_while_others_are_answered(
    executor: freethreading.WorkerPoolExecutor, shared: Shared
) -> None:
    running = busy(executor)
    with pytest.raises(concurrent.futures.TimeoutError):
        running.result(0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        running.exception(0)
    shared.gate.set()
    assert running.result(SECONDS) > 0


def test_callbacks_of_tiny_calls(executor: freethreading.WorkerPoolExecutor) -> None:
    told: list[list[int]] = [[] for _ in range(4)]

    def submit(found: list[int]) -> None:
        for number in range(400):
            executor.submit(same, number).add_done_callback(lambda future: found.append(future.result(0)))

    threads = [threading.Thread(target=submit, args=(found,)) for found in told]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: all(len(found) == 400 for found in told), "each callback was called once")
    assert all(sorted(found) == list(range(400)) for found in told)


def test_who_asks_to_be_told_does_not_wait_for_long_calls(
    executor: freethreading.WorkerPoolExecutor, shared: Shared
) -> None:
    running, told = executor.submit(wait_at_gate), threading.Event()
    for _ in range(20):
        running.add_done_callback(lambda _: told.set())
    assert not told.is_set()
    shared.gate.set()
    assert told.wait(SECONDS)


def test_who_asks_to_be_told_rebuilds_no_answer(executor: freethreading.WorkerPoolExecutor) -> None:
    taken.clear()
    for _ in range(60):
        for function in (slow_value, os.getpid):
            told = threading.Event()
            executor.submit(function).add_done_callback(lambda _, told=told: told.set())  # type: ignore[misc]
            assert told.wait(SECONDS)
    assert len(taken) == 60
    assert threading.get_ident() not in taken


def test_a_callback_waits_for_another_call(executor: freethreading.WorkerPoolExecutor) -> None:
    found: list[Any] = []
    ended = threading.Event()

    def ask(_: Any) -> None:
        found.append(executor.submit(same, 2).result(SECONDS))
        found.append(executor.submit(same, {3}).result(SECONDS))
        ended.set()

    executor.submit(same, 1).add_done_callback(ask)
    assert ended.wait(SECONDS)
    assert found == [2, {3}]


def test_a_death_costs_the_call_that_ran(executor: freethreading.WorkerPoolExecutor) -> None:
    futures = [
        executor.submit(die if number == 5 else same, *([] if number == 5 else [number]))
        for number in range(10)
    ]
    with pytest.raises(freethreading.WorkerLostError, match=r"die\(\)"):
        futures[5].result(SECONDS)
    assert [f.result(SECONDS) for n, f in enumerate(futures) if n != 5] == [n for n in range(10) if n != 5]


def test_a_map_item_that_dies_is_named(executor: freethreading.WorkerPoolExecutor) -> None:
    outcomes = list(
        executor.map(die_at_three, [(number, {number}) for number in range(6)], return_exceptions=True)
    )
    assert isinstance(outcomes[3], freethreading.WorkerLostError)
    assert "die_at_three() of item 3" in str(outcomes[3])
    assert outcomes[:3] + outcomes[4:] == [0, 1, 2, 4, 5]


def die_at_three(item: tuple[int, set[int]]) -> int:
    if item[0] == 3:
        die()
    return item[0]


def test_a_child_takes_nothing_of_its_parents(
    executor: freethreading.WorkerPoolExecutor, shared: Shared
) -> None:
    running = busy(executor)
    waiting = executor.submit(same, 1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if not waiting.cancel() and not waiting.done() and not running.done():
                with pytest.raises(RuntimeError, match="make a new pool"):
                    waiting.result(SECONDS)
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    shared.gate.set()
    assert waiting.result(SECONDS) == 1
    assert running.result(SECONDS) > 0


def test_a_program_that_shuts_down_at_once(shared: Shared) -> None:
    executor = freethreading.WorkerPoolExecutor(2, share, shared.initargs())
    futures = [executor.submit(count, number) for number in range(500)]
    executor.shutdown()
    assert [future.result(0) for future in futures] == list(range(500))
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(count, 1)


def kept_answers(shared: Shared, count: int) -> list[concurrent.futures.Future[str]]:
    """Calls of count_as_text(0), (1), ... whose answers were taken, but for the first without having been asked for; their pool
    has ended.
    """
    executor = freethreading.WorkerPoolExecutor(1, share, shared.initargs())
    futures = [executor.submit(count_as_text, number) for number in range(count)]
    until(lambda: shared.counter.load() == count, "all have run")
    until(futures[0].done, "its answer is taken, and with it those behind it")
    executor.shutdown()
    return futures


def test_answers_that_were_kept_outlive_the_pool(shared: Shared) -> None:
    futures = kept_answers(shared, 6)
    assert [future.result(0) for future in futures[:5]] == [str(number) * 500 for number in range(5)]
    assert futures[5].exception(0) is None


def test_a_child_leaves_alone_what_was_kept_for_its_parent(shared: Shared) -> None:
    futures = kept_answers(shared, 3)
    gc.collect()
    child = os.fork()
    if child == 0:
        is_right = False
        try:
            is_right = futures[1].result(0) == "1" * 500  # it was decoded before the fork
        except (concurrent.futures.TimeoutError, RuntimeError):
            is_right = True
        finally:
            os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with freethreading.WorkerPoolExecutor(1) as other:  # whose answers take the blocks that are free
        assert len({other.submit(str.__mul__, "x", 500).result(SECONDS) for _ in range(50)}) == 1
    assert [future.result(0) for future in futures] == [str(number) * 500 for number in range(3)]


def test_a_call_that_forks_answers_for_itself(executor: freethreading.WorkerPoolExecutor) -> None:
    futures = [executor.submit(fork_and_tell, number) for number in range(5)]
    assert [future.result(SECONDS) for future in futures] == [(number, True) for number in range(5)]
    with freethreading.WorkerPool(1) as pool:
        assert pool.apply(fork_with_value, (3,)) == (3, True)


def fork_with_value(number: int) -> tuple[int, bool]:
    worker = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return number, os.getpid() == worker


def test_two_threads_cancel_the_same_calls(shared: Shared) -> None:
    executor = freethreading.WorkerPoolExecutor(1, share, shared.initargs())
    running = busy(executor)
    futures = [executor.submit(same, number) for number in range(3000)]
    answers: list[list[bool]] = []
    threads = [
        threading.Thread(target=lambda: answers.append([future.cancel() for future in futures]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[True] * 3000] * 2
    shared.gate.set()
    assert running.result(SECONDS) > 0
    executor.shutdown()


def test_a_wait_inside_of_a_wait_for_another_pool(
    executor: freethreading.WorkerPoolExecutor, shared: Shared
) -> None:
    found: list[Any] = []
    with freethreading.WorkerPoolExecutor(1) as other:

        def ask(*_: object) -> None:
            found.append(other.submit(same, "inner").result(SECONDS))
            shared.gate.set()

        before = signal.signal(signal.SIGALRM, ask)
        try:
            running = executor.submit(wait_at_gate)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert running.result(SECONDS) > 0
        finally:
            signal.signal(signal.SIGALRM, before)
    assert found == ["inner"]
