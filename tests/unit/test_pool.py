"""WorkerPool beyond its contract with multiprocessing.Pool: what goes wrong, who waits for whom, how it ends."""

from __future__ import annotations

import gc
import itertools
import queue
import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import freethreading
from support.program import run_program
from support.until import until


def square(x: int) -> int:
    return x * x


def divide(a: int, b: int) -> float:
    return a / b


def wait_for(event: Any, started: Any) -> bool:
    started.release()
    return bool(event.wait(30))


def release(semaphore: Any) -> None:
    semaphore.release()


def test_threads_that_were_started_end_when_there_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    start, started = threading.Thread.start, []

    def start_two(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        freethreading.WorkerPool(4)
    until(lambda: not any(thread.is_alive() for thread in started), "the threads end")


def leave_by(kind: type[BaseException]) -> None:
    raise kind("from a task")


class Refuses:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return divide, (1, 0)


@pytest.fixture
def pool(backend: str) -> Iterator[freethreading.WorkerPool]:
    with freethreading.WorkerPool(2) as pool:
        yield pool
    pool.join()


# Results and maps


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_would_end_a_worker_goes_to_the_caller(
    pool: freethreading.WorkerPool, kind: type[BaseException]
) -> None:
    with pytest.raises(kind, match="from a task"):
        pool.apply(leave_by, (kind,))
    assert pool.map(square, range(4)) == [0, 1, 4, 9]


def test_the_first_failed_item_is_the_one_that_is_raised(pool: freethreading.WorkerPool) -> None:
    for _ in range(5):
        with pytest.raises(TypeError, match="str"):
            pool.map(square, [1, "text", None, 2, None], chunksize=1)


def test_starmap_return_exceptions(pool: freethreading.WorkerPool) -> None:
    outcome = pool.starmap_async(divide, [(1, 1), (1, 0), (1,)], return_exceptions=True).get(30)
    assert outcome[0] == 1.0
    assert [type(error) for error in outcome[1:]] == [ZeroDivisionError, TypeError]


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_chunks_of_any_size(pool: freethreading.WorkerPool, chunksize: int) -> None:
    expected = [x * x for x in range(20)]
    assert pool.map(square, range(20), chunksize) == expected
    assert list(pool.imap(square, range(20), chunksize)) == expected
    assert sorted(pool.imap_unordered(square, range(20), chunksize)) == expected


def test_a_chunk_of_nothing_is_refused(pool: freethreading.WorkerPool) -> None:
    for call in (pool.map, pool.imap, pool.imap_unordered):
        with pytest.raises(ValueError, match="Chunksize must be 1"):
            call(square, range(3), 0)


def test_callbacks_run_before_the_result_is_ready(pool: freethreading.WorkerPool) -> None:
    seen: list[Any] = []
    result = pool.map_async(square, [1, 2], callback=seen.append)
    result.wait(30)
    assert seen == [[1, 4]]
    failed = pool.map_async(
        square, [1, None], callback=seen.append, error_callback=lambda error: seen.append(type(error))
    )
    failed.wait(30)
    assert seen[1:] == [TypeError]
    empty = pool.map_async(square, [], callback=seen.append)
    assert empty.get(30) == []
    assert seen[-1] == []


def test_a_callbacks_exception_harms_nobody(
    pool: freethreading.WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))

    def fail(_: object) -> None:
        raise LookupError("a callback")

    assert pool.apply_async(square, (3,), callback=fail).get(30) == 9
    assert reported == [LookupError]
    assert pool.apply(square, (4,)) == 16


def test_a_callback_may_wait_for_another_call_of_the_only_worker(backend: str) -> None:
    seen: list[int] = []
    with freethreading.WorkerPool(1) as pool:
        first = pool.apply_async(
            square, (2,), callback=lambda value: seen.append(pool.apply(square, (value,)))
        )
        assert first.get(30) == 4
    pool.join()
    assert seen == [16]


def test_a_callback_may_look_at_its_own_result_and_wait_for_another(pool: freethreading.WorkerPool) -> None:
    done = threading.Event()
    seen: list[Any] = []
    first: list[Any] = []
    made = threading.Event()

    def callback(value: int) -> None:
        made.wait(30)
        seen.append((value, first[0].ready(), first[0].get(0)))
        seen.append(pool.apply(square, (5,)))
        seen.append(list(pool.imap(square, iter(range(3)))))
        done.set()

    first.append(pool.apply_async(square, (4,), callback=callback))
    made.set()
    assert done.wait(30)
    assert seen == [(16, True, 16), 25, [0, 1, 4]]


