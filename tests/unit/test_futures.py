"""A future of ours is a concurrent.futures.Future: the same suite over both."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from freethreading._futures import PoolFuture

Made = Callable[[], Any]
KINDS: list[Made] = [concurrent.futures.Future, PoolFuture]


def started() -> Any:
    future: Any = PoolFuture()
    future._condition  # noqa: B018 - from here on the standard library settles it
    return future


@pytest.fixture(params=[*KINDS, started], ids=["the standard library's", "ours", "ours with a condition"])
def made(request: pytest.FixtureRequest) -> Any:
    return request.param()


def states(future: Any) -> tuple[str, bool, bool, bool]:
    return future._state, future.running(), future.done(), future.cancelled()


def test_a_value(made: Any) -> None:
    assert states(made) == ("PENDING", False, False, False)
    with pytest.raises(concurrent.futures.TimeoutError):
        made.result(0)
    with pytest.raises(concurrent.futures.TimeoutError):
        made.exception(timeout=0.001)
    assert made.set_running_or_notify_cancel() is True
    assert states(made) == ("RUNNING", True, False, False)
    assert made.cancel() is False
    made.set_result(7)
    assert states(made) == ("FINISHED", False, True, False)
    assert (made.result(), made.result(0), made.exception(), made._result) == (7, 7, None, 7)
    assert made.cancel() is False
    for settle in (made.set_result, made.set_exception):
        with pytest.raises(concurrent.futures.InvalidStateError, match="FINISHED"):
            settle(ValueError())
    assert made.result() == 7


def test_none_as_a_value(made: Any) -> None:
    made.set_result(None)
    assert made.result(0) is None
    assert made.exception(0) is None


def test_an_exception(made: Any) -> None:
    error = ValueError("no")
    made.set_exception(error)
    assert made.exception(0) is error
    for _ in range(2):
        with pytest.raises(ValueError, match="no") as caught:
            made.result()
        assert caught.value is error
    with pytest.raises(concurrent.futures.InvalidStateError):
        made.set_result(1)


def test_a_class_as_an_exception(made: Any) -> None:
    made.set_exception(LookupError)
    with pytest.raises(LookupError):
        made.result(0)


def test_a_cancelled_one(made: Any) -> None:
    assert made.cancel() is True
    assert made.cancel() is True
    assert states(made) == ("CANCELLED", False, True, True)
    for look in (made.result, made.exception):
        with pytest.raises(concurrent.futures.CancelledError):
            look(0)
    assert made.set_running_or_notify_cancel() is False
    assert states(made) == ("CANCELLED_AND_NOTIFIED", False, True, True)
    assert made.cancel() is True
    with pytest.raises(concurrent.futures.InvalidStateError, match="CANCELLED_AND_NOTIFIED"):
        made.set_result(1)


def test_beginning_twice(made: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert made.set_running_or_notify_cancel() is True
    with caplog.at_level(logging.CRITICAL), pytest.raises(RuntimeError, match="unexpected state"):
        made.set_running_or_notify_cancel()
    assert "unexpected state" in caplog.text


@pytest.mark.parametrize("how", ["value", "exception", "cancelled"])
def test_callbacks(made: Any, how: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    def fail(future: Any) -> None:
        raise LookupError("the callback fails")

    made.add_done_callback(seen.append)
    made.add_done_callback(fail)
    made.add_done_callback(lambda future: seen.append(future.done()))
    with caplog.at_level(logging.ERROR):
        if how == "value":
            made.set_result(1)
        elif how == "exception":
            made.set_exception(ValueError())
        else:
            made.cancel()
        assert seen == [made, True]
        made.add_done_callback(seen.append)
        made.add_done_callback(fail)
    assert seen == [made, True, made]
    assert caplog.text.count("LookupError: the callback fails") == 2


def test_repr(made: Any) -> None:
    assert "state=pending" in repr(made)
    made.set_result(1)
    assert "state=finished returned int" in repr(made)


def test_wait_and_as_completed(made: Any) -> None:
    others = [PoolFuture() for _ in range(3)]
    futures: list[Any] = [made, *others]
    others[0].cancel()
    assert others[0].set_running_or_notify_cancel() is False
    done, pending = concurrent.futures.wait(futures, timeout=0.001)
    assert done == {others[0]}
    assert pending == {made, *others[1:]}
    timers = [
        threading.Timer(0.01 * number, future.set_result, [number]) for number, future in enumerate(futures)
    ]
    del timers[1]
    for timer in timers:
        timer.start()
    done, pending = concurrent.futures.wait(
        futures, timeout=30, return_when=concurrent.futures.FIRST_COMPLETED
    )
    assert others[0] in done
    assert set(concurrent.futures.as_completed(futures, timeout=30)) == set(futures)
    done, pending = concurrent.futures.wait(futures, timeout=30)
    assert not pending
    for timer in timers:
        timer.join()


def test_a_waiter_in_another_thread(made: Any) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(made.result(30))) for _ in range(3)]
    for thread in threads:
        thread.start()
    made.set_result("there")
    for thread in threads:
        thread.join()
    assert found == ["there"] * 3


def test_asyncio_wraps_it(made: Any) -> None:
    async def main() -> Any:
        asyncio.get_running_loop().call_soon(made.set_result, 5)
        return await asyncio.wrap_future(made)

    assert asyncio.run(main()) == 5
