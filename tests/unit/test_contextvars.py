"""Context variables of a caller are seen in the calls that it gives to workers, on both back ends."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import freethreading
from freethreading import _contexts

NAME: contextvars.ContextVar[Any] = contextvars.ContextVar("label that means nothing", default="unset")
OTHER: contextvars.ContextVar[Any] = contextvars.ContextVar("label that means nothing", default="unset")


class Holder:
    """Its variable is the attribute of no module."""

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("held", default="unset")


def read(_: object = None) -> Any:
    return NAME.get()


def read_both(_: object = None) -> tuple[Any, Any]:
    return NAME.get(), OTHER.get()


def read_and_set(value: Any) -> Any:
    seen = NAME.get()
    NAME.set(value)
    return seen


def set_and_put(queue: Any) -> None:
    queue.put(NAME.get())
    NAME.set("the worker's")


def read_held() -> str:
    return Holder.variable.get()


def get_of(variable: contextvars.ContextVar[Any]) -> Any:
    return variable.get()


def set_name(value: Any) -> None:
    NAME.set(value)


def precision(_: object = None) -> int:
    return decimal.getcontext().prec


def set_precision(value: int) -> None:
    decimal.getcontext().prec = value


@pytest.fixture(autouse=True)
def own_context(request: pytest.FixtureRequest) -> None:
    """Nothing that a test sets is seen by the next: it runs in a context of its own."""
    item: Any = request.node
    call = item.obj
    item.obj = lambda *args, **kwargs: contextvars.copy_context().run(call, *args, **kwargs)


@pytest.fixture
def executor(backend: str) -> Iterator[freethreading.WorkerPoolExecutor]:
    with freethreading.WorkerPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def pool(backend: str) -> Iterator[freethreading.WorkerPool]:
    with freethreading.WorkerPool(1) as pool:
        yield pool


def test_submit_and_what_the_call_sets(executor: freethreading.WorkerPoolExecutor) -> None:
    assert executor.submit(read).result(30) == "unset"
    NAME.set("mine")
    assert executor.submit(read_and_set, "the call's").result(30) == "mine"
    assert executor.submit(read).result(30) == "mine"
    assert NAME.get() == "mine"
    token = NAME.set("again")
    assert executor.submit(read).result(30) == "again"
    NAME.reset(token)
    assert executor.submit(read).result(30) == "mine"


def test_what_was_set_before_the_pool_was_made(backend: str) -> None:
    token = NAME.set("early")
    with freethreading.WorkerPoolExecutor(1) as executor:
        assert executor.submit(read).result(30) == "early"
        OTHER.set("later")
        assert executor.submit(read_both).result(30) == ("early", "later")
        NAME.reset(token)
        assert executor.submit(read_both).result(30) == ("unset", "later")


def test_a_call_of_another_context(executor: freethreading.WorkerPoolExecutor) -> None:
    NAME.set("mine")
    assert contextvars.Context().run(executor.submit, read).result(30) == "unset"
    other = contextvars.copy_context()
    other.run(set_name, "other's")
    assert other.run(executor.submit, read).result(30) == "other's"
    assert executor.submit(read).result(30) == "mine"


@pytest.mark.parametrize("chunksize", [1, 3])
def test_items_of_a_map_do_not_see_each_other(
    executor: freethreading.WorkerPoolExecutor, chunksize: int
) -> None:
    NAME.set("mine")
    results = executor.map(read_and_set, range(7), chunksize=chunksize)
    assert list(results) == ["mine"] * 7


def test_a_lazy_map_has_the_context_that_it_was_begun_in(executor: freethreading.WorkerPoolExecutor) -> None:
    NAME.set("begun")
    results = executor.map(read, range(7), buffersize=2)
    assert next(results) == "begun"
    NAME.set("later")
    assert list(results) == ["begun"] * 6


def test_pool(pool: freethreading.WorkerPool) -> None:
    NAME.set("mine")
    assert pool.apply(read_and_set, ("x",)) == "mine"
    assert pool.map(read_and_set, range(7), chunksize=2) == ["mine"] * 7
    assert pool.starmap(read_and_set, [(1,), (2,)]) == ["mine"] * 2
    assert list(pool.imap(read_and_set, range(7))) == ["mine"] * 7
    assert list(pool.imap_unordered(read_and_set, range(7), chunksize=3)) == ["mine"] * 7


def test_the_input_of_imap_is_read_in_the_callers_context(pool: freethreading.WorkerPool) -> None:
    def items() -> Iterator[Any]:
        for _ in range(3):
            yield NAME.get()
            NAME.set("the input's")

    NAME.set("mine")
    assert list(pool.imap(str, items())) == ["mine", "the input's", "the input's"]
    assert NAME.get() == "mine"


def test_worker(backend: str) -> None:
    queue: Any = freethreading.Queue()
    NAME.set("mine")
    worker = freethreading.Worker(target=set_and_put, args=(queue,))
    NAME.set("as it is when it starts")
    worker.start()
    NAME.set("later")
    worker.join()
    worker.close()
    assert queue.get(timeout=30) == "as it is when it starts"
    assert NAME.get() == "later"


def test_a_worker_that_has_ended_keeps_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    import gc
    import weakref

    value = Holder()
    gone = weakref.ref(value)
    token = NAME.set(value)
    worker = freethreading.Worker(target=read)
    worker.start()
    worker.join()
    NAME.reset(token)
    del value, token
    gc.collect()
    assert gone() is None


def test_what_an_initializer_sets_stays_unless_the_caller_binds_it_anew(backend: str) -> None:
    NAME.set("early")
    with freethreading.WorkerPoolExecutor(1, set_name, ("the initializer's",)) as executor:
        assert executor.submit(read_and_set, "x").result(30) == "the initializer's"
        OTHER.set("another")
        assert executor.submit(read_both).result(30) == ("the initializer's", "another")
        NAME.set("mine")
        assert executor.submit(read).result(30) == "mine"
    assert NAME.get() == "mine"


def test_an_initializer_sees_the_context_that_its_pool_was_made_in(backend: str) -> None:
    NAME.set("early")
    queue: Any = freethreading.Queue()
    with freethreading.WorkerPoolExecutor(1, set_and_put, (queue,)) as executor:
        NAME.set("later")
        executor.submit(read).result(30)
    assert queue.get(timeout=30) == "early"


def test_decimals_context_is_each_calls_own(backend: str) -> None:
    before = decimal.getcontext().prec
    with freethreading.WorkerPoolExecutor(1) as executor:
        executor.submit(set_precision, 5).result(30)
        assert executor.submit(precision).result(30) == before
        assert decimal.getcontext().prec == before
    worker = freethreading.Worker(target=set_precision, args=(5,))
    worker.start()
    worker.join()
    worker.close()
    assert decimal.getcontext().prec == before


def test_decimal_is_imported_while_a_worker_waits(tmp_path: Path, backend: str) -> None:
    code = """