def test_nothing_is_kept_of_what_was_done(pool: freethreading.WorkerPool) -> None:
    class Thing:
        pass

    things = [Thing() for _ in range(10)]
    references = [weakref.ref(thing) for thing in things]
    pool.map(id, things)
    del things
    until(
        lambda: gc.collect() >= 0 and not any(reference() for reference in references),
        "the arguments are let go",
    )


# imap


def test_the_input_may_wait_for_earlier_results(pool: freethreading.WorkerPool) -> None:
    more: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    more.put(1)
    seen = []
    for result in pool.imap(square, iter(more.get, None)):
        seen.append(result)
        more.put(result + 1 if result < 600 else None)
    assert seen == [1, 4, 25, 676]


def test_the_input_is_read_a_bounded_way_ahead(pool: freethreading.WorkerPool) -> None:
    pulled = 0

    def endless() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled

    results = pool.imap(square, endless())
    assert [next(results) for _ in range(500)] == [x * x for x in range(1, 501)]
    assert pulled < 700
    pool.terminate()


def test_a_dropped_iterators_work_is_done(backend: str) -> None:
    counter = freethreading.Semaphore(0)
    with freethreading.WorkerPool(2) as pool:
        pool.imap_unordered(counter.release, iter([1] * 300))
        pool.close()
        pool.join()
    assert all(counter.acquire(timeout=0) for _ in range(300))
    assert not counter.acquire(timeout=0)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_an_iterator_that_is_left_early_stops(pool: freethreading.WorkerPool, method: str) -> None:
    pulled = 0
    left = threading.Event()

    def endless() -> Iterator[int]:
        nonlocal pulled
        try:
            while True:
                pulled += 1
                yield pulled
        finally:
            left.set()

    for _ in getattr(pool, method)(square, endless()):
        break
    until(left.is_set, "the input is let go")  # without the GIL, the thread that made it lets it go
    assert pulled < 200
    assert pool.apply(square, (3,)) == 9
    pool.close()
    pool.join()


def test_an_iterator_that_is_closed(pool: freethreading.WorkerPool) -> None:
    results = pool.imap(square, itertools.count())
    assert [next(results), next(results)] == [0, 1]
    waiting: list[object] = []
    release = threading.Event()
    blocked = pool.imap(square, iter(release.wait, True))
    thread = threading.Thread(target=lambda: waiting.extend(blocked))
    thread.start()
    blocked.close()
    thread.join(30)
    assert not thread.is_alive() and waiting == []
    release.set()
    results.close()
    results.close()
    assert list(results) == []


def test_a_pool_does_not_wait_for_the_input_of_a_closed_iterator(pool: freethreading.WorkerPool) -> None:
    release = threading.Event()
    results = pool.imap(square, iter(release.wait, True))
    results.close()
    pool.close()
    pool.join()
    release.set()


def test_an_iterator_outlives_close(pool: freethreading.WorkerPool) -> None:
    results = pool.imap(square, iter(range(500)))
    pool.close()
    assert list(results) == [x * x for x in range(500)]


