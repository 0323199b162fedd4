"""How shared objects travel: arguments, queues, results, multiprocessing's processes; and what may not travel."""

from __future__ import annotations

import multiprocessing
import pickle
from multiprocessing import forkserver
from typing import Any

import pytest

import freethreading

KINDS = [
    "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event", "Queue", "SimpleQueue", "AtomicInt64",
    "SharedBuffer",
]  # fmt: skip


def make(kind: str, **keywords: Any) -> Any:
    arguments = (8,) if kind == "SharedBuffer" else ()
    return getattr(freethreading, kind)(*arguments, **keywords)


@pytest.fixture(scope="module", autouse=True)
def servers() -> None:
    """multiprocessing's servers stay for the program's life: they are there before a test counts what is open."""
    forkserver.ensure_running()


def use(thing: Any, done: Any) -> None:
    """Does to `thing`, whatever it is, something that the maker sees."""
    kind = type(thing).__name__
    if kind in ("Queue", "SimpleQueue"):
        thing.put("used")
    elif kind == "Event":
        thing.set()
    elif kind == "Condition":
        with thing:
            thing.notify_all()
    elif kind == "RLock":
        with thing:
            pass
    elif kind == "AtomicInt64":
        thing.store(7)
    elif kind == "SharedBuffer":
        memoryview(thing)[0] = 7
    else:
        assert thing.acquire(True, 20)
    done.put(kind)


def use_what_arrives(source: Any, done: Any) -> None:
    use(source.get(timeout=20), done)


def was_used(thing: Any) -> bool:
    kind = type(thing).__name__
    if kind in ("Queue", "SimpleQueue"):
        return thing.get(timeout=20) == "used"
    if kind == "Event":
        return bool(thing.is_set())
    if kind == "Lock":
        return bool(thing.locked())
    if kind == "AtomicInt64":
        return bool(thing.load() == 7)
    if kind == "SharedBuffer":
        return bytes(thing)[0] == 7
    if kind in ("Semaphore", "BoundedSemaphore"):
        return not thing.acquire(False)
    return True


@pytest.fixture(autouse=True)
def on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_to_a_multiprocessing_process(kind: str, method: str) -> None:
    thing, done = make(kind), freethreading.Queue()
    process = multiprocessing.get_context(method).Process(target=use, args=(thing, done))
    process.start()
    assert done.get(timeout=60) == kind
    process.join()
    assert process.exitcode == 0
    assert was_used(thing)


@pytest.mark.parametrize("kind", KINDS)
def test_through_a_queue_to_a_running_worker(kind: str) -> None:
    source, done = freethreading.Queue(), freethreading.Queue()
    worker = freethreading.Worker(target=use_what_arrives, args=(source, done))
    worker.start()
    thing = make(kind)
    source.put(thing)
    assert done.get(timeout=20) == kind
    worker.join()
    assert was_used(thing)


@pytest.mark.parametrize("kind", KINDS)
def test_as_a_pools_argument(kind: str) -> None:
    thing, done = make(kind), freethreading.Queue()
    with freethreading.WorkerPool(workers=1) as pool:
        pool.apply(use, (thing, done))
    pool.join()
    assert done.get(timeout=20) == kind
    assert was_used(thing)


def put_a_queue_with_an_item(target: Any) -> None:
    inner = freethreading.Queue()
    inner.put("alive")
    target.put(inner)


def test_an_object_lives_while_a_message_carries_it() -> None:
    target = freethreading.Queue()
    worker = freethreading.Worker(target=put_a_queue_with_an_item, args=(target,))
    worker.start()
    worker.join()  # its maker is gone; only the message keeps it
    assert target.get(timeout=20).get(timeout=20) == "alive"


def test_bare_pickled_bytes_keep_nothing_alive() -> None:
    lock = freethreading.Lock()
    data = pickle.dumps(lock)
    again = pickle.loads(data)
    again.acquire()
    assert lock.locked()
    again.release()
    del lock, again
    with pytest.raises(ReferenceError):
        pickle.loads(data)


def test_the_same_object_twice_in_one_message() -> None:
    items, lock = freethreading.Queue(), freethreading.Lock()
    items.put([lock, {"again": lock}])
    first, second = items.get(timeout=20), None
    second = first[1]["again"]
    first[0].acquire()
    assert second.locked() and lock.locked()
    lock.release()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_made_for_threads_says_what_to_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    private = make(kind)
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    items = freethreading.Queue()
    with pytest.raises(TypeError, match="shared=True"):
        items.put(private)
    with pytest.raises(TypeError, match="shared=True"):
        pickle.dumps(private)
    assert items.empty()


@pytest.mark.parametrize("kind", KINDS)
def test_shared_on_request(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    thing = make(kind, shared=True)
    done = freethreading.Queue(shared=True)
    process = multiprocessing.get_context("fork").Process(target=use, args=(thing, done))
    process.start()
    assert done.get(timeout=20) == kind
    process.join()
    assert was_used(thing)


def test_strict_threads_check_what_processes_would_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    monkeypatch.setenv("FREETHREADING_STRICT", "1")
    with open(__file__) as stream, freethreading.WorkerPool(workers=1) as pool:
        with pytest.raises(ValueError, match="must be picklable"):
            pool.apply(len, ([stream],))
        assert pool.apply(len, ([1],)) == 1
    pool.join()


def test_barrier_crosses() -> None:
    barrier, done = freethreading.Barrier(2), freethreading.Queue()
    worker = freethreading.Worker(target=meet, args=(barrier, done))
    worker.start()
    mine = barrier.wait(20)
    assert {mine, done.get(timeout=20)} == {0, 1}
    worker.join()


def meet(barrier: Any, done: Any) -> None:
    done.put(barrier.wait(20))