import freethreading
def change():
    import decimal
    decimal.getcontext().prec = 3
if __name__ == "__main__":
    with freethreading.WorkerPoolExecutor(1) as executor:
        executor.submit(int).result(30)
        import decimal
        decimal.getcontext().prec = 10
        executor.submit(change).result(30)
        print(decimal.getcontext().prec)
"""
    assert run_file(tmp_path, code) == "10\n"


@pytest.mark.parametrize("how", [{}, {"chunksize": 2}, {"buffersize": 1}], ids=repr)
def test_what_the_input_of_a_map_sets_is_not_the_calls(
    executor: freethreading.WorkerPoolExecutor, how: dict[str, Any]
) -> None:
    def items() -> Iterator[int]:
        for number in range(4):
            NAME.set(number)
            yield number

    NAME.set("mine")
    assert list(executor.map(read, items(), **how)) == ["mine"] * 4


def test_an_initializer_prepares_decimal(backend: str) -> None:
    decimal.getcontext()
    with freethreading.WorkerPoolExecutor(1, set_precision, (7,)) as executor:
        assert executor.submit(precision).result(30) == 7
        executor.submit(set_precision, 9).result(30)
        assert executor.submit(precision).result(30) == 7
    with freethreading.WorkerPoolExecutor(1, set_name, ("unrelated",)) as executor:
        decimal.getcontext().prec = 11
        expected = 11 if backend == "threading" else precision_of_a_new_process()
        assert executor.submit(precision).result(30) == expected


def precision_of_a_new_process() -> int:
    return decimal.DefaultContext.prec


def test_what_cannot_go_is_left_behind(executor: freethreading.WorkerPoolExecutor, backend: str) -> None:
    Holder.variable.set("mine")
    NAME.set(threading.Lock())
    OTHER.set("goes")
    if backend == "threading":
        assert executor.submit(read_held).result(30) == "mine"
        assert executor.submit(read).result(30) is NAME.get()
    else:
        assert executor.submit(read_held).result(30) == "unset"
        assert executor.submit(read_both).result(30) == ("unset", "goes")


class Unmakeable:
    """Its unpickling ends the interpreter, if it may."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("raise SystemExit(3)",)


def test_a_value_that_ends_its_unpickling_is_left_behind(
    executor: freethreading.WorkerPoolExecutor, backend: str
) -> None:
    NAME.set(Unmakeable())
    OTHER.set("goes")
    expected = NAME.get() if backend == "threading" else "unset"
    for _ in range(2):
        assert executor.submit(read_both).result(30) == (expected, "goes")
    assert freethreading.active_count() == 2