def test_an_input_that_fails_at_once(pool: freethreading.WorkerPool) -> None:
    def failing() -> Iterator[int]:
        raise LookupError("input")
        yield 1

    results = pool.imap(square, failing())
    with pytest.raises(LookupError, match="input"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    with pytest.raises(LookupError, match="input"):
        list(pool.imap_unordered(square, failing(), return_exceptions=True))


def test_an_iterator_is_safe_among_threads(pool: freethreading.WorkerPool) -> None:
    results = pool.imap_unordered(square, range(400))
    seen: list[list[int]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=part.extend, args=(results,)) for part in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(itertools.chain.from_iterable(seen)) == [x * x for x in range(400)]


# The end


def test_methods_of_a_pool_that_is_shut(backend: str) -> None:
    pool = freethreading.WorkerPool(1)
    pool.close()
    pool.close()
    for call in (
        lambda: pool.apply(square, (1,)),
        lambda: pool.map(square, [1]),
        lambda: pool.imap(square, [1]),
        lambda: pool.starmap_async(divide, [(1, 1)]),
        lambda: pool.__enter__(),
    ):
        with pytest.raises(ValueError, match="Pool not running"):
            call()
    pool.join()
    pool.terminate()
    pool.join()
    pool.close()
    assert "state=TERMINATE" in repr(pool)


def test_terminate_fails_what_waits(backend: str) -> None:
    event, started = freethreading.Event(), freethreading.Semaphore(0)
    pool = freethreading.WorkerPool(1)
    running, waiting = pool.apply_async(wait_for, (event, started)), pool.apply_async(square, (2,))
    results = pool.imap(square, iter(range(5)))
    assert started.acquire(timeout=30)
    pool.terminate()
    with pytest.raises(RuntimeError, match="terminated"):
        waiting.get(30)
    with pytest.raises(RuntimeError, match="terminated"):
        list(results)
    event.set()
    if backend == "threading":
        assert running.get(30) is True
    else:
        with pytest.raises(RuntimeError, match="terminated"):
            running.get(30)
    pool.join()


def test_terminate_ends_an_iterator_whose_input_waits(pool: freethreading.WorkerPool) -> None:
    more: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    more.put(3)
    results = pool.imap(square, iter(more.get, None))
    assert next(results) == 9
    pool.terminate()
    with pytest.raises(RuntimeError, match="terminated"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)
    more.put(4)  # its item is refused, and the thread that reads the input ends
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_ending_from_a_callback(backend: str, how: str) -> None:
    pool = freethreading.WorkerPool(2)
    ended = threading.Event()
    problems: list[BaseException] = []

    def end(_: object) -> None:
        try:
            getattr(pool, how)()
            pool.join()
        except RuntimeError as error:
            problems.append(error)
        ended.set()

    pool.apply_async(square, (1,), callback=end).wait(30)
    assert ended.wait(30)
    assert "cannot be joined" in str(problems[0])
    pool.join()


def test_a_dropped_pool_ends_and_warns(backend: str) -> None:
    pool = freethreading.WorkerPool(2)
    assert pool.map(square, [2]) == [4]
    workers = freethreading.active_children()
    holder = [pool]
    del pool
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        holder.clear()
    until(lambda: not any(worker.is_alive() for worker in workers), "its workers end")


def test_a_result_keeps_its_pool(backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert freethreading.WorkerPool(1).apply_async(square, (6,)).get(30) == 36
        gc.collect()


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_a_pool_does_not_keep_the_program_alive(backend: str) -> None:
    done = run_program(
        """
        import freethreading, time
        if __name__ == "__main__":
            pool = freethreading.WorkerPool(2)
            results = [pool.apply_async(time.sleep, (60,)) for _ in range(5)]
            print(pool.apply_async(abs, (-3,)).ready())
        """,
        backend,
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_in_a_forked_child_a_pool_refuses_and_ends_nobody(backend: str) -> None:
    done = run_program(
        """
        import freethreading, os, sys, warnings
        warnings.simplefilter("ignore")
        pool = freethreading.WorkerPool(1)
        assert pool.map(abs, [-1]) == [1]
        child = os.fork()
        if not child:
            try:
                pool.apply(abs, (-1,))
            except RuntimeError as error:
                print("forked" in str(error), flush=True)
            pool.close(), pool.terminate(), pool.join()
            del pool
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(pool.map(abs, [-2]))
        pool.terminate()
        """,
        backend,
    )
    assert (done.returncode, done.stdout) == (0, "True\n[2]\n"), done.stderr


def test_arguments_that_are_none(backend: str) -> None:
    with freethreading.WorkerPool(1) as pool, freethreading.WorkerPoolExecutor(1) as executor:
        for call in (
            lambda: pool.map(abs, [1], 1.5),  # type: ignore[arg-type]
            lambda: pool.imap(abs, [1], "1"),  # type: ignore[arg-type]
            lambda: executor.map(abs, [1], chunksize=1.5),  # type: ignore[arg-type]
        ):
            with pytest.raises(TypeError, match="chunksize must be an integer, not"):
                call()
        for name in ("callback", "error_callback"):
            with pytest.raises(TypeError, match=f"^{name} must be a callable or None, not 5"):
                pool.apply_async(abs, (1,), {}, **{name: 5})  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=f"^{name} must be a callable or None, not 5"):
                pool.map_async(abs, (1,), **{name: 5})  # type: ignore[arg-type]
        assert pool.apply(abs, (-1,)) == executor.submit(abs, -1).result() == 1


@pytest.mark.filterwarnings("error")
def test_a_pool_that_was_never_made_leaves_nothing() -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        freethreading.WorkerPool(1, size=1)  # type: ignore[call-arg]