def test_shared_objects_as_values(executor: freethreading.WorkerPoolExecutor) -> None:
    lock: Any = freethreading.Lock()
    NAME.set(lock)
    with lock:
        assert executor.submit(NAME_is_locked).result(30)
    assert not executor.submit(NAME_is_locked).result(30)


def NAME_is_locked() -> bool:
    return bool(NAME.get().locked())


def test_a_variable_as_an_argument(executor: freethreading.WorkerPoolExecutor, backend: str) -> None:
    NAME.set("mine")
    assert executor.submit(get_of, NAME).result(30) == "mine"
    if backend == "multiprocessing":
        with pytest.raises(Exception, match="context variable"):
            executor.submit(get_of, Holder.variable).result(30)


def test_asyncio(executor: freethreading.WorkerPoolExecutor) -> None:
    async def ask(value: str) -> Any:
        NAME.set(value)
        await asyncio.sleep(0)
        return await asyncio.wrap_future(executor.submit(read))

    async def main() -> list[Any]:
        return await asyncio.gather(*(ask(str(number)) for number in range(5)))

    assert asyncio.run(main()) == [str(number) for number in range(5)]


def test_an_unchanged_context_is_not_sent() -> None:
    NAME.set("mine")
    context = contextvars.copy_context()
    sender = _contexts.Sender(context)
    assert sender.pack(contextvars.copy_context()) == (b"", ())
    OTHER.set("more")
    difference, _ = sender.pack(contextvars.copy_context())
    assert difference
    home = _contexts.Home(context)
    assert home.received(difference) is home.received(difference)
    assert dict(home.received(difference)) == dict(contextvars.copy_context())


def test_a_value_is_pickled_once_and_not_kept() -> None:
    pickled: list[int] = []

    class Value:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            pickled.append(1)
            return str, ("value",)

    sender = _contexts.Sender(contextvars.Context())
    token = NAME.set(Value())
    for _ in range(3):
        context = contextvars.copy_context()
        sender.pack(context)
    assert len(pickled) == 1
    del context
    NAME.reset(token)
    del token
    NAME.set(None)
    difference, _ = sender.pack(contextvars.copy_context())
    assert _contexts.Home(contextvars.Context()).received(difference)[NAME] is None


def run_file(folder: Path, code: str) -> str:
    """What a main program in a file prints."""
    file = folder / "program.py"
    file.write_text(code)
    done = subprocess.run(
        [sys.executable, file], env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MAIN = """
import contextvars, freethreading
{alias}VAR = contextvars.ContextVar("v", default="unset")
def read(_=None):
    return VAR.get()
def rebind():
    global VAR
    VAR = contextvars.ContextVar("v", default="rebound")
def main():
    with freethreading.WorkerPoolExecutor(1) as executor:
        assert executor.submit(read).result(30) == "unset"
        VAR.set("one")
        assert executor.submit(read).result(30) == "one"
        assert list(executor.map(read, range(3))) == ["one"] * 3
        {rebinding}
    with freethreading.WorkerPoolExecutor(1) as executor:
        VAR.set("two")
        assert executor.submit(read).result(30) == "two"
    queue = freethreading.Queue()
    worker = freethreading.Worker(target=lambda: queue.put(read()))
    worker.start()
    worker.join()
    print(queue.get(timeout=30))
{guard}
    main()
"""
REBINDING = """rebind()
        assert executor.submit(read).result(30) == "rebound"
        VAR.set("one")
        assert executor.submit(read).result(30) == "one"
"""


@pytest.mark.parametrize("alias", ["", "ALIAS = "])
@pytest.mark.parametrize("guard", ["if True:", 'if __name__ == "__main__":'])
def test_variables_of_a_main_program(tmp_path: Path, backend: str, guard: str, alias: str) -> None:
    # A main module that is imported is the worker's own: what is bound there later, it does not see.
    rebinding = REBINDING if guard == "if True:" else ""
    assert run_file(tmp_path, MAIN.format(alias=alias, guard=guard, rebinding=rebinding)) == "two\n"


def test_modules_that_a_worker_cannot_import(backend: str, tmp_path: Path) -> None:
    code = """
import contextvars, sys, types
import freethreading
made = types.ModuleType("made_here")
made.VAR = contextvars.ContextVar("v", default="unset")
sys.modules["made_here"] = made
OWN = contextvars.ContextVar("w", default="unset")
def read():
    return OWN.get()
if __name__ == "__main__":
    made.VAR.set("mine")
    OWN.set("mine")
    with freethreading.WorkerPoolExecutor(1) as executor:
        print([executor.submit(read).result(30) for _ in range(3)])
"""
    assert run_file(tmp_path, code) == "['mine', 'mine', 'mine']\n"
